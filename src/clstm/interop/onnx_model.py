"""Models of ONNX: their LSTMs, and a call that runs the whole graph."""

from __future__ import annotations

import contextlib
from collections import ChainMap
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import as_real_array
from ..lstm import LSTM
from ..serialization import FilePath
from .building import reading
from .limits import USUAL, within
from .onnx_file import Graph, Node, read_onnx
from .onnx_lstm import direction_of, inputs_of, lstms_of
from .onnx_operators import OPERATORS
from .onnx_registry import DTYPES
from .onnx_run import CONTROL, Run, Values, as_tuple, constant_value

# What exporters put between stored weights and an LSTM; results are at most eight times as large as what goes in.
MOST = 64  # times the size of the files: what is rearranged while loading
_REARRANGING = {
    "Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Concat", "Split", "DequantizeLinear"
}  # fmt: skip


class OnnxModel:
    """A model read from an ONNX file, made by `from_onnx`.

    Attributes
    ----------
    lstms : dict of str to LSTM
        The LSTMs whose weights are in the file, by the name of the node (or of its first output, if it has none),
        in subgraphs too. They are what a call runs, so changing their weights changes the model. A node whose
        directions have different activations makes two, the second under its name and "/reverse".
    directions : dict of str to str
        "forward", "reverse" or "bidirectional" for each of them. An LSTM of a "reverse" node is a forward one that the
        model feeds from the last step to the first.
    inputs, outputs : tuple of str
        Names of what a call takes and returns.
    unsupported : tuple of str
        Operators that the graph has and a call lacks; `lstms` can be used all the same.
    memory_limit : int
        Bytes that a call may make arrays of, 2**32 unless you set it: a small file can ask for any number.
    step_limit : int
        Nodes, and iterations of loops, that a call may run, 2**24 unless you set it: a loop may have no end.

    Examples
    --------
    See `from_onnx`.
    """

    def __init__(self, graph: Graph, size: int) -> None:
        self._graph = graph
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.memory_limit, self.step_limit = USUAL, 2**24
        self.lstms: dict[str, LSTM] = {}
        self.directions: dict[str, str] = {}
        self._lstms_of: dict[int, list[LSTM]] = {}  # by id of the node
        self._size, self._left = size, MOST * size
        self._find_lstms(graph, ChainMap())
        known = OPERATORS.keys() | CONTROL.keys() | {"LSTM", "Constant"}
        self.unsupported = tuple(sorted({node.op for _, node in graph.walk()} - known))

    def __call__(self, inputs: Mapping[str, ArrayLike] | ArrayLike) -> dict[str, np.ndarray]:
        """Run the graph.

        Parameters
        ----------
        inputs : mapping of str to array_like
            By the names in `inputs`; or the only input.

        Returns
        -------
        dict of str to ndarray
            By the names in `outputs`.

        Raises
        ------
        ValueError
            If an input is missing or unknown, or its shape does not fit; if the call goes beyond its limits.
        TypeError
            If an input holds numbers of another kind than the model declares.
        NotImplementedError
            If the graph has operators that are not supported; the message names them.
        """
        if self.unsupported:
            raise NotImplementedError(f"the model has operators that are not supported: {', '.join(self.unsupported)}")
        if not isinstance(inputs, Mapping):
            if len(self.inputs) != 1:
                raise ValueError(f"a mapping of names to arrays is expected: the model has {', '.join(self.inputs)}")
            inputs = {self.inputs[0]: inputs}
        if inputs.keys() != set(self.inputs):
            raise ValueError(f"inputs has {', '.join(inputs)}, but {', '.join(self.inputs)} are expected")
        values = {name: _as_input(name, value, self._graph.types[name]) for name, value in inputs.items()}
        with np.errstate(all="ignore"), within(self.memory_limit):  # infinities and NaN are values like others
            outputs = Run(self._lstms_of, self.memory_limit, self.step_limit).graph(self._graph, ChainMap(values))
        return dict(zip(self.outputs, outputs, strict=True))

    def __repr__(self) -> str:
        return f"OnnxModel(inputs={self.inputs}, outputs={self.outputs}, lstms={list(self.lstms)})"

    def _find_lstms(self, graph: Graph, outer: Values) -> None:
        """Make the LSTMs of a graph and its subgraphs, from what is constant in and around it."""
        constants = outer.new_child(graph.constants).new_child()
        for node in graph.nodes:
            if node.op == "LSTM":
                self._add_lstm(node, constants)
            elif node.op == "Constant":
                with contextlib.suppress(NotImplementedError):  # no weight; a call that needs it says so
                    constants[node.outputs[0]] = constant_value(node)
            elif node.op in _REARRANGING and all(name in constants for name in node.inputs):
                arrays = [constants[name] for name in node.inputs]
                size = sum(array.nbytes for array in arrays)
                if size <= min(self._size, self._left):  # else it is no weight of this file
                    self._left -= size
                    constants.update(zip(node.outputs, as_tuple(OPERATORS[node.op](node, arrays)), strict=False))
            for value in node.attributes.values():
                if isinstance(value, Graph):
                    self._find_lstms(value, constants)

    def _add_lstm(self, node: Node, constants: Values) -> None:
        names = inputs_of(node)
        weights = {key: constants.get(names[key]) for key in "WRBP" if key in names}
        if any(array is None for array in weights.values()):
            return  # they are inputs of the model
        lstms = self._lstms_of[id(node)] = lstms_of(node, weights)
        directions = ["forward", "reverse"] if len(lstms) == 2 else [direction_of(node)]
        for lstm, direction in zip(lstms, directions, strict=True):
            name = node.name + ("/reverse" if direction != directions[0] else "")
            while name in self.lstms:
                name += "'"
            self.lstms[name], self.directions[name] = lstm, direction


def _as_input(name: str, value: ArrayLike, declared: int) -> np.ndarray:
    """`value` as an array of the declared type; real numbers are converted to each other, others are not."""
    array, dtype = np.asarray(value), np.dtype(DTYPES.get(declared, np.float32))
    if dtype.kind == "f":
        return as_real_array(name, array, dtype)
    if array.dtype.kind not in ("b" if dtype.kind == "b" else "iu"):
        raise TypeError(f"{name} has dtype {array.dtype}, but {dtype} is expected")
    return array.astype(dtype)


def from_onnx(path: FilePath) -> OnnxModel:
    """Read an ONNX model: its LSTMs, and a call for the whole graph where its operators are supported.

    Parameters
    ----------
    path : path-like
        The .onnx file. Files of external data are looked for in its folder and nowhere else.

    Returns
    -------
    OnnxModel

    Raises
    ------
    ImportError
        If onnx is not installed.
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged or no ONNX model.
    NotImplementedError
        If an LSTM in it asks for something that is not supported; the message names it.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import clstm
    >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
    >>> lstm = clstm.LSTM(3, 4, seed=0)
    >>> clstm.to_onnx(lstm, path)
    >>> model = clstm.from_onnx(path)
    >>> model.inputs, model.outputs, list(model.lstms)
    (('x',), ('y', 'h_n', 'c_n'), ['lstm_l0'])
    >>> x = np.ones((5, 2, 3), np.float32)
    >>> np.array_equal(model(x)["y"], lstm(x)[0])
    True
    """
    file = read_onnx(path)
    with reading(path, KeyError, IndexError):
        return OnnxModel(file.graph, file.size)

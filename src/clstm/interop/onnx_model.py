"""Models of ONNX: their LSTMs, and a call that runs the whole graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import as_real_array
from ..lstm import LSTM
from ..serialization import FilePath
from .building import reading
from .onnx_file import Graph, Node, read_onnx
from .onnx_lstm import direction_of, inputs_of, lstms_of, run_lstm
from .onnx_operators import OPERATORS
from .onnx_registry import DTYPES

Values = dict[str, np.ndarray]

# What exporters put between stored weights and an LSTM; results are no larger than what goes in.
MOST = 64  # times the size of the files: what is rearranged while loading
_REARRANGING = {"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Concat", "Split"}


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

    Examples
    --------
    See `from_onnx`.
    """

    def __init__(self, graph: Graph, size: int) -> None:
        self._graph = graph
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.lstms: dict[str, LSTM] = {}
        self.directions: dict[str, str] = {}
        self._lstms_of: dict[int, list[LSTM]] = {}  # by id of the node
        self._size, self._left = size, MOST * size
        self._find_lstms(graph, {})
        known = OPERATORS.keys() | _CONTROL.keys() | {"LSTM", "Constant"}
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
            If an input is missing or unknown, or its shape does not fit.
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
        with np.errstate(all="ignore"):  # infinities and NaN are values like others
            return dict(zip(self.outputs, self._run(self._graph, values), strict=True))

    def __repr__(self) -> str:
        return f"OnnxModel(inputs={self.inputs}, outputs={self.outputs}, lstms={list(self.lstms)})"

    def _find_lstms(self, graph: Graph, outer: Values) -> None:
        """Make the LSTMs of a graph and its subgraphs, from what is constant in and around it."""
        constants = outer | graph.constants
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
                    constants.update(zip(node.outputs, _as_tuple(OPERATORS[node.op](node, arrays)), strict=False))
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

    def _run(self, graph: Graph, values: Values) -> list[np.ndarray]:
        values = values | graph.constants
        for node in graph.nodes:
            try:
                outputs = self._compute(node, values)
            except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError) as error:
                raise ValueError(f"{node.op} {node.name!r} cannot be computed: {error}") from error
            values.update(zip(node.outputs, outputs, strict=False))
        return [_value(values, name) for name in graph.outputs]

    def _compute(self, node: Node, values: Values) -> tuple[np.ndarray, ...]:
        if node.op == "Constant":
            return (constant_value(node),)
        if node.op == "LSTM":
            found = {key: _value(values, name) for key, name in inputs_of(node).items()}
            return run_lstm(node, self._lstms_of.get(id(node)) or lstms_of(node, dict(found)), found)
        inputs = [_value(values, name) if name else None for name in node.inputs]
        if node.op in _CONTROL:
            return _CONTROL[node.op](self, node, inputs, values)
        return _as_tuple(OPERATORS[node.op](node, inputs))

    # ---- operators with subgraphs ----

    def _if(self, node: Node, inputs: list[Any], values: Values) -> tuple[np.ndarray, ...]:
        branch = node.attributes["then_branch" if inputs[0].item() else "else_branch"]
        return tuple(self._run(branch, values))

    def _loop(self, node: Node, inputs: list[Any], values: Values) -> tuple[np.ndarray, ...]:
        """Run body(i, condition, carried) -> (condition, carried, collected) while the condition holds."""
        body = node.attributes["body"]
        count, condition, carried = inputs[0], inputs[1], list(inputs[2:])
        going = condition is None or bool(condition.item())
        collected: list[list[np.ndarray]] = [[] for _ in body.outputs[1 + len(carried) :]]
        i = 0
        while going and (count is None or i < count.item()):
            arguments = [np.array(i, np.int64), np.array(going), *carried]
            results = self._body(body, arguments, values)
            going, carried = bool(results[0].item()), results[1 : 1 + len(carried)]
            for parts, part in zip(collected, results[1 + len(carried) :], strict=True):
                parts.append(part)
            i += 1
        return (*carried, *(np.stack(parts) if parts else np.zeros(0, np.float32) for parts in collected))

    def _scan(self, node: Node, inputs: list[Any], values: Values) -> tuple[np.ndarray, ...]:
        """Run body(carried, slices) -> (carried, collected) over the first axis of the scanned inputs."""
        others = set(node.attributes) - {"body", "num_scan_inputs"}
        if odd := sorted(key for key in others if any(node.attributes[key])) or node.opset < 9:
            raise NotImplementedError(f"Scan with {odd} is not supported")
        body, scanned = node.attributes["body"], node.attributes["num_scan_inputs"]
        carried, sequences = inputs[:-scanned], inputs[-scanned:]
        collected: list[list[np.ndarray]] = [[] for _ in body.outputs[len(carried) :]]
        for slices in zip(*sequences, strict=True):
            results = self._body(body, [*carried, *slices], values)
            carried = results[: len(carried)]
            for parts, part in zip(collected, results[len(carried) :], strict=True):
                parts.append(part)
        return (*carried, *(np.stack(parts) if parts else np.zeros(0, np.float32) for parts in collected))

    def _body(self, body: Graph, arguments: list[np.ndarray], values: Values) -> list[np.ndarray]:
        return self._run(body, values | dict(zip(body.inputs, arguments, strict=True)))


_CONTROL: dict[str, Callable[[OnnxModel, Node, list[Any], Values], tuple[np.ndarray, ...]]] = {
    "If": OnnxModel._if,
    "Loop": OnnxModel._loop,
    "Scan": OnnxModel._scan,
}


def _as_tuple(outputs: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(array) for array in (outputs if isinstance(outputs, tuple) else (outputs,)))


def _value(values: Values, name: str) -> np.ndarray:
    if name not in values:
        raise ValueError(f"{name!r} is read, but nothing made it")
    return values[name]


def _as_input(name: str, value: ArrayLike, declared: int) -> np.ndarray:
    """`value` as an array of the declared type; real numbers are converted to each other, others are not."""
    array, dtype = np.asarray(value), np.dtype(DTYPES.get(declared, np.float32))
    if dtype.kind == "f":
        return as_real_array(name, array, dtype)
    if array.dtype.kind not in ("b" if dtype.kind == "b" else "iu"):
        raise TypeError(f"{name} has dtype {array.dtype}, but {dtype} is expected")
    return array.astype(dtype)


def constant_value(node: Node) -> np.ndarray:
    """The array of a Constant node."""
    types = {"value": None, "value_float": np.float32, "value_floats": np.float32, "value_int": np.int64,
             "value_ints": np.int64}  # fmt: skip
    for key, dtype in types.items():
        if key in node.attributes:
            return np.asarray(node.attributes[key], dtype)
    raise NotImplementedError(f"Constant {node.name!r} holds {', '.join(node.attributes)}, which is not supported")


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

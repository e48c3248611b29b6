"""Modules as ONNX files that other runtimes read."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..embedding import Embedding
from ..linear import Linear
from ..lstm import LSTM
from ..module import Module
from ..sequential import Sequential
from ..serialization import FilePath, replace_file
from .building import require
from .onnx_lstm import INPUTS, arrays_of, attributes_of

OPSET, IR_VERSION = 17, 8  # read by ONNX Runtime 1.12 and later


def to_onnx(module: Module, path: FilePath, *, states: bool = False, lengths: bool = False) -> None:
    """Write an LSTM, Linear, Embedding or Sequential of them as an ONNX file, atomically.

    The graph takes `x` as the module does, (time, batch, features) or, with `batch_first`, (batch, time, features), and
    returns `y`; with one LSTM also `h_n` and `c_n`, with several `h_n_0`, `c_n_0`, `h_n_1`, ... by their place among
    the LSTMs, all (num_layers * D, batch, hidden_size). Time and batch are free. Dropout is left out.

    Parameters
    ----------
    module : LSTM, Linear, Embedding or Sequential
        What to write.
    path : path-like
        The file.
    states : bool, default False
        Whether the initial states are inputs, `h_0` and `c_0` (numbered as the final ones); zeros otherwise.
    lengths : bool, default False
        Whether `lengths`, (batch,) of int32, is an input. For a length of 0, ONNX Runtime returns zeros as final
        states, not the initial ones.

    Raises
    ------
    ImportError
        If onnx is not installed.
    NotImplementedError
        If a module cannot be written.
    OSError
        If the file cannot be written; an old one stays as it was.

    Examples
    --------
    See `from_onnx`.
    """
    onnx = require("onnx", "onnx")
    if odd := [type(part).__name__ for part in _parts(module) if not isinstance(part, (LSTM, Linear, Embedding))]:
        raise NotImplementedError(f"a {odd[0]} cannot be written as ONNX")
    graph = _Graph(onnx)
    floats = _dtype_of(module)
    is_index = isinstance(_parts(module)[0], Embedding)
    batch_first = {part.batch_first for part in _parts(module) if isinstance(part, LSTM)}
    if len(batch_first) > 1:
        raise NotImplementedError("LSTMs with and without batch_first in one model are not supported")
    time_and_batch = ["batch", "time"] if True in batch_first else ["time", "batch"]
    x_shape = time_and_batch if is_index else [*time_and_batch, None]
    graph.add_input("x", np.int64 if is_index else floats, x_shape)
    if lengths:
        graph.add_input("lengths", np.int32, ["batch"])
    lstms = [part for part in _parts(module) if isinstance(part, LSTM)]
    value = "x"
    for i, part in enumerate(_parts(module)):
        prefix = "" if module is part else f"{i}."
        if isinstance(part, LSTM):
            suffix = "" if len(lstms) == 1 else f"_{lstms.index(part)}"
            value = _add_lstm(graph, part, value, prefix, suffix, states, lengths)
        elif isinstance(part, Linear):
            value = _add_linear(graph, part, value, prefix)
        else:
            value = graph.add("Gather", [graph.constant(f"{prefix}weight", part.weight), value], f"{prefix}y")
    graph.add("Identity", [value], "y")
    graph.add_output("y", floats, [*time_and_batch, None], first=True)
    model = onnx.helper.make_model(
        graph.made("clstm"), opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model)
    replace_file(os.fsdecode(path), [model.SerializeToString(deterministic=True)])


class _Graph:
    """Nodes, constants, inputs and outputs as they are added."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def add(self, op: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its first output."""
        self._nodes.append(self._onnx.helper.make_node(op, inputs, outputs, name=f"{outputs[0]}/{op}", **attributes))
        return outputs[0]

    def add_named(self, name: str, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Add a node under a name of its own."""
        self._nodes.append(self._onnx.helper.make_node(op, inputs, outputs, name=name, **attributes))

    def constant(self, name: str, array: Any) -> str:
        """Add an initializer and return its name."""
        self._constants[name] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def add_input(self, name: str, dtype: Any, shape: list[Any]) -> str:
        """Declare an input and return its name."""
        self._inputs.append(self._value(name, dtype, shape))
        return name

    def add_output(self, name: str, dtype: Any, shape: list[Any], first: bool = False) -> None:
        """Declare an output."""
        self._outputs.insert(0 if first else len(self._outputs), self._value(name, dtype, shape))

    def made(self, name: str) -> Any:
        """The GraphProto."""
        constants = list(self._constants.values())
        return self._onnx.helper.make_graph(self._nodes, name, self._inputs, self._outputs, constants)

    def _value(self, name: str, dtype: Any, shape: list[Any]) -> Any:
        helper = self._onnx.helper
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def _parts(module: Module) -> list[Any]:
    """The module itself, or the parts of a Sequential, those of one inside another too."""
    return [inner for part in module for inner in _parts(part)] if isinstance(module, Sequential) else [module]


def _dtype_of(module: Module) -> np.dtype[Any]:
    dtypes = {part.dtype for part in _parts(module)}
    if len(dtypes) != 1:
        raise NotImplementedError(f"a model with {len(dtypes)} dtypes cannot be written as ONNX")
    dtype: np.dtype[Any] = dtypes.pop()
    return dtype


def _add_linear(graph: _Graph, linear: Linear, x: str, prefix: str) -> str:
    y = graph.add("MatMul", [x, graph.constant(f"{prefix}weight_T", linear.weight.T)], f"{prefix}product")
    return (
        y if linear.bias is None else graph.add("Add", [y, graph.constant(f"{prefix}bias", linear.bias)], f"{prefix}y")
    )


def _add_lstm(graph: _Graph, lstm: LSTM, x: str, prefix: str, suffix: str, states: bool, lengths: bool) -> str:
    """One LSTM node per layer, time-major (ONNX Runtime has no other), with what joins them."""
    D, weights, attributes = 1 + lstm.bidirectional, lstm.state_dict(), attributes_of(lstm)
    state_shape = [lstm.num_layers * D, "batch", lstm.hidden_size]
    parts: dict[str, list[str]] = {"h": [], "c": []}
    if states:
        names = [graph.add_input(f"{key}_0{suffix}", lstm.dtype, state_shape) for key in parts]
    if lstm.batch_first:
        x = graph.add("Transpose", [x], f"{prefix}x_time_major", perm=[1, 0, 2])
    for l in range(lstm.num_layers):
        name = f"{prefix}lstm_l{l}"
        given = {key: graph.constant(f"{name}.{key}", array) for key, array in arrays_of(lstm, weights, l).items()}
        given["X"] = x
        if lengths:
            given["sequence_lens"] = "lengths"
        if states:
            first, last = (graph.constant(f"{name}.state_{i}", np.array([i * D])) for i in (l, l + 1))
            for key, state in zip(("initial_h", "initial_c"), names, strict=True):
                given[key] = graph.add("Slice", [state, first, last], f"{name}.{state}")
        outputs = [f"{name}.{key}" for key in ("Y", "h_n", "c_n")]
        graph.add_named(name, "LSTM", [given.get(key, "") for key in INPUTS], outputs, **attributes)
        for key in parts:
            parts[key].append(f"{name}.{key}_n")
        x = graph.add("Transpose", [outputs[0]], f"{name}.Y_rows", perm=[0, 2, 1, 3])  # (T, B, D, H)
        x = graph.add("Reshape", [x, graph.constant("merge_directions", np.array([0, 0, -1]))], f"{name}.y")
    for key, layers in parts.items():
        graph.add("Concat", layers, f"{key}_n{suffix}", axis=0)
        graph.add_output(f"{key}_n{suffix}", lstm.dtype, state_shape)
    return graph.add("Transpose", [x], f"{prefix}y_batch_first", perm=[1, 0, 2]) if lstm.batch_first else x

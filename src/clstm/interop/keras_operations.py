"""Operations on tensors in the functional models of Keras 3: what users write, and what makes the masks.

Keras 3 writes each mask out as operations, and the layers that read one name it. An operation is used once; numbers
among its arguments stand in that use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .keras_lstm import Tensor
from .limits import broadcast, limited

_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Subtract": np.subtract,
    "Multiply": np.multiply,
    "TrueDivide": np.true_divide,
    "Equal": np.equal,
    "NotEqual": np.not_equal,
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "Less": np.less,
    "LessEqual": np.less_equal,
    "LogicalOr": np.logical_or,
    "LogicalAnd": np.logical_and,
    "LogicalNot": np.logical_not,
}
_WITH_AXIS: dict[str, Callable[..., Any]] = {
    "Any": lambda x, axis: np.any(x, axis),
    "All": lambda x, axis: np.all(x, axis),
    "ExpandDims": lambda x, axis: np.expand_dims(x, axis),
}
_CONSTANT: dict[str, Callable[..., Any]] = {"ZerosLike": np.zeros_like, "OnesLike": np.ones_like}
OPERATIONS = (*_ELEMENTWISE, *_WITH_AXIS, *_CONSTANT, "Concatenate")


def is_operation(layer: Any) -> bool:
    """Whether an entry in the list of layers is one. An .h5 file does not say it, but layers can be trained."""
    if "module" in layer:
        return str(layer["module"]).startswith("keras.src.ops")
    nodes = layer.get("inbound_nodes")
    by_keras_3 = isinstance(nodes, list) and any(isinstance(node, dict) for node in nodes)
    return by_keras_3 and layer["class_name"] in OPERATIONS and "trainable" not in layer["config"]


def make_operation(layer: Any) -> Callable[[list[Tensor]], Tensor]:
    """Return the function of an operation.

    Raises
    ------
    NotImplementedError
        If an argument is neither a tensor nor a number, or an option is not supported.
    """
    kind, config = layer["class_name"], layer["config"]
    if config.get("keepdims"):
        raise NotImplementedError("keepdims is not supported")
    if kind == "Concatenate":
        return lambda tensors: Tensor(_concatenate([x.array for x in tensors], config.get("axis", 0)))
    if kind in _WITH_AXIS:
        return lambda tensors: Tensor(_WITH_AXIS[kind](tensors[0].array, config.get("axis")))
    if kind in _CONSTANT:
        dtype = config.get("dtype")
        if dtype not in (None, "bool", "float32", "float64", "int32", "int64"):
            raise NotImplementedError(f"the type {dtype!r:.40} is not supported")
        return lambda tensors: Tensor(_CONSTANT[kind](tensors[0].array, dtype))
    (node,) = layer["inbound_nodes"]
    arguments = node["args"]
    for argument in arguments:
        if not isinstance(argument, (int, float)) and not _is_tensor(argument):
            raise NotImplementedError(f"the argument {argument!r:.60} is not supported")

    def call(tensors: list[Tensor]) -> Tensor:
        if len(tensors) != sum(map(_is_tensor, arguments)):
            raise ValueError(f"there are {len(tensors)} tensors for the arguments {arguments!r:.60}")
        rest = iter(tensors)
        values = [next(rest).array if _is_tensor(argument) else argument for argument in arguments]
        broadcast(*(x.array for x in tensors))
        return Tensor(_ELEMENTWISE[kind](*values))

    return call


def _concatenate(arrays: list[np.ndarray], axis: int) -> np.ndarray:
    limited([sum(array.size for array in arrays)])
    return np.concatenate(arrays, axis)


def _is_tensor(argument: Any) -> bool:
    return isinstance(argument, dict) and argument.get("class_name") == "__keras_tensor__"

"""Operators of ONNX that act on each element, and products of matrices, on numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import elementwise
from .limits import broadcast, limited
from .onnx_file import Node
from .onnx_registry import DTYPES, OPERATORS, Inputs, Operator, operator


def _divide(a: Any, b: Any) -> Any:
    """a / b, towards zero for integers."""
    return a / b if a.dtype.kind == "f" else np.trunc(a / b).astype(a.dtype)


def _reduce(function: Any, arrays: tuple[np.ndarray, ...]) -> Any:
    result = arrays[0]
    for array in arrays[1:]:
        result = function(result, array)
    return result


def _of_arrays(function: Callable[..., Any]) -> Operator:
    """An operator without attributes, of arrays that are broadcast against each other."""

    def run(node: Node, inputs: Inputs) -> Any:
        broadcast(*inputs)
        return function(*inputs)

    return run


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide,
    "Pow": lambda a, b: np.power(a, b).astype(a.dtype),
    "Equal": np.equal, "Less": np.less, "Greater": np.greater, "LessOrEqual": np.less_equal,
    "GreaterOrEqual": np.greater_equal, "And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor,
    "Not": np.logical_not, "Where": np.where, "IsNaN": np.isnan,
    "Neg": np.negative, "Abs": np.abs, "Sign": np.sign, "Sqrt": np.sqrt, "Exp": np.exp, "Log": np.log,
    "Erf": elementwise.erf,
    "Sin": np.sin, "Cos": np.cos, "Floor": np.floor, "Ceil": np.ceil, "Round": np.rint, "Reciprocal": np.reciprocal,
    "Sum": lambda *arrays: sum(arrays[1:], arrays[0]),
    "Max": lambda *arrays: _reduce(np.maximum, arrays), "Min": lambda *arrays: _reduce(np.minimum, arrays),
    "Identity": lambda x: x, "Sigmoid": elementwise.sigmoid, "Tanh": elementwise.tanh, "Relu": elementwise.relu,
    "Softplus": elementwise.softplus, "Softsign": elementwise.softsign,
    "HardSwish": elementwise.hard_silu, "Mish": elementwise.mish,
    "PRelu": lambda x, slope: np.where(x > 0, x, slope * x),
}  # fmt: skip
OPERATORS.update({name: _of_arrays(function) for name, function in _FUNCTIONS.items()})


# ---- activations ----


def _thresholded_relu(x: np.ndarray, alpha: float = 1.0) -> Any:
    return np.where(x > alpha, x, x.dtype.type(0))


_WITH_ALPHA: dict[str, Callable[..., Any]] = {
    "Elu": elementwise.elu, "LeakyRelu": elementwise.leaky_relu, "HardSigmoid": elementwise.hard_sigmoid,
    "Celu": elementwise.celu, "Selu": elementwise.selu, "ThresholdedRelu": _thresholded_relu,
}  # fmt: skip


@operator(*_WITH_ALPHA)
def _with_alpha(node: Node, inputs: Inputs) -> Any:
    given = {key: value for key, value in node.attributes.items() if key in ("alpha", "beta", "gamma")}
    return _WITH_ALPHA[node.op](inputs[0], **given)


@operator("Gelu")
def _gelu(node: Node, inputs: Inputs) -> Any:
    return elementwise.gelu(inputs[0], node.attributes.get("approximate", "none") == "tanh")


@operator("Clip")
def _clip(node: Node, inputs: Inputs) -> Any:
    x, low, high = [*inputs, None, None][:3]
    low, high = node.attributes.get("min", low), node.attributes.get("max", high)
    if low is None and high is None:  # np.clip wants one of them before numpy 2.1
        return x
    broadcast(*(np.asarray(array) for array in (x, low, high) if array is not None))
    return np.clip(x, low, high).astype(x.dtype)


@operator("Softmax", "LogSoftmax")
def _softmax(node: Node, inputs: Inputs) -> Any:
    (x,) = inputs
    axis = node.attributes.get("axis", -1 if node.opset >= 13 else 1)
    # Before version 13, all axes from that one on count as one.
    rows = x if node.opset >= 13 else x.reshape(*x.shape[:axis], -1)
    function = elementwise.softmax if node.op == "Softmax" else elementwise.log_softmax
    return function(rows, axis if node.opset >= 13 else -1).reshape(x.shape)


@operator("Dropout")
def _dropout(node: Node, inputs: Inputs) -> Any:
    if len(inputs) > 2 and inputs[2] is not None and inputs[2].item():
        raise NotImplementedError("Dropout with training_mode is not supported")
    return inputs[0], np.ones(inputs[0].shape, np.bool_)


# ---- other attributes ----


@operator("IsInf")
def _is_inf(node: Node, inputs: Inputs) -> Any:
    (x,) = inputs
    positive, negative = (node.attributes.get(f"detect_{sign}", 1) for sign in ("positive", "negative"))
    return (np.isposinf(x) & bool(positive)) | (np.isneginf(x) & bool(negative))


@operator("Mod")
def _mod(node: Node, inputs: Inputs) -> Any:
    """The remainder with the sign of the divisor, or with `fmod` that of the dividend."""
    broadcast(*inputs)
    return (np.fmod if node.attributes.get("fmod") else np.mod)(*inputs)


@operator("Cast")
def _cast(node: Node, inputs: Inputs) -> Any:
    to = node.attributes["to"]
    if to not in DTYPES:
        raise NotImplementedError(f"a cast to the type {to} is not supported")
    return inputs[0].astype(DTYPES[to])


@operator("DequantizeLinear")
def _dequantize(node: Node, inputs: Inputs) -> Any:
    """(x - zero point) scale, both per slice along an axis or for all of x."""
    x, scale, zero = [*inputs, None][:3]
    if x.dtype.kind not in "iu" or node.attributes.get("block_size"):
        raise NotImplementedError(f"DequantizeLinear of {x.dtype}, or in blocks, is not supported")
    shape = [1] * x.ndim
    if scale.ndim:
        shape[node.attributes.get("axis", 1)] = len(scale)
    broadcast(x, scale.reshape(shape))
    difference = x if zero is None else x.astype(np.int64) - zero.astype(np.int64).reshape(shape)
    return difference.astype(scale.dtype) * scale.reshape(shape)


# ---- products ----


@operator("MatMul")
def _matmul(node: Node, inputs: Inputs) -> Any:
    a, b = inputs
    limited([*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *a.shape[-2:-1], *(b.shape[-1:] if b.ndim > 1 else ())])
    return a @ b


@operator("Gemm")
def _gemm(node: Node, inputs: Inputs) -> Any:
    """alpha A' B' + beta C, A' and B' transposed if transA, transB say so."""
    a, b, c = [*inputs, None][:3]
    a = a.T if node.attributes.get("transA") else a
    b = b.T if node.attributes.get("transB") else b
    limited([len(a), b.shape[1]])
    y = a @ b
    if (alpha := node.attributes.get("alpha", 1.0)) != 1:
        y = alpha * y
    if c is not None:
        broadcast(y, c)
        beta = node.attributes.get("beta", 1.0)
        y = y + (c if beta == 1 else beta * c)
    return y


@operator("Einsum")
def _einsum(node: Node, inputs: Inputs) -> Any:
    """Sums of products by the letters of axes, as np.einsum; without an ellipsis."""
    equation = node.attributes["equation"].replace(" ", "")
    if "." in equation:
        raise NotImplementedError(f"Einsum with an ellipsis, {equation!r:.60}, is not supported")
    terms, _, output = equation.partition("->")
    sizes = {
        letter: size
        for term, x in zip(terms.split(","), inputs, strict=True)
        for letter, size in zip(term, x.shape, strict=True)
    }
    limited(sizes[letter] for letter in (output if "->" in equation else sizes))
    return np.einsum(equation, *inputs)

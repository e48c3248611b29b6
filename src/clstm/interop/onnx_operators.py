"""The operators of ONNX that usually stand around an LSTM, on numpy (https://onnx.ai/onnx/operators/).

Each takes the node and its inputs (None where an optional one is left out) and returns the output, or a tuple of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from . import elementwise
from .onnx_file import Node

Inputs = list[Any]
Operator = Callable[[Node, Inputs], Any]
OPERATORS: dict[str, Operator] = {}

LARGEST = 2**28  # elements that an output may have whose size the model chooses freely

# ONNX's numbers of types (TensorProto.DataType) that numpy has.
DTYPES = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
    10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register a function under the names of operators."""

    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def _register(functions: dict[str, Callable[..., Any]]) -> None:
    """Register functions of arrays."""

    def of_arrays(function: Callable[..., Any]) -> Operator:
        return lambda node, inputs: function(*inputs)

    OPERATORS.update({name: of_arrays(function) for name, function in functions.items()})


def _divide(a: Any, b: Any) -> Any:
    """a / b, towards zero for integers."""
    return a / b if a.dtype.kind == "f" else np.trunc(a / b).astype(a.dtype)


_register(
    {
        "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide, "MatMul": np.matmul,
        "Pow": lambda a, b: np.power(a, b).astype(a.dtype),
        "Equal": np.equal, "Less": np.less, "Greater": np.greater, "LessOrEqual": np.less_equal,
        "GreaterOrEqual": np.greater_equal, "And": np.logical_and, "Or": np.logical_or, "Not": np.logical_not,
        "Where": np.where, "Neg": np.negative, "Abs": np.abs, "Sqrt": np.sqrt, "Exp": np.exp, "Log": np.log,
        "Sin": np.sin, "Cos": np.cos, "Floor": np.floor, "Ceil": np.ceil, "Reciprocal": np.reciprocal,
        "Sum": lambda *arrays: sum(arrays[1:], arrays[0]),
        "Max": lambda *arrays: _reduce(np.maximum, arrays), "Min": lambda *arrays: _reduce(np.minimum, arrays),
        "Identity": lambda x: x, "Relu": elementwise.relu,
        "Softplus": elementwise.softplus, "Softsign": elementwise.softsign,
        "PRelu": lambda x, slope: np.where(x > 0, x, slope * x),
        "GlobalAveragePool": lambda x: _mean(x, tuple(range(2, x.ndim)), True),
    }
)  # fmt: skip


def _mean(x: Any, axis: tuple[int, ...] | None, keepdims: bool) -> Any:
    """Mean along axes, summed in float64: numpy's own float32 sums lose digits."""
    return x.mean(axis=axis, keepdims=keepdims, dtype=np.float64).astype(x.dtype)


def _reduce(function: Any, arrays: tuple[np.ndarray, ...]) -> Any:
    result = arrays[0]
    for array in arrays[1:]:
        result = function(result, array)
    return result


@operator("Sigmoid", "Tanh")
def _squash(node: Node, inputs: Inputs) -> Any:
    function = elementwise.sigmoid if node.op == "Sigmoid" else elementwise.tanh
    (x,) = inputs
    return function(x if x.dtype.itemsize > 2 else x.astype(np.float32)).astype(x.dtype, copy=False)


@operator("Elu", "LeakyRelu", "HardSigmoid")
def _with_alpha(node: Node, inputs: Inputs) -> Any:
    functions: dict[str, Any] = {
        "Elu": elementwise.elu, "LeakyRelu": elementwise.leaky_relu, "HardSigmoid": elementwise.hard_sigmoid
    }  # fmt: skip
    given = {key: value for key, value in node.attributes.items() if key in ("alpha", "beta")}
    return functions[node.op](inputs[0], **given)


@operator("Clip")
def _clip(node: Node, inputs: Inputs) -> Any:
    x, low, high = [*inputs, None, None][:3]
    return np.clip(x, node.attributes.get("min", low), node.attributes.get("max", high)).astype(x.dtype)


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


@operator("Gemm")
def _gemm(node: Node, inputs: Inputs) -> Any:
    """alpha A' B' + beta C, A' and B' transposed if transA, transB say so."""
    a, b, c = [*inputs, None][:3]
    a = a.T if node.attributes.get("transA") else a
    b = b.T if node.attributes.get("transB") else b
    y = a @ b
    if (alpha := node.attributes.get("alpha", 1.0)) != 1:
        y = alpha * y
    if c is not None:
        beta = node.attributes.get("beta", 1.0)
        y = y + (c if beta == 1 else beta * c)
    return y


# ---- shapes ----


def _axes(node: Node, inputs: Inputs) -> list[int] | None:
    """Axes from the second input, or, as in older versions, from the attribute."""
    if len(inputs) > 1 and inputs[1] is not None:
        return [int(axis) for axis in np.ravel(inputs[1])]
    axes = node.attributes.get("axes")
    return None if axes is None else list(axes)


def _limited(shape: Any) -> tuple[int, ...]:
    """`shape`, if an array of it is not too large."""
    sizes = tuple(int(size) for size in shape)
    if math.prod(sizes) > LARGEST:
        raise ValueError(f"a result of shape {sizes} is asked for, but at most {LARGEST} elements are allowed")
    return sizes


@operator("Reshape")
def _reshape(node: Node, inputs: Inputs) -> Any:
    x = inputs[0]
    shape = [int(size) for size in (inputs[1] if len(inputs) > 1 else node.attributes["shape"])]
    if not node.attributes.get("allowzero"):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return x.reshape(shape)


@operator("Flatten")
def _flatten(node: Node, inputs: Inputs) -> Any:
    (x,) = inputs
    axis = node.attributes.get("axis", 1)
    return x.reshape(math.prod(x.shape[: axis if axis >= 0 else x.ndim + axis]), -1)


@operator("Transpose")
def _transpose(node: Node, inputs: Inputs) -> Any:
    return np.transpose(inputs[0], node.attributes.get("perm"))


@operator("Squeeze")
def _squeeze(node: Node, inputs: Inputs) -> Any:
    axes = _axes(node, inputs)
    return np.squeeze(inputs[0], None if axes is None else tuple(axes))


@operator("Unsqueeze")
def _unsqueeze(node: Node, inputs: Inputs) -> Any:
    return np.expand_dims(inputs[0], tuple(_axes(node, inputs) or ()))


@operator("Concat")
def _concat(node: Node, inputs: Inputs) -> Any:
    return np.concatenate(inputs, axis=node.attributes.get("axis", 1))


@operator("Split")
def _split(node: Node, inputs: Inputs) -> Any:
    x, axis = inputs[0], node.attributes.get("axis", 0)
    sizes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else node.attributes.get("split")
    if sizes is None:
        parts = len(node.outputs)
        size = -(-x.shape[axis] // parts)
        sizes = [size] * (parts - 1)
        cuts = np.cumsum(sizes, dtype=int)
    else:
        cuts = np.cumsum(sizes, dtype=int)[:-1]
    return tuple(np.split(x, cuts, axis))


@operator("Slice")
def _slice(node: Node, inputs: Inputs) -> Any:
    x = inputs[0]
    if len(inputs) > 1:
        starts, ends, axes, steps = [*inputs[1:], None, None, None][:4]
    else:
        starts, ends, axes, steps = (node.attributes.get(key) for key in ("starts", "ends", "axes", "steps"))
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # An end before the first element is a large negative number in ONNX, None in Python.
        end = None if step < 0 and end < -x.shape[axis] else int(end)
        index[axis] = slice(max(int(start), -x.shape[axis]), end, int(step))
    return x[tuple(index)]


@operator("Gather")
def _gather(node: Node, inputs: Inputs) -> Any:
    x, indices = inputs
    axis = node.attributes.get("axis", 0)
    _limited([*x.shape[:axis], *indices.shape, *x.shape[axis:][1:]])
    return np.take(x, indices, axis)


@operator("Expand")
def _expand(node: Node, inputs: Inputs) -> Any:
    x, shape = inputs
    return np.broadcast_to(x, _limited(np.broadcast_shapes(x.shape, tuple(int(size) for size in shape))))


@operator("Tile")
def _tile(node: Node, inputs: Inputs) -> Any:
    x, repeats = inputs
    _limited([size * int(count) for size, count in zip(x.shape, repeats, strict=True)])
    return np.tile(x, repeats)


@operator("Shape")
def _shape(node: Node, inputs: Inputs) -> Any:
    return np.array(inputs[0].shape[node.attributes.get("start", 0) : node.attributes.get("end")], np.int64)


@operator("Size")
def _size(node: Node, inputs: Inputs) -> Any:
    return np.array(inputs[0].size, np.int64)


@operator("ConstantOfShape")
def _constant_of_shape(node: Node, inputs: Inputs) -> Any:
    value = node.attributes.get("value", np.zeros(1, np.float32))
    return np.full(_limited(inputs[0]), value.reshape(()))


@operator("Range")
def _range(node: Node, inputs: Inputs) -> Any:
    start, limit, step = (value.item() for value in inputs)
    (count,) = _limited([max(0, math.ceil((limit - start) / step))])
    return (start + step * np.arange(count)).astype(inputs[0].dtype)


@operator("Cast")
def _cast(node: Node, inputs: Inputs) -> Any:
    to = node.attributes["to"]
    if to not in DTYPES:
        raise NotImplementedError(f"a cast to the type {to} is not supported")
    return inputs[0].astype(DTYPES[to])


@operator("Pad")
def _pad(node: Node, inputs: Inputs) -> Any:
    x, pads, value, axes = [*inputs, None, None, None][:4]
    pads = [int(pad) for pad in (node.attributes["pads"] if pads is None else pads)]
    axes = range(x.ndim) if axes is None else axes
    widths = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[i + len(axes)])
    _limited([size + sum(width) for size, width in zip(x.shape, widths, strict=True)])
    mode = node.attributes.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge") or min(pads) < 0:
        raise NotImplementedError(f"Pad with mode {mode!r} and pads {pads} is not supported")
    if mode != "constant":
        return np.pad(x, widths, mode)
    return np.pad(x, widths, constant_values=node.attributes.get("value", 0) if value is None else value.item())


# ---- along axes ----


@operator("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
def _reduction(node: Node, inputs: Inputs) -> Any:
    x = inputs[0]
    functions: dict[str, Any] = {"ReduceMean": _mean, "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min}
    axes, keepdims = _axes(node, inputs), bool(node.attributes.get("keepdims", 1))
    if not axes and node.attributes.get("noop_with_empty_axes"):
        return x
    y = functions[node.op](x, axis=tuple(axes) if axes else None, keepdims=keepdims)
    return y.astype(x.dtype)  # numpy sums small integers in larger ones


@operator("ArgMax")
def _argmax(node: Node, inputs: Inputs) -> Any:
    if node.attributes.get("select_last_index"):
        raise NotImplementedError("ArgMax with select_last_index is not supported")
    axis, keepdims = node.attributes.get("axis", 0), bool(node.attributes.get("keepdims", 1))
    return np.argmax(inputs[0], axis, keepdims=keepdims)


@operator("ReverseSequence")
def _reverse_sequence(node: Node, inputs: Inputs) -> Any:
    """Each row up to its own length backwards."""
    x, lengths = inputs
    if (node.attributes.get("time_axis", 0), node.attributes.get("batch_axis", 1)) == (1, 0):
        return _reversed(x.swapaxes(0, 1), lengths).swapaxes(0, 1)
    return _reversed(x, lengths)


def _reversed(x: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    t = np.arange(len(x))[:, None]
    return x[np.where(t < lengths, lengths - 1 - t, t), np.arange(x.shape[1])]


@operator("LayerNormalization")
def _layer_normalization(node: Node, inputs: Inputs) -> Any:
    x, scale, bias = [*inputs, None][:3]
    axis = node.attributes.get("axis", -1)
    axes = tuple(range(axis % x.ndim, x.ndim))
    z = x - _mean(x, axes, True)
    y = z / np.sqrt(_mean(z * z, axes, True) + node.attributes.get("epsilon", 1e-5)) * scale
    return y if bias is None else y + bias


@operator("BatchNormalization")
def _batch_normalization(node: Node, inputs: Inputs) -> Any:
    x = inputs[0]
    scale, bias, mean, var = (array.reshape(-1, *[1] * (x.ndim - 2)) for array in inputs[1:])
    return (x - mean) / np.sqrt(var + node.attributes.get("epsilon", 1e-5)) * scale + bias


@operator("Conv")
def _conv(node: Node, inputs: Inputs) -> Any:
    """Cross-correlation of x (batch, channels, ...) with W (outputs, channels / group, ...).

    Summed in float64: a spectrum as a convolution, with a logarithm behind it, lives on what cancels.
    """
    x, W, bias = [*inputs, None][:3]
    n = x.ndim - 2
    attributes = node.attributes
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise NotImplementedError(f"Conv with auto_pad {attributes['auto_pad']!r} is not supported")
    strides, dilations = (attributes.get(key, [1] * n) for key in ("strides", "dilations"))
    pads, group = attributes.get("pads", [0] * 2 * n), attributes.get("group", 1)
    _limited([*x.shape[:2], *(x.shape[2 + i] + pads[i] + pads[n + i] for i in range(n))])
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)])
    extent = [(size - 1) * dilation + 1 for size, dilation in zip(W.shape[2:], dilations, strict=True)]
    windows: Any = np.lib.stride_tricks.sliding_window_view(x, extent, tuple(range(2, 2 + n)))
    windows = windows[(..., *(slice(None, None, dilation) for dilation in dilations))]
    windows = windows[(slice(None), slice(None), *(slice(None, None, stride) for stride in strides))]
    axes = [1, *range(2 + n, 2 + 2 * n)], [1, *range(2, 2 + n)]
    y: Any = np.concatenate(
        [
            np.moveaxis(np.tensordot(part, weight.astype(np.float64), axes), -1, 1)
            for part, weight in zip(np.split(windows, group, 1), np.split(W, group), strict=True)
        ],
        axis=1,
    )
    y = y if bias is None else y + bias.reshape(-1, *[1] * n)
    return y.astype(x.dtype)

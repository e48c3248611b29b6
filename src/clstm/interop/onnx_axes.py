"""Operators of ONNX that run along axes: reductions, normalizations, sorting, windows, on numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .building import reverse_time
from .limits import broadcast, limited
from .onnx_file import Node
from .onnx_registry import Inputs, operator
from .onnx_shapes import axes_of


def _mean(x: Any, axis: tuple[int, ...] | None, keepdims: bool) -> Any:
    """Mean along axes, summed in float64: numpy's own float32 sums lose digits."""
    return x.mean(axis=axis, keepdims=keepdims, dtype=np.float64).astype(x.dtype)


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMean": _mean,
    "ReduceSum": np.sum,
    "ReduceProd": np.prod,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceL1": lambda x, axis, keepdims: np.sum(np.abs(x), axis, keepdims=keepdims),
    "ReduceL2": lambda x, axis, keepdims: np.sqrt(np.sum(x * x, axis, keepdims=keepdims)),
    "ReduceSumSquare": lambda x, axis, keepdims: np.sum(x * x, axis, keepdims=keepdims),
}


@operator(*_REDUCTIONS)
def _reduction(node: Node, inputs: Inputs) -> Any:
    x = inputs[0]
    axes, keepdims = axes_of(node, inputs), bool(node.attributes.get("keepdims", 1))
    if not axes and node.attributes.get("noop_with_empty_axes"):
        return x
    y = _REDUCTIONS[node.op](x, axis=tuple(axes) if axes else None, keepdims=keepdims)
    return y.astype(x.dtype)  # numpy sums small integers in larger ones


@operator("GlobalAveragePool")
def _global_average_pool(node: Node, inputs: Inputs) -> Any:
    (x,) = inputs
    return _mean(x, tuple(range(2, x.ndim)), True)


@operator("CumSum")
def _cumsum(node: Node, inputs: Inputs) -> Any:
    """Sums up to each element, without it if `exclusive`; from the other end if `reverse`."""
    x, axis = inputs[0], int(inputs[1].item())
    x = np.flip(x, axis) if node.attributes.get("reverse") else x
    y = np.cumsum(x, axis, dtype=x.dtype)
    y = y - x if node.attributes.get("exclusive") else y
    return np.flip(y, axis) if node.attributes.get("reverse") else y


@operator("ArgMax", "ArgMin")
def _argmax(node: Node, inputs: Inputs) -> Any:
    if node.attributes.get("select_last_index"):
        raise NotImplementedError(f"{node.op} with select_last_index is not supported")
    axis, keepdims = node.attributes.get("axis", 0), bool(node.attributes.get("keepdims", 1))
    return (np.argmax if node.op == "ArgMax" else np.argmin)(inputs[0], axis, keepdims=keepdims)


@operator("TopK")
def _topk(node: Node, inputs: Inputs) -> Any:
    """The k largest, or smallest, and where they stand; of equal ones the first comes first."""
    x, axis = inputs[0], node.attributes.get("axis", -1)
    k = int(inputs[1].item() if len(inputs) > 1 else node.attributes["k"])
    if not 0 <= k <= x.shape[axis]:
        raise ValueError(f"k is {k}, but there are {x.shape[axis]} elements along axis {axis}")
    if node.attributes.get("largest", 1):
        order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    order = np.take(order, range(k), axis)
    return np.take_along_axis(x, order, axis), order


@operator("ReverseSequence")
def _reverse_sequence(node: Node, inputs: Inputs) -> Any:
    """Each row up to its own length backwards."""
    x, lengths = inputs
    if (node.attributes.get("time_axis", 0), node.attributes.get("batch_axis", 1)) == (1, 0):
        return reverse_time(x.swapaxes(0, 1), lengths).swapaxes(0, 1)
    return reverse_time(x, lengths)


@operator("LayerNormalization")
def _layer_normalization(node: Node, inputs: Inputs) -> Any:
    x, scale, bias = [*inputs, None][:3]
    axis = node.attributes.get("axis", -1)
    axes = tuple(range(axis % x.ndim, x.ndim))
    broadcast(x, scale, *(() if bias is None else (bias,)))
    z = x - _mean(x, axes, True)
    y = z / np.sqrt(_mean(z * z, axes, True) + node.attributes.get("epsilon", 1e-5)) * scale
    return y if bias is None else y + bias


@operator("BatchNormalization")
def _batch_normalization(node: Node, inputs: Inputs) -> Any:
    x = inputs[0]
    scale, bias, mean, var = (array.reshape(-1, *[1] * (x.ndim - 2)) for array in inputs[1:])
    broadcast(x, scale, bias, mean, var)
    return (x - mean) / np.sqrt(var + node.attributes.get("epsilon", 1e-5)) * scale + bias


# ---- windows ----


def _windows(node: Node, x: np.ndarray, kernel: Any, fill: float) -> tuple[np.ndarray, np.ndarray]:
    """x (batch, channels, ...) filled up at its ends, and its windows (batch, channels, places ..., kernel ...)."""
    n, attributes = x.ndim - 2, node.attributes
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or attributes.get("ceil_mode"):
        raise NotImplementedError(f"{node.op} with auto_pad or ceil_mode is not supported")
    strides, dilations = (attributes.get(key, [1] * n) for key in ("strides", "dilations"))
    pads = attributes.get("pads", [0] * 2 * n)
    limited([*x.shape[:2], *(x.shape[2 + i] + pads[i] + pads[n + i] for i in range(n))])
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)], constant_values=fill)
    extent = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    windows: Any = np.lib.stride_tricks.sliding_window_view(x, extent, tuple(range(2, 2 + n)))
    windows = windows[(..., *(slice(None, None, dilation) for dilation in dilations))]
    return x, windows[(slice(None), slice(None), *(slice(None, None, stride) for stride in strides))]


@operator("Conv")
def _conv(node: Node, inputs: Inputs) -> Any:
    """Cross-correlation of x (batch, channels, ...) with W (outputs, channels / group, ...).

    Summed in float64: a spectrum as a convolution, with a logarithm behind it, lives on what cancels.
    """
    x, W, bias = [*inputs, None][:3]
    n, group = x.ndim - 2, node.attributes.get("group", 1)
    _, windows = _windows(node, x, W.shape[2:], 0)
    limited([len(x), len(W), *windows.shape[2 : 2 + n]])
    limited(windows.shape)  # tensordot makes a copy of them
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


@operator("MaxPool", "AveragePool")
def _pool(node: Node, inputs: Inputs) -> Any:
    """The largest of each window, or the mean of what it covers of x; with `count_include_pad`, of the padding too."""
    (x,) = inputs
    if len(node.outputs) > 1:
        raise NotImplementedError("MaxPool with indices is not supported")
    kernel = node.attributes["kernel_shape"]
    axes = tuple(range(-len(kernel), 0))
    _, windows = _windows(node, x, kernel, -np.inf if node.op == "MaxPool" else 0)
    if node.op == "MaxPool":
        return windows.max(axes)
    _, covered = _windows(node, np.ones_like(x[:1, :1]), kernel, node.attributes.get("count_include_pad", 0))
    return (windows.sum(axes, np.float64) / covered.sum(axes)).astype(x.dtype)

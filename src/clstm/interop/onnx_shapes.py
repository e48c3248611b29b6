"""Operators of ONNX that rearrange elements, pick some, or make arrays of a shape, on numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .limits import limited
from .onnx_file import Node
from .onnx_registry import Inputs, operator


def axes_of(node: Node, inputs: Inputs) -> list[int] | None:
    """Axes from the second input, or, as in older versions, from the attribute."""
    if len(inputs) > 1 and inputs[1] is not None:
        return [int(axis) for axis in np.ravel(inputs[1])]
    axes = node.attributes.get("axes")
    return None if axes is None else list(axes)


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
    axes = axes_of(node, inputs)
    return np.squeeze(inputs[0], None if axes is None else tuple(axes))


@operator("Unsqueeze")
def _unsqueeze(node: Node, inputs: Inputs) -> Any:
    return np.expand_dims(inputs[0], tuple(axes_of(node, inputs) or ()))


@operator("Concat")
def _concat(node: Node, inputs: Inputs) -> Any:
    limited([sum(x.size for x in inputs)])
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
    limited([*x.shape[:axis], *indices.shape, *x.shape[axis:][1:]])
    return np.take(x, indices, axis)


def _grid(indices: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    """An index that reads `indices` along `axis`, and each element's own place along the others."""
    index: list[np.ndarray] = list(np.indices(indices.shape, sparse=True))
    index[axis] = indices
    return tuple(index)


@operator("GatherElements")
def _gather_elements(node: Node, inputs: Inputs) -> Any:
    x, indices = inputs
    return x[_grid(indices, node.attributes.get("axis", 0))]


@operator("GatherND")
def _gather_nd(node: Node, inputs: Inputs) -> Any:
    """The elements, or slices, at the indices that stand along the last axis of the second input."""
    x, indices = inputs
    if node.attributes.get("batch_dims"):
        raise NotImplementedError("GatherND with batch_dims is not supported")
    limited([*indices.shape[:-1], *x.shape[indices.shape[-1] :]])
    return x[tuple(np.moveaxis(indices, -1, 0))]


# Of what stands at an index already, and an update.
_REDUCING = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scattered(node: Node, x: np.ndarray, index: Any, updates: np.ndarray) -> Any:
    """A copy of x with `updates` at `index`."""
    y = x.copy()
    if (reduction := node.attributes.get("reduction", "none")) == "none":
        y[index] = updates
    else:
        _REDUCING[reduction].at(y, index, updates)
    return y


@operator("ScatterElements", "Scatter")
def _scatter_elements(node: Node, inputs: Inputs) -> Any:
    x, indices, updates = inputs
    return _scattered(node, x, _grid(indices, node.attributes.get("axis", 0)), updates)


@operator("ScatterND")
def _scatter_nd(node: Node, inputs: Inputs) -> Any:
    x, indices, updates = inputs
    return _scattered(node, x, tuple(np.moveaxis(indices, -1, 0)), updates)


@operator("NonZero")
def _nonzero(node: Node, inputs: Inputs) -> Any:
    return np.stack(np.nonzero(inputs[0]))


@operator("Expand")
def _expand(node: Node, inputs: Inputs) -> Any:
    x, shape = inputs
    return np.broadcast_to(x, limited(np.broadcast_shapes(x.shape, tuple(int(size) for size in shape))))


@operator("Tile")
def _tile(node: Node, inputs: Inputs) -> Any:
    x, repeats = inputs
    limited([size * int(count) for size, count in zip(x.shape, repeats, strict=True)])
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
    return np.full(limited(inputs[0]), value.reshape(()))


@operator("Range")
def _range(node: Node, inputs: Inputs) -> Any:
    start, limit, step = (value.item() for value in inputs)
    (count,) = limited([max(0, math.ceil((limit - start) / step))])
    return (start + step * np.arange(count)).astype(inputs[0].dtype)


@operator("Pad")
def _pad(node: Node, inputs: Inputs) -> Any:
    x, pads, value, axes = [*inputs, None, None, None][:4]
    pads = [int(pad) for pad in (node.attributes["pads"] if pads is None else pads)]
    axes = range(x.ndim) if axes is None else axes
    widths = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[i + len(axes)])
    limited([size + sum(width) for size, width in zip(x.shape, widths, strict=True)])
    mode = node.attributes.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge") or min(pads) < 0:
        raise NotImplementedError(f"Pad with mode {mode!r} and pads {pads} is not supported")
    if mode != "constant":
        return np.pad(x, widths, mode)
    return np.pad(x, widths, constant_values=node.attributes.get("value", 0) if value is None else value.item())

"""The layers of Keras that usually stand around an LSTM, on numpy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import elementwise
from .keras_activations import function_of
from .keras_lstm import Tensor
from .limits import broadcast, limited

Description = Mapping[str, Any]  # class_name, config and more of one layer
Arrays = list[np.ndarray]
Layer = Callable[[list[Tensor]], Tensor]


def _need(arrays: Arrays, *dimensions: int) -> Arrays:
    if [array.ndim for array in arrays] != list(dimensions):
        found = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"there are arrays of shapes {found or 'none'}, but {len(dimensions)} others are expected")
    return arrays


def _dense(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    config = layer["config"]
    kernel, *bias = _need(arrays, 2, *[1] * bool(config.get("use_bias", True)))
    function = function_of(config.get("activation"), version)

    def call(x: Tensor) -> Tensor:
        limited([*x.array.shape[:-1], kernel.shape[1]])
        y = x.array.astype(kernel.dtype, copy=False) @ kernel
        return Tensor(function(y + bias[0] if bias else y), x.mask)

    return _of_one(call)


def _time_distributed(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    config = layer["config"]
    inner = config.get("layer")
    kind = inner.get("class_name") if isinstance(inner, dict) else inner
    if kind not in ("Dense", "Activation", "Dropout") or not isinstance(inner, dict):
        raise NotImplementedError(f"TimeDistributed around {kind!r:.60} is not supported")
    return LAYERS[kind](inner, arrays, version)  # acts on the last axis alone


def _embedding(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    config = layer["config"]
    (table,) = _need(arrays, 2)

    def call(x: Tensor) -> Tensor:
        indices = x.array.astype(np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(table):
            raise ValueError(f"x has values from {indices.min()} to {indices.max()}, but input_dim is {len(table)}")
        limited([*indices.shape, table.shape[1]])
        return Tensor(table[indices], indices != 0 if config.get("mask_zero") else None)

    return _of_one(call)


def _masking(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    config = layer["config"]
    value = float(config.get("mask_value", 0.0))

    def call(x: Tensor) -> Tensor:
        mask = np.any(x.array != value, axis=-1)
        return Tensor(x.array * mask[..., None], mask)

    return _of_one(call)


def _batch_normalization(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    config = layer["config"]
    flags = [bool(config.get(key, True)) for key in ("scale", "center")]
    rest = iter(_need(arrays, *[1] * (sum(flags) + 2)))
    gamma, beta = (next(rest) if flag else None for flag in flags)
    mean, variance = rest
    axis = config.get("axis", -1)

    def call(x: Tensor) -> Tensor:
        if axis not in (-1, [-1], x.array.ndim - 1, [x.array.ndim - 1]):
            raise NotImplementedError(f"BatchNormalization along axis {axis!r:.20} is not supported")
        y = (x.array - mean) / np.sqrt(variance + variance.dtype.type(config.get("epsilon", 1e-3)))
        y = y if gamma is None else y * gamma
        return Tensor(y if beta is None else y + beta, x.mask)

    return _of_one(call)


def _layer_normalization(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    config = layer["config"]
    flags = [bool(config.get(key, True)) for key in ("scale", "center")]
    rest = iter(_need(arrays, *[1] * sum(flags)))
    gamma, beta = (next(rest) if flag else None for flag in flags)
    if config.get("rms_scaling"):
        raise NotImplementedError("rms_scaling is not supported")

    def call(x: Tensor) -> Tensor:
        if config.get("axis", -1) not in (-1, [-1], x.array.ndim - 1, [x.array.ndim - 1]):
            raise NotImplementedError(f"LayerNormalization along axis {config['axis']!r:.20} is not supported")
        z = x.array - x.array.mean(-1, keepdims=True)
        y = z / np.sqrt((z * z).mean(-1, keepdims=True) + config.get("epsilon", 1e-3))
        y = y if gamma is None else y * gamma
        return Tensor(y if beta is None else y + beta, x.mask)

    return _of_one(call)


def _global_pooling(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    """Mean of the steps that a mask leaves, or maximum of all steps: Keras pays no attention to the mask there."""
    config, kind = layer["config"], layer["class_name"]
    if config.get("data_format", "channels_last") != "channels_last":
        raise NotImplementedError(f"{kind} with data_format {config['data_format']!r:.20} is not supported")
    keepdims = bool(config.get("keepdims"))

    def call(x: Tensor) -> Tensor:
        if kind == "GlobalMaxPooling1D":
            return Tensor(x.array.max(1, keepdims=keepdims))
        if x.mask is None:
            return Tensor(x.array.mean(1, keepdims=keepdims))
        counted = x.mask[..., None]
        y = np.where(counted, x.array, 0).sum(1, keepdims=keepdims)
        return Tensor(y / counted.sum(1, dtype=y.dtype, keepdims=keepdims))

    return _of_one(call)


def _relu(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    """x from the threshold to the maximum; below the threshold, slope times what lacks."""
    config = layer["config"]
    slope, threshold = (float(config.get(key) or 0) for key in ("negative_slope", "threshold"))
    most = config.get("max_value")

    def call(x: Tensor) -> Tensor:
        y = np.where(x.array >= threshold, x.array, slope * (x.array - threshold))
        return Tensor(y if most is None else np.minimum(y, most), x.mask)

    return _of_one(call)


def _leaky_relu(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    config = layer["config"]
    slope = float(config.get("negative_slope", config.get("alpha", 0.3)))  # Keras 3, Keras 2
    return _of_one(lambda x: Tensor(elementwise.leaky_relu(x.array, slope), x.mask))


def _elu(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    alpha = float(layer["config"].get("alpha", 1.0))
    return _of_one(lambda x: Tensor(elementwise.elu(x.array, alpha), x.mask))


def _softmax(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    axis = layer["config"].get("axis", -1)
    if not isinstance(axis, int):
        raise NotImplementedError(f"Softmax along the axes {axis!r:.40} is not supported")

    def call(x: Tensor) -> Tensor:
        if x.mask is not None:
            raise NotImplementedError("Softmax of what is masked is not supported")
        return Tensor(elementwise.softmax(x.array, axis))

    return _of_one(call)


def _rescaling(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    scale, offset = (float(layer["config"].get(key, usual)) for key, usual in (("scale", 1), ("offset", 0)))
    return _of_one(lambda x: Tensor(x.array * scale + offset, x.mask))


def _permute(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    axes = [0, *(int(axis) for axis in layer["config"]["dims"])]
    return _of_one(lambda x: Tensor(np.transpose(x.array, axes)))


def _activation(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    config = layer["config"]
    function = function_of(config.get("activation"), version)
    return _of_one(lambda x: Tensor(function(x.array), x.mask))


def _same(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    return _of_one(lambda x: x)


def _flatten(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    return _of_one(lambda x: Tensor(x.array.reshape(len(x.array), math.prod(x.array.shape[1:]))))


def _reshape(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    config = layer["config"]
    shape = [int(size) for size in config["target_shape"]]
    return _of_one(lambda x: Tensor(x.array.reshape(len(x.array), *shape)))


def _repeat_vector(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    n = int(layer["config"]["n"])

    def call(x: Tensor) -> Tensor:
        limited([n, x.array.size])
        return Tensor(np.repeat(x.array[:, None], n, axis=1))

    return _of_one(call)


def _concatenate(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    config = layer["config"]
    axis = int(config.get("axis", -1))

    def call(tensors: list[Tensor]) -> Tensor:
        limited([sum(x.array.size for x in tensors)])
        y = np.concatenate([x.array for x in tensors], axis)
        return Tensor(y, _common_mask(tensors, along_time=axis in (1, 1 - y.ndim)))

    return call


def _merging(function: Callable[[Arrays], np.ndarray]) -> Callable[..., Layer]:
    """A layer that makes one array of several."""

    def make(layer: Description, arrays: Arrays, version: int | None) -> Layer:
        def call(tensors: list[Tensor]) -> Tensor:
            found = [x.array for x in tensors]
            broadcast(*found)
            return Tensor(function(found), _common_mask(tensors))

        return call

    return make


def _common_mask(tensors: list[Tensor], along_time: bool = False) -> np.ndarray | None:
    """The mask of several tensors, as in Keras 2: a step counts where it does in all. Keras 3 writes masks out."""
    if all(x.mask is None for x in tensors):
        return None
    masks = [np.ones(x.array.shape[:2], np.bool_) if x.mask is None else x.mask for x in tensors]
    return np.concatenate(masks, axis=1) if along_time else np.logical_and.reduce(masks)


def _of_one(function: Callable[[Tensor], Tensor]) -> Layer:
    def call(tensors: list[Tensor]) -> Tensor:
        (x,) = tensors
        return function(x)

    return call


LAYERS: dict[str, Callable[[Description, Arrays, int | None], Layer]] = {
    "Dense": _dense,
    "TimeDistributed": _time_distributed,
    "Embedding": _embedding,
    "Masking": _masking,
    "BatchNormalization": _batch_normalization,
    "Activation": _activation,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "RepeatVector": _repeat_vector,
    "Permute": _permute,
    "LayerNormalization": _layer_normalization,
    "GlobalAveragePooling1D": _global_pooling,
    "GlobalMaxPooling1D": _global_pooling,
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": _elu,
    "Softmax": _softmax,
    "Rescaling": _rescaling,
    "Concatenate": _concatenate,
    "Add": _merging(lambda arrays: functools.reduce(np.add, arrays)),
    "Subtract": _merging(lambda arrays: functools.reduce(np.subtract, arrays)),
    "Average": _merging(lambda arrays: functools.reduce(np.add, arrays) / len(arrays)),
    # these do nothing at inference
    **dict.fromkeys(("InputLayer", "Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout"), _same),
    **dict.fromkeys(("AlphaDropout", "ActivityRegularization"), _same),
}

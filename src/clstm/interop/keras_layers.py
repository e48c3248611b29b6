"""The layers of Keras that usually stand around an LSTM, on numpy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import elementwise
from .elementwise import Function
from .keras_lstm import Tensor, hard_sigmoid_slope

Description = Mapping[str, Any]  # class_name, config and more of one layer
Arrays = list[np.ndarray]
Layer = Callable[[list[Tensor]], Tensor]

ACTIVATIONS: dict[str, Function] = {
    "linear": lambda x: x,
    "relu": elementwise.relu,
    "sigmoid": elementwise.sigmoid,
    "tanh": elementwise.tanh,
    "softmax": elementwise.softmax,
    "elu": elementwise.elu,
    "softplus": elementwise.softplus,
    "softsign": elementwise.softsign,
    "exponential": np.exp,
}


def activation(value: Any, version: int | None) -> Function:
    """The function of a configuration's `activation`. Keras 2 and 3 mean different ones by hard_sigmoid."""
    if value is None:
        value = "linear"
    if value == "hard_sigmoid":
        return functools.partial(elementwise.hard_sigmoid, alpha=hard_sigmoid_slope(version))
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise NotImplementedError(f"the activation {value!r:.60} is not supported, only {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def _need(arrays: Arrays, *dimensions: int) -> Arrays:
    if [array.ndim for array in arrays] != list(dimensions):
        found = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"there are arrays of shapes {found or 'none'}, but {len(dimensions)} others are expected")
    return arrays


def _dense(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    config = layer["config"]
    kernel, *bias = _need(arrays, 2, *[1] * bool(config.get("use_bias", True)))
    function = activation(config.get("activation"), version)

    def call(x: Tensor) -> Tensor:
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


def _activation(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    config = layer["config"]
    function = activation(config.get("activation"), version)
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
    config = layer["config"]
    return _of_one(lambda x: Tensor(np.repeat(x.array[:, None], int(config["n"]), axis=1)))


def _not_equal(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    """One of the operations that make a mask, which Keras 3 writes out; the number is an argument of its use."""
    value = float(layer["inbound_nodes"][0]["args"][1])
    return _of_one(lambda x: Tensor(x.array != value))


def _any(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    return _of_one(lambda x: Tensor(np.any(x.array, axis=-1)))


def _concatenate(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    config = layer["config"]
    axis = int(config.get("axis", -1))

    def call(tensors: list[Tensor]) -> Tensor:
        y = np.concatenate([x.array for x in tensors], axis)
        return Tensor(y, _common_mask(tensors, along_time=axis in (1, 1 - y.ndim)))

    return call


def _add(layer: Description, arrays: Arrays, version: int | None) -> Layer:
    return lambda tensors: Tensor(functools.reduce(np.add, [x.array for x in tensors]), _common_mask(tensors))


def _common_mask(tensors: list[Tensor], along_time: bool = False) -> np.ndarray | None:
    """The mask of several tensors, as in Keras 2: a step counts where it does in all. Keras 3 writes it out."""
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
    "NotEqual": _not_equal,
    "Any": _any,
    "Concatenate": _concatenate,
    "Add": _add,
    # these do nothing at inference
    **dict.fromkeys(("InputLayer", "Dropout", "SpatialDropout1D", "GaussianNoise", "ActivityRegularization"), _same),
}

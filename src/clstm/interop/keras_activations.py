"""Activations of Keras by name: functions for layers, and what an LSTM can compute inside."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import elementwise
from .elementwise import Function

# hard_sigmoid, which depends on the version, stands in neither.
FUNCTIONS: dict[str, Function] = {
    "linear": lambda x: x,
    "relu": elementwise.relu,
    "sigmoid": elementwise.sigmoid,
    "tanh": elementwise.tanh,
    "softmax": elementwise.softmax,
    "log_softmax": elementwise.log_softmax,
    "elu": elementwise.elu,
    "selu": elementwise.selu,
    "celu": elementwise.celu,
    "gelu": elementwise.gelu,
    "silu": elementwise.silu,
    "swish": elementwise.silu,
    "hard_silu": elementwise.hard_silu,
    "mish": elementwise.mish,
    "softplus": elementwise.softplus,
    "softsign": elementwise.softsign,
    "exponential": np.exp,
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "leaky_relu": functools.partial(elementwise.leaky_relu, alpha=0.2),
    "log_sigmoid": lambda x: -elementwise.softplus(-x),
    "tanh_shrink": lambda x: x - elementwise.tanh(x),
}
OF_LSTM: dict[str, Any] = {
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "linear": "identity",
    "elu": "elu",
    "softsign": "softsign",
    "softplus": "softplus",
    "leaky_relu": ("leaky_relu", 0.2),
}


def function_of(value: Any, version: int | None) -> Function:
    """The function of a layer's `activation`."""
    if value == "hard_sigmoid":
        return functools.partial(elementwise.hard_sigmoid, alpha=hard_sigmoid_slope(version))
    function: Function = _known(value, FUNCTIONS)
    return function


def lstm_activation(value: Any, version: int | None) -> Any:
    """An LSTM's `activation` or `recurrent_activation`, as `clstm.LSTM` takes it."""
    if value == "hard_sigmoid":
        return "hard_sigmoid", hard_sigmoid_slope(version), 0.5
    return _known(value, OF_LSTM)


def _known(value: Any, table: dict[str, Any]) -> Any:
    value = "linear" if value is None else value
    if not isinstance(value, str) or value not in table:
        known = ", ".join([*table, "hard_sigmoid"])
        raise NotImplementedError(f"the activation {value!r:.60} is not supported, only {known}")
    return table[value]


def hard_sigmoid_slope(version: int | None) -> float:
    """Alpha of clip(alpha x + 0.5, 0, 1): 0.2 in Keras 2, 1/6 in Keras 3."""
    if version is None:
        raise ValueError("hard_sigmoid needs the version of Keras, but the file does not say it")
    return 1 / 6 if version >= 3 else 0.2

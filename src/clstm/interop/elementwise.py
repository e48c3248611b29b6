"""Activations of layers that are not part of an LSTM."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .. import _core

Function = Callable[[np.ndarray], np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), the LSTM's own."""
    return _apply(1, x)


def tanh(x: np.ndarray) -> np.ndarray:
    """The LSTM's own tanh."""
    return _apply(2, x)


def _apply(function: int, x: np.ndarray) -> np.ndarray:
    """A function of the C library, which takes the bytes as they are. float16 is computed in float32."""
    if x.dtype.kind != "f" or x.dtype.itemsize > 8:
        raise TypeError(f"x has dtype {x.dtype}, but floating-point numbers are expected")
    dtype = np.float64 if x.dtype.itemsize == 8 else np.float32
    return _core.apply(function, np.asarray(x, dtype, order="C")).astype(x.dtype, copy=False)


def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0)."""
    y: np.ndarray = np.maximum(x, 0)
    return y


def elu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """x where it is positive, else alpha (exp(x) - 1) (Clevert et al. 2016)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def leaky_relu(x: np.ndarray, alpha: float = 0.01) -> np.ndarray:
    """x where it is positive, else alpha x."""
    return np.where(x > 0, x, alpha * x)


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(x))."""
    y: np.ndarray = np.logaddexp(x, 0)
    return y


def softsign(x: np.ndarray) -> np.ndarray:
    """x / (1 + |x|)."""
    y: np.ndarray = x / (1 + np.abs(x))
    return y


def celu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """x where it is positive, else alpha (exp(x / alpha) - 1) (Barron 2017)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


def selu(x: np.ndarray, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> np.ndarray:
    """gamma times x where it is positive, else gamma alpha (exp(x) - 1) (Klambauer et al. 2017)."""
    y: np.ndarray = gamma * elu(x, alpha)
    return y


def erf(x: np.ndarray) -> np.ndarray:
    """2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    return np.fromiter(map(math.erf, x.flat), x.dtype, x.size).reshape(x.shape)


def gelu(x: np.ndarray, approximate: bool = False) -> np.ndarray:
    """x times the normal distribution's function, or its usual approximation (Hendrycks & Gimpel 2016)."""
    if approximate:
        y: np.ndarray = 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    else:
        y = 0.5 * x * (1 + erf(x * math.sqrt(0.5)))
    return y


def silu(x: np.ndarray) -> np.ndarray:
    """x sigmoid(x) (Ramachandran et al. 2017: swish)."""
    y: np.ndarray = x * sigmoid(x)
    return y


def hard_silu(x: np.ndarray) -> np.ndarray:
    """x hard_sigmoid(x) with alpha 1/6 (Howard et al. 2019: hard swish)."""
    y: np.ndarray = x * hard_sigmoid(x, 1 / 6)
    return y


def mish(x: np.ndarray) -> np.ndarray:
    """x tanh(softplus(x)) (Misra 2019)."""
    y: np.ndarray = x * tanh(softplus(x))
    return y


def hard_sigmoid(x: np.ndarray, alpha: float = 0.2, beta: float = 0.5) -> np.ndarray:
    """alpha x + beta, limited to 0..1. Keras 2 and ONNX: 0.2 and 0.5; Keras 3 and PyTorch: 1/6 and 0.5."""
    y: np.ndarray = np.clip(alpha * x + beta, 0, 1)
    return y


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """exp(x) / sum exp(x) along an axis."""
    e: np.ndarray = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    e /= e.sum(axis=axis, keepdims=True)
    return e


def log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """x - log(sum exp(x)) along an axis; finite where softmax is too small for its type."""
    z: np.ndarray = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    y: np.ndarray = z - np.log(np.exp(z).sum(axis=axis, keepdims=True))
    return y

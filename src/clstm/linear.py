"""The linear layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .arguments import as_flag, as_float_dtype, as_real_array, as_size
from .module import Module, Parameter, Shape


class LinearTape(NamedTuple):
    """What `Linear.backward` needs of a forward call."""

    x: np.ndarray  # (..., in_features)
    weight: np.ndarray  # (out_features, in_features)


class Linear(Module):
    """Linear layer, y = x W^T + b, as PyTorch's `nn.Linear`.

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last axis of x and of y, at least 1.
    bias : bool, default True
        Whether to add b.
    dtype : {"float32", "float64"}, default "float32"
        Type of parameters and results. Other real types of x are converted to it.
    seed : int, optional
        Makes the initial values reproducible. They are uniform in +-1/sqrt(in_features), as PyTorch's.

    Attributes
    ----------
    weight : ndarray of shape (out_features, in_features)
    bias : ndarray of shape (out_features,), or None

    Notes
    -----
    The products are those of numpy's BLAS, whose last bits can depend on the number of rows.

    Examples
    --------
    >>> import numpy as np
    >>> import clstm
    >>> linear = clstm.Linear(3, 2, seed=0)
    >>> x = np.ones((5, 4, 3), np.float32)
    >>> linear(x).shape
    (5, 4, 2)
    >>> y, tape = linear.forward(x)
    >>> dx, grads = linear.backward(tape, np.ones_like(y))
    >>> grads["bias"]
    array([20., 20.], dtype=float32)
    """

    weight = Parameter()
    bias = Parameter()

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
    ) -> None:
        self.in_features = as_size("in_features", in_features)
        self.out_features = as_size("out_features", out_features)
        self.dtype = as_float_dtype(dtype)
        bound = 1.0 / math.sqrt(self.in_features)
        uniform = np.random.default_rng(seed).uniform
        self._parameters = {
            name: uniform(-bound, bound, shape).astype(self.dtype)
            for name, shape in self.parameter_shapes(self.in_features, self.out_features, as_flag("bias", bias))
        }

    @staticmethod
    def parameter_shapes(
        in_features: int, out_features: int, bias: bool = True, **_: Any
    ) -> Iterator[tuple[str, Shape]]:
        """Yield names and shapes of the parameters."""
        yield "weight", (out_features, in_features)
        if bias:
            yield "bias", (out_features,)

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the live arrays by name: writing into one changes the layer."""
        return dict(self._parameters)

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, without the seed."""
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": "bias" in self._parameters,
            "dtype": self.dtype.name,
        }

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """Return y of shape (..., out_features) from x of shape (..., in_features)."""
        return self._apply(self._checked("x", x, "in_features"))

    def forward(self, x: ArrayLike) -> tuple[np.ndarray, LinearTape]:
        """Return y, as a plain call does, and the tape for `backward`: copies of x and of the weight."""
        x = self._checked("x", x, "in_features")
        return self._apply(x), LinearTape(x.copy(), self._parameters["weight"].copy())

    def backward(self, tape: LinearTape, dy: ArrayLike) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the gradients of the forward call that made the tape.

        Parameters
        ----------
        tape : LinearTape
            From `forward`; it can be used again.
        dy : array_like of shape (..., out_features)
            Gradient of the loss with respect to y.

        Returns
        -------
        dx : ndarray of shape (..., in_features)
        grads : dict of str to ndarray
            Gradients with respect to the parameters.
        """
        if not isinstance(tape, LinearTape):
            raise ValueError(f"tape is {tape!r:.80}, but one that this layer's forward returned is expected")
        dy = self._checked("dy", dy, "out_features")
        if dy.shape[:-1] != tape.x.shape[:-1]:
            raise ValueError(f"dy has shape {dy.shape}, but x of the forward call had {tape.x.shape}")
        rows, dy_rows = tape.x.reshape(-1, self.in_features), dy.reshape(-1, self.out_features)
        grads = {"weight": dy_rows.T @ rows}
        if "bias" in self._parameters:
            grads["bias"] = dy_rows.sum(axis=0)
        return (dy_rows @ tape.weight).reshape(tape.x.shape), grads

    def _apply(self, x: np.ndarray) -> np.ndarray:
        y: np.ndarray = x.reshape(-1, self.in_features) @ self._parameters["weight"].T
        if "bias" in self._parameters:
            y += self._parameters["bias"]
        return y.reshape(*x.shape[:-1], self.out_features)

    def _checked(self, name: str, value: ArrayLike, size_name: str) -> np.ndarray:
        """`value` as an array of the layer's dtype whose last axis has the size that `size_name` says."""
        array = as_real_array(name, value, self.dtype)
        size = getattr(self, size_name)
        if array.ndim == 0:
            raise ValueError(f"{name} is a single number, but an array of shape (..., {size}) is expected")
        if array.shape[-1] != size:
            raise ValueError(f"{name} has {array.shape[-1]} features, but {size_name} is {size}")
        return array

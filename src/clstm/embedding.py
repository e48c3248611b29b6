"""The embedding layer: a table of vectors, looked up by integers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .arguments import as_float_dtype, as_index_array, as_real_array, as_size
from .module import Module, Parameter, Shape


class Embedding(Module):
    """Table of vectors looked up by integers, as PyTorch's `nn.Embedding`.

    Parameters
    ----------
    num_embeddings : int
        Number of rows of the table, at least 1. Indices lie in 0..num_embeddings-1.
    embedding_dim : int
        Size of each vector, at least 1.
    dtype : {"float32", "float64"}, default "float32"
        Type of the table and of the results.
    seed : int, optional
        Makes the initial values reproducible. They are normal with mean 0 and variance 1, as PyTorch's.

    Attributes
    ----------
    weight : ndarray of shape (num_embeddings, embedding_dim)

    Examples
    --------
    >>> import clstm
    >>> embedding = clstm.Embedding(10, 4, seed=0)
    >>> embedding([[1, 2, 3]]).shape
    (1, 3, 4)
    >>> y, tape = embedding.forward([1, 1, 9])
    >>> dx, grads = embedding.backward(tape, y)
    >>> dx is None, grads["weight"].shape
    (True, (10, 4))
    """

    weight = Parameter()

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, dtype: DTypeLike = "float32", seed: int | None = None
    ) -> None:
        self.num_embeddings = as_size("num_embeddings", num_embeddings)
        self.embedding_dim = as_size("embedding_dim", embedding_dim)
        self.dtype = as_float_dtype(dtype)
        normal = np.random.default_rng(seed).standard_normal
        self._parameters = {
            name: normal(shape).astype(self.dtype)
            for name, shape in self.parameter_shapes(self.num_embeddings, self.embedding_dim)
        }

    @staticmethod
    def parameter_shapes(num_embeddings: int, embedding_dim: int, **_: Any) -> Iterator[tuple[str, Shape]]:
        """Yield names and shapes of the parameters."""
        yield "weight", (num_embeddings, embedding_dim)

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the live array by name: writing into it changes the layer."""
        return dict(self._parameters)

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, without the seed."""
        return {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "dtype": self.dtype.name,
        }

    def __call__(self, indices: ArrayLike) -> np.ndarray:
        """Return vectors of shape (..., embedding_dim) for integers of shape (...)."""
        return self.forward(indices)[0]

    def forward(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors, as a plain call does, and the tape for `backward`: a copy of the indices."""
        tape = as_index_array("indices", indices, self.num_embeddings, "num_embeddings")
        return self._parameters["weight"][tape], tape

    def backward(self, tape: np.ndarray, dy: ArrayLike) -> tuple[None, dict[str, np.ndarray]]:
        """Return the gradients of the forward call that made the tape.

        Parameters
        ----------
        tape : ndarray
            From `forward`; it can be used again.
        dy : array_like of shape (..., embedding_dim)
            Gradient of the loss with respect to the vectors.

        Returns
        -------
        dx : None
            Integers have no gradient.
        grads : dict of str to ndarray
            Gradient with respect to the table: for each row the sum of `dy` where it was looked up, summed in
            float64.
        """
        if not isinstance(tape, np.ndarray):
            raise ValueError(f"tape is {tape!r:.80}, but one that this layer's forward returned is expected")
        dy = as_real_array("dy", dy, self.dtype)
        expected = (*tape.shape, self.embedding_dim)
        if dy.shape != expected:
            raise ValueError(f"dy has shape {dy.shape}, but {expected} is expected")
        rows, columns = tape.reshape(-1), dy.reshape(-1, self.embedding_dim).T
        grad = np.empty_like(self._parameters["weight"])
        for k, column in enumerate(columns):
            grad[:, k] = np.bincount(rows, column, self.num_embeddings)
        return None, {"weight": grad}

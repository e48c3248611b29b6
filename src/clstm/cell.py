"""The LSTM cell: one step at a time, with the state in the caller's hands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .arguments import as_pair, as_real_array
from .lstm import LSTM, State, Tape
from .module import Module, Parameter, Shape
from .variants import Variant


class LSTMCell(Module):
    """One step of an LSTM, PyTorch's `nn.LSTMCell`. See `LSTM` for the formulas; for a long run of steps, its
    `stream` is faster.

    Parameters
    ----------
    input_size, hidden_size : int
        Numbers of features I of x, and H of h and c; at least 1.
    bias : bool, default True
        Whether there are biases.
    dtype, seed, init
        As for `LSTM`.
    **variant
        proj_size, peepholes and the other options of a variant, as for `LSTM`.

    Attributes
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh : ndarray
        Parameters of shapes (4H, I), (4H, H), (4H,), (4H,); gates in the order i, f, g, o; biases None without bias.
        Those of variants are named and shaped as in `LSTM`, without "_l0"; None without the option.

    Examples
    --------
    >>> import numpy as np
    >>> import clstm
    >>> cell = clstm.LSTMCell(3, 4, seed=0)
    >>> x = np.ones((2, 3), np.float32)  # (batch, features)
    >>> h, c = cell(x)
    >>> h, c = cell(x, (h, c))
    >>> (h, c), tape = cell.forward(x, (h, c))
    >>> dx, (dh_0, dc_0), grads = cell.backward(tape, dh=np.ones_like(h))
    >>> grads["weight_hh"].shape
    (16, 4)
    """

    weight_ih = Parameter()
    weight_hh = Parameter()
    bias_ih = Parameter()
    bias_hh = Parameter()
    weight_hr = Parameter()
    weight_ch = Parameter()
    weight_ln = Parameter()
    weight_ln_c = Parameter()
    bias_ln_c = Parameter()
    h_0 = Parameter()
    c_0 = Parameter()

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        seed: int | None = None,
        init: str = "default",
        **variant: Any,
    ) -> None:
        if unknown := [name for name in variant if name not in Variant._fields]:
            raise TypeError(f"{type(self).__name__} has no argument {unknown[0]!r}")
        self._lstm = LSTM(input_size, hidden_size, bias=bias, dtype=dtype, seed=seed, init=init, **variant)
        self.input_size = self._lstm.input_size
        self.hidden_size = self._lstm.hidden_size
        self.bias = self._lstm.bias
        self.dtype = self._lstm.dtype

    @staticmethod
    def parameter_shapes(
        input_size: int, hidden_size: int, bias: bool = True, **options: Any
    ) -> Iterator[tuple[str, Shape]]:
        """Yield names and shapes of the parameters."""
        for name, shape in LSTM.parameter_shapes(input_size, hidden_size, bias=bias, **options):
            yield name.removesuffix("_l0"), shape

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the live arrays by name: writing into one changes the cell."""
        return _cell_names(self._lstm.parameters())

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, without seed and init."""
        return {
            "input_size": self.input_size,
            "hidden_size": self.hidden_size,
            "bias": self.bias,
            **self._lstm._variant.options(),
            "dtype": self.dtype.name,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LSTMCell:
        """Return a new cell made with the arguments that `config()` returned, quickly: its values are to be loaded."""
        return cls(**config, init="pytorch")

    def __call__(self, x: ArrayLike, state: tuple[ArrayLike | None, ArrayLike | None] | None = None) -> State:
        """Return the new (h, c).

        Parameters
        ----------
        x : array_like of shape (batch, input_size) or (input_size,)
        state : (h, c), optional
            States of shape (batch, P) and (batch, hidden_size), or without batch axis; P is hidden_size without
            projection. Either may be None, which means zeros, or the learned ones.

        Returns
        -------
        h, c : ndarray
            In the shape of the states.
        """
        _, (h, c) = self._lstm(*self._sequence(x, state))
        return h[0], c[0]

    def forward(
        self, x: ArrayLike, state: tuple[ArrayLike | None, ArrayLike | None] | None = None
    ) -> tuple[State, Tape]:
        """Return the new (h, c) as a plain call does, and the tape for `backward`."""
        _, (h, c), tape = self._lstm.forward(*self._sequence(x, state))
        return (h[0], c[0]), tape

    def backward(
        self, tape: Tape, dh: ArrayLike | None = None, dc: ArrayLike | None = None
    ) -> tuple[np.ndarray, State, dict[str, np.ndarray]]:
        """Return the gradients of the forward call that made the tape.

        Parameters
        ----------
        tape : Tape
            From `forward`; it can be used again.
        dh, dc : array_like, optional
            Gradient of the loss with respect to the new h and c; zeros by default.

        Returns
        -------
        dx : ndarray
        (dh_0, dc_0) : tuple of ndarray
            Gradients with respect to the state that was passed in.
        grads : dict of str to ndarray
            Gradients with respect to the parameters.
        """
        if not isinstance(tape, Tape):
            raise ValueError(f"tape is {tape!r:.80}, but one that this cell's forward returned is expected")
        rows = (tape.B,) if tape.meta.batched else ()
        dstate = self._state(("dh", "dc"), (dh, dc), rows)
        dx, (dh_0, dc_0), grads = self._lstm.backward(tape, dstate=dstate)
        return dx[0], (dh_0[0], dc_0[0]), _cell_names(grads)

    def _sequence(self, x: ArrayLike, state: tuple[ArrayLike | None, ArrayLike | None] | None) -> tuple[Any, Any]:
        """Arguments of a sequence of one step."""
        x = as_real_array("x", x, self.dtype)
        if x.ndim not in (1, 2):
            raise ValueError(
                f"x has shape {x.shape}, but (batch, {self.input_size}) or ({self.input_size},) is expected"
            )
        if state is None:
            return x[None], None
        return x[None], self._state(("h", "c"), as_pair("state", state, ("h", "c")), x.shape[:-1])

    def _state(self, names: tuple[str, str], pair: Any, rows: tuple[int, ...]) -> tuple[Any, Any]:
        """A pair of (batch, hidden_size) arrays as those of a layer; None stays."""
        states: list[Any] = [None, None]
        for i, (name, value) in enumerate(zip(names, pair, strict=True)):
            if value is not None:
                array = as_real_array(name, value, self.dtype)
                shape = (*rows, self.hidden_size if i else self._lstm._features)
                if array.shape != shape:
                    raise ValueError(f"{name} has shape {array.shape}, but {shape} is expected")
                states[i] = array[None]
        return states[0], states[1]


def _cell_names(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name.removesuffix("_l0"): array for name, array in arrays.items()}

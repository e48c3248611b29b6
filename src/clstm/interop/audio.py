"""Models that run on a stream of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import as_real_array
from ..linear import Linear
from ..lstm import LSTM
from .elementwise import Function

State = tuple[np.ndarray | None, np.ndarray | None]


class AudioModel:
    """A chain of layers that turns a stream of samples into another, and keeps its state between calls.

    Made by `from_nam` and `from_rtneural`. One model is for one thread and one stream at a time.

    Parameters
    ----------
    parts : sequence of LSTM, Linear or function
        Each takes the output of the one before.
    initial_states : mapping of int to (h_0, c_0), optional
        Initial states of LSTMs, (num_layers, P) and (num_layers, hidden_size), by position in `parts`; by default
        those that the LSTM has learned, or zeros.
    sample_rate : float, optional
        What the model was trained for, in Hz.
    metadata : mapping, optional
        What the file says about the model.

    Attributes
    ----------
    parts : tuple
    sample_rate : float or None
    metadata : dict

    Examples
    --------
    >>> import numpy as np
    >>> import clstm
    >>> lstm, head = clstm.LSTM(1, 8, seed=0), clstm.Linear(8, 1, seed=0)
    >>> model = clstm.AudioModel([lstm, head], sample_rate=48000)
    >>> samples = np.sin(np.arange(480) * 0.06).astype(np.float32)
    >>> whole = model.process(samples)
    >>> model.reset()
    >>> blocks = [model.process(block) for block in np.split(samples, 10)]
    >>> whole.shape, np.allclose(np.concatenate(blocks), whole)
    ((480,), True)
    """

    def __init__(
        self,
        parts: Sequence[LSTM | Linear | Function],
        initial_states: Mapping[int, tuple[ArrayLike, ArrayLike]] | None = None,
        *,
        sample_rate: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self.sample_rate = sample_rate
        self.metadata = dict(metadata or {})
        self.channels, self.dtype = _input_of(self.parts)
        self._initial_states = {i: _as_state(part, (initial_states or {}).get(i)) for i, part in _lstms(self.parts)}
        self.reset()

    @property
    def lstms(self) -> tuple[LSTM, ...]:
        """The LSTMs, in the order in which they run."""
        return tuple(part for _, part in _lstms(self.parts))

    def reset(self) -> None:
        """Go back to the initial states."""
        self._states = dict(self._initial_states)

    def process(self, samples: ArrayLike) -> np.ndarray:
        """Run the next samples of the stream.

        Parameters
        ----------
        samples : array_like of shape (time,) or (time, channels)
            Any number of them; the result does not depend on how a stream is cut, but for the last bits of the
            linear layers.

        Returns
        -------
        ndarray of shape (time,) or (time, outputs)
            One-dimensional where `samples` is and the model has one output.

        Raises
        ------
        ValueError
            If the number of channels is wrong. The state stays as it was.
        """
        x = as_real_array("samples", samples, self.dtype)
        mono = x.ndim == 1
        x = x[:, None] if mono else x
        if x.ndim != 2 or x.shape[1] != self.channels:
            shape = "(time, 1) or (time,)" if self.channels == 1 else f"(time, {self.channels})"
            raise ValueError(f"samples has shape {np.shape(samples)}, but {shape} is expected")
        states = dict(self._states)
        for i, part in enumerate(self.parts):
            if isinstance(part, LSTM):
                x, states[i] = part(x, states[i])
            else:
                x = part(x)
        self._states = states
        return x[:, 0] if mono and x.shape[1] == 1 else x

    def __repr__(self) -> str:
        parts = ", ".join(getattr(part, "__name__", None) or repr(part) for part in self.parts)
        return f"AudioModel([{parts}], sample_rate={self.sample_rate})"


def _lstms(parts: Sequence[Any]) -> list[tuple[int, LSTM]]:
    return [(i, part) for i, part in enumerate(parts) if isinstance(part, LSTM)]


def _input_of(parts: Sequence[Any]) -> tuple[int, np.dtype[Any]]:
    """Features and type of the input."""
    for part in parts:
        if isinstance(part, LSTM):
            return part.input_size, part.dtype
        if isinstance(part, Linear):
            return part.in_features, part.dtype
    raise ValueError("parts holds neither an LSTM nor a Linear, but one is expected")


def _as_state(lstm: LSTM, state: tuple[ArrayLike, ArrayLike] | None) -> State:
    """Copies of a state's arrays; None for those that the LSTM has itself, zeros or learned ones."""
    if lstm.bidirectional:
        raise ValueError("parts holds a bidirectional LSTM, but a stream has no future")
    if state is None:
        return None, None
    h_0, c_0 = (
        np.array(as_real_array(name, array, lstm.dtype)) for name, array in zip(("h_0", "c_0"), state, strict=True)
    )
    for name, array, features in (("h_0", h_0, lstm.proj_size or lstm.hidden_size), ("c_0", c_0, lstm.hidden_size)):
        shape = (lstm.num_layers, features)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, but {shape} is expected")
    return h_0, c_0

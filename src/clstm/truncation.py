"""Backpropagation through time over long sequences, in chunks that carry the state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .arguments import as_array, as_lengths, as_size
from .embedding import Embedding
from .lstm import LSTM
from .module import Module
from .sequential import Sequential


class Chunk(NamedTuple):
    """One chunk of `truncated_bptt`: which steps it has, and what the model's `forward` returned for them.

    Examples
    --------
    See `truncated_bptt`.
    """

    time: slice
    y: Any
    state: Any
    tape: Any


def truncated_bptt(
    model: LSTM | Sequential,
    x: ArrayLike,
    steps: int,
    *,
    burn_in: int = 0,
    state: Any = None,
    lengths: ArrayLike | None = None,
) -> Iterator[Chunk]:
    """Yield a training forward pass for each chunk of time; each starts from the state that the one before ended in.

    `model.backward(chunk.tape, dy)` then gives the gradients of that chunk's loss. They end at its first step: no
    gradient crosses a cut (Williams & Peng 1990). Weights may be updated before the next chunk is asked for.

    Parameters
    ----------
    model : LSTM or Sequential
        Not bidirectional: state goes forward in time.
    x : array_like
        A batch for the model, long in time.
    steps : int
        Time steps of a chunk; the last may have fewer.
    burn_in : int, default 0
        Time steps before the first chunk, less than x has. They are run without recording and without dropout, only
        to warm the state up, so that a loss does not teach the model to start from zeros (as in R2D2, Kapturowski
        et al. 2019).
    state : optional
        State before the first step, as the model takes it; zeros by default.
    lengths : array_like of int, shape (batch,), optional
        Valid steps of each sequence, for an `LSTM`; all by default. A chunk gets what is left of them.

    Yields
    ------
    Chunk
        (time, y, state, tape): the steps of x as a slice, and what `model.forward` returned for them.

    Raises
    ------
    ValueError
        If a number is out of range, or the model is bidirectional.
    TypeError
        If the model is of another class, or lengths are given to a `Sequential`.

    Examples
    --------
    >>> import numpy as np
    >>> import clstm
    >>> model = clstm.Sequential(clstm.LSTM(1, 8, seed=0), clstm.Linear(8, 1, seed=0))
    >>> optimizer = clstm.Adam(model, lr=0.01)
    >>> signal = np.sin(0.3 * np.arange(101))[:, None, None]  # (time, batch, features)
    >>> x, target = signal[:-1], signal[1:]
    >>> for chunk in clstm.truncated_bptt(model, x, steps=30, burn_in=10):
    ...     loss, dy = clstm.mse_loss(chunk.y, target[chunk.time])
    ...     dx, dstate, grads = model.backward(chunk.tape, dy)
    ...     optimizer.step(grads)
    ...     print(chunk.time.start, chunk.time.stop)
    10 40
    40 70
    70 100
    """
    if not isinstance(model, (LSTM, Sequential)):
        raise TypeError(f"model is a {type(model).__name__}, but an LSTM or a Sequential is expected")
    if isinstance(model, Sequential) and lengths is not None:
        raise TypeError("lengths is given, but a Sequential takes none")
    parts = list(_parts(model))
    if not parts:
        raise ValueError("model has no parts, but at least one is expected")
    array = as_array("x", x)
    axis = _time_axis(parts, array.ndim)
    if array.ndim <= axis:
        raise ValueError(f"x has shape {array.shape}, but a time axis is expected")
    T = array.shape[axis]
    size = as_size("steps", steps)
    first = as_size("burn_in", burn_in, most=max(T - 1, 0), least=0)
    if lengths is not None:
        lengths = as_lengths(lengths, "x", T, 1 if array.ndim == 2 else array.shape[1 - axis])
    return _chunks(model, array.swapaxes(0, axis), axis, size, first, state, lengths)


def _chunks(model: Any, x: np.ndarray, axis: int, steps: int, first: int, state: Any, lengths: Any) -> Iterator[Chunk]:
    """x has time first; the model wants it at `axis`."""

    def arguments(start: int, stop: int) -> tuple[Any, ...]:
        left = () if lengths is None else (np.clip(lengths - start, 0, stop - start),)
        return x[start:stop].swapaxes(0, axis), state, *left

    if first:
        _, state = model(*arguments(0, first))
    for start in range(first, len(x), steps):
        stop = min(start + steps, len(x))
        y, state, tape = model.forward(*arguments(start, stop))
        yield Chunk(slice(start, stop), y, state, tape)


def _parts(model: Module) -> Iterator[Module]:
    if isinstance(model, Sequential):
        for part in model:
            yield from _parts(part)
    else:
        yield model


def _time_axis(parts: list[Module], ndim: int) -> int:
    """1 for a batch that a batch_first layer takes, else 0."""
    layers = [part for part in parts if isinstance(part, LSTM)]
    if any(layer.bidirectional for layer in layers):
        raise ValueError("bidirectional is True, but False is expected: state goes forward in time")
    batched = ndim == (2 if isinstance(parts[0], Embedding) else 3)
    return int(batched and any(layer.batch_first for layer in layers))

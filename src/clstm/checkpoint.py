"""Training over sequences whose tape would not fit in memory (Chen, Xu, Zhang & Guestrin 2016).

The forward pass keeps the states between segments of time; the backward pass runs each segment again, from the last to
the first, and goes on with the sums of the gradients, so that they have the bits of one pass.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from . import _core
from .arguments import as_size

Pair = tuple[Any, Any]  # (h, c): (n, B, P) and (n, B, H); each may be None


def segment_steps(checkpoint: Any, T: int) -> int:
    """Return the steps of a segment, for the argument `checkpoint` of `LSTM.forward`; 0: there are none."""
    if isinstance(checkpoint, (bool, np.bool_)):
        return math.isqrt(max(T - 1, 0)) + 1 if checkpoint else 0
    return as_size("checkpoint", checkpoint)


class _Run(NamedTuple):
    """A pass through time of the whole network, or of one layer and direction."""

    part: int  # as in clstm_sequence
    x: np.ndarray  # (T, B, n)
    segments: list[slice]  # of time, in the order of processing
    states: list[Pair]  # before each segment, and after the last

    @property
    def indices(self) -> slice:
        """Which of the network's states are the run's."""
        return slice(self.part - 1, self.part) if self.part else slice(None)

    def keep(self, state: Pair) -> None:
        """Add copies to the states."""
        h, c = (None if array is None else array[self.indices].copy() for array in state)
        self.states.append((h, c))


class CheckpointTape:
    """What `LSTM.forward` recorded with `checkpoint`, for `LSTM.backward`: x itself, and the states between segments.

    A unidirectional network makes one run through time. A bidirectional one makes a run per layer and direction, as a
    direction needs all of the layer below, whose outputs are kept.

    Attributes
    ----------
    T, B : int
        Time steps and rows of the batch.

    Examples
    --------
    >>> import numpy as np
    >>> import clstm
    >>> lstm = clstm.LSTM(2, 3, seed=0)
    >>> y, state, tape = lstm.forward(np.ones((100, 2)), checkpoint=True)
    >>> tape
    CheckpointTape(100 steps in segments of 10, 1 rows)
    """

    def __init__(
        self,
        weights: _core.Weights,
        x: np.ndarray,
        y: np.ndarray,
        h_0: np.ndarray | None,
        c_0: np.ndarray | None,
        h_n: np.ndarray,
        c_n: np.ndarray,
        lengths: np.ndarray | None,
        order: np.ndarray | None,
        seed: int,
        steps: int,
        directions: int,
        meta: Any,
    ) -> None:
        """Run a batch as `_core.forward` does, into y, h_n and c_n."""
        self.T, self.B = x.shape[:2]
        self.meta = meta
        self._weights, self._lengths, self._order = weights, lengths, order
        self._seed, self._steps, self._directions = seed, steps, directions
        self._pack: _core.Pack | None = None  # the weights as they were
        self._state_shapes, self._dtype = (h_n.shape, c_n.shape), y.dtype
        self._runs: list[_Run] = []
        forward = [slice(start, min(start + steps, self.T)) for start in range(0, max(self.T, 1), steps)]
        if directions == 1:
            self._record(_Run(0, x, forward, []), y, (h_0, c_0), (h_n, c_n))
            return
        for part in range(1, len(h_n), 2):
            out = y if part == len(h_n) - 1 else np.empty(y.shape, y.dtype)
            self._record(_Run(part, x, forward, []), out, (h_0, c_0), (h_n, c_n))
            self._record(_Run(part + 1, x, forward[::-1], []), out, (h_0, c_0), (h_n, c_n))
            x = out

    def __repr__(self) -> str:
        return f"CheckpointTape({self.T} steps in segments of {self._steps}, {self.B} rows)"

    def is_of(self, weights: _core.Weights) -> bool:
        """Whether the tape was recorded by these weights' network."""
        return self._weights is weights

    def backward(
        self,
        dy: np.ndarray | None,
        dh_n: np.ndarray | None,
        dc_n: np.ndarray | None,
        dx: np.ndarray,
        dh_0: np.ndarray,
        dc_0: np.ndarray,
        grads: list[np.ndarray],
    ) -> None:
        """Gradients as `_core.backward` returns them."""
        for grad in grads:
            grad.fill(0)
        for first in reversed(range(0, len(self._runs), self._directions)):
            below = np.empty(self._runs[first].x.shape, dx.dtype) if first else dx
            for run in self._runs[first : first + self._directions]:
                gradient = self._run_backward(run, dy, (dh_n, dc_n), below, grads)
                for array, part in zip((dh_0, dc_0), gradient, strict=True):
                    array[run.indices] = part[run.indices]
            dy = below

    def _record(self, run: _Run, y: np.ndarray, initial: Pair, final: Pair) -> None:
        run.keep(initial)
        for i, segment in enumerate(run.segments):
            run.keep(self._run_segment(run, i, y[segment])[1])
        for array, end in zip(final, run.states[-1], strict=True):
            array[run.indices] = end
        self._runs.append(run)

    def _run_segment(self, run: _Run, i: int, y: np.ndarray) -> tuple[_core.Tape, Pair]:
        """Tape and final states of segment number i; the states are the network's, and only those of the run mean
        anything."""
        segment, end, lengths = run.segments[i], self._empty_states(), self._lengths
        h_0, c_0 = (self._whole(run, *known) for known in zip(run.states[i], self._state_shapes, strict=True))
        if lengths is not None:
            lengths = np.clip(lengths - segment.start, 0, segment.stop - segment.start)
        tape: Any = _core.forward(
            self._weights,
            run.x[segment],
            y,
            h_0,
            c_0,
            *end,
            lengths,
            self._order,
            True,
            self._seed,
            None,
            pack=self._pack,
            first_step=segment.start,
            part=run.part,
        )
        self._pack = tape.pack
        return tape, end

    def _run_backward(
        self, run: _Run, dy: np.ndarray | None, dstate: Pair, dx: np.ndarray, grads: list[np.ndarray]
    ) -> Pair:
        """Gradient on the initial states, of which those of the run mean anything."""
        features = self._directions * self._state_shapes[0][2]
        for i, segment in reversed(list(enumerate(run.segments))):
            y = np.empty((segment.stop - segment.start, self.B, features), dx.dtype)
            tape, end = self._run_segment(run, i, y)
            for found, known in zip(end, run.states[i + 1], strict=True):
                if not np.array_equal(found[run.indices], known, equal_nan=True):
                    raise ValueError("x has changed since forward, but with checkpoint backward reads it again")
            before = self._empty_states()
            dy_segment = None if dy is None else dy[segment]
            _core.backward(tape, dy_segment, *dstate, dx[segment], *before, grads, accumulate=True)
            dstate = before
        return dstate

    def _whole(self, run: _Run, known: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
        """The network's array with the run's part filled in."""
        if known is None:
            return None
        array = np.empty(shape, self._dtype)
        array[run.indices] = known
        return array

    def _empty_states(self) -> Pair:
        h, c = (np.empty(shape, self._dtype) for shape in self._state_shapes)
        return h, c

"""Between the caller's arrays and the core's, which wants sequences from the longest to the shortest, without holes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Holes(NamedTuple):
    """Where steps go that a mask takes out. All are (time, batch), in the core's order of rows."""

    steps: np.ndarray  # the caller's step of each of the core's: valid ones first, then those that are masked
    masked: np.ndarray  # of bool, by the caller's step
    # The core's step whose output stands at each of the caller's: the one processed last, up to there, in the forward
    # and in the reverse direction. Where there is none, it is a step beyond the row's length, whose output is 0: the
    # last one (as -1), or the one after the valid ones.
    sources: tuple[np.ndarray, np.ndarray]


class Layout(NamedTuple):
    """How the rows and steps of a call are laid out for its caller."""

    batched: bool
    lengths: np.ndarray | None = None  # (B) of the core's rows, longest first
    order: np.ndarray | None = None  # (B) the caller's row of each of the core's; None: the same
    holes: Holes | None = None

    @staticmethod
    def of_lengths(batched: bool, lengths: np.ndarray) -> Layout:
        """Rows that end at their lengths (B)."""
        if np.all(lengths[1:] <= lengths[:-1]):
            return Layout(batched, lengths)
        order = np.argsort(-lengths, kind="stable")
        return Layout(batched, lengths[order], order)

    @staticmethod
    def of_mask(batched: bool, mask: np.ndarray) -> Layout:
        """Rows whose valid steps are those where mask (T, B) is True."""
        order = np.argsort(-mask.sum(axis=0), kind="stable")
        valid = mask[:, order]
        steps = np.argsort(~valid, axis=0, kind="stable")
        count = np.cumsum(valid, axis=0)
        lengths = valid.sum(axis=0, dtype=np.int64)
        return Layout(batched, lengths, order, Holes(steps, ~valid, (count - 1, count - valid)))

    # ---- from the caller ----

    def take_rows(self, array: np.ndarray) -> np.ndarray:
        """Rows (axis 1) in the core's order."""
        return array if self.order is None else np.take(array, self.order, axis=1)

    def take_steps(self, array: np.ndarray) -> np.ndarray:
        """A (T, B, n) array with the core's steps."""
        return self.take_rows(array) if self.holes is None else array[self.holes.steps, self.order]

    def take_gradient(self, dy: np.ndarray, directions: int) -> np.ndarray:
        """dy (T, B, D*n) with the core's steps. A repeated output's gradient is a sum, in order of time."""
        taken = self.take_steps(dy)
        if self.holes is None or self.order is None:
            return taken
        n = dy.shape[2] // directions
        for direction in range(directions):
            part, source = slice(direction * n, (direction + 1) * n), self.holes.sources[direction]
            for t in np.flatnonzero(self.holes.masked.any(axis=1)):
                rows = np.flatnonzero(self.holes.masked[t])
                taken[source[t, rows], rows, part] += dy[t, self.order[rows], part]
        return taken

    # ---- to the caller ----

    def restore_rows(self, array: np.ndarray) -> None:
        """Put rows (axis 1) of the core where the caller has them, in place."""
        if self.order is not None:
            array[:, self.order] = array.copy()

    def restore_steps(self, array: np.ndarray) -> None:
        """Put steps of a (T, B, n) array of the core where the caller has them, in place."""
        if self.holes is None:
            self.restore_rows(array)
        else:
            array[self.holes.steps, self.order] = array.copy()

    def restore_outputs(self, y: np.ndarray, directions: int) -> None:
        """As `restore_steps`, for outputs (T, B, D*n), which masked steps repeat."""
        if self.holes is None:
            self.restore_rows(y)
            return
        n, found, rows = y.shape[2] // directions, y.copy(), np.arange(y.shape[1])
        for direction in range(directions):
            part = slice(direction * n, (direction + 1) * n)
            y[:, self.order, part] = found[..., part][self.holes.sources[direction], rows]

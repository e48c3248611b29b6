"""Between the caller's arrays and the core's, which wants to know which sequences are longest, and no holes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Holes(NamedTuple):
    """Where steps go that a mask takes out. All are (time, batch)."""

    steps: np.ndarray  # the caller's step of each of the core's: valid ones first, then those that are masked
    masked: np.ndarray  # of bool, by the caller's step
    # The core's step whose output stands at each of the caller's: the one processed last, up to there, in the forward
    # and in the reverse direction. Where there is none, it is a step beyond the row's length, whose output is 0: the
    # last one (as -1), or the one after the valid ones.
    sources: tuple[np.ndarray, np.ndarray]


class Layout(NamedTuple):
    """How the rows and steps of a call are laid out for its caller."""

    batched: bool
    lengths: np.ndarray | None = None  # (B) longest first
    order: np.ndarray | None = None  # (B) the caller's row of each of the lengths; None: the same
    holes: Holes | None = None

    @staticmethod
    def of_lengths(batched: bool, lengths: np.ndarray, holes: Holes | None = None) -> Layout:
        """Rows that end at their lengths (B)."""
        if np.all(lengths[1:] <= lengths[:-1]):
            return Layout(batched, lengths, None, holes)
        order = np.argsort(-lengths, kind="stable").astype(np.int64, copy=False)
        return Layout(batched, lengths[order], order, holes)

    @staticmethod
    def of_mask(batched: bool, mask: np.ndarray) -> Layout:
        """Rows whose valid steps are those where mask (T, B) is True."""
        steps = np.argsort(~mask, axis=0, kind="stable")
        count = np.cumsum(mask, axis=0)
        holes = Holes(steps, ~mask, (count - 1, count - mask))
        return Layout.of_lengths(batched, mask.sum(axis=0, dtype=np.int64), holes)

    # ---- from the caller ----

    def take_steps(self, array: np.ndarray) -> np.ndarray:
        """A (T, B, n) array with the core's steps."""
        return array if self.holes is None else np.take_along_axis(array, self.holes.steps[..., None], axis=0)

    def take_gradient(self, dy: np.ndarray, directions: int) -> np.ndarray:
        """dy (T, B, D*n) with the core's steps. A repeated output's gradient is a sum, in order of time."""
        taken = self.take_steps(dy)
        if self.holes is None:
            return taken
        n = dy.shape[2] // directions
        for direction in range(directions):
            part, source = slice(direction * n, (direction + 1) * n), self.holes.sources[direction]
            for t in np.flatnonzero(self.holes.masked.any(axis=1)):
                rows = np.flatnonzero(self.holes.masked[t])
                taken[source[t, rows], rows, part] += dy[t, rows, part]
        return taken

    # ---- to the caller ----

    def empty_steps(self, array: np.ndarray) -> np.ndarray:
        """Where the core writes what `restore_steps` and `restore_outputs` put into array; itself if in order."""
        return array if self.holes is None else np.empty(array.shape, array.dtype)

    def restore_steps(self, found: np.ndarray, array: np.ndarray) -> None:
        """Put steps of the core's (T, B, n) array where the caller has them."""
        if self.holes is not None:
            np.put_along_axis(array, self.holes.steps[..., None], found, axis=0)

    def restore_outputs(self, found: np.ndarray, y: np.ndarray, directions: int) -> None:
        """As `restore_steps`, for outputs (T, B, D*n), which masked steps repeat."""
        if self.holes is None:
            return
        n = y.shape[2] // directions
        for direction in range(directions):
            part = slice(direction * n, (direction + 1) * n)
            y[..., part] = np.take_along_axis(found[..., part], self.holes.sources[direction][..., None], axis=0)


IN_ORDER = Layout(batched=False), Layout(batched=True)  # all steps of all rows, as the caller has them

"""The axes of a call's arrays: between the caller's, with or without a batch axis, and the core's."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ._core import empty_aligned
from .arguments import as_lengths, as_mask, as_pair, as_real_array
from .layout import IN_ORDER, Layout


class Axes(NamedTuple):
    """How the arrays of a call lie for its caller. The core's sequences are (T, B, n), its states (L*D, B, n)."""

    dtype: np.dtype[Any]
    batch_first: bool  # whether the caller's sequences are (B, T, n)
    batched: bool  # else a single sequence (T, n) and states (L*D, n)
    num_states: int  # L*D
    features: tuple[int, int]  # n of h and c: P and H

    # ---- from the caller ----

    def take_sequences(self, name: str, value: ArrayLike, features: int) -> np.ndarray:
        """`value` as (T, B, features), aligned and contiguous along features; a view if it can be."""
        array = as_real_array(name, value, self.dtype)
        axes = ("batch, time" if self.batch_first else "time, batch") if self.batched else "time"
        if array.ndim != 2 + self.batched:
            other = f" or (time, {features})" if self.batched and name == "x" else ""
            raise ValueError(f"{name} has shape {array.shape}, but ({axes}, {features}){other} is expected")
        if array.shape[-1] != features:
            size = "input_size" if name == "x" else "the output's size"
            raise ValueError(f"{name} has {array.shape[-1]} features, but {size} is {features}")
        if not self.batched:
            array = array[:, None]
        elif self.batch_first:
            array = array.swapaxes(0, 1)
        if not array.flags.aligned or (array.strides[-1] != array.itemsize and features > 1):
            array = np.array(array, order="C")
        return array

    def take_states(self, names: tuple[str, str], pair_name: str, pair: Any, B: int) -> list[Any]:
        """Both states of a pair as contiguous (L*D, B, P or H); None stays."""
        if pair is None:
            return [None, None]
        pair = as_pair(pair_name, pair, names)
        states: list[Any] = []
        for name, value, features in zip(names, pair, self.features, strict=True):
            if value is None:
                states.append(None)
                continue
            array = as_real_array(name, value, self.dtype)
            shape = (self.num_states, B, features) if self.batched else (self.num_states, features)
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, but {shape} is expected")
            states.append(np.require(array.reshape(self.num_states, B, features), requirements=["C", "A"]))
        return states

    def take_layout(self, lengths: Any, mask: Any, T: int, B: int) -> Layout:
        """Where T steps of B rows end, by their lengths (B) or by a mask that lies like x."""
        if mask is not None:
            if lengths is not None:
                raise ValueError("lengths and mask are given, but one of them is expected: a mask ends sequences too")
            swapped = self.batched and self.batch_first
            array = as_mask(mask, (B, T) if swapped else (T, B) if self.batched else (T,))
            return Layout.of_mask(self.batched, array.T if swapped else array.reshape(T, B))
        if lengths is None:
            return IN_ORDER[self.batched]
        return Layout.of_lengths(self.batched, as_lengths(lengths, "x", T, B))

    # ---- to the caller ----

    def empty_sequences(self, T: int, B: int, features: int) -> tuple[np.ndarray, np.ndarray]:
        """A new array as the caller sees it, and the same memory as (T, B, features)."""
        if not self.batched:
            array = empty_aligned((T, features), self.dtype)
            return array, array[:, None]
        if self.batch_first:
            array = empty_aligned((B, T, features), self.dtype)
            return array, array.swapaxes(0, 1)
        array = empty_aligned((T, B, features), self.dtype)
        return array, array

    def empty_states(self, B: int) -> tuple[np.ndarray, np.ndarray]:
        """New arrays (L*D, B, P) and (L*D, B, H)."""
        P, H = self.features
        return np.empty((self.num_states, B, P), self.dtype), np.empty((self.num_states, B, H), self.dtype)

    def restore_states(self, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A pair of the core's states, as the caller has them."""
        return (h, c) if self.batched else (h[:, 0], c[:, 0])

    def restore_sequences(self, array: np.ndarray, rows: Any) -> np.ndarray:
        """A copy of a (T, B, n) array as the caller sees it; its rows are these of the caller's."""
        out, time_major = self.empty_sequences(*array.shape)
        time_major[:, rows] = array
        return out

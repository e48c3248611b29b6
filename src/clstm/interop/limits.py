"""How large an array a call may make of a model that somebody else wrote: a small file can ask for any size."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from contextvars import ContextVar

import numpy as np

USUAL = 2**32  # bytes that a call may make

_largest = ContextVar("largest", default=USUAL // 16)  # elements of one array


@contextlib.contextmanager
def within(memory_limit: int) -> Iterator[None]:
    """Let arrays have as many elements of eight bytes as there is memory, in this thread."""
    token = _largest.set(memory_limit // 8)
    try:
        yield
    finally:
        _largest.reset(token)


def limited(shape: Iterable[int]) -> tuple[int, ...]:
    """`shape`, if an array of it is not too large."""
    sizes, most = tuple(int(size) for size in shape), _largest.get()
    if math.prod(sizes) > most:
        raise ValueError(f"a result of shape {sizes} is asked for, but at most {most} elements fit memory_limit")
    return sizes


def broadcast(*arrays: np.ndarray) -> tuple[int, ...]:
    """The common shape of arrays, if it is not too large."""
    return limited(np.broadcast_shapes(*(array.shape for array in arrays)))

"""Memory in large pages of the system, for what is read again and again: packed weights, gradients, scratch memory."""

from __future__ import annotations

import mmap
from contextlib import suppress

import numpy as np

LARGE_PAGE = 2 << 20  # bytes, of most systems
AVAILABLE = hasattr(mmap, "MADV_HUGEPAGE")  # whether this Python can ask for them: on Linux


def allocate(size: int) -> np.ndarray:
    """Return (size) new bytes that begin with a large page and lie in such pages as far as they fill them.

    numpy asks for large pages too, but what malloc gives it may have been used before, in small ones.
    """
    try:
        mapping = mmap.mmap(-1, size + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"cannot allocate {size} bytes: {error}") from None
    whole = np.frombuffer(mapping, np.uint8)
    start = -whole.ctypes.data % LARGE_PAGE
    with suppress(OSError):  # the system has none: small pages will do
        mapping.madvise(mmap.MADV_HUGEPAGE, start, size // LARGE_PAGE * LARGE_PAGE)
    return whole[start : start + size]

# Blocks of memory, and those that are kept for the next call.

cimport cython
cimport numpy as cnp
from cpython.pyport cimport PY_SSIZE_T_MAX
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy

import numpy as np


@cython.final
@cython.no_gc
cdef class Block:
    """Memory aligned to 64 bytes. It is numpy's, which asks for huge pages where many are needed."""

    cdef cnp.ndarray memory
    cdef char *data
    cdef size_t size

    def __cinit__(self, size_t size):
        if size > <size_t> PY_SSIZE_T_MAX - 64:
            raise MemoryError(f"cannot allocate {size} bytes")
        self.memory = np.empty(size + 64, np.uint8)
        self.data = <char *> ((<uintptr_t> cnp.PyArray_DATA(self.memory) + 63) & ~<uintptr_t> 63)
        self.size = size


def empty_aligned(tuple shape, cnp.dtype dtype):
    """A new array (up to three axes) as of np.empty, aligned to 64 bytes: vectors of it lie in one cache line each."""
    cdef cnp.npy_intp dims[3], size
    cdef int axis, axes = len(shape)
    bytes_needed = dtype.itemsize
    for axis in range(axes):
        dims[axis] = shape[axis]
        bytes_needed *= shape[axis]
    if bytes_needed > PY_SSIZE_T_MAX - 64:
        raise MemoryError(f"cannot allocate {bytes_needed} bytes")
    size = bytes_needed + 64
    cdef cnp.ndarray memory = cnp.PyArray_SimpleNew(1, &size, cnp.NPY_UINT8)
    cdef char *start = <char *> cnp.PyArray_DATA(memory)
    start += -<uintptr_t> start & 63
    cdef cnp.ndarray array = cnp.PyArray_SimpleNewFromData(axes, dims, dtype.type_num, start)
    cnp.set_array_base(array, memory)
    return array


cdef Block borrow_block(cnp.ndarray memory):
    """The bytes of an array as a block; a copy of them if they are not aligned."""
    cdef size_t size = memory.nbytes
    cdef Block block
    if <uintptr_t> cnp.PyArray_DATA(memory) & 63:
        block = Block(size)
        memcpy(block.data, cnp.PyArray_DATA(memory), size)
        return block
    block = Block(0)
    block.memory = memory
    block.data = <char *> cnp.PyArray_DATA(memory)
    block.size = size
    return block


@cython.final
@cython.no_gc
cdef class Spares:
    """Two blocks kept for the next calls. To keep one takes no memory, and so cannot fail."""

    cdef Block last, before

    cdef Block take(self, size_t size):
        """A block of at least `size` bytes: a spare one if it fits and is not far too large."""
        cdef Block block
        with cython.critical_section(self):
            block, self.last, self.before = self.last, self.before, None
        return block if block is not None and size <= block.size <= 4 * size + (1 << 16) else Block(size)

    cdef void give(self, Block block) noexcept:
        with cython.critical_section(self):
            self.before, self.last = self.last, block

    cdef void clear(self) noexcept:
        with cython.critical_section(self):
            self.before = self.last = None


@cython.final
@cython.no_gc
cdef class Loan:
    """A block that goes back to the spares when nobody has it any more."""

    cdef Spares spares
    cdef Block block

    def __dealloc__(self):
        if self.block is not None:
            self.spares.give(self.block)


cdef inline size_t aligned(size_t size) noexcept:
    return (size + 63) & ~<size_t> 63

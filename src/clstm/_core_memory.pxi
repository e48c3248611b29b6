# Blocks of memory, and those that are kept for the next call.

cimport cython
cimport numpy as cnp
from cpython.pyport cimport PY_SSIZE_T_MAX
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy

from clstm import large_pages

cdef enum:
    LARGEST_KEPT = 64 << 20  # bytes of a workspace or a sequence that is kept for the next call
    LEAST_GIVEN_BACK = 32 << 20  # blocks of so many bytes malloc always gives back to the system


@cython.final
@cython.no_gc
cdef class Block:
    """Memory aligned to 64 bytes: numpy's, or in large pages (`large_block`)."""

    cdef cnp.ndarray memory
    cdef char *data
    cdef size_t size

    def __cinit__(self, size_t size):
        if size > <size_t> PY_SSIZE_T_MAX - 64:
            raise MemoryError(f"cannot allocate {size} bytes")
        cdef cnp.npy_intp with_gap = size + 64
        self.memory = cnp.PyArray_SimpleNew(1, &with_gap, cnp.NPY_UINT8)
        self.data = <char *> ((<uintptr_t> cnp.PyArray_DATA(self.memory) + 63) & ~<uintptr_t> 63)
        self.size = size


cdef Block block_of(cnp.ndarray memory):
    """The bytes of an array that is aligned to 64 bytes."""
    cdef Block block = Block(0)
    block.memory = memory
    block.data = <char *> cnp.PyArray_DATA(memory)
    block.size = memory.nbytes
    return block


cdef Block borrow_block(cnp.ndarray memory):
    """The bytes of an array as a block; a copy of them if they are not aligned."""
    cdef Block block
    if <uintptr_t> cnp.PyArray_DATA(memory) & 63:
        block = Block(memory.nbytes)
        memcpy(block.data, cnp.PyArray_DATA(memory), block.size)
        return block
    return block_of(memory)


cdef Block large_block(size_t size):
    """A block in large pages if it fills one."""
    if large_pages.AVAILABLE and large_pages.LARGE_PAGE <= size < <size_t> PY_SSIZE_T_MAX - large_pages.LARGE_PAGE:
        return block_of(large_pages.allocate(size))
    return Block(size)


@cython.final
@cython.no_gc
cdef class Spares:
    """Two blocks kept for the next calls. To keep one allocates nothing, and so cannot fail.

    With large pages a block that is not kept goes back to the system, which costs more than malloc's memory where more
    than two live at once. To free it lets other threads run, so that it happens after the exchange.
    """

    cdef Block last, before
    cdef bint in_large_pages

    def __cinit__(self, bint in_large_pages=False):
        self.in_large_pages = in_large_pages

    cdef Block take(self, size_t size):
        """A block of at least `size` bytes: a spare one if it fits and is not far too large."""
        cdef Block block
        with cython.critical_section(self):
            block, self.last, self.before = self.last, self.before, None
        if block is not None and size <= block.size <= 4 * size + (1 << 16):
            return block
        return large_block(size) if self.in_large_pages else Block(size)

    cdef void give(self, Block block) noexcept:
        cdef Block gone
        with cython.critical_section(self):
            gone, self.before, self.last = self.before, self.last, block

    cdef void keep_up_to(self, size_t size) noexcept:
        """Drop larger blocks."""
        cdef Block last, before
        with cython.critical_section(self):
            last, before = self.last, self.before
            if last is not None and last.size > size:
                self.last = None
            if before is not None and before.size > size:
                self.before = None


@cython.final
@cython.no_gc
cdef class Loan:
    """A block that goes back to the spares when nobody has it any more."""

    cdef Spares spares
    cdef Block block

    def __dealloc__(self):
        if self.block is not None:
            self.spares.give(self.block)


cdef Loan lend(Spares spares, size_t size):
    cdef Loan loan = Loan.__new__(Loan)
    loan.spares = spares
    loan.block = spares.take(size)
    return loan


cdef cnp.ndarray array_at(char *data, tuple shape, int type_num, object owner):
    """An array (up to three axes) whose memory is its owner's."""
    cdef cnp.npy_intp dims[3]
    cdef int axis, axes = len(shape)
    for axis in range(axes):
        dims[axis] = shape[axis]
    cdef cnp.ndarray array = cnp.PyArray_SimpleNewFromData(axes, dims, type_num, data)
    cnp.set_array_base(array, owner)
    return array


cdef Spares spare_sequences = Spares()  # of all layers; gone when any of them is


def empty_aligned(tuple shape, cnp.dtype dtype):
    """A new array (up to three axes) as of np.empty, aligned to 64 bytes: vectors of it lie in one cache line each.
    A large one is lent, and holds what was in it before: its memory comes back when its last view is gone. malloc would
    give it to the system, which would zero it again."""
    cdef Block block
    cdef Loan loan
    size = dtype.itemsize
    for n in shape:
        size *= n
    if size > PY_SSIZE_T_MAX - 64:
        raise MemoryError(f"cannot allocate {size} bytes")
    if LEAST_GIVEN_BACK <= size <= LARGEST_KEPT:
        loan = lend(spare_sequences, size)
        return array_at(loan.block.data, shape, dtype.type_num, loan)
    block = Block(size)
    return array_at(block.data, shape, dtype.type_num, block)


cdef inline size_t aligned(size_t size) noexcept:
    return (size + 63) & ~<size_t> 63

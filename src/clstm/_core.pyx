"""The C library behind typed wrappers: memory, ownership and the GIL. No arithmetic, no conveniences.

Arrays come in checked: lstm.py has made them of the right type and shape, aligned, contiguous along the last axis.
One module, in a file for each subject: they see each other's names.
"""

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t

from clstm cimport *

import numpy as np

cnp.import_array()


cdef int check(int status) except -1:
    """Turn a status into an exception."""
    if status == CLSTM_OK:
        return 0
    message = clstm_strerror(status).decode()
    if status == CLSTM_ERROR_SIZE:
        raise MemoryError(message)
    raise ValueError(message)


include "_core_signals.pxi"
include "_core_memory.pxi"
include "_core_weights.pxi"
include "_core_sequences.pxi"
include "_core_streams.pxi"


# ---- the library ----

def version():
    """Version of the library."""
    return clstm_version().decode()


def isa():
    """Name of the instruction set that new packs use."""
    return clstm_isa().decode()


def isa_reason():
    """Why that one."""
    return clstm_isa_reason().decode()


def isas():
    """Names of the instruction sets that can run here, best first."""
    names = []
    while clstm_isa_available(len(names)) != NULL:
        names.append(clstm_isa_available(len(names)).decode())
    return names


def set_isa(str name):
    """Make new packs use an instruction set (for tests; networks that exist keep theirs until a weight changes)."""
    check(clstm_set_isa(name.encode()))


def set_num_threads(int n):
    """Limit the threads of the process's calls."""
    check(clstm_set_num_threads(n))


def get_num_threads():
    """The limit of threads."""
    return clstm_get_num_threads()


def apply(int function, cnp.ndarray x):
    """exp (0), sigmoid (1) or tanh (2) of a contiguous float32 or float64 array, as the kernels compute it."""
    if cnp.PyArray_TYPE(x) not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64) or not cnp.PyArray_IS_C_CONTIGUOUS(x):
        raise TypeError(f"x has dtype {x.dtype}, but contiguous float32 or float64 is expected")
    y = np.empty_like(x)
    cdef int dtype = CLSTM_FLOAT64 if cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT64 else CLSTM_FLOAT32
    cdef void *src = cnp.PyArray_DATA(x)
    cdef void *dst = cnp.PyArray_DATA(<cnp.ndarray> y)
    cdef int64_t n = x.size
    with nogil:
        status = clstm_apply(function, dtype, n, src, dst)
    check(status)
    return y


# ---- for other packages, see clstm_capi.h ----

cdef extern from "capi_table.h":
    ctypedef struct clstm_capi:
        object (*borrow_pack)(object lstm, int training, clstm_spec *spec, const void **pack)
    clstm_capi capi_table
    const char *CLSTM_CAPI_CAPSULE


cdef object borrow_pack(object lstm, int training, clstm_spec *spec, const void **pack):
    """The current pack of an LSTM's weights, as the object that owns it."""
    weights = getattr(lstm, "_weights", None)
    if not isinstance(weights, Weights):
        raise TypeError(f"lstm is a {type(lstm).__name__}, but a clstm.LSTM is expected")
    cdef Pack borrowed = (<Weights> weights).current_pack(training)
    spec[0] = (<Weights> weights).spec
    pack[0] = borrowed.loan.block.data
    return borrowed


capi_table.borrow_pack = borrow_pack
_capi = PyCapsule_New(&capi_table, CLSTM_CAPI_CAPSULE, NULL)

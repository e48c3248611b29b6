"""The threads of numpy's BLAS."""

from __future__ import annotations

import ctypes

import numpy as np

# Of OpenBLAS in numpy's wheels (since 2.0, before), of OpenBLAS elsewhere, of MKL.
_SETTERS = (
    "scipy_openblas_set_num_threads64_",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
    "MKL_Set_Num_Threads",
)


def set_blas_threads(n: int) -> bool:
    """Limit the threads of numpy's BLAS in the whole process; return whether a BLAS that can do so was found.

    The products of a small model are too short for a second thread: its threads spin while they wait, and take the
    processors from the LSTM. The same can be had from outside with OPENBLAS_NUM_THREADS in the environment.
    """
    library = ctypes.CDLL(np.linalg._umath_linalg.__file__)  # a lookup in it reaches the BLAS that it is linked to
    for name in _SETTERS:
        if hasattr(library, name):
            getattr(library, name)(ctypes.c_int(n))
            return True
    return False

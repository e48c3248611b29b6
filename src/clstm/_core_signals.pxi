# Signals such as Ctrl-C during long calls.

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t

from clstm cimport clstm_spec

import threading

cdef extern from "<time.h>" nogil:
    struct timespec:
        int64_t tv_sec
        long tv_nsec
    int timespec_get(timespec *now, int base)
    int TIME_UTC


cdef enum:
    SHORT_CALL = 1 << 28  # multiply-adds that are done before anybody would press Ctrl-C
    PATIENCE = 100  # milliseconds between two looks at the signals: for each the GIL is taken


cdef int64_t milliseconds() noexcept nogil:
    cdef timespec now
    timespec_get(&now, TIME_UTC)
    return now.tv_sec * 1000 + now.tv_nsec // 1000000


@cython.final
cdef class SignalWatch:
    """Hears signals such as Ctrl-C during a long call of the main thread, the only one whose handlers Python runs."""

    cdef int64_t last  # when signals were looked at
    cdef object error  # what a handler raised


cdef int look_at_signals(void *context) noexcept nogil:
    """The interrupt function of such a call."""
    cdef int64_t now = milliseconds()
    if 0 <= now - (<SignalWatch> context).last < PATIENCE:  # below 0: the clock was set back
        return 0
    with gil:
        watch = <SignalWatch> context
        watch.last = now
        try:
            PyErr_CheckSignals()
        except BaseException as error:
            watch.error = error
            return 1
    return 0


cdef SignalWatch watch_signals(Weights weights, int64_t T, int64_t B):
    """A watch for a call of this size, or None if it needs none."""
    cdef clstm_spec *spec = &weights.spec
    cdef double multiply_adds = <double> T * B * len(weights.blocks) * spec.hidden_size
    multiply_adds *= spec.hidden_size + spec.input_size
    if multiply_adds < SHORT_CALL or threading.current_thread() is not threading.main_thread():
        return None
    watch = SignalWatch()
    watch.last = milliseconds()
    return watch

# cython: language_level=3, freethreading_compatible=True
"""A network that reads its own output: the whole loop runs without the GIL."""

cimport clstm
import numpy as np

clstm.import_clstm()


def version():
    """Versions of the C interface and of the package."""
    return clstm.CLSTM_ABI_MAJOR, clstm.CLSTM_ABI_MINOR, clstm.clstm_version().decode()


def rollout(lstm, float[::1] x, Py_ssize_t steps):
    """Outputs (steps, H) of a float32 LSTM with H = I, one layer, that reads x (H) first and then its own output."""
    cdef clstm.clstm_spec spec
    cdef const void *pack = NULL
    _owner = clstm.clstm_borrow_pack(lstm, False, &spec, &pack)  # keeps the pack alive
    if spec.dtype != clstm.CLSTM_FLOAT32 or spec.hidden_size != spec.input_size or spec.num_layers != 1:
        raise ValueError("a float32 LSTM with one layer and hidden_size equal to input_size is expected")
    if x.shape[0] != spec.input_size:
        raise ValueError(f"x has {x.shape[0]} features, but input_size is {spec.input_size}")
    cdef float[:, ::1] y = np.empty((steps, spec.hidden_size), np.float32)
    cdef float[:, ::1] state = np.zeros((2, spec.hidden_size), np.float32)  # h before the first step, and c
    cdef const float *h = &state[0, 0]
    cdef const float *step_x = &x[0]
    cdef Py_ssize_t t
    cdef int status = clstm.CLSTM_OK
    with nogil:
        for t in range(steps):
            status = clstm.clstm_step(&spec, pack, 1, step_x, h, &state[1, 0], &y[t, 0], &state[1, 0])
            if status != clstm.CLSTM_OK:
                break
            h = step_x = &y[t, 0]
    if status != clstm.CLSTM_OK:
        raise ValueError(clstm.clstm_strerror(status).decode())
    return np.asarray(y)

# One step at a time, with the state kept between calls.

cimport cython
cimport numpy as cnp
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from clstm cimport *

import numpy as np

cdef class StreamState:
    """State of B parallel streams, h (L, B, P) and c (L, B, H). Not for use by two threads at once."""

    cdef Weights weights
    cdef Pack pack
    cdef readonly int64_t batch_size
    cdef cnp.ndarray h, h_next, c
    cdef int type_number
    cdef Block workspace  # of a variant

    def __init__(self, Weights weights, int64_t batch_size):
        cdef size_t size = 0
        h_shape = (weights.spec.num_layers, batch_size, weights.features)
        c_shape = (weights.spec.num_layers, batch_size, weights.spec.hidden_size)
        dtype = np.float32 if weights.spec.dtype == CLSTM_FLOAT32 else np.float64
        self.weights = weights
        self.batch_size = batch_size
        self.h = np.zeros(h_shape, dtype)
        self.h_next = np.zeros(h_shape, dtype)
        self.c = np.zeros(c_shape, dtype)
        self.type_number = cnp.NPY_FLOAT32 if weights.spec.dtype == CLSTM_FLOAT32 else cnp.NPY_FLOAT64
        self.pack = weights.current_pack(False)
        if not weights.plain:
            check(clstm_forward_workspace(&weights.spec, 1, batch_size, &size))
            self.workspace = Block(size)

    cdef inline bint fits(self, array, int64_t features) noexcept:
        """Whether array is (B, features), or (features) with B = 1, of the network's type, aligned and contiguous."""
        if not cnp.PyArray_CheckExact(array):
            return False
        if cnp.PyArray_TYPE(<cnp.ndarray> array) != self.type_number:
            return False
        if not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> array):
            return False
        if cnp.PyArray_NDIM(<cnp.ndarray> array) == 2:
            return (cnp.PyArray_DIM(<cnp.ndarray> array, 0) == self.batch_size
                    and cnp.PyArray_DIM(<cnp.ndarray> array, 1) == features)
        return (cnp.PyArray_NDIM(<cnp.ndarray> array) == 1 and self.batch_size == 1
                and cnp.PyArray_DIM(<cnp.ndarray> array, 0) == features)

    def step(self, x, out=None):
        """Advance every stream by one step.

        Parameters
        ----------
        x : array_like of shape (batch_size, input_size)
            Or (input_size,) for a single stream. An array of the network's dtype that is contiguous is not copied.
        out : ndarray, optional
            Receives the output, so that nothing is allocated: the network's dtype, contiguous, of the output's shape.

        Returns
        -------
        y : ndarray of shape (batch_size, P)
            Output of the last layer, or (P,) for an x without batch axis; `out` if that was given. P is hidden_size
            without projection.

        Raises
        ------
        ValueError
            If x or out has another shape. The state is unchanged then.
        TypeError
            If x does not hold real numbers.
        """
        cdef clstm_spec *spec = &self.weights.spec
        cdef cnp.npy_intp shape[2]
        cdef int64_t features = self.weights.features
        cdef bint plain = self.weights.plain
        cdef size_t row_bytes = self.batch_size * features * self.weights.itemsize
        cdef int status
        if not self.fits(x, spec.input_size):
            x = self._convert_input(x)
        cdef int ndim = cnp.PyArray_NDIM(<cnp.ndarray> x)
        if out is None:
            shape[0] = self.batch_size
            shape[ndim - 1] = features
            out = cnp.PyArray_SimpleNew(ndim, shape, self.type_number)
        elif not (self.fits(out, features) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out)
                  and cnp.PyArray_NDIM(<cnp.ndarray> out) == ndim):
            self._refuse_output(out, ndim)
            raise ValueError("out does not fit")
        cdef Pack pack
        cdef cnp.ndarray h, h_next, c
        with cython.critical_section(self):
            if not self.weights.is_current(self.pack):
                self.pack = self.weights.current_pack(False)
            pack, h, h_next, c = self.pack, self.h, self.h_next, self.c
        cdef void *x_data = cnp.PyArray_DATA(<cnp.ndarray> x)
        with nogil:
            if plain:
                status = clstm_step(spec, pack.loan.block.data, self.batch_size, x_data, cnp.PyArray_DATA(h),
                                    cnp.PyArray_DATA(c), cnp.PyArray_DATA(h_next), cnp.PyArray_DATA(c))
            else:
                status = self.step_variant(pack, x_data, cnp.PyArray_DATA(h), cnp.PyArray_DATA(c),
                                           cnp.PyArray_DATA(h_next), cnp.PyArray_DATA(<cnp.ndarray> out))
        check(status)
        with cython.critical_section(self):
            self.h, self.h_next = h_next, h
        if plain:
            memcpy(cnp.PyArray_DATA(<cnp.ndarray> out),
                   <char *> cnp.PyArray_DATA(h_next) + (spec.num_layers - 1) * row_bytes, row_bytes)
        return out

    cdef int step_variant(self, Pack pack, void *x, void *h, void *c, void *h_next,
                          void *y) noexcept nogil:
        """A step is a sequence of length 1."""
        cdef clstm_spec *spec = &self.weights.spec
        cdef clstm_sequence seq
        memset(&seq, 0, sizeof(seq))
        seq.T = 1
        seq.B = self.batch_size
        seq.x = x
        seq.x_row_stride = spec.input_size
        seq.h0 = h
        seq.c0 = c
        seq.hn = h_next
        seq.cn = c
        seq.y = y
        seq.y_row_stride = self.weights.features
        return clstm_forward(spec, pack.loan.block.data, &seq, NULL, self.workspace.data, self.workspace.size)

    def _get_state(self):
        """Copies of (h, c), (L, B, P) and (L, B, H)."""
        return self.h.copy(), self.c.copy()

    def _set_state(self, h, c):
        """Copy new values into the state."""
        self.h[...] = h
        self.c[...] = c

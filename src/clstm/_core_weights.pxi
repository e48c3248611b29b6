# A network's parameters, its gradients' memory, and the packs that are made of the parameters.

cimport cython
cimport numpy as cnp
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from libc.stdint cimport int64_t
from libc.string cimport memcmp, memcpy, memset

from clstm cimport *

import numpy as np

cdef enum:
    SERVES = 16  # calls in a row without a tape, after which a network is taken to serve, not to train


@cython.final
@cython.no_gc_clear  # releasing a buffer needs the weights to the last
cdef class Parameter:
    """A view of one weight array, for numpy.asarray; made anew each time that one is asked for.

    While such a view lives, its owner cannot know when a weight changes, and packs the weights anew for each call.
    """

    cdef Weights owner
    cdef Block block
    cdef Py_ssize_t shape[2]
    cdef Py_ssize_t strides[2]
    cdef int ndim

    def __getbuffer__(self, Py_buffer *view, int flags):
        view.buf = self.block.data
        view.obj = self
        view.len = self.shape[0] * (self.shape[1] if self.ndim == 2 else 1) * self.owner.itemsize
        view.readonly = 0
        view.itemsize = self.owner.itemsize
        view.format = NULL
        if flags & PyBUF_FORMAT:
            view.format = b"f" if self.owner.spec.dtype == CLSTM_FLOAT32 else b"d"
        view.ndim = self.ndim
        view.shape = self.shape if flags & PyBUF_ND else NULL
        view.strides = self.strides if (flags & PyBUF_STRIDES) == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL
        with cython.critical_section(self.owner):
            self.owner.views += 1
            self.owner.version += 1

    def __releasebuffer__(self, Py_buffer *view):
        with cython.critical_section(self.owner):
            self.owner.views -= 1


@cython.final
@cython.no_gc
cdef class Pack:
    """The weights as kernels read them, at one moment."""

    cdef Loan loan
    cdef bint training
    cdef int64_t version  # of the weights; -1: made while views lived, good for one call


@cython.final
@cython.no_gc_clear
cdef class Weights:
    """A network's parameters and the packs made of them."""

    cdef clstm_spec spec
    cdef Py_ssize_t itemsize
    cdef bint plain
    cdef int64_t features  # of h
    cdef list shapes, blocks  # of the parameters, in the order of PyTorch's state_dict
    cdef int64_t views, version
    cdef Pack pack
    cdef Spares spare_packs, spare_tapes, spare_workspaces, spare_backward_workspaces, spare_gradients
    cdef int served  # calls in a row without a tape, up to SERVES

    def __init__(self, *, int64_t input_size, int64_t hidden_size, int64_t num_layers, bint double_precision,
                 bint bias, bint bidirectional, double dropout, dict variant):
        cdef int64_t i, rows = 0, columns = 0
        memset(&self.spec, 0, sizeof(self.spec))
        self.spec.input_size = input_size
        self.spec.hidden_size = hidden_size
        self.spec.num_layers = num_layers
        self.spec.dtype = CLSTM_FLOAT64 if double_precision else CLSTM_FLOAT32
        self.spec.bias = bias
        self.spec.bidirectional = bidirectional
        self.spec.dropout = dropout
        if variant:
            self.set_variant(variant)
        check(clstm_check_spec(&self.spec))
        self.plain = not variant
        self.features = self.spec.variant.proj_size or hidden_size
        self.itemsize = 8 if double_precision else 4
        self.spare_packs = Spares(in_large_pages=True)
        self.spare_tapes = Spares()
        self.spare_workspaces = Spares(in_large_pages=True)
        self.spare_backward_workspaces = Spares(in_large_pages=True)
        self.spare_gradients = Spares(in_large_pages=True)
        self.shapes = []
        self.blocks = []
        for i in range(clstm_num_params(&self.spec)):
            check(clstm_param_shape(&self.spec, i, &rows, &columns))
            shape = (rows, columns)
            self.add_parameter(shape[: 2 if columns else 1])

    cdef int set_variant(self, dict options) except -1:
        cdef clstm_variant *v = &self.spec.variant
        v.proj_size = options["proj_size"]
        v.coupling = options["coupling"]
        v.peepholes = options["peepholes"]
        v.learned_state = options["learned_state"]
        for i, (kind, alpha, beta) in enumerate(options["activations"]):
            v.activations[i] = clstm_activation(kind, alpha, beta)
        v.clip = options["clip"]
        v.cell_clip = options["cell_clip"]
        v.proj_clip = options["proj_clip"]
        v.recurrent_dropout = options["recurrent_dropout"]
        v.variational_dropout_x = options["variational_dropout_x"]
        v.variational_dropout_h = options["variational_dropout_h"]
        v.zoneout_c = options["zoneout_c"]
        v.zoneout_h = options["zoneout_h"]
        v.layer_norm_eps = options["layer_norm_eps"]
        return 0

    def __dealloc__(self):
        spare_sequences.keep_up_to(0)

    cdef int add_parameter(self, tuple shape) except -1:
        cdef Block block = Block(shape[0] * (shape[1] if len(shape) == 2 else 1) * self.itemsize)
        memset(block.data, 0, block.size)
        self.shapes.append(shape)
        self.blocks.append(block)
        return 0

    def view(self, Py_ssize_t index):
        """Parameter number `index`, as an array to read and write."""
        cdef Parameter parameter = Parameter.__new__(Parameter)
        cdef tuple shape = self.shapes[index]
        parameter.owner = self
        parameter.block = self.blocks[index]
        parameter.ndim = len(shape)
        parameter.shape[0] = shape[0]
        parameter.shape[1] = shape[1] if len(shape) == 2 else 1
        parameter.strides[0] = parameter.shape[1] * self.itemsize
        parameter.strides[1] = self.itemsize
        array = np.asarray(parameter)
        if cnp.PyArray_TYPE(array) == cnp.NPY_OBJECT:  # so numpy says that it has no memory for the view
            raise MemoryError("there is no memory for a view of a parameter")
        return array

    def gradients(self):
        """New arrays like the parameters, in memory that the layer takes back when the last of them is gone: new memory
        would cost more than to write a small network's gradients."""
        cdef size_t size = 0
        cdef Block block
        for block in self.blocks:
            size += aligned(block.size)
        cdef Loan loan = lend(self.spare_gradients, size)
        size = 0
        arrays = []
        for shape, block in zip(self.shapes, self.blocks):
            arrays.append(array_at(loan.block.data + size, shape, self.type_num(), loan))
            size += aligned(block.size)
        return arrays

    cdef void count_call(self, bint training) noexcept:
        """Drop the spare memory that only training needs, what is large at once, the rest when many calls in a row do
        without."""
        cdef int served
        with cython.critical_section(self):
            served = 0 if training else min(self.served + 1, SERVES)
            self.served = served
        if training:
            return
        cdef size_t kept = 0 if served == SERVES else LARGEST_KEPT
        self.spare_tapes.keep_up_to(kept)
        self.spare_gradients.keep_up_to(kept)
        self.spare_backward_workspaces.keep_up_to(kept)

    cdef inline int type_num(self) noexcept:
        return cnp.NPY_FLOAT if self.itemsize == 4 else cnp.NPY_DOUBLE

    def copy(self, Py_ssize_t index):
        """A copy of parameter number `index`; packs stay valid."""
        cdef Block block = self.blocks[index]
        cdef cnp.ndarray array = np.empty(self.shapes[index], np.float32 if self.itemsize == 4 else np.float64)
        memcpy(cnp.PyArray_DATA(array), block.data, block.size)
        return array

    def assign(self, Py_ssize_t index, cnp.ndarray array):
        """Copy an array into parameter number `index`. Packs stay valid where its bytes are there already."""
        cdef Block block = self.blocks[index]
        dtype = np.dtype(np.float32 if self.itemsize == 4 else np.float64)
        if (<object> array).shape != self.shapes[index] or array.dtype != dtype:
            raise ValueError(f"parameter {index} has shape {(<object> array).shape} and dtype {array.dtype}, but "
                             f"{self.shapes[index]} and {dtype} are expected")
        array = np.ascontiguousarray(array)
        with cython.critical_section(self):
            if memcmp(block.data, cnp.PyArray_DATA(array), block.size):
                memcpy(block.data, cnp.PyArray_DATA(array), block.size)
                self.version += 1

    cdef Pack current_pack(self, bint training):
        """The pack of the weights as they are now."""
        cdef Pack pack
        with cython.critical_section(self):
            pack = self.pack
        if pack is not None and self.is_current(pack) and (pack.training or not training):
            return pack
        pack = None
        with cython.critical_section(self):
            self.pack = None  # frees its memory for the next one, unless a tape or a stream still has it
        pack = self.make_pack(training)
        if pack.version >= 0:
            with cython.critical_section(self):
                self.pack = pack
        return pack

    cdef inline bint is_current(self, Pack pack) noexcept:
        return self.views == 0 and pack.version == self.version

    cdef Pack make_pack(self, bint training):
        cdef Pack pack = Pack.__new__(Pack)
        cdef Block block
        cdef size_t size = 0
        cdef Py_ssize_t i, count = len(self.blocks)
        cdef Block pointers = Block(count * sizeof(void *))
        cdef const void **params = <const void **> pointers.data
        cdef void *data
        for i in range(count):
            block = self.blocks[i]
            params[i] = block.data
        with cython.critical_section(self):
            pack.version = self.version if self.views == 0 else -1
        pack.training = training
        check(clstm_pack_size(&self.spec, training, &size))
        pack.loan = lend(self.spare_packs, size)
        data = pack.loan.block.data
        with nogil:
            status = clstm_pack(&self.spec, training, params, data)
        check(status)
        return pack

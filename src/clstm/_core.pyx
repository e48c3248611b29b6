"""The C library behind typed wrappers: memory, ownership and the GIL. No arithmetic, no conveniences.

Arrays come in checked: lstm.py has made them of the right type and shape, aligned, contiguous along the last axis.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from cpython.pycapsule cimport PyCapsule_New
from cpython.pyport cimport PY_SSIZE_T_MAX
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset

cimport numpy as cnp
from clstm cimport *

import threading

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


# ---- signals ----

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


# ---- memory ----

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


cdef enum:
    LARGEST_WORKSPACE = 64 << 20  # bytes


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


# ---- parameters ----

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

    cdef Block block
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
    cdef Spares spare_tapes, spare_workspaces, spare_gradients

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
        self.spare_tapes = Spares()
        self.spare_workspaces = Spares()
        self.spare_gradients = Spares()
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
        cdef Loan loan = Loan.__new__(Loan)
        cdef size_t size = 0
        cdef cnp.npy_intp dims[2]
        cdef Block block
        loan.spares = self.spare_gradients
        for block in self.blocks:
            size += aligned(block.size)
        loan.block = loan.spares.take(size)
        size = 0
        arrays = []
        for shape, block in zip(self.shapes, self.blocks):
            dims[0] = shape[0]
            dims[1] = shape[1] if len(shape) == 2 else 1
            array = cnp.PyArray_SimpleNewFromData(len(shape), dims, cnp.NPY_FLOAT if self.itemsize == 4 else
                                                  cnp.NPY_DOUBLE, loan.block.data + size)
            cnp.set_array_base(array, loan)
            arrays.append(array)
            size += aligned(block.size)
        return arrays

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
        pack.block = Block(size)
        data = pack.block.data
        with nogil:
            status = clstm_pack(&self.spec, training, params, data)
        check(status)
        return pack


# ---- sequences ----

@cython.final
@cython.no_gc_clear  # giving the block back needs the weights to the last
cdef class Tape:
    """What `LSTM.forward` recorded, for `LSTM.backward`. Read only, so it may be used more than once.

    Attributes
    ----------
    T, B : int
        Time steps and rows of the batch.

    Examples
    --------
    >>> import numpy as np
    >>> import clstm
    >>> lstm = clstm.LSTM(2, 3, seed=0)
    >>> y, state, tape = lstm.forward(np.ones((5, 2)))
    >>> tape.T, tape.B
    (5, 1)
    """

    cdef Weights weights
    cdef clstm_spec spec  # that of the weights, with the dropout of the call
    cdef readonly Pack pack
    cdef Block block
    cdef bint borrowed  # the block is another owner's
    cdef readonly int64_t T, B
    cdef readonly object meta  # the caller's: how to shape the gradients

    def is_of(self, Weights weights):
        """Whether the tape was recorded by these weights' network."""
        return self.weights is weights

    def _detach(self):
        """The recording as an array of bytes, which owns it, and a tape without one. For those who keep arrays, such
        as PyTorch's graph."""
        cdef cnp.npy_intp size = self.size()
        cdef cnp.ndarray memory = cnp.PyArray_SimpleNewFromData(1, &size, cnp.NPY_UINT8, self.block.data)
        cnp.set_array_base(memory, self)
        return memory, self.without_block()

    def _attach(self, cnp.ndarray memory):
        """This tape with the recording that `_detach` returned, or a copy of it."""
        if cnp.PyArray_TYPE(memory) != cnp.NPY_UINT8 or memory.nbytes != self.size() or not memory.flags.c_contiguous:
            raise ValueError(f"memory has {memory.nbytes} bytes, but the {self.size()} of a recording are expected")
        cdef Tape tape = self.without_block()
        tape.block = borrow_block(memory)
        tape.borrowed = True
        return tape

    cdef Tape without_block(self):
        cdef Tape tape = Tape.__new__(Tape)
        tape.weights = self.weights
        tape.spec = self.spec
        tape.pack = self.pack
        tape.T = self.T
        tape.B = self.B
        tape.meta = self.meta
        return tape

    cdef size_t size(self) except? 0:
        cdef size_t size = 0
        check(clstm_tape_size(&self.spec, self.T, self.B, &size))
        return size

    def __dealloc__(self):
        if self.block is not None and not self.borrowed:
            self.weights.spare_tapes.give(self.block)

    def __repr__(self):
        return f"Tape({self.T} steps, {self.B} rows, {self.size()} bytes)"


cdef inline void *data_of(object array) noexcept:
    return NULL if array is None else cnp.PyArray_DATA(<cnp.ndarray> array)


cdef inline int64_t stride_of(cnp.ndarray array, int axis) noexcept:
    return cnp.PyArray_STRIDE(array, axis) // cnp.PyArray_ITEMSIZE(array)


def forward(Weights weights, cnp.ndarray x, cnp.ndarray y, h0, c0, hn, cn, lengths, order, bint training, uint64_t seed,
            meta, dropout=None, Pack pack=None, int64_t first_step=0, int64_t part=0, tuple trace=None):
    """Run a batch. x (T, B, I) and y (T, B, D*H) with any outer strides; states (L*D, B, H) or None; lengths and order
    (B) or None; dropout of this call or None, which means that of the weights; pack or None, which means that of the
    weights as they are now; first_step, part, lengths and order as in clstm_sequence; trace: the arrays of clstm_trace,
    or None. Returns a Tape if training, else None."""
    cdef clstm_spec spec = weights.spec
    cdef clstm_sequence seq
    cdef clstm_trace traced
    cdef Block workspace, tape_block
    cdef size_t size = 0
    cdef void *tape_data = NULL
    cdef int status
    cdef Tape tape = None
    if pack is None:
        pack = weights.current_pack(training)
    if dropout is not None:
        spec.dropout = dropout
    memset(&seq, 0, sizeof(seq))
    seq.T = cnp.PyArray_DIM(x, 0)
    seq.B = cnp.PyArray_DIM(x, 1)
    seq.lengths = <const int64_t *> data_of(lengths)
    seq.order = <const int64_t *> data_of(order)
    seq.seed = seed
    seq.first_step = first_step
    seq.part = part
    seq.x = cnp.PyArray_DATA(x)
    seq.x_time_stride = stride_of(x, 0)
    seq.x_row_stride = stride_of(x, 1)
    seq.h0 = data_of(h0)
    seq.c0 = data_of(c0)
    seq.y = cnp.PyArray_DATA(y)
    seq.y_time_stride = stride_of(y, 0)
    seq.y_row_stride = stride_of(y, 1)
    seq.hn = data_of(hn)
    seq.cn = data_of(cn)
    if trace is not None:
        traced.gates, traced.c, traced.h = data_of(trace[0]), data_of(trace[1]), data_of(trace[2])
        seq.trace = &traced
    if training:
        check(clstm_tape_size(&spec, seq.T, seq.B, &size))
        tape_block = weights.spare_tapes.take(size)
        tape_data = tape_block.data
    else:
        weights.spare_tapes.clear()  # whoever serves now has no use for them
        weights.spare_gradients.clear()
    check(clstm_forward_workspace(&spec, seq.T, seq.B, &size))
    workspace = weights.spare_workspaces.take(size)
    cdef SignalWatch watch = watch_signals(weights, seq.T, seq.B)
    if watch is not None:
        seq.interrupt = look_at_signals
        seq.interrupt_context = <void *> watch
    with nogil:
        status = clstm_forward(&spec, pack.block.data, &seq, tape_data, workspace.data, workspace.size)
    if workspace.size <= LARGEST_WORKSPACE:
        weights.spare_workspaces.give(workspace)
    if status == CLSTM_ERROR_INTERRUPTED:
        raise watch.error
    check(status)
    if training:
        tape = Tape.__new__(Tape)
        tape.weights = weights
        tape.spec = spec
        tape.pack = pack
        tape.block = tape_block
        tape.T = seq.T
        tape.B = seq.B
        tape.meta = meta
    return tape


def backward(Tape tape, dy, dhn, dcn, dx, dh0, dc0, list grads, bint accumulate=False):
    """Gradients of the forward pass that made the tape, into dx (T, B, I), dh0, dc0 and grads (one a parameter); each
    may be None, which means not wanted. accumulate: grads hold those of the steps that follow."""
    cdef Weights weights = tape.weights
    cdef clstm_gradients g
    cdef Block workspace, pointers
    cdef size_t size = 0
    cdef int status
    cdef Py_ssize_t i
    cdef void **dparams
    if tape.block is None:
        raise ValueError("the tape is detached from its recording")
    memset(&g, 0, sizeof(g))
    if grads is not None:
        if len(grads) != len(weights.shapes):
            raise ValueError(f"grads has {len(grads)} arrays, but there are {len(weights.shapes)} parameters")
        pointers = Block(len(grads) * sizeof(void *))
        dparams = <void **> pointers.data
        for i in range(len(grads)):
            dparams[i] = data_of(grads[i])
        g.dparams = dparams
        g.accumulate = accumulate
    if dy is not None:
        g.dy = data_of(dy)
        g.dy_time_stride = stride_of(dy, 0)
        g.dy_row_stride = stride_of(dy, 1)
    g.dhn = data_of(dhn)
    g.dcn = data_of(dcn)
    if dx is not None:
        g.dx = data_of(dx)
        g.dx_time_stride = stride_of(dx, 0)
        g.dx_row_stride = stride_of(dx, 1)
    g.dh0 = data_of(dh0)
    g.dc0 = data_of(dc0)
    check(clstm_backward_workspace(&tape.spec, tape.T, tape.B, &size))
    workspace = weights.spare_workspaces.take(size)
    cdef SignalWatch watch = watch_signals(weights, tape.T, tape.B)
    if watch is not None:
        g.interrupt = look_at_signals
        g.interrupt_context = <void *> watch
    with nogil:
        status = clstm_backward(&tape.spec, tape.pack.block.data, tape.block.data, &g, workspace.data,
                                workspace.size)
    if workspace.size <= LARGEST_WORKSPACE:
        weights.spare_workspaces.give(workspace)
    if status == CLSTM_ERROR_INTERRUPTED:
        raise watch.error
    check(status)


# ---- streams ----

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
                status = clstm_step(spec, pack.block.data, self.batch_size, x_data, cnp.PyArray_DATA(h),
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
        return clstm_forward(spec, pack.block.data, &seq, NULL, self.workspace.data, self.workspace.size)

    def _get_state(self):
        """Copies of (h, c), (L, B, P) and (L, B, H)."""
        return self.h.copy(), self.c.copy()

    def _set_state(self, h, c):
        """Copy new values into the state."""
        self.h[...] = h
        self.c[...] = c


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
    pack[0] = borrowed.block.data
    return borrowed


capi_table.borrow_pack = borrow_pack
_capi = PyCapsule_New(&capi_table, CLSTM_CAPI_CAPSULE, NULL)

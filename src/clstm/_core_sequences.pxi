# Whole sequences: forward, the tape that it records, and backward.

cimport cython
cimport numpy as cnp
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from clstm cimport *


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
        return make_tape(self.weights, &self.spec, self.pack, self.T, self.B, self.meta)

    cdef size_t size(self) except? 0:
        cdef size_t size = 0
        check(clstm_tape_size(&self.spec, self.T, self.B, &size))
        return size

    def __dealloc__(self):
        if self.block is not None and not self.borrowed:
            self.weights.spare_tapes.give(self.block)

    def __repr__(self):
        return f"Tape({self.T} steps, {self.B} rows, {self.size()} bytes)"


cdef Tape make_tape(Weights weights, const clstm_spec *spec, Pack pack, int64_t T, int64_t B, meta):
    """A tape without a recording."""
    cdef Tape tape = Tape.__new__(Tape)
    tape.weights = weights
    tape.spec = spec[0]
    tape.pack = pack
    tape.T = T
    tape.B = B
    tape.meta = meta
    return tape


cdef inline void *data_of(object array) noexcept:
    return NULL if array is None else cnp.PyArray_DATA(<cnp.ndarray> array)


cdef inline int64_t stride_of(cnp.ndarray array, int axis) noexcept:
    return cnp.PyArray_STRIDE(array, axis) // cnp.PyArray_ITEMSIZE(array)


cdef int finish(Spares spares, Block workspace, SignalWatch watch, int status) except -1:
    """After a call: keep its workspace for the next one, and turn its status into an exception."""
    if workspace.size <= LARGEST_KEPT:
        spares.give(workspace)
    if status == CLSTM_ERROR_INTERRUPTED:
        raise watch.error or RuntimeError("a signal handler forked during the call, which ends in the parent only")
    return check(status)


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
    weights.count_call(training)
    check(clstm_forward_workspace(&spec, seq.T, seq.B, &size))
    workspace = weights.spare_workspaces.take(size)
    cdef SignalWatch watch = watch_signals(weights, seq.T, seq.B)
    if watch is not None:
        seq.interrupt = look_at_signals
        seq.interrupt_context = <void *> watch
    with nogil:
        status = clstm_forward(&spec, pack.loan.block.data, &seq, tape_data, workspace.data, workspace.size)
    finish(weights.spare_workspaces, workspace, watch, status)
    if training:
        tape = make_tape(weights, &spec, pack, seq.T, seq.B, meta)
        tape.block = tape_block
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
    workspace = weights.spare_backward_workspaces.take(size)
    cdef SignalWatch watch = watch_signals(weights, tape.T, tape.B)
    if watch is not None:
        g.interrupt = look_at_signals
        g.interrupt_context = <void *> watch
    with nogil:
        status = clstm_backward(&tape.spec, tape.pack.loan.block.data, tape.block.data, &g, workspace.data,
                                workspace.size)
    finish(weights.spare_backward_workspaces, workspace, watch, status)

# The C library for other packages: `cimport clstm`, with clstm.get_include() among the include directories, and one
# call of clstm.import_clstm() before any other. include/clstm.h documents the functions.
from libc.stdint cimport int32_t, int64_t, uint64_t


cdef extern from "clstm_capi.h":
    int import_clstm() except -1
    object clstm_borrow_pack(object lstm, int training, clstm_spec *spec, const void **pack)


cdef extern from "clstm_capi.h" nogil:
    ctypedef struct clstm_activation:
        int64_t kind
        double alpha
        double beta

    ctypedef struct clstm_variant:
        int64_t proj_size
        int32_t coupling
        int32_t peepholes
        int32_t learned_state
        int32_t reserved
        clstm_activation activations[5]
        double clip
        double cell_clip
        double proj_clip
        double recurrent_dropout
        double variational_dropout_x
        double variational_dropout_h
        double zoneout_c
        double zoneout_h
        double layer_norm_eps

    ctypedef struct clstm_spec:
        int64_t input_size
        int64_t hidden_size
        int64_t num_layers
        int32_t dtype
        int32_t bias
        int32_t bidirectional
        double dropout
        clstm_variant variant

    ctypedef int (*clstm_interrupt)(void *context) noexcept nogil

    ctypedef struct clstm_trace:
        void *gates
        void *c
        void *h

    ctypedef struct clstm_sequence:
        int64_t T
        int64_t B
        const int64_t *lengths
        const int64_t *order
        uint64_t seed
        int64_t first_step
        int64_t part
        const void *x
        int64_t x_time_stride
        int64_t x_row_stride
        const void *h0
        const void *c0
        void *y
        int64_t y_time_stride
        int64_t y_row_stride
        void *hn
        void *cn
        const clstm_trace *trace
        clstm_interrupt interrupt
        void *interrupt_context

    ctypedef struct clstm_gradients:
        const void *dy
        int64_t dy_time_stride
        int64_t dy_row_stride
        const void *dhn
        const void *dcn
        void *dx
        int64_t dx_time_stride
        int64_t dx_row_stride
        void *dh0
        void *dc0
        void **dparams
        int64_t accumulate
        clstm_interrupt interrupt
        void *interrupt_context

    enum:
        CLSTM_ABI_MAJOR
        CLSTM_ABI_MINOR

    enum clstm_status:
        CLSTM_OK
        CLSTM_ERROR_NULL
        CLSTM_ERROR_SPEC
        CLSTM_ERROR_SIZE
        CLSTM_ERROR_PACK
        CLSTM_ERROR_TAPE
        CLSTM_ERROR_LENGTHS
        CLSTM_ERROR_ISA
        CLSTM_ERROR_STREAM
        CLSTM_ERROR_THREADS
        CLSTM_ERROR_WORKSPACE
        CLSTM_ERROR_INTERRUPTED

    enum clstm_dtype:
        CLSTM_FLOAT32
        CLSTM_FLOAT64

    enum clstm_activation_kind:
        CLSTM_ACTIVATION_DEFAULT
        CLSTM_ACTIVATION_SIGMOID
        CLSTM_ACTIVATION_TANH
        CLSTM_ACTIVATION_HARD_SIGMOID
        CLSTM_ACTIVATION_IDENTITY
        CLSTM_ACTIVATION_RELU
        CLSTM_ACTIVATION_LEAKY_RELU
        CLSTM_ACTIVATION_THRESHOLDED_RELU
        CLSTM_ACTIVATION_ELU
        CLSTM_ACTIVATION_AFFINE
        CLSTM_ACTIVATION_SCALED_TANH
        CLSTM_ACTIVATION_SOFTSIGN
        CLSTM_ACTIVATION_SOFTPLUS

    enum clstm_coupling:
        CLSTM_UNCOUPLED
        CLSTM_COUPLED_FORGET
        CLSTM_COUPLED_INPUT
        CLSTM_NO_FORGET_GATE

    enum clstm_function:
        CLSTM_EXP
        CLSTM_SIGMOID
        CLSTM_TANH

    const char *clstm_strerror(int status)
    const char *clstm_version()
    const char *clstm_isa()
    const char *clstm_isa_reason()
    const char *clstm_isa_available(int i)
    int clstm_set_isa(const char *name)
    int clstm_set_num_threads(int n)
    int clstm_get_num_threads()

    int clstm_check_spec(const clstm_spec *spec)
    int64_t clstm_num_params(const clstm_spec *spec)
    int clstm_param_shape(const clstm_spec *spec, int64_t index, int64_t *rows, int64_t *columns)
    int clstm_pack_size(const clstm_spec *spec, int training, size_t *size)
    int clstm_pack(const clstm_spec *spec, int training, const void **params, void *pack)
    int clstm_forward_workspace(const clstm_spec *spec, int64_t T, int64_t B, size_t *size)
    int clstm_backward_workspace(const clstm_spec *spec, int64_t T, int64_t B, size_t *size)
    int clstm_tape_size(const clstm_spec *spec, int64_t T, int64_t B, size_t *size)
    int clstm_forward(const clstm_spec *spec, const void *pack, const clstm_sequence *seq, void *tape,
                      void *workspace, size_t workspace_bytes)
    int clstm_backward(const clstm_spec *spec, const void *pack, const void *tape, const clstm_gradients *grads,
                       void *workspace, size_t workspace_bytes)
    int clstm_step(const clstm_spec *spec, const void *pack, int64_t B, const void *x, const void *h_in,
                   const void *c_in, void *h_out, void *c_out)
    int clstm_apply(int function, int dtype, int64_t n, const void *x, void *y)

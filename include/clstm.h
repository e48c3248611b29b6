/* clstm: Long Short-Term Memory networks on CPUs.
 *
 * This is the only public C header. It needs no Python.
 *
 * Shapes are written (rows, columns) and are C-contiguous unless strides are passed. T is time steps, B batch
 * rows, I input_size, H hidden_size, L num_layers, D directions (1 or 2). "real" is float or double, as the
 * network's dtype says. Strides count elements, not bytes.
 *
 * Ownership: the caller owns every buffer; nothing is allocated, printed or kept by forward, backward or step.
 * Buffers that a function writes must not overlap others of the call, unless it says so.
 * Errors: every function that can fail returns a clstm_status; nothing was written unless it says otherwise. Each
 * comment names the errors of its function. Structs are filled in by name from zero ({.T = 5}, or memset).
 * Threads: any number of threads may call at once, on the same network and pack, with their own outputs,
 * tapes and workspaces.
 * Real time: clstm_step, and clstm_forward with a limit of one thread, take no lock, allocate nothing and make no
 * system call, from the second call on (the first one asks the processor and the environment what to use).
 * Stability: docs/embedding.md says what may change, and when.
 */
#ifndef CLSTM_H
#define CLSTM_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility push(default) /* the library is compiled with -fvisibility=hidden: only these are exported */
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Of the binary interface: a program runs with a library of the same major and of its own or a later minor version. */
#define CLSTM_ABI_MAJOR 1
#define CLSTM_ABI_MINOR 0

/* ---- status ------------------------------------------------------------------------------------------- */

typedef enum clstm_status {
    CLSTM_OK = 0,
    CLSTM_ERROR_NULL = 1,       /* a required pointer is NULL */
    CLSTM_ERROR_SPEC = 2,       /* a field of clstm_spec is out of range */
    CLSTM_ERROR_SIZE = 3,       /* a size is negative, or a product of sizes does not fit in memory */
    CLSTM_ERROR_PACK = 4,       /* the pack was made for another network, or lacks what training needs */
    CLSTM_ERROR_TAPE = 5,       /* the tape was recorded by another network, or with other sizes */
    CLSTM_ERROR_LENGTHS = 6,    /* lengths lie outside 0..T or are not sorted, longest first; order is outside 0..B-1 */
    CLSTM_ERROR_ISA = 7,        /* no such instruction set in this build, or the machine lacks it */
    CLSTM_ERROR_STREAM = 8,     /* clstm_step runs no bidirectional network and no variant */
    CLSTM_ERROR_THREADS = 9,    /* the number of threads is out of range */
    CLSTM_ERROR_WORKSPACE = 10, /* the workspace is smaller than the call needs */
    CLSTM_ERROR_INTERRUPTED = 11 /* the caller's interrupt function ended the call */
} clstm_status;

/* One English sentence for a status; never NULL, static storage. */
const char *clstm_strerror(int status);

/* "major.minor.patch" of the library; static storage. */
const char *clstm_version(void);

/* ---- instruction sets and threads --------------------------------------------------------------------- */

/* Name of the instruction set whose kernels new packs use: "portable", "avx2", "avx512" or "neon". The best
 * one that processor and operating system support, unless CLSTM_ISA in the environment names a lesser one. (With
 * "avx512", plain networks whose hidden units fill no more than half a vector, and inputs no more than one, are faster
 * with the kernels of "avx2" and use those.) */
const char *clstm_isa(void);

/* Why that one was chosen, as one English sentence; static storage. */
const char *clstm_isa_reason(void);

/* Name of the i-th instruction set this build contains and this machine runs, best first; NULL past the end. */
const char *clstm_isa_available(int i);

/* Makes new packs use the kernels of `name`; packs that exist keep theirs. For the whole process, from any thread.
 * Errors: NULL, ISA (it cannot run here). */
int clstm_set_isa(const char *name);

/* Upper limit of the threads that one process's calls use, the calling ones included: 1 to 1024. Default:
 * CLSTM_NUM_THREADS, else the processors that this process may run on. From any thread, also while calls run; workers
 * above a lower limit leave after the part in hand. Errors: THREADS. */
int clstm_set_num_threads(int n);
int clstm_get_num_threads(void);

/* ---- a network ---------------------------------------------------------------------------------------- */

typedef enum clstm_dtype { CLSTM_FLOAT32 = 0, CLSTM_FLOAT64 = 1 } clstm_dtype;

/* Functions of ONNX's list; what alpha and beta are to each stands on the right. */
typedef enum clstm_activation_kind {
    CLSTM_ACTIVATION_DEFAULT = 0,          /* sigmoid for i, f and o; tanh for g and the output */
    CLSTM_ACTIVATION_SIGMOID = 1,          /* 1 / (1 + exp(-x)) */
    CLSTM_ACTIVATION_TANH = 2,             /* tanh(x) */
    CLSTM_ACTIVATION_HARD_SIGMOID = 3,     /* max(0, min(1, alpha x + beta)) */
    CLSTM_ACTIVATION_IDENTITY = 4,         /* x */
    CLSTM_ACTIVATION_RELU = 5,             /* max(0, x) */
    CLSTM_ACTIVATION_LEAKY_RELU = 6,       /* x for x > 0, else alpha x */
    CLSTM_ACTIVATION_THRESHOLDED_RELU = 7, /* x for x > alpha, else 0 */
    CLSTM_ACTIVATION_ELU = 8,              /* x for x > 0, else alpha (exp(x) - 1) */
    CLSTM_ACTIVATION_AFFINE = 9,           /* alpha x + beta */
    CLSTM_ACTIVATION_SCALED_TANH = 10,     /* alpha tanh(beta x) */
    CLSTM_ACTIVATION_SOFTSIGN = 11,        /* x / (1 + |x|) */
    CLSTM_ACTIVATION_SOFTPLUS = 12         /* log(1 + exp(x)) */
} clstm_activation_kind;

typedef struct clstm_activation {
    int64_t kind; /* clstm_activation_kind */
    double alpha, beta;
} clstm_activation;

typedef enum clstm_coupling {
    CLSTM_UNCOUPLED = 0,
    CLSTM_COUPLED_FORGET = 1, /* f = 1 - i: no weights of f */
    CLSTM_COUPLED_INPUT = 2,  /* i = 1 - f: no weights of i */
    CLSTM_NO_FORGET_GATE = 3  /* f = 1, the cell of 1997: no weights of f */
} clstm_coupling;

/* How a network differs from the plain LSTM. Zeros are the plain one, field by field. docs/variants.md has the formulas
 * and their sources. G is the number of gates with weights (4, or 3 if coupled), P the features of h: proj_size, or H
 * without projection. */
typedef struct clstm_variant {
    int64_t proj_size;               /* 0, or 1 <= P < H: h = W_hr (o tanh(c')) */
    int32_t coupling;                /* clstm_coupling */
    int32_t peepholes;               /* 0 or 1: i and f see c, o sees c' */
    int32_t learned_state;           /* 0 or 1: parameters stand in for initial states that are NULL */
    int32_t reserved;                /* 0 */
    clstm_activation activations[5]; /* of i, f, g, o, and of c' in the output */
    double clip;                     /* > 0: limits the pre-activations to -clip..clip */
    double cell_clip;                /* > 0: limits c' */
    double proj_clip;                /* > 0, with a projection: limits h */
    double recurrent_dropout;        /* 0..1, on g in training */
    double variational_dropout_x;    /* 0..1, on a layer's input in training: one mask for all steps of a row */
    double variational_dropout_h;    /* 0..1, the same on h in the recurrent product */
    double zoneout_c, zoneout_h;     /* 0..1: how likely an element of c or h keeps its old value in training */
    double layer_norm_eps; /* > 0: layer normalisation of the gates and of c' in the output, with this epsilon */
} clstm_variant;

/* What to compute: a stack of LSTM layers, PyTorch's nn.LSTM.
 *
 *     i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)        f = sigmoid(W_if x + b_if + W_hf h + b_hf)
 *     g = tanh   (W_ig x + b_ig + W_hg h + b_hg)        o = sigmoid(W_io x + b_io + W_ho h + b_ho)
 *     c' = f c + i g                                     h' = o tanh(c')
 *
 * (Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000.) */
typedef struct clstm_spec {
    int64_t input_size;    /* I >= 1 */
    int64_t hidden_size;   /* H >= 1 */
    int64_t num_layers;    /* L >= 1; layers above the first take D*P inputs */
    int32_t dtype;         /* clstm_dtype */
    int32_t bias;          /* 0 or 1: bias_ih and bias_hh exist */
    int32_t bidirectional; /* 0 or 1: D = 1 + bidirectional */
    double dropout;        /* 0..1, on the outputs of every layer but the last, in training */
    clstm_variant variant; /* all zeros: the LSTM above */
} clstm_spec;

/* CLSTM_OK when every field is in range. Errors: NULL, SPEC. */
int clstm_check_spec(const clstm_spec *spec);

/* Number of parameter arrays. They are ordered as PyTorch's state_dict: for each layer, for each direction,
 *     weight_ih (GH, I or D*P), weight_hh (GH, P),
 *     bias_ih (GH), bias_hh (GH)        with bias
 *     weight_hr (P, H)                  with a projection
 *     weight_ch (2 or 3, H)             with peepholes, in the order i, f, o
 *     weight_ln (G, H), weight_ln_c (H) with layer normalisation: gains of the gates, and of c'
 *     bias_ln_c (H)                     with layer normalisation and bias; the biases of the gates are those above
 *     h_0 (P), c_0 (H)                  with a learned initial state
 * The gates lie in the order i, f, g, o along the first axis, those without weights left out.
 * The spec must be one that clstm_check_spec accepts. */
int64_t clstm_num_params(const clstm_spec *spec);

/* Shape of parameter array `index`; columns is 0 for a vector. Errors: NULL, SPEC, SIZE. */
int clstm_param_shape(const clstm_spec *spec, int64_t index, int64_t *rows, int64_t *columns);

/* ---- packing ------------------------------------------------------------------------------------------ */

/* Kernels read weights from a pack: the same numbers in blocks as wide as a vector, the four gates of a hidden
 * unit side by side. A pack is plain memory, tied to one spec and one instruction set, read-only after it is
 * made, and shared freely between threads. `training` adds what clstm_backward needs. A pack is of this process and
 * machine: do not store it. Errors: NULL, SPEC, SIZE. */
int clstm_pack_size(const clstm_spec *spec, int training, size_t *bytes);

/* params: clstm_num_params(spec) pointers to real arrays, which are copied. pack: clstm_pack_size bytes, aligned to 64;
 * the caller's, and free to be dropped when no call or tape uses it. Threads share out packs of some MiB, as they do
 * clstm_forward; a child that a signal handler forks meanwhile has no use for the pack. Errors: NULL, SPEC, SIZE. */
int clstm_pack(const clstm_spec *spec, int training, const void *const *params, void *pack);

/* ---- sequences ---------------------------------------------------------------------------------------- */

/* Lets a caller end a long call: asked every few milliseconds, between two steps, on the calling thread. Nonzero ends
 * the call with CLSTM_ERROR_INTERRUPTED; outputs and tape are undefined then. If the function forks, a call on several
 * threads ends so in the child, where only the forking thread is. */
typedef int (*clstm_interrupt)(void *context);

/* What happens inside, step by step. Steps past the end of a row are left as they are. */
typedef struct clstm_trace {
    void *gates; /* out (L*D, T, B, 4, H): i, f, g and o */
    void *c;     /* out (L*D, T, B, H) */
    void *h;     /* out (L*D, T, B, P) */
} clstm_trace;

/* One batch of sequences. Rows of x, y, dx and dy are contiguous along their last axis; time and batch axes
 * have any strides (so time-major and batch-major both work, and a broadcast axis has stride 0). States are
 * contiguous, layer-major, then direction: h (L*D, B, P) and c (L*D, B, H). */
typedef struct clstm_sequence {
    int64_t T, B;           /* both >= 0; with T = 0 the final states are the initial ones */
    const int64_t *lengths; /* (B) valid steps of each row, longest first; or NULL: all T. Outputs past the end of a
                               row are 0, its final states are those at its own last step, and its reverse
                               direction starts there */
    const int64_t *order;   /* (B) a permutation: which row of x, y and the states, and of their gradients, has each of
                               the lengths; or NULL: the same row. Lengths need not be sorted in memory so; not with a
                               trace */
    uint64_t seed;          /* training: selects the dropout masks */
    int64_t first_step;     /* training: the step of a longer sequence that x begins with, for the dropout masks */
    int64_t part;           /* 0: the whole network; 1 + layer * D + direction: that alone. x is then the output of the
                               layer below, before dropout; of y, hn and cn only what the part computes is written */

    const void *x; /* in  (T, B, I) */
    int64_t x_time_stride, x_row_stride;
    const void *h0, *c0; /* in  initial states; NULL: zeros, or the learned ones */
    void *y;             /* out (T, B, D*P): [forward | backward] */
    int64_t y_time_stride, y_row_stride;
    void *hn, *cn;            /* out final states; NULL: not wanted */
    const clstm_trace *trace; /* inference: NULL, or all of its arrays; with a tape it is not written */

    clstm_interrupt interrupt; /* NULL: nobody asks */
    void *interrupt_context;
} clstm_sequence;

/* The gradients that BPTT starts from and returns. Inputs are never written. Outputs are overwritten, unless it says
 * otherwise. */
typedef struct clstm_gradients {
    const void *dy; /* in  (T, B, D*P): gradient on y; NULL: zeros */
    int64_t dy_time_stride, dy_row_stride;
    const void *dhn, *dcn; /* in  gradients on the final states; NULL: zeros */
    void *dx;              /* out (T, B, I); NULL: not wanted */
    int64_t dx_time_stride, dx_row_stride;
    void *dh0, *dc0;      /* out gradients on the initial states; NULL: not wanted */
    void *const *dparams; /* out clstm_num_params pointers, shapes of the parameters; NULL: not wanted */
    int64_t accumulate; /* 1: dparams hold the gradients of the steps that follow, and this call goes on with the sums:
                           the bits are those of one call for all steps */

    clstm_interrupt interrupt; /* NULL: nobody asks */
    void *interrupt_context;
} clstm_gradients;

/* Bytes of scratch memory that one call needs (it may use up to clstm_get_num_threads() threads, read now; a call with
 * less memory uses fewer threads, as long as it suffices for one). One workspace serves one call at a time, any number
 * of them one after the other. Errors: NULL, SPEC, SIZE. */
int clstm_forward_workspace(const clstm_spec *spec, int64_t T, int64_t B, size_t *bytes);
int clstm_backward_workspace(const clstm_spec *spec, int64_t T, int64_t B, size_t *bytes);

/* Bytes of the tape of a training step: about 6H + I values per layer, direction, step and row. Errors: NULL, SPEC,
 * SIZE. */
int clstm_tape_size(const clstm_spec *spec, int64_t T, int64_t B, size_t *bytes);

/* y, hn, cn from x, h0, c0. tape: NULL for inference; else clstm_tape_size bytes that record what
 * clstm_backward needs, and dropout is applied. tape and workspace are aligned to 64.
 * Errors: NULL, SPEC, SIZE, PACK, LENGTHS, WORKSPACE, INTERRUPTED. */
int clstm_forward(const clstm_spec *spec, const void *pack, const clstm_sequence *seq, void *tape, void *workspace,
                  size_t workspace_bytes);

/* Exact gradients by backpropagation through time (Werbos 1990) of the forward call that recorded the tape. The
 * tape is read only, so it may be used again. pack: the one of that forward call, made for training.
 * Of a part, y and x are the layer's: dx of the reverse direction is added to what dx holds, the forward direction's.
 * Errors: NULL, SPEC, SIZE, PACK, TAPE, WORKSPACE, INTERRUPTED. */
int clstm_backward(const clstm_spec *spec, const void *pack, const void *tape, const clstm_gradients *grads,
                   void *workspace, size_t workspace_bytes);

/* ---- one step ----------------------------------------------------------------------------------------- */

/* One step of the whole stack for B rows, on the calling thread, without scratch memory. x is (B, I); all states
 * are (L, B, H). h_in and h_out must not overlap (the caller alternates two buffers); c_in may be c_out. The
 * output of the step is the last layer of h_out. clstm_forward gives the same bytes. For the plain LSTM only: a variant
 * needs scratch memory, and its step is clstm_forward with T = 1. Errors: NULL, SPEC, SIZE, PACK, STREAM. */
int clstm_step(const clstm_spec *spec, const void *pack, int64_t B, const void *x, const void *h_in, const void *c_in,
               void *h_out, void *c_out);

/* ---- elementwise functions ---------------------------------------------------------------------------- */

/* The functions inside the kernels, over n elements; y may be x. Same bits on every instruction set; within 2 ulp
 * (float) and 4 ulp (double) of the true value; results that would be denormal are 0. Errors: NULL, SPEC, SIZE. */
typedef enum clstm_function { CLSTM_EXP = 0, CLSTM_SIGMOID = 1, CLSTM_TANH = 2 } clstm_function;
int clstm_apply(int function, int dtype, int64_t n, const void *x, void *y);

#ifdef __cplusplus
}
#endif

#if defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility pop
#endif
#endif /* CLSTM_H */

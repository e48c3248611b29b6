/* What a set of kernels offers to the sequence loops. One set per instruction set and element type. */
#ifndef CLSTM_KERNELS_H
#define CLSTM_KERNELS_H

#include "clstm.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#define CLSTM_X86 1
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
#define CLSTM_ARM64 1
#endif

typedef ptrdiff_t idx; /* sizes and strides in elements; signed, because time may run backwards */

/* C (groups, M, N) = init + A (groups, M, K) B (K, N), each element one chain of fused multiply-adds, k ascending.
 * Groups let rows lie at two strides, such as those of time and batch. */
typedef struct gemm_args {
    idx groups, M, N, K;
    const void *A; /* element (g, m, k) at A[g * a_group + m * a_row + k] ... */
    idx a_group, a_row;
    idx a_tile; /* ... or, if not 0 (one group), in tiles of max_rows rows: (k, max_rows) contiguous, this far apart */
    const void *B;    /* panels of (K, panel) each, the last one with the vectors that are left */
    const void *init; /* row (g, m) at init + g * init_group + m * init_row; NULL: zeros */
    idx init_group, init_row;
    void *C; /* may be init */
    idx c_group, c_row;
    int c_is_far; /* C has left the L2 cache: each tile prefetches the next one's. Only where A comes in tiles */
} gemm_args;

/* Whether a block of vl hidden units needs only half of its lanes. Only the last block of H can. */
static inline int is_half_block(idx H, idx block, idx vl) { return H - block * vl <= vl / 2; }

/* LSTM steps that follow each other: z = init + x W_ih' + h W_hh', then gates, c and h. z has columns (blocks, 4, VL):
 * for each block of VL hidden units the gates i, f, g, o side by side; a half block is (4, VL / 2). Of several steps,
 * each takes h and c from the one before; the other arrays lie one time stride on. */
typedef struct cell_args {
    idx steps, rows, H;
    idx init_time, x_time, c_out_time, h_out_time, gates_time;
    idx first_block, end_block; /* which blocks of units to compute, of those that H needs */
    int downwards;    /* from the last block to the first, and in the next step the other way, so that the weights that
                         were read last, which the caches still have, are the next ones; many rows always go upwards */
    const void *init; /* (rows, columns of z): the bias, or the bias and the input product */
    idx init_row;     /* 0: one bias row for all */
    const void *x;    /* (rows, I) */
    idx x_row, I;     /* I = 0: init holds the input product already */
    const void *h;    /* (rows, H) of the step before the first */
    idx h_row;
    const void *w_ih, *w_hh; /* (I or H, columns of z) in gemm panels */
    const void *c;           /* (rows, H) of the step before the first */
    idx c_row;
    void *c_out; /* (rows, H); may be c */
    idx c_out_row;
    void *h_out; /* (rows, H); not h */
    idx h_out_row;
    void *gates; /* (rows, 4, H): activated i, f, g, o for the tape; or NULL */
    idx gates_row;
} cell_args;

/* One BPTT step: dh = dy + dh_next, where dh_next = dz_next W_hh, then the gradients on the pre-activations. */
typedef struct cell_grad_args {
    idx rows, H;
    idx first_unit, end_unit; /* hidden units of this call: a multiple of the panel's columns; another one, or H */
    int downwards;            /* from the last units to the first; callers alternate; many rows always go upwards */
    const void *dz_next;      /* (rows, 4H) of the following step; NULL: dh_next is given */
    idx dz_next_row;
    const void *w_hh;    /* (4H, H) in gemm panels */
    const void *dh_next; /* (rows, H) */
    idx dh_next_row;
    const void *dy; /* (rows, H) */
    idx dy_row;
    const void *gates; /* (rows, 4, H) from the tape */
    idx gates_row;
    const void *c, *c_prev; /* (rows, H) of this step and of the one before */
    idx c_row, c_prev_row;
    void *dc; /* (rows, H) in: gradient that later steps send to c; out: the same for the step before */
    idx dc_row;
    void *dz; /* (rows, 4H) out */
    idx dz_row;
} cell_grad_args;

/* Copies a (K, n) matrix to rows row .. row + K of a (rows, n) matrix in gemm panels; zeros round n up to VL. */
typedef struct pack_rows_args {
    idx K, n;
    const void *src;
    idx src_row;
    void *dst;
    idx row, rows;
} pack_rows_args;

/* Transposes an (n, K) matrix, n <= lanes <= VL, to K rows of `lanes` elements, dst_row apart: n, then zeros. */
typedef struct pack_columns_args {
    idx K, n, lanes;
    const void *src;
    idx src_row;
    void *dst;
    idx dst_row;
} pack_columns_args;

/* Transposes a (K, M) matrix to tiles of max_rows columns, each (K, max_rows): the a_tile form of gemm's A. */
typedef struct tile_args {
    idx K, M;
    const void *src;
    idx src_row;
    void *dst;
} tile_args;

/* ---- variants ---- */

enum { GATE_I, GATE_F, GATE_G, GATE_O, CELL_OUT }; /* what has an activation: the gates, and the cell in the output */

/* A layer and direction of a variant. A row of pre-activations z holds the gates that have weights, `width` elements
 * each; a row of their gradients dz holds H elements each. */
typedef struct variant_cell {
    idx H, width;                 /* width: H rounded up to VL */
    int slot[4];                  /* place of i, f, g, o in a row of z and dz; -1: no such gate */
    int coupling;                 /* clstm_coupling */
    int usual;                    /* activations are sigmoid and tanh, where the plain LSTM has them */
    clstm_activation function[5]; /* of i, f, g, o, and of the cell in the output; alpha and beta filled in */
    double clip, cell_clip;       /* 0: none */
    const void *peephole[4];      /* (H) of i, f, -, o; or NULL */
    const void *gain, *shift;     /* (G + 1, width) of layer normalisation, the last row of the cell; or NULL */
    int cell_slot;                /* that row: G */
    double eps;                   /* of layer normalisation */
    double zoneout;               /* of c: the expectation of `stays` */
} variant_cell;

/* The rest of a step after the products: gates, c, and o act(c), which is h unless there is a projection. */
typedef struct variant_args {
    const variant_cell *cell;
    idx rows;
    void *z; /* (rows, G, width) in: bias and products; out: with peepholes, the pre-activations before their clip */
    idx z_row;
    const void *c; /* (rows, H) of the step before */
    idx c_row;
    void *c_out; /* (rows, H); may be c */
    idx c_out_row;
    void *out; /* (rows, H); not c */
    idx out_row;
    const void *mask;  /* (rows, H) contiguous: factors on g; or NULL */
    const void *stays; /* (rows, H) contiguous: 1 where zoneout keeps c, else 0; NULL: the expectation */
    void *normed;      /* (G + 1, width) scratch memory of layer normalisation */
    void *gates;       /* out (rows, 4, H): i, f, g and o; NULL: not wanted */
    idx gates_row;
} variant_args;

/* One BPTT step: from the gradient on `out` to those on the products. */
typedef struct variant_grad_args {
    const variant_cell *cell;
    idx rows;
    const void *z; /* (rows, G, width) as the step left them */
    idx z_row;
    const void *c_prev; /* (rows, H) */
    idx c_prev_row;
    void *dout; /* (rows, H) gradient on out; overwritten */
    idx dout_row;
    void *dc; /* (rows, H) in: gradient that later steps send to c; out: the same for the step before */
    idx dc_row;
    void *dz; /* (rows, G, H) out */
    idx dz_row;
    const void *mask, *stays; /* as in the step; stays: NULL without zoneout */
    void *normed, *dnormed; /* of layer normalisation, (rows, G + 1, width) out: the normalised gates and cell, and the
                               gradients behind gain and bias */
    idx normed_row;
} variant_grad_args;

/* h = stays h_prev + (1 - stays) clip(h). */
typedef struct hidden_args {
    idx rows, n;
    double clip; /* 0: none */
    void *h;     /* (rows, n) */
    idx h_row;
    double zoneout;    /* 0: no zoneout */
    const void *stays; /* (rows, n) contiguous: 1 where zoneout keeps h, else 0; NULL: the expectation, `zoneout` */
    const void *h_prev;
    idx h_prev_row;
} hidden_args;

/* Gradient on h before its clip: dh = (1 - stays) (dy + dh_next) where |h| < clip, else 0. */
typedef struct hidden_grad_args {
    idx rows, n;
    double clip;       /* 0: none */
    const void *stays; /* of zoneout, contiguous as held; or NULL */
    void *held;        /* out: stays (dy + dh_next), what goes to h_prev */
    const void *dy;    /* all (rows, n) */
    idx dy_row;
    const void *dh_next;
    idx dh_next_row;
    const void *h;
    idx h_row;
    void *dh;
    idx dh_row;
} hidden_grad_args;

/* sum (n) += a b over rows, rows ascending; += a if b is NULL. */
typedef struct sum_args {
    idx rows, n;
    const void *a, *b; /* (rows, n) */
    idx a_row, b_row;
    void *sum;
} sum_args;

/* to = a b + add; all (rows, n). */
typedef struct product_args {
    idx rows, n;
    const void *a, *b, *add; /* add: NULL: zeros */
    idx a_row, b_row, add_row;
    void *to; /* may be any of them */
    idx to_row;
} product_args;

typedef struct variant_kernels {
    void (*step)(const variant_args *);
    void (*step_grad)(const variant_grad_args *);
    void (*hidden)(const hidden_args *);
    void (*hidden_grad)(const hidden_grad_args *);
    void (*sum_products)(const sum_args *);
    void (*product)(const product_args *);
} variant_kernels;

typedef struct kernels {
    idx vl;       /* elements in a vector */
    idx panel;    /* columns side by side in a gemm panel */
    idx max_rows; /* rows of a product that stay in registers at once */
    void (*gemm)(const gemm_args *);
    void (*cell)(const cell_args *);
    void (*cell_grad)(const cell_grad_args *);
    void (*pack_rows)(const pack_rows_args *);
    void (*pack_columns)(const pack_columns_args *);
    void (*pack_tiles)(const tile_args *);
    void (*apply)(int function, idx n, const void *x, void *y);
    const variant_kernels *variant;
} kernels;

typedef struct clstm_isa_kernels {
    const char *name;
    const kernels *type[2];                 /* by clstm_dtype */
    const struct clstm_isa_kernels *narrow; /* with vectors half as long, for networks that fill no more; every machine
                                               that has these kernels has those. NULL: none */
} clstm_isa_kernels;

extern const clstm_isa_kernels clstm_kernels_portable;
#if CLSTM_X86
extern const clstm_isa_kernels clstm_kernels_avx2, clstm_kernels_avx512;
#endif
#if CLSTM_ARM64
extern const clstm_isa_kernels clstm_kernels_neon;
#endif

#endif

/* One direction of one layer: the loop over time. */
#ifndef CLSTM_FORWARD_PASS_H
#define CLSTM_FORWARD_PASS_H

#include "dropout.h"
#include "interrupt.h"
#include "network.h"

typedef struct forward_scratch {
    int64_t *active;           /* (T) rows that are valid at each step; NULL without lengths */
    void *zeros;               /* (max(I, H, D*P)) */
    void *between[2];          /* (T, B, D*P) outputs of the layers between, for inference */
    void *c;                   /* (D, B, H), for inference */
    void *out;                 /* (B, H), for inference: what a projection projects */
    void *x;                   /* per part: (chunk, rows, I or D*P) inputs in our order, for inference with an order */
    void *h;                   /* (2, B, P) the top layer's last two outputs, for the same */
    void *h0, *c0;             /* (B, P) and (B, H), for the same */
    void *products;            /* per part: (chunk * rows, z_width) input products */
    step_masks masks;          /* (B rows), for training */
    void *normed;              /* per part: a row of what layer normalisation makes */
    idx x_part, products_part; /* elements of a part's share */
} forward_scratch;

typedef struct forward_call {
    network net;
    const clstm_sequence *seq;
    const void *pack;
    void *tape; /* or NULL */
    layer_range layers;
    idx T, B;
    const int64_t *order; /* of the caller's rows; or NULL */
    idx chunk;            /* steps at a time */
    int products_first; /* a chunk's input products are made before its steps, at once; else each step makes its own */
    even_split row_split;
    idx pieces; /* how many threads share the units of a step; 1: they split the rows instead */
    forward_scratch s;
    interruption *interruption;
} forward_call;

typedef struct forward_pass {
    const forward_call *f;
    idx first, rows; /* of the batch: our arrays below start at row `first`, the caller's at row 0 */
    caller_rows caller;
    int reverse;
    idx index; /* layer * D + direction */
    idx I;
    layer_weights w;
    plane x;           /* the caller's (T, B, I), to be taken to `in` a chunk at a time; or NULL p */
    plane in, out;     /* (T, rows, I) and (T, rows, P) */
    int alternates;    /* out has room for two steps only */
    plane copy;        /* the caller's (T, B, P), which out is copied to; or NULL p */
    plane c, gates;    /* c: one step (time stride 0) or all; gates: of a tape, or NULL p */
    plane traced;      /* (T, rows, 4, H) i, f, g and o, or NULL p */
    plane h0, c0;      /* (1, rows, P) and (1, rows, H) */
    plane hn, cn;      /* the caller's (1, B, P) and (1, B, H), or NULL p */
    variant_cell cell; /* of a variant */
    plane unprojected; /* of a projection: one step or all */
    void *sorted_x, *products, *normed;
} forward_pass;

static inline void zero_rows(const network *net, plane a, idx t, idx first, idx end, idx n) {
    for (idx b = first; b < end; b++)
        memset(plane_at(net, a, t, b), 0, (size_t)n * net->size);
}

/* Runs all steps of a layer and direction for its rows. */
void forward_pass_run(forward_pass *d);

/* The same for the directions of a layer, d (D), on several threads: each runs a piece of the units. */
void forward_pass_run_team(const forward_pass *d);

#endif

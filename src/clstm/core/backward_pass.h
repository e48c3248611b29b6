/* One direction of one layer, backward through time: see backward.c. */
#ifndef CLSTM_BACKWARD_PASS_H
#define CLSTM_BACKWARD_PASS_H

#include "dropout.h"
#include "interrupt.h"
#include "network.h"

typedef struct backward_scratch {
    int64_t *active;             /* (T); NULL without lengths */
    void *zeros;                 /* (max(H, D*P)) */
    void *dlayer[2];             /* (T, B, D*P) gradients between layers */
    void *dc;                    /* (B, H) */
    void *dz;                    /* (B + chunk rows, GH): the last step of the chunk before, then this chunk */
    idx *offset;                 /* (steps + 1) first row of each step of the chunk */
    void *x_panels, *h_panels;   /* x and h_before of the chunk in gemm panels */
    void *dz_tiles;              /* dz of the chunk, transposed, in row tiles */
    void *dh, *dout;             /* of a variant: (B, P) and (B, H) */
    void *dh0;                   /* of a learned initial state, or with an order: (B, P) */
    void *dhn, *dy;              /* with an order: (B, P), the caller's in our order; dy of one step */
    void *dx;                    /* with an order: (steps, B, I or D*P) of the chunk */
    step_masks masks;            /* (B rows) */
    void *masked_h;              /* of variational dropout: (B, P) */
    void *held;                  /* of zoneout: (B, P), what the h of the step before gets directly */
    void *normed, *dnormed;      /* of layer normalisation: (chunk rows, G + 1, width) */
    void *dh_clipped;            /* of a projection: (chunk rows, P) */
    void *out_panels, *dh_tiles; /* of a projection, as x_panels and dz_tiles */
} backward_scratch;

typedef struct backward_call {
    network net;
    const clstm_gradients *grads;
    const void *pack, *tape;
    tape_parts head;
    layer_range layers;
    idx T, B;
    caller_rows caller;
    idx steps; /* of a chunk */
    even_split row_split;
    idx pieces; /* of the units of a step, one for each thread; 1: threads split the rows instead */
    idx weight_parts;
    backward_scratch s;
    interruption *interruption;
} backward_call;

/* One layer and direction. */
typedef struct backward_pass {
    const backward_call *b;
    idx layer, index; /* index: layer * D + direction */
    int reverse;
    idx I;
    layer_weights w;
    variant_cell cell;
    void *const *dparams; /* of this layer and direction; or NULL */
    plane x, h, c, gates, dy;
    plane unprojected;      /* of a projection */
    plane dx;               /* NULL p: not wanted */
    plane dy_taken;         /* the caller's dy, of which each step is taken to dy; or NULL p */
    int gives_dx;           /* dx is the caller's, in its order */
    int adds_dx;            /* the other direction has written dx already */
    plane h0, c0, dhn, dh0; /* (1, B, H); dh0: NULL p if not wanted */
    idx s0, s1;             /* visited steps of the chunk */
} backward_pass;

/* The time of visited step s: the forward pass began with the last of them. */
static inline idx time_of(const backward_pass *d, idx s) { return d->reverse ? s : d->b->T - 1 - s; }

/* The time of the step that the forward pass ran before time t. */
static inline idx time_before(const backward_pass *d, idx t) { return d->reverse ? t + 1 : t - 1; }

/* Row `row` of dz at visited step s; s = s0 - 1 is the last step of the chunk before. */
static inline void *dz_at(const backward_pass *d, idx s, idx row) {
    const backward_call *b = d->b;
    const idx at_row = s < d->s0 ? row : b->B + b->s.offset[s - d->s0] + row;
    return at(&b->net, b->s.dz, at_row * b->net.dz_row);
}

/* The number of step t for masks. */
static inline uint64_t step_of(const backward_call *b, idx t) {
    return (uint64_t)b->head.header->first_step + (uint64_t)t;
}

/* First half of a chunk, s0 .. s1: dz, dx, and the inputs of the products of dW. */
void backward_rows(backward_pass *d);

/* Second half: dW_ih += dz' x, dW_hh += dz' h_before, db += dz, and the same for what a variant has beside. */
void backward_weights(backward_pass *d);

/* Before the first chunk: zeros where sums start, unless they go on with the caller's. After the last: the second bias.
 */
void backward_weights_start(backward_pass *d);
void backward_weights_finish(backward_pass *d);

#endif

/* One direction of one layer: the loop over time. */
#ifndef CLSTM_FORWARD_PASS_H
#define CLSTM_FORWARD_PASS_H

#include "dropout.h"
#include "interrupt.h"
#include "network.h"

#include <string.h>

typedef struct forward_scratch {
    int64_t *active;   /* (T) rows that are valid at each step; NULL without lengths */
    void *zeros;       /* (max(I, H, D*P)) */
    void *between[2];  /* (T, B, D*P) outputs of the layers between, for inference */
    void *c;           /* (D, B, H), for inference */
    void *out;         /* (B, H), for inference: what a projection projects */
    void *products;    /* per part: (chunk * rows, z_width) input products */
    step_masks masks;  /* (B rows), for training */
    void *normed;      /* per part: a row of what layer normalisation makes */
    idx products_part; /* elements of a part's share */
} forward_scratch;

typedef struct forward_call {
    network net;
    const clstm_sequence *seq;
    const void *pack;
    void *tape; /* or NULL */
    network_part part;
    idx T, B;
    idx chunk; /* steps whose input product is made at once; 0: it is part of the step */
    row_split split;
    idx pieces; /* of the units of a step, for as many threads; 1: threads split the rows instead */
    forward_scratch s;
    interruption *interruption;
} forward_call;

typedef struct forward_pass {
    const forward_call *f;
    idx first, rows; /* of the batch: all pointers below are at row `first` */
    int reverse;
    idx index; /* layer * D + direction */
    idx I;
    layer_weights w;
    plane in, out, copy; /* (T, rows, I), (T, rows, P), and a second place for out, if not NULL */
    plane c, gates;      /* c: one step (time stride 0) or all; gates: of a tape, or NULL p */
    plane traced;        /* (T, rows, 4, H) i, f, g and o, or NULL p */
    plane h0, c0;        /* (1, rows, P) and (1, rows, H) */
    void *hn, *cn;       /* (rows, P) and (rows, H), or NULL */
    variant_cell cell;   /* of a variant */
    plane unprojected;   /* of a projection: one step or all */
    void *products, *normed;
} forward_pass;

static inline void copy_rows(const network *net, plane from, idx from_t, plane to, idx to_t, idx first, idx rows,
                             idx n) {
    for (idx b = first; b < first + rows; b++)
        memcpy(plane_at(net, to, to_t, b), plane_at(net, from, from_t, b), (size_t)n * net->size);
}

static inline void zero_rows(const network *net, plane a, idx t, idx first, idx end, idx n) {
    for (idx b = first; b < end; b++)
        memset(plane_at(net, a, t, b), 0, (size_t)n * net->size);
}

/* Runs all steps of a layer and direction for its rows. */
void forward_pass_run(const forward_pass *d);

/* The same for the directions of a layer, d (D), on several threads: each runs a piece of the units. */
void forward_pass_run_team(const forward_pass *d);

#endif

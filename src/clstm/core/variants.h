/* One step of a variant, of one layer and direction: products, and the elementwise kernels around them. */
#ifndef CLSTM_VARIANTS_H
#define CLSTM_VARIANTS_H

#include "network.h"

variant_cell variant_cell_of(const network *net, const layer_weights *w);

typedef struct variant_step_args {
    idx rows;
    const void *products; /* (rows, z_width): bias and input products */
    const void *h;        /* (rows, P) of the step before */
    idx h_row;
    void *factors; /* (rows, P) contiguous, of variational dropout, overwritten; or NULL */
    void *h_out;   /* (rows, P); step.out, unless there is a projection */
    idx h_out_row;
    const void *stays; /* (rows, P) contiguous: 1 where zoneout keeps h, else 0; NULL: the expectation */
    variant_args step; /* z may be the products */
} variant_step_args;

void variant_step(const network *net, const layer_weights *w, const variant_step_args *g);

/* dh = factors (dz W_hh) + held. */
typedef struct recurrent_grad_args {
    idx rows;
    const void *dz;      /* (rows, GH), rows dz_row apart, as in all of BPTT */
    const void *held;    /* (rows, P) contiguous: what zoneout passes on; or NULL */
    const void *factors; /* (rows, P) contiguous, of variational dropout; or NULL */
    void *dh;            /* (rows, P) */
    idx dh_row;
} recurrent_grad_args;

void variant_recurrent_grad(const network *net, const layer_weights *w, const recurrent_grad_args *g);

typedef struct variant_step_grad_args {
    idx rows;
    const void *dz_next; /* (rows, GH) of the following step; NULL: dh_next is given */
    void *dh_next;       /* (rows, P) */
    idx dh_next_row;
    const void *dy; /* (rows, P) */
    idx dy_row;
    const void *h; /* (rows, P) of this step */
    idx h_row;
    const void *stays; /* as in the step; or NULL */
    void *held; /* (rows, P) contiguous, in and out: what zoneout passes on to the h of the step before; or NULL */
    const void *factors; /* as in the step */
    void *dh_clipped;    /* of a projection: (rows, P) contiguous, gradient on W_hr out */
    variant_grad_args step;
} variant_step_grad_args;

/* From dh = dy + dz_next W_hh to dz. */
void variant_step_grad(const network *net, const layer_weights *w, const variant_step_grad_args *g);

#endif

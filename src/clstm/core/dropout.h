/* Dropout between layers and inside the cell, and zoneout, from a counter-based generator: the mask of an element
 * depends on the seed and on where the element lies, so it is the same on any number of threads, and BPTT makes it
 * again. */
#ifndef CLSTM_DROPOUT_H
#define CLSTM_DROPOUT_H

#include "network.h"

/* to = from * mask / (1 - p), for the input of a layer at row `row` of a step, of a batch of B, or for the gradient on
 * it. With variational dropout, times a mask of the row that is the same at every step. step: from the first one of the
 * sequence on, of which a call may run a part. to may be from. */
void dropout_apply(const network *net, uint64_t seed, idx layer, uint64_t step, idx B, idx row, const void *from,
                   void *to);

/* What is drawn for rows of one step, each contiguous; NULL: nothing. */
typedef struct step_masks {
    void *recurrent; /* (rows, P) factors on h in the recurrent product, the same at every step: 0 or 1 / (1 - p) */
    void *g;         /* (rows, H) factors on g: 0 or 1 / (1 - p) */
    void *c, *h;     /* (rows, H) and (rows, P): 1 where zoneout keeps the old value, else 0 */
} step_masks;

/* Room for the masks of `rows` rows, as far as the network draws them in training. */
step_masks dropout_take_masks(arena *m, const network *net, idx rows);

/* Draws the masks of rows first .. first + rows of a step, of a batch of B, where they lie in `all` (B rows). Returns
 * them. index: layer * D + direction. */
step_masks dropout_draw_masks(const network *net, const step_masks *all, uint64_t seed, idx index, uint64_t step, idx B,
                              idx first, idx rows);

#endif

/* Dropout between layers and inside the cell, from a counter-based generator: the mask of an element depends on the
 * seed and on where the element lies, so it is the same on any number of threads, and BPTT makes it again. */
#ifndef CLSTM_DROPOUT_H
#define CLSTM_DROPOUT_H

#include "network.h"

/* The number of the first of n elements of a row, at step t of a call over B rows that begins at first_step. */
static inline uint64_t dropout_number(int64_t first_step, idx t, idx B, idx row, idx n) {
    return (((uint64_t)first_step + (uint64_t)t) * (uint64_t)B + (uint64_t)row) * (uint64_t)n;
}

/* to = from * mask / (1 - p) for n elements, the first of which has number `first`. to may be from. */
void dropout_apply(const network *net, uint64_t seed, idx layer, uint64_t first, idx n, const void *from, void *to);

/* The factors on g, 0 or 1 / (1 - p), of n elements from number `first` on; index: layer * D + direction. */
void dropout_recurrent(const network *net, uint64_t seed, idx index, uint64_t first, idx n, void *to);

#endif

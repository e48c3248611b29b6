/* Dropout between layers and inside the cell, from a counter-based generator: the mask of an element depends on the
 * seed and on where the element lies, so it is the same on any number of threads, and BPTT makes it again. */
#ifndef CLSTM_DROPOUT_H
#define CLSTM_DROPOUT_H

#include "network.h"

/* to = from * mask / (1 - p) for n elements, the first of which has number `first` within the call. to may be from. */
void dropout_apply(const network *net, uint64_t seed, idx layer, uint64_t first, idx n, const void *from, void *to);

/* The factors on g, 0 or 1 / (1 - p), of n elements from number `first` on; index: layer * D + direction. */
void dropout_recurrent(const network *net, uint64_t seed, idx index, uint64_t first, idx n, void *to);

#endif

/* Which kernels run on this machine, and which of them new packs use. */
#ifndef CLSTM_DISPATCH_H
#define CLSTM_DISPATCH_H

#include "kernels.h"

/* The kernels of clstm_isa(). */
const clstm_isa_kernels *clstm_current_kernels(void);

/* Indices run from 0 to here; not all need exist. */
enum { CLSTM_ISAS = 4 };

/* A pack keeps the index of its kernels. Indices belong to one build. -1: no such name, or the machine lacks it. */
int clstm_isa_index(const char *name);

/* The kernels of an index; NULL: no such index, or the machine lacks it. */
const clstm_isa_kernels *clstm_kernels_at(int index);

#endif

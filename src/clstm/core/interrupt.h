/* Calls that their callers may end early. The calling thread asks now and then; all threads of the call see the answer.
 */
#ifndef CLSTM_INTERRUPT_H
#define CLSTM_INTERRUPT_H

#include "clstm.h"

#include <stdatomic.h>

typedef struct interruption {
    clstm_interrupt ask;
    void *context;
    const char *caller; /* marks the calling thread, the only one that asks */
    atomic_int ended;
} interruption;

void interruption_start(interruption *s, clstm_interrupt ask, void *context);

/* Whether the call shall end, in any of its threads. */
int interruption_heard(interruption *s);

#endif

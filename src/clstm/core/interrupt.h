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

static _Thread_local char interruption_thread;

static inline void interruption_start(interruption *s, clstm_interrupt ask, void *context) {
    s->ask = ask;
    s->context = context;
    s->caller = &interruption_thread;
    atomic_init(&s->ended, 0);
}

/* Whether the call shall end, in any of its threads. */
static inline int interruption_heard(interruption *s) {
    if (!s->ask)
        return 0;
    if (s->caller == &interruption_thread && s->ask(s->context))
        atomic_store(&s->ended, 1);
    return atomic_load_explicit(&s->ended, memory_order_relaxed);
}

#endif

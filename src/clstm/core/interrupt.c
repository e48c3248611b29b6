#include "interrupt.h"
#include "threads.h"

static _Thread_local char this_thread;

void interruption_start(interruption *s, clstm_interrupt ask, void *context) {
    s->ask = ask;
    s->context = context;
    s->caller = &this_thread;
    atomic_init(&s->ended, 0);
}

int interruption_heard(interruption *s) {
    if (!s->ask)
        return 0;
    if (s->caller == &this_thread && (s->ask(s->context) || clstm_workers_lost()))
        atomic_store(&s->ended, 1);
    return atomic_load_explicit(&s->ended, memory_order_relaxed);
}

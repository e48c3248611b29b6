/* Short waits of threads that compute together. Between calls nobody spins: see threads.h. */
#ifndef CLSTM_SPIN_H
#define CLSTM_SPIN_H

#include <stdatomic.h>

#if defined(_WIN32)
#include <windows.h>
static inline void spin_yield(void) { SwitchToThread(); }
#else
#include <sched.h>
static inline void spin_yield(void) { sched_yield(); }
#endif

static inline void spin_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Whether other threads change *counter from `value` within some tens of microseconds, about what it takes to fall
 * asleep and wake up. */
static inline int spin_changes(atomic_int *counter, int value) {
    enum { SPINS = 2000 };
    for (int spins = 0; spins < SPINS; spins++) {
        if (atomic_load_explicit(counter, memory_order_acquire) != value)
            return 1;
        spin_pause();
    }
    return 0;
}

/* Waits until a counter that other running threads raise has reached `value`; lets others run if that takes long, for
 * they may need this processor. */
static inline void spin_until(atomic_llong *counter, long long value) {
    enum { SPINS = 10000 };
    for (int spins = 0; atomic_load_explicit(counter, memory_order_acquire) < value; spins++) {
        if (spins < SPINS)
            spin_pause();
        else
            spin_yield();
    }
}

#endif

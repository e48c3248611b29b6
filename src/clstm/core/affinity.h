/* Which processor a thread is on, and a thread that keeps off another one's. On Linux; elsewhere nothing is known and
 * nothing happens. */
#ifndef CLSTM_AFFINITY_H
#define CLSTM_AFFINITY_H

#if defined(__linux__)
#include <sched.h>

typedef cpu_set_t processor_set;

/* Where a thread was: its processor, -1 if not known, and those that it may use. */
typedef struct whereabouts {
    int processor;
    processor_set allowed;
} whereabouts;

static inline int processor_now(void) { return sched_getcpu(); }

static inline whereabouts whereabouts_now(void) {
    whereabouts w = {.processor = processor_now()};
    if (sched_getaffinity(0, sizeof w.allowed, &w.allowed) != 0) /* more processors than a set holds */
        w.processor = -1;
    return w;
}

/* The processor that this thread keeps off. Starts with processor = -1, none. */
typedef struct avoidance {
    int processor;
    processor_set before, after; /* what this thread may use: without it, and with it */
} avoidance;

/* Keeps this thread off the processor where another thread was (-1: off none), and no longer off the one before. Where
 * it may run nowhere else, it stays. What somebody else has allowed this thread meanwhile holds from then on; one who
 * has allowed all threads just what this one has is known by the other thread, which has the same. */
static inline void avoidance_change(avoidance *a, const whereabouts *other) {
    const whereabouts here = whereabouts_now();
    const int ours = a->processor >= 0 && CPU_EQUAL(&here.allowed, &a->after);
    if (here.processor < 0 || (ours && a->processor == other->processor))
        return;
    const int ours_alone = ours && !CPU_EQUAL(&here.allowed, &other->allowed);
    a->before = a->after = ours_alone ? a->before : here.allowed;
    a->processor = other->processor;
    if (a->processor >= 0)
        CPU_CLR((size_t)a->processor, &a->after);
    if (CPU_COUNT(&a->after) == 0) {
        a->after = a->before;
        a->processor = -1;
    }
    if (!CPU_EQUAL(&here.allowed, &a->after) && sched_setaffinity(0, sizeof a->after, &a->after) != 0)
        a->processor = -1;
}

#else
typedef struct whereabouts {
    int processor;
} whereabouts;
static inline int processor_now(void) { return -1; }
static inline whereabouts whereabouts_now(void) { return (whereabouts){-1}; }

typedef struct avoidance {
    int processor;
} avoidance;
static inline void avoidance_change(avoidance *a, const whereabouts *other) { (void)a, (void)other; }
#endif

#endif

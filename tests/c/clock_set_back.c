/* Preloaded into a process: after the first look at the clock, somebody sets it back by an hour. */
#include <stdatomic.h>
#include <time.h>

int timespec_get(struct timespec *now, int base) {
    static atomic_int looks;
    clock_gettime(CLOCK_REALTIME, now);
    now->tv_sec -= atomic_fetch_add(&looks, 1) ? 3600 : 0;
    return base;
}

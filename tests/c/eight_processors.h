/* Calls of the program that includes this first are split as on eight processors, however many there are: on Linux, by
 * a stand-in for the C library's sched_getaffinity. (musl's cannot be replaced in a static program.) Workers take what
 * it says for what they may use, so what they keep off is for other tests. */
#ifndef EIGHT_PROCESSORS_H
#define EIGHT_PROCESSORS_H

#if defined(__linux__)
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* cpu_set_t */
#endif
#include <sched.h>
#include <string.h>

int sched_getaffinity(pid_t pid, size_t bytes, cpu_set_t *set) {
    (void)pid;
    memset(set, 0, bytes);
    for (int i = 0; i < 8; i++)
        CPU_SET(i, set);
    return 0;
}
#endif

#endif

/* Preloaded into a process: lets one large allocation fail, or the start of threads, and counts what lives. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

enum { LARGE = 1024 }; /* bytes; Python has memory of its own for less than 512 */

void *__libc_malloc(size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);
void *__libc_realloc(void *p, size_t bytes);
void __libc_free(void *p);

static atomic_long left, live;

/* The n-th large allocation from now on fails; 0: none. Returns whether the one before has failed or was 0. */
int fail_allocation(long n) { return atomic_exchange(&left, n) <= 0; }

/* Large allocations that are not freed. */
long live_allocations(void) { return atomic_load(&live); }

static int fails(size_t bytes) {
    if (bytes < LARGE || atomic_load(&left) <= 0 || atomic_fetch_sub(&left, 1) != 1)
        return 0;
    errno = ENOMEM;
    return 1;
}

static long is_large(void *p) { return p && malloc_usable_size(p) >= LARGE; }

static void *counted(void *p) {
    atomic_fetch_add(&live, is_large(p));
    return p;
}

void *malloc(size_t bytes) { return fails(bytes) ? NULL : counted(__libc_malloc(bytes)); }

void *calloc(size_t count, size_t size) {
    if (size && count > SIZE_MAX / size)
        return NULL;
    void *p = malloc(count * size);
    return p ? memset(p, 0, count * size) : NULL;
}

void *realloc(void *p, size_t bytes) {
    if (fails(bytes))
        return NULL;
    const long before = is_large(p);
    void *q = __libc_realloc(p, bytes);
    if (q || bytes == 0)
        atomic_fetch_sub(&live, before);
    return counted(q);
}

void *memalign(size_t alignment, size_t bytes) {
    return fails(bytes) ? NULL : counted(__libc_memalign(alignment, bytes));
}

void *aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }

int posix_memalign(void **p, size_t alignment, size_t bytes) {
    *p = memalign(alignment, bytes);
    return *p ? 0 : ENOMEM;
}

void free(void *p) {
    atomic_fetch_sub(&live, is_large(p));
    __libc_free(p);
}

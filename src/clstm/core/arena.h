/* Lays several arrays out in one block of memory. With base NULL it only adds sizes up, so that the query of a size
 * and the use of the memory are the same code. */
#ifndef CLSTM_ARENA_H
#define CLSTM_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct arena {
    char *base;
    size_t used;
    int overflow; /* a size did not fit size_t */
} arena;

enum { ARENA_ALIGN = 64 };

/* The next array of a * b * c elements of `size` bytes, aligned to 64; NULL while measuring. */
static inline void *arena_take(arena *m, size_t size, ptrdiff_t a, ptrdiff_t b, ptrdiff_t c) {
    const size_t limit = (size_t)PTRDIFF_MAX - 4 * ARENA_ALIGN, half = (size_t)1 << 4 * sizeof(size_t);
    const size_t factors[3] = {(size_t)a, (size_t)b, (size_t)c};
    size_t bytes = size;
    for (int i = 0; i < 3; i++) {
        /* two that fit half a size_t have a product: no division, of which a short call would make a hundred */
        if ((bytes | factors[i]) >= half && factors[i] && bytes > limit / factors[i]) {
            m->overflow = 1;
            return NULL;
        }
        bytes *= factors[i];
    }
    bytes = (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    if (bytes > limit - m->used) {
        m->overflow = 1;
        return NULL;
    }
    void *p = m->base ? m->base + m->used : NULL;
    m->used += bytes;
    return p;
}

#endif

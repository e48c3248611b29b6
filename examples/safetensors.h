/* A small reader of safetensors files: 8 bytes of header length, a header in JSON, then the arrays.
 * It takes nothing on trust: whatever the bytes are, no read leaves them. Little-endian machines. */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct safetensors {
    const char *header, *data, *end; /* within the caller's bytes */
} safetensors;

/* 1 if `size` bytes have a whole header. */
static inline int safetensors_open(safetensors *f, const char *bytes, size_t size) {
    uint64_t length;
    if (size < sizeof length)
        return 0;
    memcpy(&length, bytes, sizeof length);
    if (length > size - sizeof length)
        return 0;
    f->header = bytes + sizeof length;
    f->data = f->header + length;
    f->end = bytes + size;
    return 1;
}

/* What follows `key` in text .. end, or NULL. */
static inline const char *safetensors_find(const char *text, const char *end, const char *key) {
    const size_t n = strlen(key);
    for (; text && (size_t)(end - text) >= n; text++)
        if (memcmp(text, key, n) == 0)
            return text + n;
    return NULL;
}

/* Reads "[n]", "[n,m]" or "[]" into numbers, and what is absent as 1. Returns 0 if text .. end is something else. */
static inline int safetensors_pair(const char *text, const char *end, uint64_t numbers[2]) {
    int i = 0;
    numbers[0] = numbers[1] = 1;
    if (!text || text == end || *text != '[')
        return 0;
    for (text++; text < end && *text != ']'; text++) {
        uint64_t n = 0;
        for (; text < end && *text >= '0' && *text <= '9'; text++) {
            if (n > UINT64_MAX / 10 - 1)
                return 0;
            n = 10 * n + (uint64_t)(*text - '0');
        }
        if (i == 2 || text == end)
            return 0;
        numbers[i++] = n;
        if (*text == ']')
            return 1;
        if (*text != ',')
            return 0;
    }
    return text < end;
}

/* A copy of a float32 array of one or two axes, and its shape (the second size is 1 for one axis). NULL if the file has
 * no such array. The caller frees it. */
static inline float *safetensors_array(const safetensors *f, const char *name, uint64_t shape[2]) {
    char key[64];
    uint64_t offsets[2];
    snprintf(key, sizeof key, "\"%s\":{", name);
    const char *const text = safetensors_find(f->header, f->data, key);
    const char *const end = text ? memchr(text, '}', (size_t)(f->data - text)) : NULL;
    if (!end || !safetensors_find(text, end, "\"dtype\":\"F32\"") ||
        !safetensors_pair(safetensors_find(text, end, "\"shape\":"), end, shape) ||
        !safetensors_pair(safetensors_find(text, end, "\"data_offsets\":"), end, offsets))
        return NULL;
    const size_t room = (size_t)(f->end - f->data), most = room / sizeof(float);
    if (offsets[1] > room || offsets[0] > offsets[1] || shape[0] == 0 || shape[1] == 0 || shape[0] > most ||
        shape[1] > most / shape[0] || offsets[1] - offsets[0] != shape[0] * shape[1] * sizeof(float))
        return NULL;
    float *const array = malloc(offsets[1] - offsets[0]);
    if (array)
        memcpy(array, f->data + offsets[0], offsets[1] - offsets[0]);
    return array;
}

#endif

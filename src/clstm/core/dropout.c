#include "dropout.h"

/* SplitMix64's output function (Steele, Lea & Flood 2014): a bijection that passes statistical tests on a counter. */
static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static const uint64_t golden = 0x9e3779b97f4a7c15u;

static uint64_t key_of(uint64_t seed, idx stream) { return mix(seed + golden * (uint64_t)(stream + 1)); }

/* Whether element number i of a stream of numbers stays. */
static int keeps(uint64_t key, uint64_t i, double p) {
    return (double)(mix(key + golden * (i + 1)) >> 11) * 0x1p-53 >= p;
}

void dropout_apply(const network *net, uint64_t seed, idx layer, uint64_t first, idx n, const void *from, void *to) {
    const double p = net->spec->dropout;
    const uint64_t key = key_of(seed, layer);
    for (idx j = 0; j < n; j++) {
        const int keep = keeps(key, first + (uint64_t)j, p);
        if (net->spec->dtype == CLSTM_FLOAT32)
            ((float *)to)[j] = keep ? ((const float *)from)[j] * (float)(1 / (1 - p)) : 0;
        else
            ((double *)to)[j] = keep ? ((const double *)from)[j] * (1 / (1 - p)) : 0;
    }
}

void dropout_recurrent(const network *net, uint64_t seed, idx index, uint64_t first, idx n, void *to) {
    const double p = net->spec->variant.recurrent_dropout;
    const uint64_t key = key_of(seed, net->L + index);
    for (idx j = 0; j < n; j++) {
        const int keep = keeps(key, first + (uint64_t)j, p);
        if (net->spec->dtype == CLSTM_FLOAT32)
            ((float *)to)[j] = keep ? (float)(1 / (1 - p)) : 0;
        else
            ((double *)to)[j] = keep ? 1 / (1 - p) : 0;
    }
}

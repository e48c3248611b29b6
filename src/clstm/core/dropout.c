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

/* to = from * mask / (1 - p) for n elements, the first of which has number `first` in a stream. */
static void apply(const network *net, uint64_t key, double p, uint64_t first, idx n, const void *from, void *to) {
    for (idx j = 0; j < n; j++) {
        const int keep = keeps(key, first + (uint64_t)j, p);
        if (net->spec->dtype == CLSTM_FLOAT32)
            ((float *)to)[j] = keep ? ((const float *)from)[j] * (float)(1 / (1 - p)) : 0;
        else
            ((double *)to)[j] = keep ? ((const double *)from)[j] * (1 / (1 - p)) : 0;
    }
}

/* Streams: of the outputs of each layer; of kinds of masks, for each layer and direction. */
enum mask_kind { MASK_G, MASK_C, MASK_H, MASK_RECURRENT, MASK_X };

static idx stream_of(const network *net, enum mask_kind kind, idx index) {
    return net->L + (idx)kind * net->L * net->D + index;
}

void dropout_apply(const network *net, uint64_t seed, idx layer, uint64_t step, idx B, idx row, const void *from,
                   void *to) {
    const idx n = network_layer_input(net, layer);
    const double p = net->spec->dropout, p_row = net->spec->variant.variational_dropout_x;
    if (layer > 0 && p > 0) {
        apply(net, key_of(seed, layer - 1), p, (step * (uint64_t)B + (uint64_t)row) * (uint64_t)n, n, from, to);
        from = to;
    }
    if (p_row > 0)
        apply(net, key_of(seed, stream_of(net, MASK_X, layer)), p_row, (uint64_t)(row * n), n, from, to);
}

/* n elements from number `first` on: `kept`, or with probability p `dropped`. */
static void draw(const network *net, uint64_t seed, idx stream, double p, double kept, double dropped, uint64_t first,
                 idx n, void *to) {
    const uint64_t key = key_of(seed, stream);
    for (idx j = 0; j < n; j++) {
        const double value = keeps(key, first + (uint64_t)j, p) ? kept : dropped;
        if (net->spec->dtype == CLSTM_FLOAT32)
            ((float *)to)[j] = (float)value;
        else
            ((double *)to)[j] = value;
    }
}

step_masks dropout_take_masks(arena *m, const network *net, idx rows) {
    const clstm_variant *v = &net->spec->variant;
    step_masks all = {0};
    if (v->variational_dropout_h > 0)
        all.recurrent = arena_take(m, net->size, rows, net->P, 1);
    if (v->recurrent_dropout > 0)
        all.g = arena_take(m, net->size, rows, net->H, 1);
    if (v->zoneout_c > 0)
        all.c = arena_take(m, net->size, rows, net->H, 1);
    if (v->zoneout_h > 0)
        all.h = arena_take(m, net->size, rows, net->P, 1);
    return all;
}

step_masks dropout_draw_masks(const network *net, const step_masks *all, uint64_t seed, idx index, uint64_t step, idx B,
                              idx first, idx rows) {
    const clstm_variant *v = &net->spec->variant;
    const idx H = net->H, P = net->P;
    const uint64_t row = step * (uint64_t)B + (uint64_t)first;
    step_masks masks = {0};
    if (all->recurrent) {
        masks.recurrent = at(net, all->recurrent, first * P);
        draw(net, seed, stream_of(net, MASK_RECURRENT, index), v->variational_dropout_h,
             1 / (1 - v->variational_dropout_h), 0, (uint64_t)(first * P), rows * P, masks.recurrent);
    }
    if (all->g) {
        masks.g = at(net, all->g, first * H);
        draw(net, seed, stream_of(net, MASK_G, index), v->recurrent_dropout, 1 / (1 - v->recurrent_dropout), 0,
             row * (uint64_t)H, rows * H, masks.g);
    }
    if (all->c) {
        masks.c = at(net, all->c, first * H);
        draw(net, seed, stream_of(net, MASK_C, index), v->zoneout_c, 0, 1, row * (uint64_t)H, rows * H, masks.c);
    }
    if (all->h) {
        masks.h = at(net, all->h, first * P);
        draw(net, seed, stream_of(net, MASK_H, index), v->zoneout_h, 0, 1, row * (uint64_t)P, rows * P, masks.h);
    }
    return masks;
}

/* The second half of a chunk of BPTT: gradients of the weights. Threads split the rows of dW. */
#include "backward_pass.h"

#include <string.h>

#include "threads.h"
#include "variants.h"

enum { TILES_AT_ONCE = 12 };

/* Rows of the chunk. */
static idx chunk_size(const backward_pass *d) { return d->b->s.offset[d->s1 - d->s0]; }

/* dz (rows, M), rows src_row apart, transposed, in row tiles, of a part's rows of a weight matrix (M, n). */
typedef struct tiles {
    const void *p;
    idx rows, first, end; /* of dz, and of the matrix */
} tiles;

static tiles transpose_rows(const backward_pass *d, const void *dz, idx src_row, idx M, void *to, int part) {
    const network *net = &d->b->net;
    const even_split units = {.n = M, .multiple = net->k->max_rows, .parts = d->b->weight_parts};
    const range of_part = split_range(&units, part);
    const tiles t = {at(net, to, of_part.begin * chunk_size(d)), chunk_size(d), of_part.begin, of_part.end};
    const tile_args g = {.K = t.rows,
                         .M = t.end - t.first,
                         .src = at(net, dz, t.first),
                         .src_row = src_row,
                         .dst = (void *)(uintptr_t)t.p};
    net->k->pack_tiles(&g);
    return t;
}

/* dW (M, n) += dz' inputs over the chunk's rows; inputs (rows, n) in gemm panels. Some row tiles at a time, whose rows
 * of dW stay in the L2 cache while the product goes from panel to panel. */
static void add_weight_product(const backward_pass *d, const tiles *dz, const void *inputs, idx n, void *dW) {
    const network *net = &d->b->net;
    const idx tile = net->k->max_rows, at_once = TILES_AT_ONCE * tile;
    for (idx row = dz->first; row < dz->end; row += at_once) {
        void *const to = at(net, dW, row * n);
        const gemm_args g = {.groups = 1,
                             .M = dz->end - row < at_once ? dz->end - row : at_once,
                             .N = n,
                             .K = dz->rows,
                             .A = at(net, dz->p, (row - dz->first) * dz->rows),
                             .a_tile = dz->rows * tile,
                             .B = inputs,
                             .init = d->s0 || d->b->grads->accumulate ? to : NULL,
                             .init_row = n,
                             .C = to,
                             .c_row = n,
                             .c_is_far = (size_t)(net->GH * n) * net->size > L2_BYTES};
        net->k->gemm(&g);
    }
}

/* The gradient of bias_ih: the sum of dz over the chunk's rows, for the part's columns. */
static void add_bias(const backward_pass *d, int part) {
    const network *net = &d->b->net;
    const even_split gates = {.n = net->GH, .multiple = net->k->vl, .parts = d->b->weight_parts};
    const range columns = split_range(&gates, part);
    const sum_args g = {.rows = chunk_size(d),
                        .n = columns.end - columns.begin,
                        .a = at(net, dz_at(d, d->s0, 0), columns.begin),
                        .a_row = net->dz_row,
                        .sum = at(net, d->dparams[2], columns.begin)};
    net->k->variant->sum_products(&g);
}

/* dw (H) of a gate's peephole += dz c over rows begin .. end of a step, for hidden units first .. last. */
static void add_peephole_dw(const backward_pass *d, int gate, idx s, idx begin, idx end, plane c, idx t, idx first,
                            idx last, void *dw) {
    const network *net = &d->b->net;
    const sum_args g = {.rows = end - begin,
                        .n = last - first,
                        .a = at(net, dz_at(d, s, begin), d->cell.slot[gate] * net->H + first),
                        .a_row = net->dz_row,
                        .b = at(net, plane_at(net, c, t, begin), first),
                        .b_row = c.row,
                        .sum = at(net, dw, first)};
    if (begin < end && first < last)
        net->k->variant->sum_products(&g);
}

/* Gradients of the peepholes over the chunk, for the part's hidden units. */
static void chunk_peepholes(const backward_pass *d, int part) {
    const backward_call *b = d->b;
    const network *net = &b->net;
    const even_split units = {.n = net->H, .multiple = net->k->vl, .parts = b->weight_parts};
    const idx first = split_start(&units, part), last = split_start(&units, part + 1);
    void *dw = d->dparams[network_param_places(net->spec).weight_ch];
    for (int gate = GATE_I; gate <= GATE_O; gate++) {
        if (!d->cell.peephole[gate])
            continue;
        for (idx s = d->s0; s < d->s1; s++) {
            const idx t = time_of(d, s), before = time_before(d, t);
            const idx n = active_rows(b->s.active, b->T, t, 0, b->B);
            const idx active_before = active_rows(b->s.active, b->T, before, 0, b->B);
            const idx n_before = gate == GATE_O || active_before > n ? n : active_before;
            add_peephole_dw(d, gate, s, 0, n_before, d->c, gate == GATE_O ? t : before, first, last, dw);
            add_peephole_dw(d, gate, s, n_before, n, d->c0, 0, first, last, dw);
        }
        dw = at(net, dw, net->H);
    }
}

/* The arrays of one row of (G + 1, H) gains or biases: of a gate with weights, or of the cell. */
static void *normalization_gradient(const backward_pass *d, void *of_gates, void *of_cell, int slot) {
    const network *net = &d->b->net;
    return slot == d->cell.cell_slot ? of_cell : at(net, of_gates, slot * net->H);
}

/* Gradients of the gains and biases of layer normalisation over the chunk, for the part's hidden units. */
static void chunk_normalization(const backward_pass *d, int part) {
    const backward_call *b = d->b;
    const network *net = &b->net;
    const param_places p = network_param_places(net->spec);
    const even_split units = {.n = net->H, .multiple = net->k->vl, .parts = b->weight_parts};
    const idx first = split_start(&units, part), last = split_start(&units, part + 1);
    for (int slot = 0; slot <= d->cell.cell_slot && first < last; slot++) {
        const idx column = slot * d->cell.width + first;
        sum_args g = {.rows = chunk_size(d),
                      .n = last - first,
                      .a = at(net, b->s.dnormed, column),
                      .b = at(net, b->s.normed, column),
                      .a_row = network_normed(net),
                      .b_row = network_normed(net)};
        g.sum = normalization_gradient(d, d->dparams[p.weight_ln], d->dparams[p.weight_ln_c], slot);
        g.sum = at(net, g.sum, first);
        net->k->variant->sum_products(&g);
        if (!net->spec->bias)
            continue;
        g.b = NULL;
        g.sum = normalization_gradient(d, d->dparams[2], d->dparams[p.bias_ln_c], slot);
        g.sum = at(net, g.sum, first);
        net->k->variant->sum_products(&g);
    }
}

static void chunk_weights(void *context, int part) {
    const backward_pass *d = context;
    const backward_call *b = d->b;
    const network *net = &b->net;
    const tiles dz = transpose_rows(d, dz_at(d, d->s0, 0), net->dz_row, net->GH, b->s.dz_tiles, part);
    add_weight_product(d, &dz, b->s.x_panels, d->I, d->dparams[0]);
    add_weight_product(d, &dz, b->s.h_panels, net->P, d->dparams[1]);
    if (net->spec->bias && !network_normalizes(net))
        add_bias(d, part);
    if (network_projects(net)) {
        const tiles dh = transpose_rows(d, b->s.dh_clipped, net->P, net->P, b->s.dh_tiles, part);
        add_weight_product(d, &dh, b->s.out_panels, net->H, d->dparams[network_param_places(net->spec).weight_hr]);
    }
    if (net->spec->variant.peepholes)
        chunk_peepholes(d, part);
    if (network_normalizes(net))
        chunk_normalization(d, part);
}

void backward_weights(backward_pass *d) { clstm_parallel((int)d->b->weight_parts, chunk_weights, d); }

/* Zeros where gradients are sums from the start; the products write theirs with the first chunk, if there is one. */
static void clear_sums(const backward_pass *d) {
    const network *net = &d->b->net;
    const param_places p = network_param_places(net->spec);
    const size_t gates = (size_t)net->GH * net->size, unit = (size_t)net->H * net->size;
    if (d->b->T == 0 || d->b->B == 0) {
        memset(d->dparams[0], 0, gates * (size_t)d->I);
        memset(d->dparams[1], 0, gates * (size_t)net->P);
        if (network_projects(net))
            memset(d->dparams[p.weight_hr], 0, unit * (size_t)net->P);
    }
    if (net->spec->bias)
        memset(d->dparams[2], 0, gates);
    if (net->spec->variant.peepholes)
        memset(d->dparams[p.weight_ch], 0, gates - unit);
    if (!network_normalizes(net))
        return;
    memset(d->dparams[p.weight_ln], 0, gates);
    memset(d->dparams[p.weight_ln_c], 0, unit);
    if (net->spec->bias)
        memset(d->dparams[p.bias_ln_c], 0, unit);
}

void backward_weights_start(backward_pass *d) {
    if (!d->b->grads->accumulate)
        clear_sums(d);
}

void backward_weights_finish(backward_pass *d) {
    const network *net = &d->b->net;
    if (net->spec->bias)
        memcpy(d->dparams[3], d->dparams[2], (size_t)net->GH * net->size);
}

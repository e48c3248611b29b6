/* The second half of a chunk of BPTT: gradients of the weights. Threads split the rows of dW. */
#include "backward_pass.h"

#include <string.h>

#include "threads.h"
#include "variants.h"

/* dW (M, inputs) += dz' inputs over the chunk's rows, as far as it is the part's. */
typedef struct weight_product {
    idx M;
    const void *dz; /* (rows, M) */
    void *tiles;    /* dz transposed, in row tiles */
    panels inputs;
    void *dW; /* (M, columns rounded up to VL) */
} weight_product;

static void add_weight_product(const backward_pass *d, const weight_product *p, int part) {
    const network *net = &d->b->net;
    const idx tile = net->k->max_rows, rows = p->inputs.rows, width = round_up(p->inputs.columns, net->k->vl);
    const row_split units = {.B = p->M, .tile = tile, .parts = d->b->weight_parts};
    const idx first = row_split_start(&units, part), end = row_split_start(&units, part + 1);
    void *dW = at(net, p->dW, first * width), *tiles = at(net, p->tiles, first * rows);
    const tile_args transpose = {
        .K = rows, .M = end - first, .src = at(net, p->dz, first), .src_row = p->M, .dst = tiles};
    net->k->pack_tiles(&transpose);
    const gemm_args g = {.groups = 1,
                         .M = end - first,
                         .N = width,
                         .K = rows,
                         .A = tiles,
                         .a_tile = rows * tile,
                         .B = p->inputs.p,
                         .init = d->s0 || d->b->grads->accumulate ? dW : NULL,
                         .init_row = width,
                         .C = dW,
                         .c_row = width};
    net->k->gemm(&g);
}

/* dw (H) of a gate's peephole += dz c over rows begin .. end of a step, for hidden units first .. last. */
static void add_peephole(const backward_pass *d, int gate, idx s, idx begin, idx end, plane c, idx t, idx first,
                         idx last, void *dw) {
    const network *net = &d->b->net;
    const sum_args g = {.rows = end - begin,
                        .n = last - first,
                        .a = at(net, dz_at(d, s, begin), d->cell.slot[gate] * net->H + first),
                        .a_row = net->GH,
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
    const row_split units = {.B = net->H, .tile = net->k->vl, .parts = b->weight_parts};
    const idx first = row_split_start(&units, part), last = row_split_start(&units, part + 1);
    void *dw = d->dparams[network_param_places(net->spec).weight_ch];
    for (int gate = GATE_I; gate <= GATE_O; gate++) {
        if (!d->cell.peephole[gate])
            continue;
        for (idx s = d->s0; s < d->s1; s++) {
            const idx t = time_of(d, s), before = d->reverse ? t + 1 : t - 1;
            const idx n = active_rows(b->s.active, b->T, t, 0, b->B);
            const idx active_before = active_rows(b->s.active, b->T, before, 0, b->B);
            const idx n_before = gate == GATE_O || active_before > n ? n : active_before;
            add_peephole(d, gate, s, 0, n_before, d->c, gate == GATE_O ? t : before, first, last, dw);
            add_peephole(d, gate, s, n_before, n, d->c0, 0, first, last, dw);
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
    const row_split units = {.B = net->H, .tile = net->k->vl, .parts = b->weight_parts};
    const idx first = row_split_start(&units, part), last = row_split_start(&units, part + 1);
    for (int slot = 0; slot <= d->cell.cell_slot && first < last; slot++) {
        const idx column = slot * d->cell.width + first;
        sum_args g = {.rows = b->s.offset[d->s1 - d->s0],
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
    const idx rows = b->s.offset[d->s1 - d->s0];
    const weight_product of_inputs = {
        b->net.GH, dz_at(d, d->s0, 0), b->s.dz_tiles, {b->s.inputs, rows, d->columns}, b->s.dW};
    add_weight_product(d, &of_inputs, part);
    if (network_projects(&b->net)) {
        const weight_product of_projection = {
            b->net.P, b->s.dh_clipped, b->s.dh_tiles, {b->s.unprojected, rows, b->net.H}, b->s.dW_hr};
        add_weight_product(d, &of_projection, part);
    }
    if (b->net.spec->variant.peepholes)
        chunk_peepholes(d, part);
    if (network_normalizes(&b->net))
        chunk_normalization(d, part);
}

void backward_weights(backward_pass *d) { clstm_parallel((int)d->b->weight_parts, chunk_weights, d); }

static void move(void *ours, void *callers, idx n, const network *net, int out) {
    memcpy(out ? callers : ours, out ? ours : callers, (size_t)n * net->size);
}

/* The part's rows of dW (GH, [I | P | 1]), and dW_hr, out to the caller's arrays or in from them. */
static void move_weights(const backward_pass *d, int part, int out) {
    const network *net = &d->b->net;
    const row_split gates = {.B = net->GH, .tile = 1, .parts = d->b->weight_parts};
    const range rows = row_split_range(&gates, part);
    const idx width = round_up(d->columns, net->k->vl), hr_width = round_up(net->H, net->k->vl);
    for (idx j = rows.begin; j < rows.end; j++) {
        void *row = at(net, d->b->s.dW, j * width);
        move(row, at(net, d->dparams[0], j * d->I), d->I, net, out);
        move(at(net, row, d->I), at(net, d->dparams[1], j * net->P), net->P, net, out);
        for (int bias = 0; bias < 2 * net->spec->bias && !network_normalizes(net); bias++)
            move(at(net, row, d->I + net->P), at(net, d->dparams[2 + bias], j), 1, net, out);
    }
    if (part == 0 && out && network_normalizes(net) && net->spec->bias)
        memcpy(d->dparams[3], d->dparams[2], (size_t)net->GH * net->size);
    for (idx j = 0; j < net->P && part == 0 && network_projects(net); j++)
        move(at(net, d->b->s.dW_hr, j * hr_width),
             at(net, d->dparams[network_param_places(net->spec).weight_hr], j * net->H), net->H, net, out);
}

static void read_weights(void *context, int part) { move_weights(context, part, 0); }

static void write_weights(void *context, int part) { move_weights(context, part, 1); }

/* Zeros where gradients of a variant's weights are summed up in the caller's arrays. */
static void clear_sums(const backward_pass *d) {
    const network *net = &d->b->net;
    const param_places p = network_param_places(net->spec);
    const size_t gates = (size_t)net->GH * net->size, unit = (size_t)net->H * net->size;
    if (net->spec->variant.peepholes)
        memset(d->dparams[p.weight_ch], 0, gates - unit);
    if (!network_normalizes(net))
        return;
    memset(d->dparams[p.weight_ln], 0, gates);
    memset(d->dparams[p.weight_ln_c], 0, unit);
    if (net->spec->bias) {
        memset(d->dparams[2], 0, gates);
        memset(d->dparams[p.bias_ln_c], 0, unit);
    }
}

/* What the sums of the weights' gradients start from: the caller's, or zeros as far as no product starts them. */
void backward_weights_start(backward_pass *d) {
    const network *net = &d->b->net;
    if (d->b->T == 0 || d->b->B == 0 || d->b->grads->accumulate) {
        memset(d->b->s.dW, 0, (size_t)(net->GH * round_up(d->columns, net->k->vl)) * net->size);
        if (network_projects(net))
            memset(d->b->s.dW_hr, 0, (size_t)(net->P * round_up(net->H, net->k->vl)) * net->size);
    }
    if (d->b->grads->accumulate)
        clstm_parallel((int)d->b->weight_parts, read_weights, d);
    else
        clear_sums(d);
}

void backward_weights_finish(backward_pass *d) { clstm_parallel((int)d->b->weight_parts, write_weights, d); }

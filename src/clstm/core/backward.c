/* Backpropagation through time (Werbos 1990). Layers are visited from the top, steps from the last in processing
 * order. A chunk of steps at a time, first every thread walks its rows:
 *
 *     dz_t (rows, 4H) from dh_t = dy_t + dz_{t+1} W_hh, and dx_t = dz_t W_ih
 *
 * or, where rows are too few, threads share the hidden units of dz_t and the steps of dx. Then every thread takes some
 * rows of the weights, and dW += dz' [x | h_before | 1] runs over the whole chunk. Each element of dW is one chain over
 * all steps and rows in the order visited, whatever the chunks and the threads.
 *
 * Variants have GH rows of weights for 4H, and P features of h for H; see network.h. */
#include <stdatomic.h>
#include <string.h>

#include "dropout.h"
#include "fpmode.h"
#include "interrupt.h"
#include "network.h"
#include "spin.h"
#include "threads.h"
#include "variants.h"

enum { CHUNK_ROWS = 256 }; /* rows (steps x batch) of a chunk: dW is read and written once in this many */

typedef struct backward_scratch {
    int64_t *active;                      /* (T); NULL without lengths */
    void *zeros;                          /* (max(H, D*P)) */
    void *dlayer[2];                      /* (T, B, D*P) gradients between layers */
    void *dc;                             /* (B, H) */
    void *dz;                             /* (B + chunk rows, GH): the last step of the chunk before, then this chunk */
    idx *offset;                          /* (steps + 1) first row of each step of the chunk */
    void *inputs;                         /* [x | h_before | 1] of the chunk in gemm panels */
    void *dz_tiles;                       /* dz of the chunk, transposed, in row tiles */
    void *dW;                             /* (GH, columns rounded up to VL) */
    void *dh, *dout;                      /* of a variant: (B, P) and (B, H) */
    void *dh0;                            /* of a learned initial state: (B, P) */
    step_masks masks;                     /* (B rows) */
    void *masked_h;                       /* of variational dropout: (B, P) */
    void *held;                           /* of zoneout: (B, P), what the h of the step before gets directly */
    void *normed, *dnormed;               /* of layer normalisation: (chunk rows, G + 1, width) */
    void *dh_clipped;                     /* of a projection: (chunk rows, P) */
    void *unprojected, *dh_tiles, *dW_hr; /* as inputs, dz_tiles and dW */
} backward_scratch;

typedef struct backward_call {
    network net;
    const clstm_gradients *grads;
    const void *pack, *tape;
    tape_parts head;
    network_part part;
    idx T, B;
    idx steps; /* of a chunk */
    row_split row_parts;
    idx pieces; /* of the units of a step, for as many threads; 1: threads split the rows instead */
    idx weight_parts;
    backward_scratch s;
    interruption *interruption;
} backward_call;

/* One layer and direction. */
typedef struct backward_pass {
    const backward_call *b;
    idx layer, index; /* index: layer * D + direction */
    int reverse;
    idx I, columns; /* columns: I + P + 1 of dW */
    layer_weights w;
    variant_cell cell;
    void *const *dparams; /* of this layer and direction; or NULL */
    plane x, h, c, gates, dy;
    plane unprojected;      /* of a projection */
    plane dx;               /* NULL p: not wanted */
    int adds_dx;            /* the other direction has written dx already */
    plane h0, c0, dhn, dh0; /* (1, B, H); dh0: NULL p if not wanted */
    idx s0, s1;             /* visited steps of the chunk */
} backward_pass;

/* ---- scratch memory ---- */

static idx widest_columns(const network *net) {
    const idx top = network_layer_input(net, net->L - 1);
    return (net->I > top ? net->I : top) + net->P + 1;
}

static idx zeros_needed(const network *net) { return net->D * net->P > net->H ? net->D * net->P : net->H; }

/* What only variants need. */
static void take_variant_scratch(arena *m, backward_call *b, idx rows) {
    const network *net = &b->net;
    const idx H = net->H, P = net->P;
    b->s.dh = arena_take(m, net->size, b->B, P, 1);
    b->s.dout = arena_take(m, net->size, b->B, H, 1);
    b->s.masks = dropout_take_masks(m, net, b->B);
    b->s.masked_h = net->spec->variant.variational_dropout_h > 0 ? arena_take(m, net->size, b->B, P, 1) : NULL;
    b->s.held = net->spec->variant.zoneout_h > 0 ? arena_take(m, net->size, b->B, P, 1) : NULL;
    b->s.normed = network_normalizes(net) ? arena_take(m, net->size, rows, network_normed(net), 1) : NULL;
    b->s.dnormed = network_normalizes(net) ? arena_take(m, net->size, rows, network_normed(net), 1) : NULL;
    b->s.dh0 = net->spec->variant.learned_state ? arena_take(m, net->size, b->B, P, 1) : NULL;
    if (network_projects(net)) {
        b->s.dh_clipped = arena_take(m, net->size, rows, P, 1);
        b->s.unprojected = arena_take(m, net->size, rows, round_up(H, net->k->vl), 1);
        b->s.dh_tiles = arena_take(m, net->size, rows, round_up(P, net->k->max_rows), 1);
        b->s.dW_hr = arena_take(m, net->size, P, round_up(H, net->k->vl), 1);
    }
}

static int take_scratch(arena *m, backward_call *b, int has_lengths) {
    const network *net = &b->net;
    const idx H = net->H, DP = net->D * net->P, width = round_up(widest_columns(net), net->k->vl);
    const idx most = (CHUNK_ROWS + b->B - 1) / (b->B ? b->B : 1);
    b->steps = most < b->T ? most : b->T;
    const idx rows = b->steps * b->B;
    b->s.active = has_lengths ? arena_take(m, sizeof(int64_t), b->T, 1, 1) : NULL;
    b->s.zeros = arena_take(m, net->size, zeros_needed(net), 1, 1);
    b->s.dlayer[0] = net->L > 1 ? arena_take(m, net->size, b->T, b->B, DP) : NULL;
    b->s.dlayer[1] = net->L > 2 ? arena_take(m, net->size, b->T, b->B, DP) : NULL;
    b->s.dc = arena_take(m, net->size, b->B, H, 1);
    b->s.dz = arena_take(m, net->size, b->B + rows, net->GH, 1);
    b->s.offset = arena_take(m, sizeof(idx), b->steps + 1, 1, 1);
    b->s.inputs = arena_take(m, net->size, rows, width, 1);
    b->s.dz_tiles = arena_take(m, net->size, rows, round_up(net->GH, net->k->max_rows), 1);
    b->s.dW = arena_take(m, net->size, net->GH, width, 1);
    if (!net->plain)
        take_variant_scratch(m, b, rows);
    return m->overflow ? CLSTM_ERROR_SIZE : CLSTM_OK;
}

int clstm_backward_workspace(const clstm_spec *spec, int64_t T, int64_t B, size_t *bytes) {
    const int status = network_check_batch(spec, T, B);
    if (status)
        return status;
    if (!bytes)
        return CLSTM_ERROR_NULL;
    size_t most = 0; /* a pack keeps its kernels, which need not be the current ones */
    for (int i = 0; i < CLSTM_ISAS; i++) {
        const clstm_isa_kernels *isa = clstm_kernels_at(i);
        if (!isa)
            continue;
        backward_call b = {.net = network_of(spec, isa), .T = (idx)T, .B = (idx)B};
        arena m = {0};
        if (take_scratch(&m, &b, 1) != CLSTM_OK)
            return CLSTM_ERROR_SIZE;
        most = m.used > most ? m.used : most;
    }
    *bytes = most;
    return CLSTM_OK;
}

/* ---- first half: rows ---- */

/* The time of visited step s. */
static idx time_of(const backward_pass *d, idx s) { return d->reverse ? s : d->b->T - 1 - s; }

/* Row `row` of dz at visited step s; s = s0 - 1 is the last step of the chunk before. */
static void *dz_at(const backward_pass *d, idx s, idx row) {
    const backward_call *b = d->b;
    const idx at_row = s < d->s0 ? row : b->B + b->s.offset[s - d->s0] + row;
    return at(&b->net, b->s.dz, at_row * b->net.GH);
}

/* The number of step t for masks. */
static uint64_t step_of(const backward_call *b, idx t) { return (uint64_t)b->head.header->first_step + (uint64_t)t; }

/* Row `row` of what zoneout passes on; NULL without. */
static void *held_at(const backward_call *b, idx row) {
    return b->s.held ? at(&b->net, b->s.held, row * b->net.P) : NULL;
}

/* Row `row` of the factors on h; NULL without. */
static void *factors_at(const backward_call *b, idx row) {
    return b->s.masks.recurrent ? at(&b->net, b->s.masks.recurrent, row * b->net.P) : NULL;
}

/* grad_rows of a variant. */
static void variant_grad_rows(const backward_pass *d, idx s, idx begin, idx end, int has_after, int has_before) {
    const backward_call *b = d->b;
    const network *net = &b->net;
    const idx t = time_of(d, s), before = d->reverse ? t + 1 : t - 1, r = b->s.offset[s - d->s0] + begin;
    const plane c_prev = has_before ? d->c : d->c0;
    const step_masks masks =
        dropout_draw_masks(net, &b->s.masks, b->head.header->seed, d->index, step_of(b, t), b->B, begin, end - begin);
    const variant_step_grad_args g = {.rows = end - begin,
                                      .dz_next = has_after ? dz_at(d, s - 1, begin) : NULL,
                                      .dh_next = has_after ? at(net, b->s.dh, begin * net->P)
                                                           : plane_at(net, d->dhn, 0, begin),
                                      .dh_next_row = has_after ? net->P : d->dhn.row,
                                      .dy = plane_at(net, d->dy, t, begin),
                                      .dy_row = d->dy.row,
                                      .h = plane_at(net, d->h, t, begin),
                                      .h_row = d->h.row,
                                      .stays = masks.h,
                                      .held = held_at(b, begin),
                                      .factors = masks.recurrent,
                                      .dh_clipped = network_projects(net) ? at(net, b->s.dh_clipped, r * net->P) : NULL,
                                      .step = {.cell = &d->cell,
                                               .rows = end - begin,
                                               .z = plane_at(net, d->gates, t, begin),
                                               .z_row = d->gates.row,
                                               .c_prev = plane_at(net, c_prev, has_before ? before : 0, begin),
                                               .c_prev_row = c_prev.row,
                                               .dout = at(net, b->s.dout, begin * net->H),
                                               .dout_row = net->H,
                                               .dc = at(net, b->s.dc, begin * net->H),
                                               .dc_row = net->H,
                                               .dz = dz_at(d, s, begin),
                                               .dz_row = net->GH,
                                               .mask = masks.g,
                                               .stays = masks.c,
                                               .normed = at(net, b->s.normed, r * network_normed(net)),
                                               .dnormed = at(net, b->s.dnormed, r * network_normed(net)),
                                               .normed_row = network_normed(net)}};
    variant_step_grad(net, &d->w, &g);
}

/* dz of rows begin .. end at visited step s, of some hidden units. has_after: the following step was valid too;
 * has_before: so was the one before, else the row began here. */
static void grad_rows(const backward_pass *d, idx s, idx begin, idx end, int has_after, int has_before, range units) {
    const backward_call *b = d->b;
    const network *net = &b->net;
    const idx t = time_of(d, s), before = d->reverse ? t + 1 : t - 1;
    const plane c_prev = has_before ? d->c : d->c0;
    const cell_grad_args g = {.rows = end - begin,
                              .H = net->H,
                              .first_unit = units.begin,
                              .end_unit = units.end,
                              .dz_next = has_after ? dz_at(d, s - 1, begin) : NULL,
                              .dz_next_row = 4 * net->H,
                              .w_hh = d->w.w_hh_panels,
                              .dh_next = plane_at(net, d->dhn, 0, begin),
                              .dh_next_row = d->dhn.row,
                              .dy = plane_at(net, d->dy, t, begin),
                              .dy_row = d->dy.row,
                              .gates = plane_at(net, d->gates, t, begin),
                              .gates_row = d->gates.row,
                              .c = plane_at(net, d->c, t, begin),
                              .c_row = d->c.row,
                              .c_prev = plane_at(net, c_prev, has_before ? before : 0, begin),
                              .c_prev_row = c_prev.row,
                              .dc = at(net, b->s.dc, begin * net->H),
                              .dc_row = net->H,
                              .dz = dz_at(d, s, begin),
                              .dz_row = 4 * net->H};
    if (begin < end && !net->plain)
        variant_grad_rows(d, s, begin, end, has_after, has_before);
    else if (begin < end)
        net->k->cell_grad(&g);
}

/* dh_0 = dz W_hh, and what zoneout passes on, of rows begin .. end, which began at visited step s. */
static void initial_gradients(const backward_pass *d, idx s, idx begin, idx end) {
    const network *net = &d->b->net;
    const recurrent_grad_args g = {.rows = end - begin,
                                   .dz = dz_at(d, s, begin),
                                   .held = held_at(d->b, begin),
                                   .factors = factors_at(d->b, begin),
                                   .dh = plane_at(net, d->dh0, 0, begin),
                                   .dh_row = d->dh0.row};
    if (begin < end && d->dh0.p)
        variant_recurrent_grad(net, &d->w, &g);
}

/* A (rows, columns) matrix in gemm panels; its columns are rounded up to VL. */
typedef struct panels {
    void *p;
    idx rows, columns;
} panels;

/* Copies n values into columns col .. of row r. */
static void put_columns(const network *net, const panels *to, idx r, idx col, const void *from, idx n) {
    const idx panel = net->k->panel, all = round_up(to->columns, net->k->vl);
    while (n > 0) {
        const idx start = col / panel * panel, width = all - start < panel ? all - start : panel;
        const idx run = start + width - col < n ? start + width - col : n;
        memcpy(at(net, to->p, start * to->rows + r * width + (col - start)), from, (size_t)run * net->size);
        from = at(net, from, run);
        col += run;
        n -= run;
    }
}

/* Zeros in the columns that round a row up. */
static void put_padding(const backward_pass *d, const panels *to, idx r) {
    const network *net = &d->b->net;
    for (idx col = to->columns; col < round_up(to->columns, net->k->vl); col++)
        put_columns(net, to, r, col, d->b->s.zeros, 1);
}

/* The h that the recurrent product saw at a row; all steps of a chunk have the same factors. */
static const void *masked_h(const backward_pass *d, idx row, const void *h) {
    const backward_call *b = d->b;
    const idx P = b->net.P;
    if (!b->s.masked_h)
        return h;
    const product_args g = {
        .rows = 1, .n = P, .a = factors_at(b, row), .b = h, .to = at(&b->net, b->s.masked_h, row * P)};
    b->net.k->variant->product(&g);
    return g.to;
}

/* [x | h_before | 1 | 0] of a row of step t. */
static void put_inputs(const backward_pass *d, idx rows, idx r, idx t, idx row, int has_before) {
    const network *net = &d->b->net;
    const panels to = {d->b->s.inputs, rows, d->columns};
    const idx before = d->reverse ? t + 1 : t - 1;
    const float one_f32 = 1;
    const double one_f64 = 1;
    const void *h = has_before ? plane_at(net, d->h, before, row) : plane_at(net, d->h0, 0, row);
    put_columns(net, &to, r, 0, plane_at(net, d->x, t, row), d->I);
    put_columns(net, &to, r, d->I, masked_h(d, row, h), net->P);
    put_columns(net, &to, r, d->I + net->P, net->size == 4 ? (const void *)&one_f32 : (const void *)&one_f64, 1);
    put_padding(d, &to, r);
}

/* [o act(c) | 0] of a row of step t, for W_hr. */
static void put_unprojected(const backward_pass *d, idx rows, idx r, idx t, idx row) {
    const panels to = {d->b->s.unprojected, rows, d->b->net.H};
    put_columns(&d->b->net, &to, r, 0, plane_at(&d->b->net, d->unprojected, t, row), to.columns);
    put_padding(d, &to, r);
}

/* dx of rows begin .. end of visited steps s0 .. s1, at all of which they are valid. */
static void dx_product(const backward_pass *d, idx s0, idx s1, idx begin, idx end) {
    const network *net = &d->b->net;
    const idx steps = s1 - s0, rows = end - begin, dz_row = net->GH, dz_step = d->b->B * dz_row;
    const idx dx_step = d->reverse ? d->dx.time : -d->dx.time;
    const int by_time = steps > rows && (rows != d->b->B || dx_step != rows * d->dx.row);
    void *dx = plane_at(net, d->dx, time_of(d, s0), begin);
    const gemm_args g = {.groups = by_time ? rows : steps,
                         .M = by_time ? steps : rows,
                         .N = d->I,
                         .K = net->GH,
                         .A = dz_at(d, s0, begin),
                         .a_group = by_time ? dz_row : dz_step,
                         .a_row = by_time ? dz_step : dz_row,
                         .B = d->w.w_ih_panels,
                         .init = d->adds_dx ? dx : NULL,
                         .init_group = by_time ? d->dx.row : dx_step,
                         .init_row = by_time ? dx_step : d->dx.row,
                         .C = dx,
                         .c_group = by_time ? d->dx.row : dx_step,
                         .c_row = by_time ? dx_step : d->dx.row};
    if (steps > 0 && rows > 0)
        net->k->gemm(&g);
}

/* dx of rows begin .. end of visited steps s0 .. s1: all steps at once if all rows are valid, else step by step; 0 in
 * the padding. */
static void input_gradients(const backward_pass *d, idx s0, idx s1, idx begin, idx end) {
    const backward_call *b = d->b;
    if (b->s.offset[s1 - d->s0] - b->s.offset[s0 - d->s0] == (s1 - s0) * b->B) {
        dx_product(d, s0, s1, begin, end);
        return;
    }
    for (idx s = s0; s < s1; s++) {
        const idx t = time_of(d, s), valid = begin + active_rows(b->s.active, b->T, t, begin, end - begin);
        dx_product(d, s, s + 1, begin, valid);
        for (idx row = valid; row < end && !d->adds_dx; row++)
            memset(plane_at(&b->net, d->dx, t, row), 0, (size_t)d->I * b->net.size);
    }
}

/* What the products of dW and dx need dz for, but no other step: of rows begin .. end of visited steps s0 .. s1. */
static void step_inputs(const backward_pass *d, idx s0, idx s1, idx begin, idx end) {
    const backward_call *b = d->b;
    const idx all_rows = b->s.offset[d->s1 - d->s0];
    for (idx s = s0; s < s1 && d->dparams; s++) {
        const idx t = time_of(d, s), before = d->reverse ? t + 1 : t - 1;
        const idx n = begin + active_rows(b->s.active, b->T, t, begin, end - begin);
        const idx n_before = begin + active_rows(b->s.active, b->T, before, begin, end - begin);
        for (idx row = begin; row < n; row++) {
            const idx r = b->s.offset[s - d->s0] + row;
            put_inputs(d, all_rows, r, t, row, row < n_before);
            if (network_projects(&b->net))
                put_unprojected(d, all_rows, r, t, row);
        }
    }
    if (d->dx.p && s0 < s1)
        input_gradients(d, s0, s1, begin, end);
}

/* dz of the chunk's last step, for the chunk that follows. */
static void keep_last_step(const backward_pass *d, idx begin, idx end) {
    const backward_call *b = d->b;
    const idx last = begin + active_rows(b->s.active, b->T, time_of(d, d->s1 - 1), begin, end - begin);
    if (last > begin)
        memcpy(dz_at(d, d->s0 - 1, begin), dz_at(d, d->s1 - 1, begin),
               (size_t)((last - begin) * b->net.GH) * b->net.size);
}

static void chunk_rows(void *context, int part) {
    const backward_pass *d = context;
    const backward_call *b = d->b;
    const range rows = row_split_range(&b->row_parts, part), units = {0, b->net.H};
    const idx first = rows.begin, end = rows.end;
    for (idx s = d->s0; s < d->s1; s++) {
        const idx t = time_of(d, s), before = d->reverse ? t + 1 : t - 1, after = 2 * t - before;
        const idx n = first + active_rows(b->s.active, b->T, t, first, end - first);
        idx n_before = first + active_rows(b->s.active, b->T, before, first, end - first);
        idx n_after = first + active_rows(b->s.active, b->T, after, first, end - first);
        n_before = n_before < n ? n_before : n;
        n_after = n_after < n ? n_after : n;
        /* of the two neighbours, one has all n rows: three runs at most, one of them empty */
        const idx low = n_before < n_after ? n_before : n_after, high = n_before < n_after ? n_after : n_before;
        grad_rows(d, s, first, low, 1, 1, units);
        grad_rows(d, s, low, high, n_after > low, n_before > low, units);
        grad_rows(d, s, high, n, 0, 0, units);
        initial_gradients(d, s, n_before, n);
    }
    step_inputs(d, d->s0, d->s1, first, end);
    keep_last_step(d, first, end);
}

/* ---- first half: units ---- */

/* The steps of a chunk follow each other; the parts of a step are pieces of the units, and wait for those of the step
 * before. Parts are claimed in order (threads.h), so whoever waits does so for running threads only. */
typedef struct unit_team {
    const backward_pass *d;
    atomic_llong done; /* parts */
} unit_team;

static void team_part(void *context, int part) {
    unit_team *team = context;
    const backward_pass *d = team->d;
    const backward_call *b = d->b;
    const row_split units = {.B = b->net.H, .tile = b->net.k->panel, .parts = b->pieces};
    const idx s = d->s0 + part / b->pieces;
    spin_until(&team->done, part / b->pieces * b->pieces);
    grad_rows(d, s, 0, b->B, s > 0, s < b->T - 1, row_split_range(&units, part % b->pieces));
    atomic_fetch_add_explicit(&team->done, 1, memory_order_release);
}

static void chunk_steps(void *context, int part) {
    const backward_pass *d = context;
    const row_split steps = {.B = d->s1 - d->s0, .tile = 1, .parts = d->b->pieces};
    const range of_part = row_split_range(&steps, part);
    step_inputs(d, d->s0 + of_part.begin, d->s0 + of_part.end, 0, d->b->B);
}

static void chunk_units(backward_pass *d) {
    const backward_call *b = d->b;
    unit_team team = {.d = d};
    clstm_team((int)b->pieces, (int)((d->s1 - d->s0) * b->pieces), team_part, &team);
    clstm_parallel((int)b->pieces, chunk_steps, d);
    if (d->s1 == b->T)
        initial_gradients(d, d->s1 - 1, 0, b->B);
    keep_last_step(d, 0, b->B);
}

/* ---- second half: weights ---- */

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
static void start_weights(backward_pass *d) {
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

/* ---- the stack ---- */

/* dc starts as the gradient on the final c; rows without any step pass that on their final h to the initial one. */
static void start_states(const backward_pass *d, const void *dcn) {
    const backward_call *b = d->b;
    const network *net = &b->net;
    const size_t dc_bytes = (size_t)(b->B * net->H) * net->size;
    if (dcn)
        memcpy(b->s.dc, dcn, dc_bytes);
    else
        memset(b->s.dc, 0, dc_bytes);
    for (idx row = active_rows(b->s.active, b->T, 0, 0, b->B); row < b->B && d->dh0.p; row++)
        memcpy(plane_at(net, d->dh0, 0, row), plane_at(net, d->dhn, 0, row), (size_t)net->P * net->size);
}

static void run_direction(backward_pass *d) {
    const backward_call *b = d->b;
    if (d->dparams)
        start_weights(d);
    for (d->s0 = 0; d->s0 < b->T && b->B > 0; d->s0 = d->s1) {
        if (interruption_heard(b->interruption))
            return;
        d->s1 = b->T - d->s0 < b->steps ? b->T : d->s0 + b->steps;
        b->s.offset[0] = 0;
        for (idx s = d->s0; s < d->s1; s++)
            b->s.offset[s - d->s0 + 1] =
                b->s.offset[s - d->s0] + active_rows(b->s.active, b->T, time_of(d, s), 0, b->B);
        if (b->pieces > 1)
            chunk_units(d);
        else
            clstm_parallel((int)b->row_parts.parts, chunk_rows, d);
        if (d->dparams)
            clstm_parallel((int)b->weight_parts, chunk_weights, d);
    }
    if (d->dparams)
        clstm_parallel((int)b->weight_parts, write_weights, d);
}

/* sum (n) of the rows of a (B, n) gradient on initial states; 0 if the caller gave those. */
static void sum_rows(const backward_call *b, const void *gradient, idx n, int given, void *sum) {
    const sum_args g = {.rows = given ? 0 : b->B, .n = n, .a = gradient, .a_row = n, .sum = sum};
    if (!b->grads->accumulate)
        memset(sum, 0, (size_t)n * b->net.size);
    b->net.k->variant->sum_products(&g);
}

static void write_learned_state(const backward_pass *d) {
    const backward_call *b = d->b;
    const param_places p = network_param_places(b->net.spec);
    sum_rows(b, d->dh0.p, b->net.P, b->head.header->has_h0, d->dparams[p.h0]);
    sum_rows(b, b->s.dc, b->net.H, b->head.header->has_c0, d->dparams[p.c0]);
}

/* The (T, B, ...) arrays that a layer reads; from the top layer down, dy is the caller's and then the dx of the layer
 * above. */
static plane layer_input(const backward_call *b, idx layer) {
    const network *net = &b->net;
    const idx DP = net->D * net->P;
    if (layer == 0)
        return plane_of(b->head.x, b->B * net->I, net->I);
    return plane_of(network_tape_dropped(net, b->tape, b->T, b->B, layer - 1), b->B * DP, DP);
}

static plane layer_dy(const backward_call *b, idx layer) {
    const network *net = &b->net;
    const clstm_gradients *g = b->grads;
    const idx DP = net->D * net->P;
    if (layer < b->part.end_layer - 1)
        return plane_of(b->s.dlayer[layer % 2], b->B * DP, DP);
    if (!g->dy)
        return plane_of(b->s.zeros, 0, 0);
    return plane_of(g->dy, (idx)g->dy_time_stride, (idx)g->dy_row_stride);
}

static plane layer_dx(const backward_call *b, idx layer) {
    const clstm_gradients *g = b->grads;
    if (layer > b->part.layer)
        return layer_dy(b, layer - 1);
    return plane_of(g->dx, (idx)g->dx_time_stride, (idx)g->dx_row_stride);
}

static void undrop(void *context, int part) {
    const backward_pass *d = context;
    const backward_call *b = d->b;
    const range rows = row_split_range(&b->row_parts, part);
    for (idx t = 0; t < b->T; t++)
        for (idx row = rows.begin; row < rows.end; row++) {
            void *dx = plane_at(&b->net, d->dx, t, row);
            dropout_apply(&b->net, b->head.header->seed, d->layer, step_of(b, t), b->B, row, dx, dx);
        }
}

static void backward_layer(const backward_call *b, idx layer) {
    const network *net = &b->net;
    const clstm_gradients *g = b->grads;
    const idx H = net->H, P = net->P, DP = net->D * P, h_states = b->B * P, c_states = b->B * H;
    const plane dy = layer_dy(b, layer),
                h = plane_of(network_tape_output(net, b->tape, b->T, b->B, layer), b->B * DP, DP);
    backward_pass d = {.b = b, .layer = layer, .I = network_layer_input(net, layer)};
    d.columns = d.I + P + 1;
    d.x = layer_input(b, layer);
    d.dx = layer_dx(b, layer);
    for (idx direction = b->part.direction; direction < b->part.end_direction; direction++) {
        const idx index = layer * net->D + direction, gates = network_tape_gates(net);
        const direction_tape tape = network_direction_tape(net, b->tape, b->T, b->B, layer, direction);
        d.index = index;
        d.reverse = direction == 1;
        d.adds_dx = direction > 0;
        d.w = network_weights(net, b->pack, layer, direction);
        if (!net->plain)
            d.cell = variant_cell_of(net, &d.w);
        d.dparams = g->dparams ? g->dparams + index * network_param_places(net->spec).count : NULL;
        d.h = plane_of(at(net, h.p, direction * P), h.time, h.row);
        d.dy = plane_of(at(net, dy.p, g->dy || layer < b->part.end_layer - 1 ? direction * P : 0), dy.time, dy.row);
        d.c = plane_of(tape.c, c_states, H);
        d.gates = plane_of(tape.gates, b->B * gates, gates);
        d.unprojected = plane_of(tape.out, c_states, H);
        d.h0 = plane_of(at(net, b->head.h0, index * h_states), 0, P);
        d.c0 = plane_of(at(net, b->head.c0, index * c_states), 0, H);
        d.dhn = g->dhn ? plane_of(at(net, g->dhn, index * h_states), 0, P) : plane_of(b->s.zeros, 0, 0);
        d.dh0 = plane_of(g->dh0 ? at(net, g->dh0, index * h_states) : b->s.dh0, 0, P);
        start_states(&d, g->dcn ? at(net, g->dcn, index * c_states) : NULL);
        run_direction(&d);
        if (d.dparams && net->spec->variant.learned_state)
            write_learned_state(&d);
        if (g->dc0)
            memcpy(at(net, g->dc0, index * c_states), b->s.dc, (size_t)c_states * net->size);
    }
    if (network_drops(net, layer) && b->part.end_direction == net->D && d.dx.p)
        clstm_parallel((int)b->row_parts.parts, undrop, &d);
}

/* ---- entry point ---- */

static int open_tape(backward_call *b, const clstm_spec *spec, const void *tape) {
    const tape_header *header = tape;
    if (!tape)
        return CLSTM_ERROR_NULL;
    if (header->magic != CLSTM_TAPE_MAGIC || !network_same(spec, &header->spec) ||
        spec->dropout != header->spec.dropout)
        return CLSTM_ERROR_TAPE;
    b->tape = tape;
    b->T = (idx)header->T;
    b->B = (idx)header->B;
    b->head = network_tape(&b->net, tape, b->T, b->B);
    return network_part_of(&b->net, header->part, &b->part);
}

int clstm_backward(const clstm_spec *spec, const void *pack, const void *tape, const clstm_gradients *grads,
                   void *workspace, size_t workspace_bytes) {
    backward_call b = {.grads = grads, .pack = pack};
    arena m = {.base = workspace};
    int status = network_open_pack(spec, pack, 1, &b.net);
    if (!status)
        status = grads && workspace ? open_tape(&b, spec, tape) : CLSTM_ERROR_NULL;
    if (!status)
        status = take_scratch(&m, &b, b.head.header->has_lengths);
    if (!status && m.used > workspace_bytes)
        status = CLSTM_ERROR_WORKSPACE;
    for (int64_t i = 0; !status && grads->dparams && i < clstm_num_params(spec); i++)
        if (!grads->dparams[i])
            status = CLSTM_ERROR_NULL;
    if (!status && b.s.active)
        status = network_count_active(b.head.lengths, b.T, b.B, b.s.active);
    if (status)
        return status;
    b.row_parts = network_split_rows(&b.net, b.T, b.B);
    b.weight_parts = network_worth_parts(&b.net, b.T, b.B);
    b.pieces = b.row_parts.parts > 1 || b.s.active ? 1 : network_split_units(&b.net, b.T, b.B);
    memset(b.s.zeros, 0, (size_t)zeros_needed(&b.net) * b.net.size);
    interruption interruption;
    b.interruption = &interruption;
    interruption_start(&interruption, grads->interrupt, grads->interrupt_context);
    const fpmode caller = fpmode_enter();
    for (idx layer = b.part.end_layer - 1; layer >= b.part.layer; layer--)
        backward_layer(&b, layer);
    fpmode_leave(caller);
    return atomic_load(&interruption.ended) ? CLSTM_ERROR_INTERRUPTED : CLSTM_OK;
}

/* The first half of a chunk of BPTT: dz step after step, then dx and the inputs of the products of dW. Threads split
 * the rows or, where these are too few, the hidden units and the steps. */
#include "backward_pass.h"

#include <stdatomic.h>
#include <string.h>

#include "spin.h"
#include "threads.h"
#include "variants.h"

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
    const idx t = time_of(d, s), before = time_before(d, t), r = b->s.offset[s - d->s0] + begin;
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
                                               .dz_row = net->dz_row,
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
    const idx t = time_of(d, s), before = time_before(d, t);
    if (begin >= end)
        return;
    if (!net->plain) {
        variant_grad_rows(d, s, begin, end, has_after, has_before);
        return;
    }
    const plane c_prev = has_before ? d->c : d->c0;
    const cell_grad_args g = {.rows = end - begin,
                              .H = net->H,
                              .first_unit = units.begin,
                              .end_unit = units.end,
                              .downwards = t % 2 != 0,
                              .dz_next = has_after ? dz_at(d, s - 1, begin) : NULL,
                              .dz_next_row = net->dz_row,
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
                              .dz_row = net->dz_row};
    net->k->cell_grad(&g);
}

/* dh_0 = dz W_hh, and what zoneout passes on, of rows begin .. end, which began at visited step s. */
static void initial_gradients(const backward_pass *d, idx s, idx begin, idx end) {
    const network *net = &d->b->net;
    if (begin >= end || !d->dh0.p)
        return;
    const recurrent_grad_args g = {.rows = end - begin,
                                   .dz = dz_at(d, s, begin),
                                   .held = held_at(d->b, begin),
                                   .factors = factors_at(d->b, begin),
                                   .dh = plane_at(net, d->dh0, 0, begin),
                                   .dh_row = d->dh0.row};
    variant_recurrent_grad(net, &d->w, &g);
}

/* Copies n values to row r of (rows, n) gemm panels; zeros round it up to VL. */
static void put_row(const network *net, void *panels, idx rows, idx r, const void *from, idx n) {
    const idx panel = net->k->panel, all = round_up(n, net->k->vl);
    for (idx start = 0; start < n; start += panel) {
        const idx width = all - start < panel ? all - start : panel, run = n - start < width ? n - start : width;
        void *const to = at(net, panels, start * rows + r * width);
        memcpy(to, at(net, from, start), (size_t)run * net->size);
        memset(at(net, to, run), 0, (size_t)(width - run) * net->size);
    }
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

/* What the products of dW read of a row of step t. */
static void put_inputs(const backward_pass *d, idx rows, idx r, idx t, idx row, int has_before) {
    const backward_call *b = d->b;
    const network *net = &b->net;
    const idx before = time_before(d, t);
    const void *h = has_before ? plane_at(net, d->h, before, row) : plane_at(net, d->h0, 0, row);
    put_row(net, b->s.x_panels, rows, r, plane_at(net, d->x, t, row), d->I);
    put_row(net, b->s.h_panels, rows, r, masked_h(d, row, h), net->P);
    if (network_projects(net))
        put_row(net, b->s.out_panels, rows, r, plane_at(net, d->unprojected, t, row), net->H);
}

/* dx of rows begin .. end of visited steps s0 .. s1, at all of which they are valid. */
static void dx_product(const backward_pass *d, plane dx, idx s0, idx s1, idx begin, idx end) {
    const network *net = &d->b->net;
    const idx steps = s1 - s0, rows = end - begin, dz_row = net->dz_row, dz_step = d->b->B * dz_row;
    const idx dx_step = d->reverse ? dx.time : -dx.time;
    const int by_time = steps > rows && (rows != d->b->B || dx_step != rows * dx.row);
    void *first = plane_at(net, dx, time_of(d, s0), begin);
    const gemm_args g = {.groups = by_time ? rows : steps,
                         .M = by_time ? steps : rows,
                         .N = d->I,
                         .K = net->GH,
                         .A = dz_at(d, s0, begin),
                         .a_group = by_time ? dz_row : dz_step,
                         .a_row = by_time ? dz_step : dz_row,
                         .B = d->w.w_ih_panels,
                         .init = d->adds_dx ? first : NULL,
                         .init_group = by_time ? dx.row : dx_step,
                         .init_row = by_time ? dx_step : dx.row,
                         .C = first,
                         .c_group = by_time ? dx.row : dx_step,
                         .c_row = by_time ? dx_step : dx.row};
    if (steps > 0 && rows > 0)
        net->k->gemm(&g);
}

/* dx of rows begin .. end of visited steps s0 .. s1: all steps at once if all rows are valid, else step by step; 0 in
 * the padding. */
static void input_gradients(const backward_pass *d, plane dx, idx s0, idx s1, idx begin, idx end) {
    const backward_call *b = d->b;
    if (b->s.offset[s1 - d->s0] - b->s.offset[s0 - d->s0] == (s1 - s0) * b->B) {
        dx_product(d, dx, s0, s1, begin, end);
        return;
    }
    for (idx s = s0; s < s1; s++) {
        const idx t = time_of(d, s), valid = begin + active_rows(b->s.active, b->T, t, begin, end - begin);
        dx_product(d, dx, s, s + 1, begin, valid);
        for (idx row = valid; row < end && !d->adds_dx; row++)
            memset(plane_at(&b->net, dx, t, row), 0, (size_t)d->I * b->net.size);
    }
}

/* The same for a caller's dx, in its order. */
static void sorted_input_gradients(const backward_pass *d, idx s0, idx s1, idx begin, idx end) {
    const backward_call *b = d->b;
    const network *net = &b->net;
    const idx step = b->B * d->I, low = d->reverse ? time_of(d, d->s0) : time_of(d, d->s1 - 1);
    const plane dx = plane_of(at(net, b->s.dx, -low * step), step, d->I);
    for (idx s = s0; s < s1 && d->adds_dx; s++)
        take_rows(net, b->caller, d->dx, time_of(d, s), dx, time_of(d, s), begin, end, d->I);
    input_gradients(d, dx, s0, s1, begin, end);
    for (idx s = s0; s < s1; s++)
        give_rows(net, b->caller, dx, time_of(d, s), d->dx, time_of(d, s), begin, end, d->I);
}

/* What the products of dW and dx need dz for, but no other step: of rows begin .. end of visited steps s0 .. s1. */
static void step_inputs(const backward_pass *d, idx s0, idx s1, idx begin, idx end) {
    const backward_call *b = d->b;
    const idx all_rows = b->s.offset[d->s1 - d->s0];
    for (idx s = s0; s < s1 && d->dparams; s++) {
        const idx t = time_of(d, s), before = time_before(d, t);
        const idx n = begin + active_rows(b->s.active, b->T, t, begin, end - begin);
        const idx n_before = begin + active_rows(b->s.active, b->T, before, begin, end - begin);
        for (idx row = begin; row < n; row++)
            put_inputs(d, all_rows, b->s.offset[s - d->s0] + row, t, row, row < n_before);
    }
    if (d->dx.p && s0 < s1 && d->gives_dx)
        sorted_input_gradients(d, s0, s1, begin, end);
    else if (d->dx.p && s0 < s1)
        input_gradients(d, d->dx, s0, s1, begin, end);
}

/* dz of the chunk's last step, for the chunk that follows. */
static void keep_last_step(const backward_pass *d, idx begin, idx end) {
    const backward_call *b = d->b;
    const idx last = begin + active_rows(b->s.active, b->T, time_of(d, d->s1 - 1), begin, end - begin);
    if (last > begin)
        memcpy(dz_at(d, d->s0 - 1, begin), dz_at(d, d->s1 - 1, begin),
               (size_t)((last - begin) * b->net.dz_row) * b->net.size);
}

static void chunk_rows(void *context, int part) {
    const backward_pass *d = context;
    const backward_call *b = d->b;
    const range rows = split_range(&b->row_split, part), units = {0, b->net.H};
    const idx first = rows.begin, end = rows.end;
    for (idx s = d->s0; s < d->s1; s++) {
        const idx t = time_of(d, s), before = time_before(d, t), after = 2 * t - before;
        const idx n = first + active_rows(b->s.active, b->T, t, first, end - first);
        idx n_before = first + active_rows(b->s.active, b->T, before, first, end - first);
        idx n_after = first + active_rows(b->s.active, b->T, after, first, end - first);
        n_before = n_before < n ? n_before : n;
        n_after = n_after < n ? n_after : n;
        if (d->dy_taken.p)
            take_rows(&b->net, b->caller, d->dy_taken, t, d->dy, t, first, n, b->net.P);
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

/* ---- units split among threads ---- */

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
    const even_split units = {.n = b->net.H, .multiple = b->net.k->panel, .parts = b->pieces};
    const idx s = d->s0 + part / b->pieces;
    spin_until(&team->done, part / b->pieces * b->pieces);
    grad_rows(d, s, 0, b->B, s > 0, s < b->T - 1, split_range(&units, part % b->pieces));
    atomic_fetch_add_explicit(&team->done, 1, memory_order_release);
}

static void chunk_steps(void *context, int part) {
    const backward_pass *d = context;
    const even_split steps = {.n = d->s1 - d->s0, .multiple = 1, .parts = d->b->pieces};
    const range of_part = split_range(&steps, part);
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

void backward_rows(backward_pass *d) {
    if (d->b->pieces > 1)
        chunk_units(d);
    else
        clstm_parallel((int)d->b->row_split.parts, chunk_rows, d);
}

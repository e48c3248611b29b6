/* The sequence loop: a stack of layers over a batch. Every row runs through all layers and all of time on one thread,
 * so threads never wait for each other; only where rows are too few do threads share the units of each step. Free of
 * any instruction set. */
#include <stdatomic.h>
#include <string.h>

#include "dropout.h"
#include "fpmode.h"
#include "interrupt.h"
#include "network.h"
#include "spin.h"
#include "threads.h"
#include "variants.h"

enum { CHUNK_BYTES = 256 << 10, CHUNK_ROWS = 64 }; /* the input product of a chunk stays in the L2 cache */
enum { MANY_ROWS = 16 };

typedef struct forward_scratch {
    int64_t *active;   /* (T) rows that are valid at each step; NULL without lengths */
    void *zeros;       /* (max(I, H, D*P)) */
    void *between[2];  /* (T, B, D*P) outputs of the layers between, for inference */
    void *c;           /* (D, B, H), for inference */
    void *out;         /* (B, H), for inference: what a projection projects */
    void *products;    /* per part: (chunk * rows, z_width) input products */
    void *mask;        /* (B, H), for training with dropout inside the cell */
    idx products_part; /* elements of a part's share */
} forward_scratch;

typedef struct forward_call {
    network net;
    const clstm_sequence *seq;
    const void *pack;
    void *tape; /* or NULL */
    idx T, B;
    idx chunk; /* steps whose input product is made at once; 0: it is part of the step */
    row_split split;
    idx pieces; /* of the units of a step, for as many threads; 1: threads split the rows instead */
    forward_scratch s;
    interruption *interruption;
} forward_call;

/* ---- scratch memory ---- */

/* Few rows: the input product of many steps at once reads W_ih once for all of them. Many rows: the step itself does.
 */
static idx chunk_steps(const network *net, idx T, idx rows) {
    if (T <= 1 || rows == 0 || rows >= MANY_ROWS)
        return !net->plain; /* variants have no fused kernel: their products always have a place */
    const idx row_bytes = net->z_width * (idx)net->size;
    idx steps = (CHUNK_BYTES / row_bytes > CHUNK_ROWS ? CHUNK_BYTES / row_bytes : CHUNK_ROWS) / rows;
    return steps < 1 ? 1 : steps < T ? steps : T;
}

static idx widest(const network *net) {
    const idx out = net->D * net->P > net->H ? net->D * net->P : net->H;
    return net->I > out ? net->I : out;
}

/* Lays the scratch memory of a call out. A tape stands in for the layers between and for c. */
static int take_scratch(arena *m, forward_call *f, int has_lengths, int training) {
    const network *net = &f->net;
    const idx H = net->H, DP = net->D * net->P, rows = row_split_most(&f->split);
    f->chunk = chunk_steps(net, f->T, rows);
    f->s.active = has_lengths ? arena_take(m, sizeof(int64_t), f->T, 1, 1) : NULL;
    f->s.zeros = arena_take(m, net->size, widest(net), 1, 1);
    f->s.between[0] = !training && net->L > 1 ? arena_take(m, net->size, f->T, f->B, DP) : NULL;
    f->s.between[1] = !training && net->L > 2 ? arena_take(m, net->size, f->T, f->B, DP) : NULL;
    f->s.c = training ? NULL : arena_take(m, net->size, net->D, f->B, H);
    f->s.mask = training && net->spec->variant.recurrent_dropout > 0 ? arena_take(m, net->size, f->B, H, 1) : NULL;
    f->s.out = training || !network_projects(net) ? NULL : arena_take(m, net->size, f->B, H, 1);
    f->s.products_part = f->chunk * rows * net->z_width;
    f->s.products = arena_take(m, net->size, f->pieces > 1 ? net->D : f->split.parts, f->s.products_part, 1);
    return m->overflow ? CLSTM_ERROR_SIZE : CLSTM_OK;
}

static void split_work(forward_call *f) {
    f->split = network_split_rows(&f->net, f->T, f->B);
    f->pieces = f->split.parts > 1 ? 1 : network_split_units(&f->net, f->T, f->B);
}

/* Takes as many threads as the workspace has room for. */
static int fit_workspace(forward_call *f, int has_lengths, int training, void *workspace, size_t bytes) {
    if (has_lengths)
        f->pieces = 1;
    for (;; f->split.parts--) {
        arena m = {.base = workspace};
        const int status = take_scratch(&m, f, has_lengths, training);
        if (status)
            return status;
        if (m.used <= bytes)
            return CLSTM_OK;
        if (f->split.parts == 1 && f->pieces == 1)
            return CLSTM_ERROR_WORKSPACE;
        f->split.parts += f->pieces > 1;
        f->pieces = 1;
    }
}

int clstm_forward_workspace(const clstm_spec *spec, int64_t T, int64_t B, size_t *bytes) {
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
        forward_call f = {.net = network_of(spec, isa), .T = (idx)T, .B = (idx)B};
        split_work(&f);
        arena m = {0};
        if (take_scratch(&m, &f, 1, 0) != CLSTM_OK)
            return CLSTM_ERROR_SIZE;
        most = m.used > most ? m.used : most;
    }
    *bytes = most;
    return CLSTM_OK;
}

/* ---- one direction of one layer ---- */

typedef struct forward_pass {
    const forward_call *f;
    idx first, rows; /* of the batch: all pointers below are at row `first` */
    int reverse;
    idx index; /* layer * D + direction */
    idx I;
    layer_weights w;
    plane in, out, copy; /* (T, rows, I), (T, rows, P), and a second place for out, if not NULL */
    plane c, gates;      /* c: one step (time stride 0) or all; gates: NULL p in inference */
    plane h0, c0;        /* (1, rows, P) and (1, rows, H) */
    void *hn, *cn;       /* (rows, P) and (rows, H), or NULL */
    variant_cell cell;   /* of a variant */
    plane unprojected;   /* of a projection: one step or all */
    void *products;
} forward_pass;

static void copy_rows(const network *net, plane from, idx from_t, plane to, idx to_t, idx first, idx rows, idx n) {
    for (idx b = first; b < first + rows; b++)
        memcpy(plane_at(net, to, to_t, b), plane_at(net, from, from_t, b), (size_t)n * net->size);
}

static void zero_rows(const network *net, plane a, idx t, idx first, idx end, idx n) {
    for (idx b = first; b < end; b++)
        memset(plane_at(net, a, t, b), 0, (size_t)n * net->size);
}

/* Blocks of VL hidden units. */
typedef struct unit_range {
    idx begin, end;
} unit_range;

/* Input products of steps s .. s + steps in processing order, as (steps, rows, z_width). The longer of the two
 * axes gives the rows of the product's tiles. */
static void input_products(const forward_pass *d, idx s, idx steps, unit_range units) {
    const network *net = &d->f->net;
    const idx block = net->z_width / net->H_blocks, first = units.begin * block;
    const idx t = d->reverse ? d->f->T - 1 - s : s, width = net->z_width;
    const idx in_step = d->reverse ? -d->in.time : d->in.time;
    const int by_time = steps > d->rows && in_step != d->rows * d->in.row;
    const gemm_args g = {.groups = by_time ? d->rows : steps,
                         .M = by_time ? steps : d->rows,
                         .N = (units.end - units.begin) * block,
                         .K = d->I,
                         .A = plane_at(net, d->in, t, 0),
                         .a_group = by_time ? d->in.row : in_step,
                         .a_row = by_time ? in_step : d->in.row,
                         .B = at(net, d->w.w_ih, first * d->I),
                         .init = at(net, d->w.bias, first),
                         .C = at(net, d->products, first),
                         .c_group = by_time ? width : d->rows * width,
                         .c_row = by_time ? d->rows * width : width};
    net->k->gemm(&g);
}

/* Products of step t, or NULL if the step makes them itself. */
static void *step_products(const forward_pass *d, idx t) {
    const forward_call *f = d->f;
    const idx s = d->reverse ? f->T - 1 - t : t, width = f->net.z_width;
    return f->chunk ? at(&f->net, d->products, s % f->chunk * d->rows * width) : NULL;
}

/* step_rows of a variant. */
static void variant_step_rows(const forward_pass *d, idx t, idx before, idx begin, idx end) {
    const network *net = &d->f->net;
    const int starts = before < 0;
    void *products = step_products(d, t);
    const plane z = d->gates.p ? d->gates : plane_of(products, 0, net->z_width);
    const plane out = network_projects(net) ? d->unprojected : d->out;
    const forward_call *f = d->f;
    void *mask = f->s.mask ? at(net, f->s.mask, (d->first + begin) * net->H) : NULL;
    if (mask)
        dropout_recurrent(net, f->seq->seed, d->index, (uint64_t)((t * f->B + d->first + begin) * net->H),
                          (end - begin) * net->H, mask);
    const variant_step_args g = {
        .rows = end - begin,
        .products = at(net, products, begin * net->z_width),
        .h = starts ? plane_at(net, d->h0, 0, begin) : plane_at(net, d->out, before, begin),
        .h_row = starts ? d->h0.row : d->out.row,
        .h_out = plane_at(net, d->out, t, begin),
        .h_out_row = d->out.row,
        .step = {.cell = &d->cell,
                 .rows = end - begin,
                 .z = plane_at(net, z, t, begin),
                 .z_row = z.row,
                 .c = starts ? plane_at(net, d->c0, 0, begin) : plane_at(net, d->c, before, begin),
                 .c_row = starts ? d->c0.row : d->c.row,
                 .c_out = plane_at(net, d->c, t, begin),
                 .c_out_row = d->c.row,
                 .out = plane_at(net, out, t, begin),
                 .out_row = out.row,
                 .mask = mask}};
    variant_step(net, &d->w, &g);
}

/* Rows begin .. end of step t; they continue from step `before`, or start from the initial state (before = -1). */
static void step_rows(const forward_pass *d, idx t, idx before, idx begin, idx end, unit_range units) {
    const network *net = &d->f->net;
    const idx width = net->z_width;
    if (begin >= end)
        return;
    if (!net->plain) {
        variant_step_rows(d, t, before, begin, end);
        return;
    }
    const int starts = before < 0;
    const void *products = step_products(d, t);
    cell_args g = {.rows = end - begin,
                   .H = net->H,
                   .first_block = units.begin,
                   .end_block = units.end,
                   .init = products ? at(net, products, begin * width) : d->w.bias,
                   .init_row = products ? width : 0,
                   .x = plane_at(net, d->in, t, begin),
                   .x_row = d->in.row,
                   .I = products ? 0 : d->I,
                   .h = starts ? plane_at(net, d->h0, 0, begin) : plane_at(net, d->out, before, begin),
                   .h_row = starts ? d->h0.row : d->out.row,
                   .w_ih = d->w.w_ih,
                   .w_hh = d->w.w_hh,
                   .c = starts ? plane_at(net, d->c0, 0, begin) : plane_at(net, d->c, before, begin),
                   .c_row = starts ? d->c0.row : d->c.row,
                   .c_out = plane_at(net, d->c, t, begin),
                   .c_out_row = d->c.row,
                   .h_out = plane_at(net, d->out, t, begin),
                   .h_out_row = d->out.row,
                   .gates = d->gates.p ? plane_at(net, d->gates, t, begin) : NULL,
                   .gates_row = d->gates.row};
    net->k->cell(&g);
}

/* Steps between two questions to the caller: a few milliseconds of multiply-adds. */
static idx steps_between_questions(const forward_pass *d) {
    enum { MULTIPLY_ADDS = 1 << 25 };
    return 1 + MULTIPLY_ADDS / (4 * d->f->net.H * (d->I + d->f->net.H)) / d->rows;
}

static void run_direction(const forward_pass *d) {
    const forward_call *f = d->f;
    const network *net = &f->net;
    const idx T = f->T, H = net->H, P = net->P;
    const unit_range all = {0, net->H_blocks};
    const plane hn = plane_of(d->hn, 0, P), cn = plane_of(d->cn, 0, H);
    const idx ever = active_rows(f->s.active, T, 0, d->first, d->rows); /* rows with any step at all */
    if (d->hn)
        copy_rows(net, d->h0, 0, hn, 0, ever, d->rows - ever, P);
    if (d->cn)
        copy_rows(net, d->c0, 0, cn, 0, ever, d->rows - ever, H);
    idx question = 0;
    for (idx s = 0; s < T; s++) {
        if (s == question) {
            if (interruption_heard(f->interruption))
                return;
            question += steps_between_questions(d);
        }
        const idx t = d->reverse ? T - 1 - s : s, before = d->reverse ? t + 1 : t - 1, after = 2 * t - before;
        const idx n = active_rows(f->s.active, T, t, d->first, d->rows);
        const idx n_before = active_rows(f->s.active, T, before, d->first, d->rows);
        const idx n_after = active_rows(f->s.active, T, after, d->first, d->rows);
        const idx continuing = n < n_before ? n : n_before;
        if (f->chunk && s % f->chunk == 0)
            input_products(d, s, T - s < f->chunk ? T - s : f->chunk, all);
        step_rows(d, t, before, 0, continuing, all);
        step_rows(d, t, -1, continuing, n, all);
        zero_rows(net, d->out, t, n, d->rows, P);
        if (d->copy.p)
            copy_rows(net, d->out, t, d->copy, t, 0, d->rows, P);
        if (n_after < n && d->hn)
            copy_rows(net, d->out, t, hn, 0, n_after, n - n_after, P);
        if (n_after < n && d->cn)
            copy_rows(net, d->c, t, cn, 0, n_after, n - n_after, H);
    }
}

/* ---- one layer, its units split among threads ---- */

/* A span of a layer's steps, in stages that follow each other: for each chunk its input products, then each of its
 * steps. The parts of a stage are pieces of the units of each direction. Parts are claimed in order (threads.h), so
 * whoever waits for the stages before waits for running threads only. */
typedef struct unit_team {
    const forward_pass *d; /* (D) */
    idx first, steps;      /* of time, in processing order */
    idx stage_parts;
    atomic_llong done; /* parts */
} unit_team;

static void team_step(const forward_pass *d, idx s, unit_range units) {
    const idx t = d->reverse ? d->f->T - 1 - s : s;
    step_rows(d, t, s == 0 ? -1 : d->reverse ? t + 1 : t - 1, 0, d->rows, units);
}

static void team_part(void *context, int part) {
    unit_team *team = context;
    const forward_pass *first = team->d;
    const forward_call *f = first->f;
    const idx stage = part / team->stage_parts, in_stage = part % team->stage_parts;
    const forward_pass *d = first + in_stage / f->pieces;
    const idx piece = in_stage % f->pieces, blocks = f->net.H_blocks;
    const unit_range units = {blocks * piece / f->pieces, blocks * (piece + 1) / f->pieces};
    spin_until(&team->done, (long long)(stage * team->stage_parts));
    const idx per_chunk = f->chunk + 1, in_chunk = stage % per_chunk;
    const idx s = team->first + (f->chunk ? stage / per_chunk * f->chunk : stage), end = team->first + team->steps;
    if (f->chunk && in_chunk == 0)
        input_products(d, s, end - s < f->chunk ? end - s : f->chunk, units);
    else
        team_step(d, f->chunk ? s + in_chunk - 1 : s, units);
    atomic_fetch_add_explicit(&team->done, 1, memory_order_release);
}

static void run_span(const forward_pass *d, idx first, idx steps) {
    const forward_call *f = d->f;
    unit_team team = {.d = d, .first = first, .steps = steps, .stage_parts = f->net.D * f->pieces};
    const idx chunks = f->chunk ? (steps + f->chunk - 1) / f->chunk : 0;
    clstm_team((int)f->pieces, (int)((steps + chunks) * team.stage_parts), team_part, &team);
}

static void run_team(const forward_pass *d) {
    const forward_call *f = d->f;
    const network *net = &f->net;
    const idx chunk = f->chunk ? f->chunk : 1, span = round_up(steps_between_questions(d), chunk);
    for (idx s = 0; s < f->T; s += span) {
        if (interruption_heard(f->interruption))
            return;
        run_span(d, s, f->T - s < span ? f->T - s : span);
    }
    for (idx direction = 0; direction < net->D; direction++, d++) {
        const idx last = d->reverse ? 0 : f->T - 1;
        for (idx t = 0; t < f->T && d->copy.p; t++)
            copy_rows(net, d->out, t, d->copy, t, 0, d->rows, net->P);
        if (d->hn)
            copy_rows(net, d->out, last, plane_of(d->hn, 0, net->P), 0, 0, d->rows, net->P);
        if (d->cn)
            copy_rows(net, d->c, last, plane_of(d->cn, 0, net->H), 0, 0, d->rows, net->H);
    }
}

/* ---- the stack ---- */

/* (L*D, B, n) initial states of a layer and direction as a plane of rows; if NULL, the learned ones, or zeros. */
static plane initial_state(const forward_call *f, const void *states, const void *learned, idx index, idx first,
                           idx n) {
    if (!states)
        return plane_of(learned ? learned : f->s.zeros, 0, 0);
    return plane_of(at(&f->net, states, (index * f->B + first) * n), 0, n);
}

static void *final_state(const forward_call *f, void *states, idx index, idx first, idx n) {
    return states ? at(&f->net, states, (index * f->B + first) * n) : NULL;
}

/* Where a layer writes its output, from row `first` on. */
static plane layer_output(const forward_call *f, idx layer, idx first) {
    const network *net = &f->net;
    const idx DP = net->D * net->P;
    plane a = plane_of(NULL, f->B * DP, DP);
    if (f->tape)
        a.p = network_tape_output(net, f->tape, f->T, f->B, layer);
    else if (layer == net->L - 1)
        a = plane_of(f->seq->y, (idx)f->seq->y_time_stride, (idx)f->seq->y_row_stride);
    else
        a.p = f->s.between[layer % 2];
    a.p = plane_at(net, a, 0, first);
    return a;
}

static plane dropped_output(const forward_call *f, idx layer, idx first, idx rows, plane out) {
    const network *net = &f->net;
    const idx DP = net->D * net->P;
    const plane to =
        plane_of(at(net, network_tape_dropped(net, f->tape, f->T, f->B, layer), first * DP), f->B * DP, DP);
    for (idx t = 0; t < f->T; t++)
        dropout_apply(net, f->seq->seed, layer, (uint64_t)((t * f->B + first) * DP), rows * DP,
                      plane_at(net, out, t, 0), plane_at(net, to, t, 0));
    return to;
}

/* What the first layer reads: x itself, or with a tape the copy of it that the tape keeps (padding becomes 0). */
static plane first_input(const forward_call *f, idx first, idx rows) {
    const network *net = &f->net;
    const clstm_sequence *q = f->seq;
    const plane x = plane_of(at(net, q->x, first * (idx)q->x_row_stride), (idx)q->x_time_stride, (idx)q->x_row_stride);
    if (!f->tape)
        return x;
    plane copy = plane_of(network_tape(net, f->tape, f->T, f->B).x, f->B * net->I, net->I);
    copy.p = plane_at(net, copy, 0, first);
    for (idx t = 0; t < f->T; t++) {
        const idx n = active_rows(f->s.active, f->T, t, first, rows);
        copy_rows(net, x, t, copy, t, 0, n, net->I);
        zero_rows(net, copy, t, n, rows, net->I);
    }
    return copy;
}

static forward_pass direction_pass(const forward_call *f, idx layer, idx direction, int part, plane in, plane out) {
    const network *net = &f->net;
    const idx first = row_split_start(&f->split, part), rows = row_split_start(&f->split, part + 1) - first;
    const idx index = layer * net->D + direction, offset = direction * net->P;
    const idx share = f->pieces > 1 ? direction : part;
    forward_pass d = {.f = f,
                      .first = first,
                      .rows = rows,
                      .reverse = direction == 1,
                      .index = index,
                      .I = network_layer_input(net, layer),
                      .w = network_weights(net, f->pack, layer, direction),
                      .in = in,
                      .out = plane_of(at(net, out.p, offset), out.time, out.row),
                      .hn = final_state(f, f->seq->hn, index, first, net->P),
                      .cn = final_state(f, f->seq->cn, index, first, net->H),
                      .products = at(net, f->s.products, share * f->s.products_part)};
    d.h0 = initial_state(f, f->seq->h0, d.w.h0, index, first, net->P);
    d.c0 = initial_state(f, f->seq->c0, d.w.c0, index, first, net->H);
    if (f->tape) {
        const direction_tape tape = network_direction_tape(net, f->tape, f->T, f->B, layer, direction);
        d.c = plane_of(at(net, tape.c, first * net->H), f->B * net->H, net->H);
        const idx gates = network_tape_gates(net);
        d.gates = plane_of(at(net, tape.gates, first * gates), f->B * gates, gates);
        d.unprojected = plane_of(tape.out, f->B * net->H, net->H);
        if (layer == net->L - 1) {
            d.copy = plane_of(f->seq->y, (idx)f->seq->y_time_stride, (idx)f->seq->y_row_stride);
            d.copy.p = at(net, plane_at(net, d.copy, 0, first), offset);
        }
    } else {
        d.c = plane_of(at(net, f->s.c, (direction * f->B + first) * net->H), 0, net->H);
        d.unprojected = plane_of(f->s.out, 0, net->H);
    }
    if (network_projects(net))
        d.unprojected.p = plane_at(net, d.unprojected, 0, first);
    if (!net->plain)
        d.cell = variant_cell_of(net, &d.w);
    return d;
}

static void forward_rows(void *context, int part) {
    const forward_call *f = context;
    const network *net = &f->net;
    const idx first = row_split_start(&f->split, part), rows = row_split_start(&f->split, part + 1) - first;
    if (rows == 0)
        return;
    plane in = first_input(f, first, rows);
    for (idx layer = 0; layer < net->L; layer++) {
        const plane out = layer_output(f, layer, first);
        forward_pass d[2];
        for (idx direction = 0; direction < net->D; direction++)
            d[direction] = direction_pass(f, layer, direction, part, in, out);
        for (idx direction = 0; direction < net->D && f->pieces == 1; direction++)
            run_direction(&d[direction]);
        if (f->pieces > 1)
            run_team(d);
        in = f->tape && net->spec->dropout > 0 && layer < net->L - 1 ? dropped_output(f, layer, first, rows, out) : out;
    }
}

/* Threads split the rows here, or the units within each layer. */
static void run_stack(forward_call *f) {
    if (f->pieces == 1) {
        clstm_parallel((int)f->split.parts, forward_rows, f);
        return;
    }
    const fpmode caller = fpmode_enter();
    forward_rows(f, 0);
    fpmode_leave(caller);
}

/* ---- entry point ---- */

/* The initial states of all layers and directions, wherever they come from. */
static void write_states(const forward_call *f, const tape_parts *tape) {
    const network *net = &f->net;
    const idx B = f->B, P = net->P, H = net->H;
    for (idx index = 0; index < net->L * net->D; index++) {
        const layer_weights w = network_weights(net, f->pack, index / net->D, index % net->D);
        copy_rows(net, initial_state(f, f->seq->h0, w.h0, index, 0, P), 0,
                  plane_of(at(net, tape->h0, index * B * P), 0, P), 0, 0, B, P);
        copy_rows(net, initial_state(f, f->seq->c0, w.c0, index, 0, H), 0,
                  plane_of(at(net, tape->c0, index * B * H), 0, H), 0, 0, B, H);
    }
}

static void write_tape_head(const forward_call *f) {
    const network *net = &f->net;
    const tape_parts tape = network_tape(net, f->tape, f->T, f->B);
    memset(tape.header, 0, sizeof *tape.header);
    tape.header->magic = CLSTM_TAPE_MAGIC;
    tape.header->has_lengths = f->seq->lengths != NULL;
    tape.header->has_h0 = f->seq->h0 != NULL;
    tape.header->has_c0 = f->seq->c0 != NULL;
    tape.header->spec = *net->spec;
    tape.header->T = f->T;
    tape.header->B = f->B;
    tape.header->seed = f->seq->seed;
    if (f->seq->lengths && f->B)
        memcpy(tape.lengths, f->seq->lengths, (size_t)f->B * sizeof *tape.lengths);
    write_states(f, &tape);
}

int clstm_forward(const clstm_spec *spec, const void *pack, const clstm_sequence *seq, void *tape, void *workspace,
                  size_t workspace_bytes) {
    if (!seq)
        return CLSTM_ERROR_NULL;
    forward_call f = {.seq = seq, .pack = pack, .tape = tape, .T = (idx)seq->T, .B = (idx)seq->B};
    int status = network_check_batch(spec, seq->T, seq->B);
    if (!status)
        status = network_open_pack(spec, pack, tape != NULL, &f.net);
    if (status)
        return status;
    const int empty = f.T == 0 || f.B == 0;
    if (!workspace || (!empty && (!seq->x || !seq->y)))
        return CLSTM_ERROR_NULL;
    split_work(&f);
    status = fit_workspace(&f, seq->lengths != NULL, tape != NULL, workspace, workspace_bytes);
    if (!status && seq->lengths)
        status = network_count_active(seq->lengths, f.T, f.B, f.s.active);
    if (status)
        return status;
    memset(f.s.zeros, 0, (size_t)widest(&f.net) * f.net.size);
    if (tape)
        write_tape_head(&f);
    interruption interruption;
    f.interruption = &interruption;
    interruption_start(&interruption, seq->interrupt, seq->interrupt_context);
    run_stack(&f);
    if (!atomic_load(&interruption.ended))
        return CLSTM_OK;
    if (tape)
        network_tape(&f.net, tape, f.T, f.B).header->magic = 0;
    return CLSTM_ERROR_INTERRUPTED;
}

/* The sequence loop: a stack of layers over a batch. Every row runs through all layers and all of time on one thread,
 * so threads never wait for each other. Free of any instruction set. */
#include <string.h>

#include "dropout.h"
#include "interrupt.h"
#include "network.h"
#include "threads.h"

enum { CHUNK_BYTES = 256 << 10, CHUNK_ROWS = 64 }; /* the input product of a chunk stays in the L2 cache */

typedef struct forward_scratch {
    int64_t *active;   /* (T) rows that are valid at each step; NULL without lengths */
    void *zeros;       /* (max(I, D*H)) */
    void *between[2];  /* (T, B, D*H) outputs of the layers between, for inference */
    void *c;           /* (B, H), for inference */
    void *products;    /* per part: (chunk * rows, blocks, 4, VL) input products */
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
    forward_scratch s;
    interruption *interruption;
} forward_call;

/* ---- scratch memory ---- */

/* Few rows: the input product of many steps at once reads W_ih once for all of them. Many rows: the step itself does.
 */
static idx chunk_steps(const network *net, idx T, idx rows) {
    if (T <= 1 || rows == 0 || rows >= CHUNK_ROWS)
        return 0;
    const idx row_bytes = net->H_blocks * 4 * net->k->vl * (idx)net->size;
    idx steps = (CHUNK_BYTES / row_bytes > CHUNK_ROWS ? CHUNK_BYTES / row_bytes : CHUNK_ROWS) / rows;
    return steps < 1 ? 1 : steps < T ? steps : T;
}

/* Lays the scratch memory of a call out. A tape stands in for the layers between and for c. */
static int take_scratch(arena *m, forward_call *f, int has_lengths, int training) {
    const network *net = &f->net;
    const idx H = net->H, DH = net->D * H, rows = row_split_most(&f->split);
    f->chunk = chunk_steps(net, f->T, rows);
    f->s.active = has_lengths ? arena_take(m, sizeof(int64_t), f->T, 1, 1) : NULL;
    f->s.zeros = arena_take(m, net->size, net->I > DH ? net->I : DH, 1, 1);
    f->s.between[0] = !training && net->L > 1 ? arena_take(m, net->size, f->T, f->B, DH) : NULL;
    f->s.between[1] = !training && net->L > 2 ? arena_take(m, net->size, f->T, f->B, DH) : NULL;
    f->s.c = training ? NULL : arena_take(m, net->size, f->B, H, 1);
    f->s.products_part = f->chunk * rows * net->H_blocks * 4 * net->k->vl;
    f->s.products = arena_take(m, net->size, f->split.parts, f->s.products_part, 1);
    return m->overflow ? CLSTM_ERROR_SIZE : CLSTM_OK;
}

/* Takes as many threads as the workspace has room for. */
static int fit_workspace(forward_call *f, int has_lengths, int training, void *workspace, size_t bytes) {
    for (;; f->split.parts--) {
        arena m = {.base = workspace};
        const int status = take_scratch(&m, f, has_lengths, training);
        if (status)
            return status;
        if (m.used <= bytes)
            return CLSTM_OK;
        if (f->split.parts == 1)
            return CLSTM_ERROR_WORKSPACE;
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
        f.split = network_split_rows(&f.net, f.T, f.B);
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
    idx I;
    layer_weights w;
    plane in, out, copy; /* (T, rows, I), (T, rows, H), and a second place for out, if not NULL */
    plane c, gates;      /* c: one step (time stride 0) or all; gates: NULL p in inference */
    plane h0, c0;        /* (1, rows, H) */
    void *hn, *cn;       /* (rows, H) or NULL */
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

/* Input products of steps s .. s + steps in processing order, as (steps, rows, blocks, 4, VL). The longer of the two
 * axes gives the rows of the product's tiles. */
static void input_products(const forward_pass *d, idx s, idx steps) {
    const network *net = &d->f->net;
    const idx t = d->reverse ? d->f->T - 1 - s : s, width = net->H_blocks * 4 * net->k->vl;
    const idx in_step = d->reverse ? -d->in.time : d->in.time;
    const int by_time = steps > d->rows;
    const gemm_args g = {.groups = by_time ? d->rows : steps,
                         .M = by_time ? steps : d->rows,
                         .N = width,
                         .K = d->I,
                         .A = plane_at(net, d->in, t, 0),
                         .a_group = by_time ? d->in.row : in_step,
                         .a_row = by_time ? in_step : d->in.row,
                         .B = d->w.w_ih,
                         .init = d->w.bias,
                         .C = d->products,
                         .c_group = by_time ? width : d->rows * width,
                         .c_row = by_time ? d->rows * width : width};
    net->k->gemm(&g);
}

/* Rows begin .. end of step t; they continue from step `before`, or start from the initial state (before = -1). */
static void step_rows(const forward_pass *d, idx t, idx before, idx begin, idx end, const void *products) {
    const network *net = &d->f->net;
    const idx width = net->H_blocks * 4 * net->k->vl;
    if (begin >= end)
        return;
    const int starts = before < 0;
    cell_args g = {.rows = end - begin,
                   .H = net->H,
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
    enum { MULTIPLY_ADDS = 1 << 23 };
    return 1 + MULTIPLY_ADDS / (4 * d->f->net.H * (d->I + d->f->net.H)) / d->rows;
}

static void run_direction(const forward_pass *d) {
    const forward_call *f = d->f;
    const network *net = &f->net;
    const idx T = f->T, H = net->H, width = net->H_blocks * 4 * net->k->vl;
    const plane hn = plane_of(d->hn, 0, H), cn = plane_of(d->cn, 0, H);
    const idx ever = active_rows(f->s.active, T, 0, d->first, d->rows); /* rows with any step at all */
    if (d->hn)
        copy_rows(net, d->h0, 0, hn, 0, ever, d->rows - ever, H);
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
        const void *products = f->chunk ? at(net, d->products, s % f->chunk * d->rows * width) : NULL;
        if (f->chunk && s % f->chunk == 0)
            input_products(d, s, T - s < f->chunk ? T - s : f->chunk);
        step_rows(d, t, before, 0, continuing, products);
        step_rows(d, t, -1, continuing, n, products);
        zero_rows(net, d->out, t, n, d->rows, H);
        if (d->copy.p)
            copy_rows(net, d->out, t, d->copy, t, 0, d->rows, H);
        if (n_after < n && d->hn)
            copy_rows(net, d->out, t, hn, 0, n_after, n - n_after, H);
        if (n_after < n && d->cn)
            copy_rows(net, d->c, t, cn, 0, n_after, n - n_after, H);
    }
}

/* ---- the stack ---- */

/* (L*D, B, H) initial states of a layer and direction as a plane of rows; zeros if NULL. */
static plane initial_state(const forward_call *f, const void *states, idx index, idx first) {
    const network *net = &f->net;
    if (!states)
        return plane_of(f->s.zeros, 0, 0);
    return plane_of(at(net, states, (index * f->B + first) * net->H), 0, net->H);
}

static void *final_state(const forward_call *f, void *states, idx index, idx first) {
    return states ? at(&f->net, states, (index * f->B + first) * f->net.H) : NULL;
}

/* Where a layer writes its output, from row `first` on. */
static plane layer_output(const forward_call *f, idx layer, idx first) {
    const network *net = &f->net;
    const idx DH = net->D * net->H;
    plane a = plane_of(NULL, f->B * DH, DH);
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
    const idx DH = net->D * net->H;
    const plane to =
        plane_of(at(net, network_tape_dropped(net, f->tape, f->T, f->B, layer), first * DH), f->B * DH, DH);
    for (idx t = 0; t < f->T; t++)
        dropout_apply(net, f->seq->seed, layer, (uint64_t)((t * f->B + first) * DH), rows * DH,
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

static void forward_rows(void *context, int part) {
    const forward_call *f = context;
    const network *net = &f->net;
    const idx first = row_split_start(&f->split, part), rows = row_split_start(&f->split, part + 1) - first;
    if (rows == 0)
        return;
    plane in = first_input(f, first, rows);
    for (idx layer = 0; layer < net->L; layer++) {
        const plane out = layer_output(f, layer, first);
        for (idx direction = 0; direction < net->D; direction++) {
            const idx index = layer * net->D + direction, offset = direction * net->H;
            forward_pass d = {.f = f,
                              .first = first,
                              .rows = rows,
                              .reverse = direction == 1,
                              .I = network_layer_input(net, layer),
                              .w = network_weights(net, f->pack, layer, direction),
                              .in = in,
                              .out = plane_of(at(net, out.p, offset), out.time, out.row),
                              .h0 = initial_state(f, f->seq->h0, index, first),
                              .c0 = initial_state(f, f->seq->c0, index, first),
                              .hn = final_state(f, f->seq->hn, index, first),
                              .cn = final_state(f, f->seq->cn, index, first),
                              .products = at(net, f->s.products, part * f->s.products_part)};
            if (f->tape) {
                const direction_tape tape = network_direction_tape(net, f->tape, f->T, f->B, layer, direction);
                d.c = plane_of(at(net, tape.c, first * net->H), f->B * net->H, net->H);
                d.gates = plane_of(at(net, tape.gates, first * 4 * net->H), f->B * 4 * net->H, 4 * net->H);
                if (layer == net->L - 1) {
                    d.copy = plane_of(f->seq->y, (idx)f->seq->y_time_stride, (idx)f->seq->y_row_stride);
                    d.copy.p = at(net, plane_at(net, d.copy, 0, first), offset);
                }
            } else {
                d.c = plane_of(at(net, f->s.c, first * net->H), 0, net->H);
            }
            run_direction(&d);
        }
        in = f->tape && net->spec->dropout > 0 && layer < net->L - 1 ? dropped_output(f, layer, first, rows, out) : out;
    }
}

/* ---- entry point ---- */

static void write_state(const network *net, const void *from, idx B, void *to) {
    const size_t bytes = (size_t)(net->L * net->D * B * net->H) * net->size;
    if (from)
        memcpy(to, from, bytes);
    else
        memset(to, 0, bytes);
}

static void write_tape_head(const forward_call *f) {
    const network *net = &f->net;
    const tape_parts tape = network_tape(net, f->tape, f->T, f->B);
    memset(tape.header, 0, sizeof *tape.header);
    tape.header->magic = CLSTM_TAPE_MAGIC;
    tape.header->has_lengths = f->seq->lengths != NULL;
    tape.header->spec = *net->spec;
    tape.header->T = f->T;
    tape.header->B = f->B;
    tape.header->seed = f->seq->seed;
    if (f->seq->lengths && f->B)
        memcpy(tape.lengths, f->seq->lengths, (size_t)f->B * sizeof *tape.lengths);
    write_state(net, f->seq->h0, f->B, tape.h0);
    write_state(net, f->seq->c0, f->B, tape.c0);
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
    f.split = network_split_rows(&f.net, f.T, f.B);
    status = fit_workspace(&f, seq->lengths != NULL, tape != NULL, workspace, workspace_bytes);
    if (!status && seq->lengths)
        status = network_count_active(seq->lengths, f.T, f.B, f.s.active);
    if (status)
        return status;
    memset(f.s.zeros, 0, (size_t)(f.net.I > f.net.D * f.net.H ? f.net.I : f.net.D * f.net.H) * f.net.size);
    if (tape)
        write_tape_head(&f);
    interruption interruption;
    f.interruption = &interruption;
    interruption_start(&interruption, seq->interrupt, seq->interrupt_context);
    clstm_parallel((int)f.split.parts, forward_rows, &f);
    if (!atomic_load(&interruption.ended))
        return CLSTM_OK;
    if (tape)
        network_tape(&f.net, tape, f.T, f.B).header->magic = 0;
    return CLSTM_ERROR_INTERRUPTED;
}

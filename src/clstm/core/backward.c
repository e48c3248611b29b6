/* Backpropagation through time (Werbos 1990). Layers are visited from the top, steps from the last in processing
 * order. A chunk of steps at a time, first every thread walks its rows:
 *
 *     dz_t (rows, 4H) from dh_t = dy_t + dz_{t+1} W_hh, and dx_t = dz_t W_ih
 *
 * then every thread takes some rows of the weights, and dW += dz' [x | h_before | 1] runs over the whole chunk. Each
 * element of dW is one chain over all steps and rows in the order visited, whatever the chunks and the threads. */
#include <string.h>

#include "dropout.h"
#include "interrupt.h"
#include "network.h"
#include "threads.h"

enum { CHUNK_ROWS = 256 }; /* rows (steps x batch) of a chunk: dW is read and written once in this many */

typedef struct backward_scratch {
    int64_t *active; /* (T); NULL without lengths */
    void *zeros;     /* (D*H) */
    void *dlayer[2]; /* (T, B, D*H) gradients between layers */
    void *dc;        /* (B, H) */
    void *dz;        /* (B + chunk rows, 4H): the last step of the chunk before, then this chunk */
    idx *offset;     /* (steps + 1) first row of each step of the chunk */
    void *inputs;    /* [x | h_before | 1] of the chunk in gemm panels */
    void *dz_tiles;  /* dz of the chunk, transposed, in row tiles */
    void *dW;        /* (4H, columns rounded up to VL) */
} backward_scratch;

typedef struct backward_call {
    network net;
    const clstm_gradients *grads;
    const void *pack, *tape;
    tape_parts head;
    idx T, B;
    idx steps; /* of a chunk */
    row_split row_parts;
    idx weight_parts;
    backward_scratch s;
    interruption *interruption;
} backward_call;

/* One layer and direction. */
typedef struct backward_pass {
    const backward_call *b;
    idx layer;
    int reverse;
    idx I, columns; /* columns: I + H + 1 of dW */
    layer_weights w;
    plane x, h, c, gates, dy;
    plane dx;               /* NULL p: not wanted */
    int adds_dx;            /* the other direction has written dx already */
    plane h0, c0, dhn, dh0; /* (1, B, H); dh0: NULL p if not wanted */
    idx s0, s1;             /* visited steps of the chunk */
} backward_pass;

/* ---- scratch memory ---- */

static idx widest_columns(const network *net) {
    const idx top = network_layer_input(net, net->L - 1);
    return (net->I > top ? net->I : top) + net->H + 1;
}

static int take_scratch(arena *m, backward_call *b, int has_lengths) {
    const network *net = &b->net;
    const idx H = net->H, DH = net->D * H, width = round_up(widest_columns(net), net->k->vl);
    const idx most = (CHUNK_ROWS + b->B - 1) / (b->B ? b->B : 1);
    b->steps = most < b->T ? most : b->T;
    const idx rows = b->steps * b->B;
    b->s.active = has_lengths ? arena_take(m, sizeof(int64_t), b->T, 1, 1) : NULL;
    b->s.zeros = arena_take(m, net->size, DH, 1, 1);
    b->s.dlayer[0] = net->L > 1 ? arena_take(m, net->size, b->T, b->B, DH) : NULL;
    b->s.dlayer[1] = net->L > 2 ? arena_take(m, net->size, b->T, b->B, DH) : NULL;
    b->s.dc = arena_take(m, net->size, b->B, H, 1);
    b->s.dz = arena_take(m, net->size, b->B + rows, 4 * H, 1);
    b->s.offset = arena_take(m, sizeof(idx), b->steps + 1, 1, 1);
    b->s.inputs = arena_take(m, net->size, rows, width, 1);
    b->s.dz_tiles = arena_take(m, net->size, rows, round_up(4 * H, net->k->max_rows), 1);
    b->s.dW = arena_take(m, net->size, 4 * H, width, 1);
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
    return at(&b->net, b->s.dz, at_row * 4 * b->net.H);
}

/* dz of rows begin .. end at visited step s. has_after: the following step was valid too; has_before: so was the one
 * before, else the row began here. */
static void grad_rows(const backward_pass *d, idx s, idx begin, idx end, int has_after, int has_before) {
    const backward_call *b = d->b;
    const network *net = &b->net;
    const idx t = time_of(d, s), before = d->reverse ? t + 1 : t - 1;
    const plane c_prev = has_before ? d->c : d->c0;
    const cell_grad_args g = {.rows = end - begin,
                              .H = net->H,
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
    if (begin < end)
        net->k->cell_grad(&g);
}

/* dh_0 = dz W_hh of rows begin .. end, which began at visited step s. */
static void initial_gradients(const backward_pass *d, idx s, idx begin, idx end) {
    const network *net = &d->b->net;
    const gemm_args g = {.groups = 1,
                         .M = end - begin,
                         .N = net->H,
                         .K = 4 * net->H,
                         .A = dz_at(d, s, begin),
                         .a_row = 4 * net->H,
                         .B = d->w.w_hh_panels,
                         .C = plane_at(net, d->dh0, 0, begin),
                         .c_row = d->dh0.row};
    if (begin < end && d->dh0.p)
        net->k->gemm(&g);
}

/* Copies n values into columns col .. of row r of `inputs` (rows, columns) in gemm panels. */
static void put_columns(const backward_pass *d, idx rows, idx r, idx col, const void *from, idx n) {
    const network *net = &d->b->net;
    const idx panel = net->k->panel, all = round_up(d->columns, net->k->vl);
    while (n > 0) {
        const idx start = col / panel * panel, width = all - start < panel ? all - start : panel;
        const idx run = start + width - col < n ? start + width - col : n;
        memcpy(at(net, d->b->s.inputs, start * rows + r * width + (col - start)), from, (size_t)run * net->size);
        from = at(net, from, run);
        col += run;
        n -= run;
    }
}

/* [x | h_before | 1 | 0] of a row of step t. */
static void put_inputs(const backward_pass *d, idx rows, idx r, idx t, idx row, int has_before) {
    const network *net = &d->b->net;
    const idx before = d->reverse ? t + 1 : t - 1, padding = round_up(d->columns, net->k->vl) - d->columns;
    const float one_f32 = 1;
    const double one_f64 = 1;
    put_columns(d, rows, r, 0, plane_at(net, d->x, t, row), d->I);
    put_columns(d, rows, r, d->I, has_before ? plane_at(net, d->h, before, row) : plane_at(net, d->h0, 0, row), net->H);
    put_columns(d, rows, r, d->I + net->H, net->size == 4 ? (const void *)&one_f32 : (const void *)&one_f64, 1);
    for (idx p = 0; p < padding; p++)
        put_columns(d, rows, r, d->columns + p, d->b->s.zeros, 1);
}

/* dx of rows begin .. end of visited steps s0 .. s1, at all of which they are valid. */
static void dx_product(const backward_pass *d, idx s0, idx s1, idx begin, idx end) {
    const network *net = &d->b->net;
    const idx steps = s1 - s0, rows = end - begin, dz_row = 4 * net->H, dz_step = d->b->B * dz_row;
    const idx dx_step = d->reverse ? d->dx.time : -d->dx.time;
    const int by_time = steps > rows;
    void *dx = plane_at(net, d->dx, time_of(d, s0), begin);
    const gemm_args g = {.groups = by_time ? rows : steps,
                         .M = by_time ? steps : rows,
                         .N = d->I,
                         .K = 4 * net->H,
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

/* dx of the chunk's rows begin .. end: all steps at once if all rows are valid, else step by step; 0 in the padding. */
static void input_gradients(const backward_pass *d, idx begin, idx end) {
    const backward_call *b = d->b;
    if (!d->dx.p)
        return;
    if (b->s.offset[d->s1 - d->s0] == (d->s1 - d->s0) * b->B) {
        dx_product(d, d->s0, d->s1, begin, end);
        return;
    }
    for (idx s = d->s0; s < d->s1; s++) {
        const idx t = time_of(d, s), valid = begin + active_rows(b->s.active, b->T, t, begin, end - begin);
        dx_product(d, s, s + 1, begin, valid);
        for (idx row = valid; row < end && !d->adds_dx; row++)
            memset(plane_at(&b->net, d->dx, t, row), 0, (size_t)d->I * b->net.size);
    }
}

static void chunk_rows(void *context, int part) {
    const backward_pass *d = context;
    const backward_call *b = d->b;
    const network *net = &b->net;
    const idx first = row_split_start(&b->row_parts, part), end = row_split_start(&b->row_parts, part + 1);
    const idx all_rows = b->s.offset[d->s1 - d->s0];
    for (idx s = d->s0; s < d->s1; s++) {
        const idx t = time_of(d, s), before = d->reverse ? t + 1 : t - 1, after = 2 * t - before;
        const idx n = first + active_rows(b->s.active, b->T, t, first, end - first);
        idx n_before = first + active_rows(b->s.active, b->T, before, first, end - first);
        idx n_after = first + active_rows(b->s.active, b->T, after, first, end - first);
        n_before = n_before < n ? n_before : n;
        n_after = n_after < n ? n_after : n;
        /* of the two neighbours, one has all n rows: three runs at most, one of them empty */
        const idx low = n_before < n_after ? n_before : n_after, high = n_before < n_after ? n_after : n_before;
        grad_rows(d, s, first, low, 1, 1);
        grad_rows(d, s, low, high, n_after > low, n_before > low);
        grad_rows(d, s, high, n, 0, 0);
        initial_gradients(d, s, n_before, n);
        if (b->grads->dparams)
            for (idx row = first; row < n; row++)
                put_inputs(d, all_rows, b->s.offset[s - d->s0] + row, t, row, row < n_before);
    }
    input_gradients(d, first, end);
    const idx last = first + active_rows(b->s.active, b->T, time_of(d, d->s1 - 1), first, end - first);
    if (last > first)
        memcpy(dz_at(d, d->s0 - 1, first), dz_at(d, d->s1 - 1, first),
               (size_t)((last - first) * 4 * net->H) * net->size);
}

/* ---- second half: weights ---- */

static void chunk_weights(void *context, int part) {
    const backward_pass *d = context;
    const backward_call *b = d->b;
    const network *net = &b->net;
    const idx tile = net->k->max_rows, rows = b->s.offset[d->s1 - d->s0], width = round_up(d->columns, net->k->vl);
    const row_split units = {.B = 4 * net->H, .tile = tile, .parts = b->weight_parts};
    const idx first = row_split_start(&units, part), end = row_split_start(&units, part + 1);
    void *dW = at(net, b->s.dW, first * width), *tiles = at(net, b->s.dz_tiles, first * rows);
    const tile_args transpose = {
        .K = rows, .M = end - first, .src = at(net, dz_at(d, d->s0, 0), first), .src_row = 4 * net->H, .dst = tiles};
    net->k->pack_tiles(&transpose);
    const gemm_args g = {.groups = 1,
                         .M = end - first,
                         .N = width,
                         .K = rows,
                         .A = tiles,
                         .a_tile = rows * tile,
                         .B = b->s.inputs,
                         .init = d->s0 ? dW : NULL,
                         .init_row = width,
                         .C = dW,
                         .c_row = width};
    net->k->gemm(&g);
}

/* From dW (4H, [I | H | 1]) to the caller's arrays. */
static void write_weights(const backward_pass *d, void *const *dparams) {
    const network *net = &d->b->net;
    const idx width = round_up(d->columns, net->k->vl);
    for (idx j = 0; j < 4 * net->H; j++) {
        const void *row = at(net, d->b->s.dW, j * width);
        memcpy(at(net, dparams[0], j * d->I), row, (size_t)d->I * net->size);
        memcpy(at(net, dparams[1], j * net->H), at(net, row, d->I), (size_t)net->H * net->size);
        for (int bias = 0; bias < 2 * net->spec->bias; bias++)
            memcpy(at(net, dparams[2 + bias], j), at(net, row, d->I + net->H), net->size);
    }
}

/* ---- the stack ---- */

/* dc starts as the gradient on the final c; rows without any step pass that on their final h to the initial one. */
static void start_states(const backward_pass *d, const void *dcn) {
    const backward_call *b = d->b;
    const network *net = &b->net;
    const size_t row_bytes = (size_t)net->H * net->size;
    if (dcn)
        memcpy(b->s.dc, dcn, (size_t)b->B * row_bytes);
    else
        memset(b->s.dc, 0, (size_t)b->B * row_bytes);
    for (idx row = active_rows(b->s.active, b->T, 0, 0, b->B); row < b->B && d->dh0.p; row++)
        memcpy(plane_at(net, d->dh0, 0, row), plane_at(net, d->dhn, 0, row), row_bytes);
}

static void run_direction(backward_pass *d, void *const *dparams) {
    const backward_call *b = d->b;
    if (b->T == 0 || b->B == 0)
        memset(b->s.dW, 0, (size_t)(4 * b->net.H * round_up(d->columns, b->net.k->vl)) * b->net.size);
    for (d->s0 = 0; d->s0 < b->T && b->B > 0; d->s0 = d->s1) {
        if (interruption_heard(b->interruption))
            return;
        d->s1 = b->T - d->s0 < b->steps ? b->T : d->s0 + b->steps;
        b->s.offset[0] = 0;
        for (idx s = d->s0; s < d->s1; s++)
            b->s.offset[s - d->s0 + 1] =
                b->s.offset[s - d->s0] + active_rows(b->s.active, b->T, time_of(d, s), 0, b->B);
        clstm_parallel((int)b->row_parts.parts, chunk_rows, d);
        if (dparams)
            clstm_parallel((int)b->weight_parts, chunk_weights, d);
    }
    if (dparams)
        write_weights(d, dparams);
}

/* The (T, B, ...) arrays that a layer reads; from the top layer down, dy is the caller's and then the dx of the layer
 * above. */
static plane layer_input(const backward_call *b, idx layer) {
    const network *net = &b->net;
    const idx DH = net->D * net->H;
    if (layer == 0)
        return plane_of(b->head.x, b->B * net->I, net->I);
    return plane_of(network_tape_dropped(net, b->tape, b->T, b->B, layer - 1), b->B * DH, DH);
}

static plane layer_dy(const backward_call *b, idx layer) {
    const network *net = &b->net;
    const clstm_gradients *g = b->grads;
    const idx DH = net->D * net->H;
    if (layer < net->L - 1)
        return plane_of(b->s.dlayer[layer % 2], b->B * DH, DH);
    if (!g->dy)
        return plane_of(b->s.zeros, 0, 0);
    return plane_of(g->dy, (idx)g->dy_time_stride, (idx)g->dy_row_stride);
}

static plane layer_dx(const backward_call *b, idx layer) {
    const clstm_gradients *g = b->grads;
    if (layer > 0)
        return layer_dy(b, layer - 1);
    return plane_of(g->dx, (idx)g->dx_time_stride, (idx)g->dx_row_stride);
}

static void undrop(void *context, int part) {
    const backward_pass *d = context;
    const backward_call *b = d->b;
    const idx first = b->T * part / b->row_parts.parts, end = b->T * (part + 1) / b->row_parts.parts;
    const idx step = b->B * d->I;
    void *dx = at(&b->net, d->dx.p, first * step);
    dropout_apply(&b->net, b->head.header->seed, d->layer - 1, (uint64_t)(first * step), (end - first) * step, dx, dx);
}

static void backward_layer(const backward_call *b, idx layer) {
    const network *net = &b->net;
    const clstm_gradients *g = b->grads;
    const idx H = net->H, states = b->B * H, per_direction = 2 + 2 * net->spec->bias;
    const plane dy = layer_dy(b, layer),
                h = plane_of(network_tape_output(net, b->tape, b->T, b->B, layer), b->B * net->D * H, net->D * H);
    backward_pass d = {.b = b, .layer = layer, .I = network_layer_input(net, layer)};
    d.columns = d.I + H + 1;
    d.x = layer_input(b, layer);
    d.dx = layer_dx(b, layer);
    for (idx direction = 0; direction < net->D; direction++) {
        const idx index = layer * net->D + direction;
        const direction_tape tape = network_direction_tape(net, b->tape, b->T, b->B, layer, direction);
        d.reverse = direction == 1;
        d.adds_dx = direction > 0;
        d.w = network_weights(net, b->pack, layer, direction);
        d.h = plane_of(at(net, h.p, direction * H), h.time, h.row);
        d.dy = plane_of(at(net, dy.p, g->dy || layer < net->L - 1 ? direction * H : 0), dy.time, dy.row);
        d.c = plane_of(tape.c, states, H);
        d.gates = plane_of(tape.gates, 4 * states, 4 * H);
        d.h0 = plane_of(at(net, b->head.h0, index * states), 0, H);
        d.c0 = plane_of(at(net, b->head.c0, index * states), 0, H);
        d.dhn = g->dhn ? plane_of(at(net, g->dhn, index * states), 0, H) : plane_of(b->s.zeros, 0, 0);
        d.dh0 = plane_of(g->dh0 ? at(net, g->dh0, index * states) : NULL, 0, H);
        start_states(&d, g->dcn ? at(net, g->dcn, index * states) : NULL);
        run_direction(&d, g->dparams ? g->dparams + index * per_direction : NULL);
        if (g->dc0)
            memcpy(at(net, g->dc0, index * states), b->s.dc, (size_t)states * net->size);
    }
    if (layer > 0 && net->spec->dropout > 0)
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
    return CLSTM_OK;
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
    memset(b.s.zeros, 0, (size_t)(b.net.D * b.net.H) * b.net.size);
    interruption interruption;
    b.interruption = &interruption;
    interruption_start(&interruption, grads->interrupt, grads->interrupt_context);
    for (idx layer = b.net.L - 1; layer >= 0; layer--)
        backward_layer(&b, layer);
    return atomic_load(&interruption.ended) ? CLSTM_ERROR_INTERRUPTED : CLSTM_OK;
}

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
#include "backward_pass.h"

#include <string.h>

#include "fpmode.h"
#include "threads.h"
#include "variants.h"

enum { CHUNK_ROWS = 256 }; /* rows (steps x batch) of a chunk: dW is read and written once in this many */

/* ---- scratch memory ---- */

static idx widest_input(const network *net) {
    const idx top = network_layer_input(net, net->L - 1);
    return net->I > top ? net->I : top;
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
    if (network_projects(net)) {
        b->s.dh_clipped = arena_take(m, net->size, rows, P, 1);
        b->s.out_panels = arena_take(m, net->size, rows, round_up(H, net->k->vl), 1);
        b->s.dh_tiles = arena_take(m, net->size, rows, round_up(P, net->k->max_rows), 1);
    }
}

static int take_scratch(arena *m, backward_call *b, int has_lengths, int has_order) {
    const network *net = &b->net;
    const idx H = net->H, DP = net->D * net->P, vl = net->k->vl;
    const idx most = (CHUNK_ROWS + b->B - 1) / (b->B ? b->B : 1);
    b->steps = most < b->T ? most : b->T;
    const idx rows = b->steps * b->B;
    b->s.active = has_lengths ? arena_take(m, sizeof(int64_t), b->T, 1, 1) : NULL;
    b->s.zeros = arena_take(m, net->size, zeros_needed(net), 1, 1);
    b->s.dlayer[0] = net->L > 1 ? arena_take(m, net->size, b->T, b->B, DP) : NULL;
    b->s.dlayer[1] = net->L > 2 ? arena_take(m, net->size, b->T, b->B, DP) : NULL;
    b->s.dc = arena_take(m, net->size, b->B, H, 1);
    if (has_order || net->spec->variant.learned_state)
        b->s.dh0 = arena_take(m, net->size, b->B, net->P, 1);
    if (has_order) {
        b->s.dhn = arena_take(m, net->size, b->B, net->P, 1);
        b->s.dy = arena_take(m, net->size, b->B, net->P, 1);
        b->s.dx = arena_take(m, net->size, rows, widest_input(net), 1);
    }
    b->s.dz = arena_take(m, net->size, b->B + rows, net->dz_row, 1);
    b->s.offset = arena_take(m, sizeof(idx), b->steps + 1, 1, 1);
    b->s.x_panels = arena_take(m, net->size, rows, round_up(widest_input(net), vl), 1);
    b->s.h_panels = arena_take(m, net->size, rows, round_up(net->P, vl), 1);
    b->s.dz_tiles = arena_take(m, net->size, rows, round_up(net->GH, net->k->max_rows), 1);
    if (!net->plain)
        take_variant_scratch(m, b, rows);
    return m->overflow ? CLSTM_ERROR_SIZE : CLSTM_OK;
}

static int workspace_bytes(const network *net, idx T, idx B, size_t *bytes) {
    backward_call b = {.net = *net, .T = T, .B = B};
    arena m = {0};
    const int status = take_scratch(&m, &b, 1, 1);
    *bytes = m.used;
    return status;
}

int clstm_backward_workspace(const clstm_spec *spec, int64_t T, int64_t B, size_t *bytes) {
    return network_most_bytes(spec, T, B, workspace_bytes, bytes);
}

/* ---- the stack ---- */

/* dc starts as the gradient on the final c; rows without any step pass that on their final h to the initial one. */
static void start_states(const backward_pass *d, const void *dcn) {
    const backward_call *b = d->b;
    const network *net = &b->net;
    if (dcn)
        take_rows(net, b->caller, plane_of(dcn, 0, net->H), 0, plane_of(b->s.dc, 0, net->H), 0, 0, b->B, net->H);
    else
        memset(b->s.dc, 0, (size_t)(b->B * net->H) * net->size);
    for (idx row = active_rows(b->s.active, b->T, 0, 0, b->B); row < b->B && d->dh0.p; row++)
        memcpy(plane_at(net, d->dh0, 0, row), plane_at(net, d->dhn, 0, row), (size_t)net->P * net->size);
}

static void run_direction(backward_pass *d) {
    const backward_call *b = d->b;
    if (d->dparams)
        backward_weights_start(d);
    for (d->s0 = 0; d->s0 < b->T && b->B > 0; d->s0 = d->s1) {
        if (interruption_heard(b->interruption))
            return;
        d->s1 = b->T - d->s0 < b->steps ? b->T : d->s0 + b->steps;
        b->s.offset[0] = 0;
        for (idx s = d->s0; s < d->s1; s++)
            b->s.offset[s - d->s0 + 1] =
                b->s.offset[s - d->s0] + active_rows(b->s.active, b->T, time_of(d, s), 0, b->B);
        backward_rows(d);
        if (d->dparams)
            backward_weights(d);
    }
    if (d->dparams)
        backward_weights_finish(d);
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
    if (layer < b->layers.end_layer - 1)
        return plane_of(b->s.dlayer[layer % 2], b->B * DP, DP);
    if (!g->dy)
        return plane_of(b->s.zeros, 0, 0);
    return plane_of(g->dy, (idx)g->dy_time_stride, (idx)g->dy_row_stride);
}

static plane layer_dx(const backward_call *b, idx layer) {
    const clstm_gradients *g = b->grads;
    if (layer > b->layers.layer)
        return layer_dy(b, layer - 1);
    return plane_of(g->dx, (idx)g->dx_time_stride, (idx)g->dx_row_stride);
}

static void undrop(void *context, int part) {
    const backward_pass *d = context;
    const backward_call *b = d->b;
    const range rows = split_range(&b->row_split, part);
    for (idx t = 0; t < b->T; t++)
        for (idx row = rows.begin; row < rows.end; row++) {
            void *dx = d->gives_dx ? caller_at(&b->net, b->caller, d->dx, t, row) : plane_at(&b->net, d->dx, t, row);
            dropout_apply(&b->net, b->head.header->seed, d->layer, step_of(b, t), b->B, row, dx, dx);
        }
}

/* Has a pass take dy and the gradient on the final h from the caller, in our order, and keep that on the initial h. */
static void sort_gradients(backward_pass *d) {
    const backward_call *b = d->b;
    const network *net = &b->net;
    if (d->layer == b->layers.end_layer - 1 && b->grads->dy) {
        d->dy_taken = d->dy;
        d->dy = plane_of(b->s.dy, 0, net->P);
    }
    if (b->grads->dhn) {
        const plane dhn = plane_of(b->s.dhn, 0, net->P);
        take_rows(net, b->caller, d->dhn, 0, dhn, 0, 0, b->B, net->P);
        d->dhn = dhn;
    }
    d->dh0.p = b->s.dh0;
}

/* The gradients on the initial states, to the caller. */
static void give_states(const backward_pass *d) {
    const backward_call *b = d->b;
    const clstm_gradients *g = b->grads;
    const network *net = &b->net;
    const idx H = net->H, P = net->P;
    if (g->dh0 && b->caller.order)
        give_rows(net, b->caller, d->dh0, 0, plane_of(at(net, g->dh0, d->index * b->B * P), 0, P), 0, 0, b->B, P);
    if (g->dc0)
        give_rows(net, b->caller, plane_of(b->s.dc, 0, H), 0, plane_of(at(net, g->dc0, d->index * b->B * H), 0, H), 0,
                  0, b->B, H);
}

static void backward_layer(const backward_call *b, idx layer) {
    const network *net = &b->net;
    const clstm_gradients *g = b->grads;
    const idx H = net->H, P = net->P, DP = net->D * P, h_states = b->B * P, c_states = b->B * H;
    const plane dy = layer_dy(b, layer),
                h = plane_of(network_tape_output(net, b->tape, b->T, b->B, layer), b->B * DP, DP);
    backward_pass d = {.b = b, .layer = layer, .I = network_layer_input(net, layer)};
    d.x = layer_input(b, layer);
    d.dx = layer_dx(b, layer);
    d.gives_dx = b->caller.order && layer == b->layers.layer;
    for (idx direction = b->layers.direction; direction < b->layers.end_direction; direction++) {
        const idx index = layer * net->D + direction, gates = net->gates_row;
        const direction_tape tape = network_direction_tape(net, b->tape, b->T, b->B, layer, direction);
        d.index = index;
        d.reverse = direction == 1;
        d.adds_dx = direction > 0;
        d.w = network_weights(net, b->pack, layer, direction);
        if (!net->plain)
            d.cell = variant_cell_of(net, &d.w);
        d.dparams = g->dparams ? g->dparams + index * network_param_places(net->spec).count : NULL;
        d.h = plane_of(at(net, h.p, direction * P), h.time, h.row);
        d.dy = plane_of(at(net, dy.p, g->dy || layer < b->layers.end_layer - 1 ? direction * P : 0), dy.time, dy.row);
        d.c = plane_of(tape.c, c_states, H);
        d.gates = plane_of(tape.gates, b->B * gates, gates);
        d.unprojected = plane_of(tape.out, c_states, H);
        d.h0 = plane_of(at(net, b->head.h0, index * h_states), 0, P);
        d.c0 = plane_of(at(net, b->head.c0, index * c_states), 0, H);
        d.dhn = g->dhn ? plane_of(at(net, g->dhn, index * h_states), 0, P) : plane_of(b->s.zeros, 0, 0);
        d.dh0 = plane_of(g->dh0 ? at(net, g->dh0, index * h_states) : b->s.dh0, 0, P);
        if (b->caller.order)
            sort_gradients(&d);
        start_states(&d, g->dcn ? at(net, g->dcn, index * c_states) : NULL);
        run_direction(&d);
        if (d.dparams && net->spec->variant.learned_state)
            write_learned_state(&d);
        give_states(&d);
    }
    if (network_drops(net, layer) && b->layers.end_direction == net->D && d.dx.p)
        clstm_parallel((int)b->row_split.parts, undrop, &d);
}

/* ---- threads ---- */

/* A layer's jobs: a chunk of one direction, first its rows, then its dW. */
static void split_layer(backward_call *b, idx layer, idx threads) {
    const network *net = &b->net;
    const layer_range one = {layer, layer + 1, 0, 1};
    const double chunk = network_work(net, b->steps, b->B, one);
    const work_to_split work = {.in_rows = chunk,
                                .in_units = b->s.active || b->caller.order ? 0 : chunk,
                                .worth = WORTH_SHARING,
                                .threads = threads};
    const work_split s = network_split_work(net, b->steps, b->B, &work);
    b->row_split = s.rows;
    b->pieces = s.pieces;
    b->weight_parts = network_worth_parts(net, chunk, b->steps * b->B, WORTH_SHARING, threads);
}

/* By the threads that there are room and processors for. */
static void split_layer_now(backward_call *b, idx layer, int alone) {
    split_layer(b, layer, alone ? 1 : clstm_get_num_threads());
    if (b->row_split.parts > 1 || b->pieces > 1 || b->weight_parts > 1) /* else no question to the system */
        split_layer(b, layer, clstm_most_at_once());
}

/* ---- entry point ---- */

static int open_tape(backward_call *b, const clstm_spec *spec, const void *tape) {
    const tape_header *header = tape;
    if (!tape)
        return CLSTM_ERROR_NULL;
    if (header->magic != TAPE_MAGIC || !network_same(spec, &header->spec) || spec->dropout != header->spec.dropout)
        return CLSTM_ERROR_TAPE;
    b->tape = tape;
    b->T = (idx)header->T;
    b->B = (idx)header->B;
    b->head = network_tape(&b->net, tape, b->T, b->B);
    return network_layers_of(&b->net, header->part, &b->layers);
}

int clstm_backward(const clstm_spec *spec, const void *pack, const void *tape, const clstm_gradients *grads,
                   void *workspace, size_t workspace_bytes) {
    backward_call b = {.grads = grads, .pack = pack};
    arena m = {.base = workspace};
    int status = network_open_pack(spec, pack, 1, &b.net);
    if (!status)
        status = grads && workspace ? open_tape(&b, spec, tape) : CLSTM_ERROR_NULL;
    if (!status)
        status = take_scratch(&m, &b, b.head.header->has_lengths, b.head.header->has_order);
    if (!status && m.used > workspace_bytes)
        status = CLSTM_ERROR_WORKSPACE;
    for (int64_t i = 0; !status && grads->dparams && i < clstm_num_params(spec); i++)
        if (!grads->dparams[i])
            status = CLSTM_ERROR_NULL;
    if (!status && b.s.active)
        status = network_count_active(b.head.lengths, b.T, b.B, b.s.active);
    if (status)
        return status;
    b.caller.order = b.head.header->has_order ? b.head.order : NULL;
    const int alone = network_stays_alone(network_work(&b.net, b.T, b.B, b.layers));
    memset(b.s.zeros, 0, (size_t)zeros_needed(&b.net) * b.net.size);
    interruption interruption;
    b.interruption = &interruption;
    interruption_start(&interruption, grads->interrupt, grads->interrupt_context);
    const fpmode caller = fpmode_enter();
    clstm_expect_work();
    for (idx layer = b.layers.end_layer - 1; layer >= b.layers.layer; layer--) {
        split_layer_now(&b, layer, alone);
        backward_layer(&b, layer);
    }
    clstm_expect_no_work();
    fpmode_leave(caller);
    return atomic_load(&interruption.ended) ? CLSTM_ERROR_INTERRUPTED : CLSTM_OK;
}

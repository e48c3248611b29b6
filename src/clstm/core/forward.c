/* The forward pass of a stack of layers over a batch. Every row runs through all layers and all of time on one thread,
 * so threads never wait for each other; only where rows are too few do threads share the units of each step. Free of
 * any instruction set. */
#include "dropout.h"
#include "forward_pass.h"
#include "fpmode.h"
#include "threads.h"
#include "variants.h"

enum { CHUNK_BYTES = 256 << 10, CHUNK_ROWS = 64 }; /* the input product of a chunk stays in the L2 cache */
enum { PRODUCT_ROWS = 16, FEW_INPUTS = 3 };

/* ---- scratch memory ---- */

/* Few rows: the input products of many steps at once read W_ih once for all of them. Many rows: the step itself makes
 * them; one row of few inputs too, which cost it less than to fetch them. Variants have no fused kernel. */
static int products_first(const network *net, idx T, idx rows) {
    const int few_inputs = rows == 1 && net->L == 1 && net->I <= FEW_INPUTS;
    return !net->plain || (T > 1 && rows <= PRODUCT_ROWS && !few_inputs);
}

static idx chunk_steps(const network *net, idx T, idx rows) {
    if (T <= 1 || rows == 0 || rows > PRODUCT_ROWS)
        return 1;
    const idx row_bytes = net->z_width * (idx)net->size;
    const idx steps = (CHUNK_BYTES / row_bytes > CHUNK_ROWS ? CHUNK_BYTES / row_bytes : CHUNK_ROWS) / rows;
    return steps < 1 ? 1 : steps < T ? steps : T;
}

static idx widest(const network *net) {
    const idx out = net->D * net->P > net->H ? net->D * net->P : net->H;
    return net->I > out ? net->I : out;
}

/* Lays the scratch memory of a call out. A tape stands in for the layers between and for c. */
static int take_scratch(arena *m, forward_call *f, int has_lengths, int has_order, int training) {
    const network *net = &f->net;
    const idx H = net->H, DP = net->D * net->P, rows = split_most(&f->row_split);
    f->chunk = chunk_steps(net, f->T, rows);
    f->products_first = products_first(net, f->T, rows);
    f->s.active = has_lengths ? arena_take(m, sizeof(int64_t), f->T, 1, 1) : NULL;
    f->s.zeros = arena_take(m, net->size, widest(net), 1, 1);
    f->s.between[0] = !training && net->L > 1 ? arena_take(m, net->size, f->T, f->B, DP) : NULL;
    f->s.between[1] = !training && net->L > 2 ? arena_take(m, net->size, f->T, f->B, DP) : NULL;
    f->s.c = training ? NULL : arena_take(m, net->size, net->D, f->B, H);
    if (training)
        f->s.masks = dropout_take_masks(m, net, f->B);
    f->s.out = training || !network_projects(net) ? NULL : arena_take(m, net->size, f->B, H, 1);
    f->s.normed = network_normalizes(net) ? arena_take(m, net->size, f->row_split.parts, network_normed(net), 1) : NULL;
    if (has_order && !training) {
        f->s.x_part = f->chunk * rows * (net->L > 1 && DP > net->I ? DP : net->I);
        f->s.x = arena_take(m, net->size, f->row_split.parts, f->s.x_part, 1);
        f->s.h = arena_take(m, net->size, 2, f->B, net->P);
        f->s.h0 = arena_take(m, net->size, f->B, net->P, 1);
        f->s.c0 = arena_take(m, net->size, f->B, H, 1);
    }
    f->s.products_part = f->products_first ? f->chunk * rows * net->z_width : 0;
    f->s.products = arena_take(m, net->size, f->pieces > 1 ? net->D : f->row_split.parts, f->s.products_part, 1);
    return m->overflow ? CLSTM_ERROR_SIZE : CLSTM_OK;
}

static void split_work(forward_call *f, int may_split_units, idx threads) {
    const idx layers = f->layers.end_layer - f->layers.layer;
    const double all = network_work(&f->net, f->T, f->B, f->layers);
    const work_to_split work = {.in_rows = all, /* of all layers */
                                .in_units = may_split_units ? all / (double)layers : 0,
                                .worth = WORTH_WAKING,
                                .threads = threads};
    const work_split s = network_split_work(&f->net, f->T, f->B, &work);
    f->row_split = s.rows;
    f->pieces = s.pieces;
}

/* Takes as many threads as the workspace has room for. */
static int fit_workspace(forward_call *f, void *workspace, size_t bytes) {
    for (;; f->row_split.parts--) {
        arena m = {.base = workspace};
        const int status = take_scratch(&m, f, f->seq->lengths != NULL, f->order != NULL, f->tape != NULL);
        if (status)
            return status;
        if (m.used <= bytes)
            return CLSTM_OK;
        if (f->row_split.parts == 1 && f->pieces == 1)
            return CLSTM_ERROR_WORKSPACE;
        f->row_split.parts += f->pieces > 1;
        f->pieces = 1;
    }
}

static int workspace_bytes(const network *net, idx T, idx B, size_t *bytes) {
    forward_call f = {.net = *net, .T = T, .B = B};
    *bytes = 0;
    network_layers_of(net, 0, &f.layers);
    for (int units = 0; units <= 1; units++) {
        split_work(&f, units, clstm_get_num_threads());
        for (int training = 0; training <= 1; training++) {
            arena m = {0};
            if (take_scratch(&m, &f, 1, 1, training) != CLSTM_OK)
                return CLSTM_ERROR_SIZE;
            *bytes = m.used > *bytes ? m.used : *bytes;
        }
    }
    return CLSTM_OK;
}

int clstm_forward_workspace(const clstm_spec *spec, int64_t T, int64_t B, size_t *bytes) {
    return network_most_bytes(spec, T, B, workspace_bytes, bytes);
}

/* ---- the stack ---- */

/* (L*D, B, n) states of a layer and direction as a plane of the caller's rows. */
static plane callers_state(const forward_call *f, const void *states, idx index, idx n) {
    return plane_of(states ? at(&f->net, states, index * f->B * n) : NULL, 0, n);
}

/* Initial states: the caller's; if NULL, the learned ones, or zeros. */
static plane initial_state(const forward_call *f, const void *states, const void *learned, idx index, idx n) {
    return states ? callers_state(f, states, index, n) : plane_of(learned ? learned : f->s.zeros, 0, 0);
}

/* The same as rows of ours, for which `sorted` (B, n) has room. */
static plane sorted_state(const forward_pass *d, plane state, void *sorted, idx n) {
    const network *net = &d->f->net;
    const plane ours = plane_of(at(net, sorted, d->first * n), 0, n);
    if (!d->f->order)
        return plane_of(plane_at(net, state, 0, d->first), 0, state.row);
    take_rows(net, d->caller, state, 0, ours, 0, 0, d->rows, n);
    return ours;
}

/* (T, B, I) and (T, B, P) of the caller's rows. */
static plane callers_input(const forward_call *f) {
    return plane_of(f->seq->x, (idx)f->seq->x_time_stride, (idx)f->seq->x_row_stride);
}

static plane callers_output(const forward_call *f, idx direction) {
    return plane_of(at(&f->net, f->seq->y, direction * f->net.P), (idx)f->seq->y_time_stride,
                    (idx)f->seq->y_row_stride);
}

/* Where a layer writes its output, from row `first` on. */
static plane layer_output(const forward_call *f, idx layer, idx first) {
    const network *net = &f->net;
    const idx DP = net->D * net->P;
    plane a = plane_of(NULL, f->B * DP, DP);
    if (f->tape)
        a.p = network_tape_output(net, f->tape, f->T, f->B, layer);
    else if (layer == f->layers.end_layer - 1)
        a = callers_output(f, 0);
    else
        a.p = f->s.between[layer % 2];
    a.p = plane_at(net, a, 0, first);
    return a;
}

static void drop_row(const forward_call *f, idx layer, idx t, idx row, const void *from, void *to) {
    dropout_apply(&f->net, f->seq->seed, layer, (uint64_t)f->seq->first_step + (uint64_t)t, f->B, row, from, to);
}

static plane dropped_output(const forward_call *f, idx layer, idx first, idx rows, plane out) {
    const network *net = &f->net;
    const idx DP = net->D * net->P;
    const plane to =
        plane_of(at(net, network_tape_dropped(net, f->tape, f->T, f->B, layer), first * DP), f->B * DP, DP);
    for (idx t = 0; t < f->T; t++)
        for (idx row = 0; row < rows; row++)
            drop_row(f, layer + 1, t, first + row, plane_at(net, out, t, row), plane_at(net, to, t, row));
    return to;
}

/* What a layer hands to the one above. */
static plane passed_on(const forward_call *f, idx layer, idx first, idx rows, plane out) {
    return f->tape && layer < f->net.L - 1 && network_drops(&f->net, layer + 1)
               ? dropped_output(f, layer, first, rows, out)
               : out;
}

/* What the first layer reads: x itself, or with a tape the copy of it that the tape keeps, with dropout (padding
 * becomes 0). Of a part of the network, x is an output of the layer below. */
static plane first_input(const forward_call *f, idx first, idx rows) {
    const network *net = &f->net;
    const idx layer = f->layers.layer, I = network_layer_input(net, layer);
    const plane x = callers_input(f);
    if (!f->tape)
        return plane_of(plane_at(net, x, 0, first), x.time, x.row);
    plane copy = plane_of(layer ? network_tape_output(net, f->tape, f->T, f->B, layer - 1)
                                : network_tape(net, f->tape, f->T, f->B).x,
                          f->B * I, I);
    copy.p = plane_at(net, copy, 0, first);
    for (idx t = 0; t < f->T; t++) {
        const idx n = active_rows(f->s.active, f->T, t, first, rows);
        take_rows(net, (caller_rows){f->order, first}, x, t, copy, t, 0, n, I);
        for (idx row = 0; row < n && layer == 0 && network_drops(net, 0); row++)
            drop_row(f, 0, t, first + row, plane_at(net, copy, t, row), plane_at(net, copy, t, row));
        zero_rows(net, copy, t, n, rows, I);
    }
    return layer ? passed_on(f, layer - 1, first, rows, copy) : copy;
}

/* Has every step recorded: c is kept, gates and h are written a second time. */
static void trace_pass(forward_pass *d, const clstm_trace *trace) {
    const network *net = &d->f->net;
    const idx B = d->f->B, H = net->H, first = d->index * d->f->T * B + d->first;
    d->c = plane_of(at(net, trace->c, first * H), B * H, H);
    d->traced = plane_of(at(net, trace->gates, first * 4 * H), B * 4 * H, 4 * H);
    d->copy = plane_of(at(net, trace->h, d->index * d->f->T * B * net->P), B * net->P, net->P);
}

/* Has a pass record what backward reads; the output is copied to the caller. */
static void tape_pass(forward_pass *d, idx layer, idx direction) {
    const forward_call *f = d->f;
    const network *net = &f->net;
    const idx B = f->B, H = net->H, P = net->P, gates = net->gates_row;
    const tape_parts head = network_tape(net, f->tape, f->T, B);
    const direction_tape tape = network_direction_tape(net, f->tape, f->T, B, layer, direction);
    d->h0 = plane_of(at(net, head.h0, (d->index * B + d->first) * P), 0, P);
    d->c0 = plane_of(at(net, head.c0, (d->index * B + d->first) * H), 0, H);
    d->c = plane_of(at(net, tape.c, d->first * H), B * H, H);
    d->gates = plane_of(at(net, tape.gates, d->first * gates), B * gates, gates);
    d->unprojected = plane_of(tape.out, B * H, H);
    if (layer == f->layers.end_layer - 1)
        d->copy = callers_output(f, direction);
}

/* Has a pass keep nothing but its last step. */
static void inference_pass(forward_pass *d, idx layer, idx direction) {
    const forward_call *f = d->f;
    const network *net = &f->net;
    const idx B = f->B, H = net->H, P = net->P;
    d->h0 = sorted_state(d, initial_state(f, f->seq->h0, d->w.h0, d->index, P), f->s.h0, P);
    d->c0 = sorted_state(d, initial_state(f, f->seq->c0, d->w.c0, d->index, H), f->s.c0, H);
    d->c = plane_of(at(net, f->s.c, (direction * B + d->first) * H), 0, H);
    d->unprojected = plane_of(f->s.out, 0, H);
    if (f->order && layer == f->layers.layer)
        d->x = callers_input(f);
    if (f->order && layer == f->layers.end_layer - 1) {
        d->out = plane_of(at(net, f->s.h, d->first * P), B * P, P);
        d->alternates = 1;
        d->copy = callers_output(f, direction);
    }
    if (f->seq->trace)
        trace_pass(d, f->seq->trace);
}

static forward_pass direction_pass(const forward_call *f, idx layer, idx direction, int part, plane in, plane out) {
    const network *net = &f->net;
    const idx first = split_start(&f->row_split, part), index = layer * net->D + direction;
    const idx share = f->pieces > 1 ? direction : part;
    forward_pass d = {.f = f,
                      .first = first,
                      .rows = split_start(&f->row_split, part + 1) - first,
                      .caller = {f->order, first},
                      .reverse = direction == 1,
                      .index = index,
                      .I = network_layer_input(net, layer),
                      .w = network_weights(net, f->pack, layer, direction),
                      .in = in,
                      .out = plane_of(at(net, out.p, direction * net->P), out.time, out.row),
                      .hn = callers_state(f, f->seq->hn, index, net->P),
                      .cn = callers_state(f, f->seq->cn, index, net->H),
                      .sorted_x = at(net, f->s.x, part * f->s.x_part),
                      .products = at(net, f->s.products, share * f->s.products_part),
                      .normed = at(net, f->s.normed, part * network_normed(net))};
    if (f->tape)
        tape_pass(&d, layer, direction);
    else
        inference_pass(&d, layer, direction);
    if (network_projects(net))
        d.unprojected.p = plane_at(net, d.unprojected, 0, first);
    if (!net->plain)
        d.cell = variant_cell_of(net, &d.w);
    return d;
}

static void forward_rows(void *context, int part) {
    const forward_call *f = context;
    const idx first = split_start(&f->row_split, part), rows = split_start(&f->row_split, part + 1) - first;
    if (rows == 0)
        return;
    plane in = first_input(f, first, rows);
    for (idx layer = f->layers.layer; layer < f->layers.end_layer; layer++) {
        const plane out = layer_output(f, layer, first);
        forward_pass d[2];
        for (idx direction = f->layers.direction; direction < f->layers.end_direction; direction++) {
            d[direction] = direction_pass(f, layer, direction, part, in, out);
            if (f->pieces == 1)
                forward_pass_run(&d[direction]);
        }
        if (f->pieces > 1)
            forward_pass_run_team(d);
        in = passed_on(f, layer, first, rows, out);
    }
}

/* Threads split the rows here, or the units within each layer. */
static void run_stack(forward_call *f) {
    if (f->pieces == 1) {
        clstm_parallel((int)f->row_split.parts, forward_rows, f);
        return;
    }
    forward_rows(f, 0);
}

/* ---- entry point ---- */

/* The initial states of all layers and directions, wherever they come from. */
static void write_states(const forward_call *f, const tape_parts *tape) {
    const network *net = &f->net;
    const caller_rows caller = {f->order, 0};
    const idx B = f->B, P = net->P, H = net->H;
    for (idx index = 0; index < net->L * net->D; index++) {
        const layer_weights w = network_weights(net, f->pack, index / net->D, index % net->D);
        take_rows(net, caller, initial_state(f, f->seq->h0, w.h0, index, P), 0,
                  plane_of(at(net, tape->h0, index * B * P), 0, P), 0, 0, B, P);
        take_rows(net, caller, initial_state(f, f->seq->c0, w.c0, index, H), 0,
                  plane_of(at(net, tape->c0, index * B * H), 0, H), 0, 0, B, H);
    }
}

static void write_tape_head(const forward_call *f) {
    const network *net = &f->net;
    const tape_parts tape = network_tape(net, f->tape, f->T, f->B);
    memset(tape.header, 0, sizeof *tape.header);
    tape.header->magic = TAPE_MAGIC;
    tape.header->has_lengths = f->seq->lengths != NULL;
    tape.header->has_order = f->order != NULL;
    tape.header->has_h0 = f->seq->h0 != NULL;
    tape.header->has_c0 = f->seq->c0 != NULL;
    tape.header->spec = *net->spec;
    tape.header->T = f->T;
    tape.header->B = f->B;
    tape.header->seed = f->seq->seed;
    tape.header->first_step = f->seq->first_step;
    tape.header->part = f->seq->part;
    if (f->seq->lengths && f->B)
        memcpy(tape.lengths, f->seq->lengths, (size_t)f->B * sizeof *tape.lengths);
    if (f->order && f->B)
        memcpy(tape.order, f->order, (size_t)f->B * sizeof *tape.order);
    write_states(f, &tape);
}

/* By the threads that there are room and processors for. */
static void split_work_now(forward_call *f) {
    const int may_split_units = !f->seq->lengths && !f->order && !f->seq->part;
    split_work(f, may_split_units, clstm_get_num_threads());
    if (f->row_split.parts > 1 || f->pieces > 1) /* else no question to the system */
        split_work(f, may_split_units, clstm_most_at_once());
    if (f->pieces == 1 && network_stays_alone(network_work(&f->net, f->T, f->B, f->layers)))
        f->row_split.parts = 1; /* with pieces, each span sees for itself */
}

int clstm_forward(const clstm_spec *spec, const void *pack, const clstm_sequence *seq, void *tape, void *workspace,
                  size_t workspace_bytes) {
    if (!seq)
        return CLSTM_ERROR_NULL;
    forward_call f = {.seq = seq, .pack = pack, .tape = tape, .T = (idx)seq->T, .B = (idx)seq->B, .order = seq->order};
    int status = network_check_batch(spec, seq->T, seq->B);
    if (!status)
        status = network_open_pack(spec, pack, tape != NULL, &f.net);
    if (!status)
        status = seq->first_step < 0 ? CLSTM_ERROR_SIZE : network_layers_of(&f.net, seq->part, &f.layers);
    if (status)
        return status;
    const int empty = f.T == 0 || f.B == 0;
    if (!workspace || (!empty && (!seq->x || !seq->y)) ||
        (seq->trace && (!seq->trace->gates || !seq->trace->c || !seq->trace->h)))
        return CLSTM_ERROR_NULL;
    split_work_now(&f);
    status = fit_workspace(&f, workspace, workspace_bytes);
    if (!status)
        status = seq->order && seq->trace && !tape ? CLSTM_ERROR_LENGTHS : network_check_order(seq->order, f.B);
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
    const fpmode caller = fpmode_enter();
    run_stack(&f);
    fpmode_leave(caller);
    if (!atomic_load(&interruption.ended))
        return CLSTM_OK;
    if (tape)
        network_tape(&f.net, tape, f.T, f.B).header->magic = 0;
    return CLSTM_ERROR_INTERRUPTED;
}

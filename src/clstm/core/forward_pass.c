/* The loop over time of a layer: its input products in chunks, then its steps. Threads share the units of a step where
 * a call has too few rows for them. Free of any instruction set. */
#include "forward_pass.h"

#include <stdatomic.h>

#include "dropout.h"
#include "spin.h"
#include "threads.h"
#include "variants.h"

/* The time of step s in processing order, and the other way round. */
static idx time_of(const forward_pass *d, idx s) { return d->reverse ? d->f->T - 1 - s : s; }

static idx valid_rows(const forward_pass *d, idx t) {
    return active_rows(d->f->s.active, d->f->T, t, d->first, d->rows);
}

/* Where the output of step t lies in `out`. */
static idx output_time(const forward_pass *d, idx t) { return d->alternates ? t % 2 : t; }

static void *output_at(const forward_pass *d, idx t, idx row) {
    return plane_at(&d->f->net, d->out, output_time(d, t), row);
}

/* The earliest of steps s .. s + steps in processing order: no other has more valid rows. */
static idx earliest(const forward_pass *d, idx s, idx steps) { return d->reverse ? time_of(d, s + steps - 1) : s; }

/* Takes the caller's x of steps s .. s + steps in processing order. */
static void take_input(forward_pass *d, idx s, idx steps) {
    const idx begin = earliest(d, s, steps), step = d->rows * d->I;
    d->in = plane_of(at(&d->f->net, d->sorted_x, -begin * step), step, d->I);
    for (idx t = begin; t < begin + steps; t++)
        take_rows(&d->f->net, d->caller, d->x, t, d->in, t, 0, valid_rows(d, t), d->I);
}

/* Column of z where a block of hidden units begins; for the end of the last one, which may be a half block, z_width. Of
 * a variant, whose units are not split, only 0 and H_blocks are asked for. */
static idx first_column(const network *net, idx block) {
    const idx column = block * 4 * net->k->vl;
    return column < net->z_width ? column : net->z_width;
}

/* Input products of steps s .. s + steps in processing order, as (steps, rows, z_width). The longer of the two
 * axes gives the rows of the product's tiles. */
static void input_products(const forward_pass *d, idx s, idx steps, range blocks) {
    const network *net = &d->f->net;
    const idx first = first_column(net, blocks.begin), end = first_column(net, blocks.end);
    const idx t = time_of(d, s), width = net->z_width, rows = valid_rows(d, earliest(d, s, steps));
    const idx in_step = d->reverse ? -d->in.time : d->in.time;
    if (rows == 0)
        return;
    const int by_time = steps > rows && (rows < d->rows || in_step != rows * d->in.row);
    const gemm_args g = {.groups = by_time ? rows : steps,
                         .M = by_time ? steps : rows,
                         .N = end - first,
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
    const idx s = time_of(d, t), width = f->net.z_width;
    return f->products_first ? at(&f->net, d->products, s % f->chunk * d->rows * width) : NULL;
}

/* step_rows of a variant. */
static void variant_step_rows(const forward_pass *d, idx t, idx before, idx begin, idx end) {
    const network *net = &d->f->net;
    const int starts = before < 0;
    void *products = step_products(d, t);
    const plane z = d->gates.p ? d->gates : plane_of(products, 0, net->z_width);
    const int projects = network_projects(net);
    const forward_call *f = d->f;
    const step_masks masks =
        dropout_draw_masks(net, &f->s.masks, f->seq->seed, d->index, (uint64_t)f->seq->first_step + (uint64_t)t, f->B,
                           d->first + begin, end - begin);
    const variant_step_args g = {
        .rows = end - begin,
        .products = at(net, products, begin * net->z_width),
        .h = starts ? plane_at(net, d->h0, 0, begin) : output_at(d, before, begin),
        .h_row = starts ? d->h0.row : d->out.row,
        .h_out = output_at(d, t, begin),
        .h_out_row = d->out.row,
        .stays = masks.h,
        .factors = masks.recurrent,
        .step = {.cell = &d->cell,
                 .rows = end - begin,
                 .z = plane_at(net, z, t, begin),
                 .z_row = z.row,
                 .c = starts ? plane_at(net, d->c0, 0, begin) : plane_at(net, d->c, before, begin),
                 .c_row = starts ? d->c0.row : d->c.row,
                 .c_out = plane_at(net, d->c, t, begin),
                 .c_out_row = d->c.row,
                 .out = projects ? plane_at(net, d->unprojected, t, begin) : output_at(d, t, begin),
                 .out_row = projects ? d->unprojected.row : d->out.row,
                 .mask = masks.g,
                 .stays = masks.c,
                 .normed = d->normed,
                 .gates = d->traced.p ? plane_at(net, d->traced, t, begin) : NULL,
                 .gates_row = d->traced.row}};
    variant_step(net, &d->w, &g);
}

/* Rows begin .. end of step t; they continue from step `before`, or start from the initial state (before = -1). Then
 * the same for the steps after it, `steps` in all. */
static void step_rows(const forward_pass *d, idx t, idx steps, idx before, idx begin, idx end, range blocks) {
    const network *net = &d->f->net;
    const idx width = net->z_width;
    if (begin >= end)
        return;
    if (!net->plain) {
        variant_step_rows(d, t, before, begin, end);
        return;
    }
    const int starts = before < 0;
    const idx onward = d->reverse ? -1 : 1;
    const plane gates = d->traced.p ? d->traced : d->gates;
    const void *products = step_products(d, t);
    cell_args g = {.steps = steps,
                   .rows = end - begin,
                   .H = net->H,
                   .init_time = products ? d->rows * width : 0,
                   .x_time = onward * d->in.time,
                   .c_out_time = onward * d->c.time,
                   .h_out_time = onward * d->out.time,
                   .gates_time = onward * gates.time,
                   .first_block = blocks.begin,
                   .end_block = blocks.end,
                   .downwards = t % 2 != 0,
                   .init = products ? at(net, products, begin * width) : d->w.bias,
                   .init_row = products ? width : 0,
                   .x = plane_at(net, d->in, t, begin),
                   .x_row = d->in.row,
                   .I = products ? 0 : d->I,
                   .h = starts ? plane_at(net, d->h0, 0, begin) : output_at(d, before, begin),
                   .h_row = starts ? d->h0.row : d->out.row,
                   .w_ih = d->w.w_ih,
                   .w_hh = d->w.w_hh,
                   .c = starts ? plane_at(net, d->c0, 0, begin) : plane_at(net, d->c, before, begin),
                   .c_row = starts ? d->c0.row : d->c.row,
                   .c_out = plane_at(net, d->c, t, begin),
                   .c_out_row = d->c.row,
                   .h_out = output_at(d, t, begin),
                   .h_out_row = d->out.row,
                   .gates = gates.p ? plane_at(net, gates, t, begin) : NULL,
                   .gates_row = gates.row};
    net->k->cell(&g);
}

/* Steps between two questions to the caller: a few milliseconds of multiply-adds. */
static idx steps_between_questions(const forward_pass *d) {
    enum { MULTIPLY_ADDS = 1 << 25 };
    return 1 + MULTIPLY_ADDS / (4 * d->f->net.H * (d->I + d->f->net.H)) / d->rows;
}

/* Final states of rows begin .. end, whose last step was t. */
static void give_final_states(const forward_pass *d, idx t, idx begin, idx end) {
    const network *net = &d->f->net;
    if (d->hn.p)
        give_rows(net, d->caller, d->out, output_time(d, t), d->hn, 0, begin, end, net->P);
    if (d->cn.p)
        give_rows(net, d->caller, d->c, t, d->cn, 0, begin, end, net->H);
}

/* Final states of rows begin .. end, which have no step. */
static void give_initial_states(const forward_pass *d, idx begin, idx end) {
    const network *net = &d->f->net;
    if (d->hn.p)
        give_rows(net, d->caller, d->h0, 0, d->hn, 0, begin, end, net->P);
    if (d->cn.p)
        give_rows(net, d->caller, d->c0, 0, d->cn, 0, begin, end, net->H);
}

static void give_output(const forward_pass *d, idx t) {
    const network *net = &d->f->net;
    if (d->copy.p)
        give_rows(net, d->caller, d->out, output_time(d, t), d->copy, t, 0, d->rows, net->P);
}

/* What steps s .. s + steps in processing order need beforehand. */
static void start_chunk(forward_pass *d, idx s, idx steps) {
    if (d->x.p)
        take_input(d, s, steps);
    if (d->f->products_first)
        input_products(d, s, steps, (range){0, d->f->net.H_blocks});
}

/* Steps that the kernel may run by itself, of `most` from s on in processing order: the same rows take part in all. */
static idx steps_together(const forward_pass *d, idx s, idx most) {
    const idx rows = valid_rows(d, time_of(d, s));
    idx steps = 1;
    if (!d->f->net.plain || d->alternates)
        return steps;
    while (steps < most && valid_rows(d, time_of(d, s + steps)) == rows)
        steps++;
    return steps;
}

/* Steps s .. s + steps in processing order. Of several, all have the same rows. */
static void run_steps(const forward_pass *d, idx s, idx steps) {
    const network *net = &d->f->net;
    const range all = {0, net->H_blocks};
    const idx onward = d->reverse ? -1 : 1, t = time_of(d, s), last = time_of(d, s + steps - 1);
    const idx n = valid_rows(d, t), n_before = valid_rows(d, t - onward), n_after = valid_rows(d, last + onward);
    const idx continuing = n < n_before ? n : n_before;
    step_rows(d, t, steps, t - onward, 0, continuing, all);
    step_rows(d, t, steps, -1, continuing, n, all);
    for (idx i = s; i < s + steps; i++) {
        for (idx row = n; row < d->rows; row++)
            memset(output_at(d, time_of(d, i), row), 0, (size_t)net->P * net->size);
        give_output(d, time_of(d, i));
    }
    give_final_states(d, last, n_after, n);
}

void forward_pass_run(forward_pass *d) {
    const forward_call *f = d->f;
    const idx T = f->T, chunk = f->chunk;
    give_initial_states(d, valid_rows(d, 0), d->rows);
    for (idx s = 0, question = 0, steps; s < T; s += steps) {
        if (s == question) {
            if (interruption_heard(f->interruption))
                return;
            question += steps_between_questions(d);
        }
        if (s % chunk == 0)
            start_chunk(d, s, T - s < chunk ? T - s : chunk);
        const idx chunk_end = s - s % chunk + chunk, end = chunk_end < question ? chunk_end : question;
        steps = steps_together(d, s, (end < T ? end : T) - s);
        run_steps(d, s, steps);
    }
}

/* ---- one layer, its units split among threads ---- */

/* A span of a layer's steps, in stages that follow each other: for each chunk its input products, if they come first,
 * then each of its steps. The parts of a stage are pieces of the units of each direction. Parts are claimed in order
 * (threads.h), so whoever waits for the stages before waits for running threads only. */
typedef struct unit_team {
    const forward_pass *d; /* (D) */
    idx first, steps;      /* of time, in processing order */
    idx pieces;            /* of the units of a direction */
    idx stage_parts;
    atomic_llong done; /* parts */
} unit_team;

static void team_steps(const forward_pass *d, idx s, idx steps, range blocks) {
    step_rows(d, time_of(d, s), steps, s == 0 ? -1 : time_of(d, s - 1), 0, d->rows, blocks);
}

static void team_part(void *context, int part) {
    unit_team *team = context;
    const forward_pass *first = team->d;
    const forward_call *f = first->f;
    const idx stage = part / team->stage_parts, in_stage = part % team->stage_parts;
    const forward_pass *d = first + in_stage / team->pieces;
    const even_split units = {.n = f->net.H_blocks, .multiple = 1, .parts = team->pieces};
    const range blocks = split_range(&units, in_stage % team->pieces);
    spin_until(&team->done, (long long)(stage * team->stage_parts));
    const idx per_chunk = f->chunk + f->products_first, chunk = team->first + stage / per_chunk * f->chunk;
    const idx step = stage % per_chunk - f->products_first, end = team->first + team->steps;
    if (step < 0)
        input_products(d, chunk, end - chunk < f->chunk ? end - chunk : f->chunk, blocks);
    else
        team_steps(d, chunk + step, 1, blocks);
    atomic_fetch_add_explicit(&team->done, 1, memory_order_release);
}

/* A whole span on one thread, with whole units: faster than in pieces. */
static void team_of_one(void *context, int part) {
    const unit_team *team = context;
    const forward_call *f = team->d->f;
    const range all = {0, f->net.H_blocks};
    const idx end = team->first + team->steps;
    (void)part;
    for (const forward_pass *d = team->d; d < team->d + f->net.D; d++) {
        for (idx s = team->first, steps; s < end; s += steps) {
            steps = end - s < f->chunk ? end - s : f->chunk;
            if (f->products_first)
                input_products(d, s, steps, all);
            team_steps(d, s, steps, all);
        }
    }
}

/* A piece of the units for each thread; but a call of one or two steps is half over when a worker has woken up, which
 * then finds some to do if they are smaller. */
static idx unit_pieces(const forward_call *f) {
    enum { FEW_STEPS = 2, SMALLER = 8 };
    const idx pieces = f->T > FEW_STEPS ? f->pieces : SMALLER * f->pieces;
    return pieces < f->net.H_blocks ? pieces : f->net.H_blocks;
}

static void run_span(const forward_pass *d, idx first, idx steps) {
    const forward_call *f = d->f;
    unit_team team = {.d = d, .first = first, .steps = steps, .pieces = unit_pieces(f)};
    team.stage_parts = f->net.D * team.pieces;
    if (!clstm_gets_help()) {
        clstm_parallel(1, team_of_one, &team);
        return;
    }
    const idx products = f->products_first ? (steps + f->chunk - 1) / f->chunk : 0;
    clstm_team((int)f->pieces, (int)((products + steps) * team.stage_parts), team_part, &team);
}

void forward_pass_run_team(const forward_pass *d) {
    const forward_call *f = d->f;
    const network *net = &f->net;
    const idx span = round_up(steps_between_questions(d), f->chunk);
    for (idx s = 0; s < f->T; s += span) {
        if (interruption_heard(f->interruption))
            return;
        run_span(d, s, f->T - s < span ? f->T - s : span);
    }
    for (idx direction = 0; direction < net->D; direction++, d++) {
        for (idx t = 0; t < f->T; t++)
            give_output(d, t);
        give_final_states(d, time_of(d, f->T - 1), 0, d->rows);
    }
}

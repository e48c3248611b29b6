/* Dimensions, packs and tapes: everything that lies in memory. */
#include "network.h"

#include <float.h>
#include <limits.h>
#include <string.h>

#include "dispatch.h"
#include "threads.h"

/* ---- spec ---- */

static int in_range(int64_t value, int64_t most) { return value >= 1 && value <= most; }

/* Finite, and either 0 or no denormal of float: within a call those are 0, before and after they are not. */
static int is_option(double x) { return x == 0 || (x >= FLT_MIN && x <= DBL_MAX); }

static int is_probability(double p) { return is_option(p) && p <= 1; }

int network_is_plain(const clstm_spec *spec) {
    static const clstm_variant plain;
    return memcmp(&spec->variant, &plain, sizeof plain) == 0;
}

static int check_variant(const clstm_spec *s) {
    const clstm_variant *v = &s->variant;
    if (v->proj_size < 0 || v->proj_size >= s->hidden_size || (v->peepholes | 1) != 1 || (v->learned_state | 1) != 1 ||
        v->reserved)
        return CLSTM_ERROR_SPEC;
    if (v->coupling < CLSTM_UNCOUPLED || v->coupling > CLSTM_NO_FORGET_GATE)
        return CLSTM_ERROR_SPEC;
    for (int i = 0; i < 5; i++) {
        const clstm_activation *f = &v->activations[i];
        if (f->kind < CLSTM_ACTIVATION_DEFAULT || f->kind > CLSTM_ACTIVATION_SOFTPLUS || !(f->alpha - f->alpha == 0) ||
            !(f->beta - f->beta == 0))
            return CLSTM_ERROR_SPEC;
    }
    const double probabilities[] = {v->recurrent_dropout, v->variational_dropout_x, v->variational_dropout_h,
                                    v->zoneout_c, v->zoneout_h};
    for (size_t i = 0; i < sizeof probabilities / sizeof *probabilities; i++)
        if (!is_probability(probabilities[i]))
            return CLSTM_ERROR_SPEC;
    const double options[] = {v->clip, v->cell_clip, v->proj_clip, v->layer_norm_eps};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (!is_option(options[i]))
            return CLSTM_ERROR_SPEC;
    return v->proj_clip == 0 || v->proj_size ? CLSTM_OK : CLSTM_ERROR_SPEC;
}

int clstm_check_spec(const clstm_spec *s) {
    const int64_t most = (int64_t)1 << (sizeof(size_t) == 8 ? 40 : 24);
    if (!s)
        return CLSTM_ERROR_NULL;
    if (s->dtype != CLSTM_FLOAT32 && s->dtype != CLSTM_FLOAT64)
        return CLSTM_ERROR_SPEC;
    if (!in_range(s->input_size, most) || !in_range(s->hidden_size, most) || !in_range(s->num_layers, 1 << 20))
        return CLSTM_ERROR_SPEC;
    if ((s->bias | 1) != 1 || (s->bidirectional | 1) != 1)
        return CLSTM_ERROR_SPEC;
    if (!is_probability(s->dropout))
        return CLSTM_ERROR_SPEC;
    return network_is_plain(s) ? CLSTM_OK : check_variant(s);
}

int network_check_batch(const clstm_spec *spec, int64_t T, int64_t B) {
    const int64_t most = (int64_t)1 << (sizeof(size_t) == 8 ? 48 : 28);
    const int status = clstm_check_spec(spec);
    if (status)
        return status;
    return T < 0 || B < 0 || T > most || B > most ? CLSTM_ERROR_SIZE : CLSTM_OK;
}

int network_most_bytes(const clstm_spec *spec, int64_t T, int64_t B,
                       int (*bytes_of)(const network *net, idx T, idx B, size_t *bytes), size_t *most) {
    const int status = network_check_batch(spec, T, B);
    if (status)
        return status;
    if (!most)
        return CLSTM_ERROR_NULL;
    size_t largest = 0, bytes;
    for (int i = 0; i < CLSTM_ISAS; i++) {
        const clstm_isa_kernels *isa = clstm_kernels_at(i);
        if (!isa)
            continue;
        const network net = network_of(spec, isa);
        if (bytes_of(&net, (idx)T, (idx)B, &bytes) != CLSTM_OK)
            return CLSTM_ERROR_SIZE;
        largest = bytes > largest ? bytes : largest;
    }
    *most = largest;
    return CLSTM_OK;
}

/* ---- parameters ---- */

param_places network_param_places(const clstm_spec *spec) {
    param_places p = {-1, -1, -1, -1, -1, -1, -1, .count = 2 + 2 * spec->bias};
    if (spec->variant.proj_size)
        p.weight_hr = p.count++;
    if (spec->variant.peepholes)
        p.weight_ch = p.count++;
    if (spec->variant.layer_norm_eps > 0) {
        p.weight_ln = p.count++;
        p.weight_ln_c = p.count++;
        if (spec->bias)
            p.bias_ln_c = p.count++;
    }
    if (spec->variant.learned_state) {
        p.h0 = p.count++;
        p.c0 = p.count++;
    }
    return p;
}

int64_t clstm_num_params(const clstm_spec *s) {
    return s->num_layers * (1 + s->bidirectional) * network_param_places(s).count;
}

int clstm_param_shape(const clstm_spec *s, int64_t index, int64_t *rows, int64_t *columns) {
    const int status = clstm_check_spec(s);
    if (status)
        return status;
    if (!rows || !columns)
        return CLSTM_ERROR_NULL;
    if (index < 0 || index >= clstm_num_params(s))
        return CLSTM_ERROR_SIZE;
    const param_places p = network_param_places(s);
    const int64_t D = 1 + s->bidirectional, H = s->hidden_size, G = s->variant.coupling ? 3 : 4;
    const int64_t P = s->variant.proj_size ? s->variant.proj_size : H, kind = index % p.count;
    const int is_bias = kind >= 2 && kind < 2 + 2 * s->bias;
    const int of_cell = kind == p.c0 || kind == p.weight_ln_c || kind == p.bias_ln_c;
    const int is_vector = is_bias || kind == p.h0 || of_cell;
    *rows = kind == p.weight_hr || kind == p.h0 ? P : of_cell ? H : kind == p.weight_ch ? G - 1 : G * H;
    if (kind == p.weight_ln)
        *rows = G;
    *columns = is_vector ? 0 : kind == 0 ? (index < D * p.count ? s->input_size : D * P) : kind == 1 ? P : H;
    return CLSTM_OK;
}

/* ---- pack ---- */

/* Lays out one layer and direction whose input has I features. */
static layer_weights take_weights(arena *m, const network *net, idx I, int training) {
    const idx vl = net->k->vl, H = net->H, P = net->P;
    layer_weights w = {0};
    w.bias = arena_take(m, net->size, net->z_width, 1, 1);
    w.w_ih = arena_take(m, net->size, net->z_width, I, 1);
    w.w_hh = arena_take(m, net->size, net->z_width, P, 1);
    if (training) {
        w.w_ih_panels = arena_take(m, net->size, net->GH, round_up(I, vl), 1);
        w.w_hh_panels = arena_take(m, net->size, net->GH, round_up(P, vl), 1);
    }
    if (net->plain)
        return w;
    if (network_projects(net)) {
        w.w_hr = arena_take(m, net->size, round_up(P, vl), H, 1);
        w.w_hr_panels = training ? arena_take(m, net->size, P, round_up(H, vl), 1) : NULL;
    }
    w.peepholes = net->spec->variant.peepholes ? arena_take(m, net->size, 3, H, 1) : NULL;
    if (network_normalizes(net)) {
        w.gain = arena_take(m, net->size, network_normed(net), 1, 1);
        w.shift = arena_take(m, net->size, network_normed(net), 1, 1);
    }
    if (net->spec->variant.learned_state) {
        w.h0 = arena_take(m, net->size, P, 1, 1);
        w.c0 = arena_take(m, net->size, H, 1, 1);
    }
    return w;
}

static arena pack_arena(const void *pack) {
    arena m = {.base = (char *)(uintptr_t)pack};
    arena_take(&m, sizeof(pack_header), 1, 1, 1);
    return m;
}

layer_weights network_weights(const network *net, const void *pack, idx layer, idx direction) {
    const int training = ((const pack_header *)pack)->training;
    arena m = pack_arena(pack);
    if (layer > 0) { /* skip the first layer, then the equal ones above it */
        arena first = {0}, above = {0};
        take_weights(&first, net, net->I, training);
        take_weights(&above, net, net->D * net->P, training);
        m.used += (size_t)net->D * first.used + (size_t)((layer - 1) * net->D + direction) * above.used;
    }
    const idx I = network_layer_input(net, layer);
    if (layer == 0 && direction)
        take_weights(&m, net, I, training);
    return take_weights(&m, net, I, training);
}

int network_pack_size(const network *net, int training, size_t *bytes) {
    arena m = pack_arena(NULL);
    for (idx layer = 0; layer < net->L && !m.overflow; layer++)
        for (idx direction = 0; direction < net->D; direction++)
            take_weights(&m, net, network_layer_input(net, layer), training);
    if (m.overflow)
        return CLSTM_ERROR_SIZE;
    *bytes = m.used;
    return CLSTM_OK;
}

/* dropout is a matter of the call, not of the weights */
int network_same(const clstm_spec *a, const clstm_spec *b) {
    return a->input_size == b->input_size && a->hidden_size == b->hidden_size && a->num_layers == b->num_layers &&
           a->dtype == b->dtype && a->bias == b->bias && a->bidirectional == b->bidirectional &&
           memcmp(&a->variant, &b->variant, sizeof a->variant) == 0;
}

int network_open_pack(const clstm_spec *spec, const void *pack, int training, network *net) {
    const pack_header *header = pack;
    const int status = clstm_check_spec(spec);
    if (status)
        return status;
    if (!pack)
        return CLSTM_ERROR_NULL;
    if (header->magic != PACK_MAGIC || !network_same(spec, &header->spec) || (training && !header->training))
        return CLSTM_ERROR_PACK;
    const clstm_isa_kernels *isa = clstm_kernels_at(header->isa);
    if (!isa)
        return CLSTM_ERROR_PACK;
    *net = network_of(spec, isa);
    return CLSTM_OK;
}

int network_layers_of(const network *net, int64_t part, layer_range *layers) {
    const layer_range all = {0, net->L, 0, net->D};
    if (part < 0 || part > net->L * net->D)
        return CLSTM_ERROR_SIZE;
    *layers = all;
    if (part) {
        layers->layer = (idx)(part - 1) / net->D;
        layers->end_layer = layers->layer + 1;
        layers->direction = (idx)(part - 1) % net->D;
        layers->end_direction = layers->direction + 1;
    }
    return CLSTM_OK;
}

/* ---- tape ---- */

static tape_parts take_head(arena *m, const network *net, idx T, idx B) {
    tape_parts parts;
    parts.header = arena_take(m, sizeof(tape_header), 1, 1, 1);
    parts.lengths = arena_take(m, sizeof(int64_t), B, 1, 1);
    parts.order = arena_take(m, sizeof(int64_t), B, 1, 1);
    parts.h0 = arena_take(m, net->size, net->L * net->D, B, net->P);
    parts.c0 = arena_take(m, net->size, net->L * net->D, B, net->H);
    parts.x = arena_take(m, net->size, T, B, net->I);
    return parts;
}

static direction_tape take_direction(arena *m, const network *net, idx T, idx B) {
    direction_tape tape = {0};
    tape.gates = arena_take(m, net->size, T, B, net->gates_row);
    tape.c = arena_take(m, net->size, T, B, net->H);
    if (network_projects(net))
        tape.out = arena_take(m, net->size, T, B, net->H);
    return tape;
}

/* Walks the tape up to `layer`, whose arrays begin where the arena then stands: output, dropped output, directions. */
static arena tape_arena(const network *net, const void *tape, idx T, idx B, idx layer) {
    arena m = {.base = (char *)(uintptr_t)tape}, one = {0};
    take_head(&m, net, T, B);
    arena_take(&one, net->size, T, B, net->D * net->P);
    if (network_drops(net, 1))
        arena_take(&one, net->size, T, B, net->D * net->P);
    for (idx direction = 0; direction < net->D; direction++)
        take_direction(&one, net, T, B);
    m.overflow |= one.overflow || (layer && one.used > ((size_t)PTRDIFF_MAX - m.used) / (size_t)layer);
    if (!m.overflow)
        m.used += (size_t)layer * one.used;
    return m;
}

tape_parts network_tape(const network *net, const void *tape, idx T, idx B) {
    arena m = {.base = (char *)(uintptr_t)tape};
    return take_head(&m, net, T, B);
}

void *network_tape_output(const network *net, const void *tape, idx T, idx B, idx layer) {
    arena m = tape_arena(net, tape, T, B, layer);
    return arena_take(&m, net->size, T, B, net->D * net->P);
}

void *network_tape_dropped(const network *net, const void *tape, idx T, idx B, idx layer) {
    arena m = tape_arena(net, tape, T, B, layer);
    void *output = arena_take(&m, net->size, T, B, net->D * net->P);
    return network_drops(net, 1) ? arena_take(&m, net->size, T, B, net->D * net->P) : output;
}

direction_tape network_direction_tape(const network *net, const void *tape, idx T, idx B, idx layer, idx direction) {
    arena m = tape_arena(net, tape, T, B, layer);
    arena_take(&m, net->size, T, B, net->D * net->P);
    if (network_drops(net, 1))
        arena_take(&m, net->size, T, B, net->D * net->P);
    if (direction)
        take_direction(&m, net, T, B);
    return take_direction(&m, net, T, B);
}

static int tape_bytes(const network *net, idx T, idx B, size_t *bytes) {
    const arena m = tape_arena(net, NULL, T, B, net->L);
    *bytes = m.used;
    return m.overflow ? CLSTM_ERROR_SIZE : CLSTM_OK;
}

int clstm_tape_size(const clstm_spec *spec, int64_t T, int64_t B, size_t *bytes) {
    return network_most_bytes(spec, T, B, tape_bytes, bytes);
}

/* ---- sequences ---- */

int network_count_active(const int64_t *lengths, idx T, idx B, int64_t *active) {
    for (idx b = 0; b < B; b++)
        if (lengths[b] < 0 || lengths[b] > T || (b && lengths[b] > lengths[b - 1]))
            return CLSTM_ERROR_LENGTHS;
    idx rows = B;
    for (idx t = 0; t < T; t++) {
        while (rows && lengths[rows - 1] <= t)
            rows--;
        active[t] = rows;
    }
    return CLSTM_OK;
}

int network_check_order(const int64_t *order, idx B) {
    for (idx b = 0; order && b < B; b++)
        if (order[b] < 0 || order[b] >= B)
            return CLSTM_ERROR_LENGTHS;
    return CLSTM_OK;
}

double network_work(const network *net, idx T, idx B, layer_range layers) {
    double row = 0;
    for (idx layer = layers.layer; layer < layers.end_layer; layer++)
        row += 4.0 * (double)net->H * (double)(network_layer_input(net, layer) + net->P);
    return row * (double)(layers.end_direction - layers.direction) * (double)T * (double)B;
}

idx network_worth_parts(const network *net, double work, idx rows, double worth, idx threads) {
    enum { MANY_ROWS = 4 }; /* fewer wait for the weights */
    const double least = worth * (double)net->k->vl * (double)idx_min(rows, MANY_ROWS) / MANY_ROWS;
    return work <= 2 * least ? 1 : work / least < (double)threads ? (idx)(work / least) : threads;
}

/* Parts of two rows at least, because one alone uses each weight that it loads only once. */
static even_split split_rows(idx B, idx parts) {
    const idx most = B / 2 > 1 ? B / 2 : 1;
    const even_split s = {.n = B, .multiple = 1, .parts = idx_min(parts, most)};
    return s;
}

/* Pieces of the units of each of T steps. */
static idx split_units(const network *net, idx T, idx pieces) {
    const idx most = idx_min(pieces, net->H_blocks);
    return (T + T) * net->D * most > INT_MAX / 2 ? 1 : most; /* the parts of a layer are counted in an int */
}

/* Whether a step in pieces is faster than the rows in parts, though threads meet after it, which takes as long as 25000
 * multiply-adds (about half a microsecond). Of as many parts as pieces, those of few rows wait for weights from beyond
 * the L2 cache: each of them reads all. */
static int units_are_faster(const network *net, const work_split *s) {
    enum { FEW_ROWS = 3 };
    const double step = 4.0 * (double)net->H * (double)net->H * (double)(s->rows.n * net->D), meeting = 25e3;
    const double bytes = 4.0 * (double)net->H * (double)(net->I + net->P) * (double)net->size;
    if (s->pieces == s->rows.parts)
        return s->pieces > 1 && s->rows.n < FEW_ROWS * s->rows.parts && bytes > L2_BYTES;
    return step / (double)s->pieces + meeting < step / (double)s->rows.parts;
}

int network_stays_alone(double work) {
    const double soon = 1e9; /* multiply-adds of some ten milliseconds */
    return work < soon && !clstm_gets_help();
}

work_split network_split_work(const network *net, idx T, idx B, const work_to_split *work) {
    work_split s = {.rows = split_rows(B, network_worth_parts(net, work->in_rows, B, work->worth, work->threads)),
                    .pieces = 1};
    if (net->plain)
        s.pieces = split_units(net, T, network_worth_parts(net, work->in_units, B, work->worth, work->threads));
    if (units_are_faster(net, &s))
        s.rows.parts = 1;
    else
        s.pieces = 1;
    return s;
}

/* Problems for the tests: a network, a batch and the gradients on its results, all from one seed; and calls of the
 * library on them, in buffers whose surroundings are watched. */
#ifndef PROBLEM_H
#define PROBLEM_H

#include "check.h"
#include "clstm.h"

#include <math.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define POISON 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POISON 1
#endif
#endif
#if POISON
#include <sanitizer/asan_interface.h>
#endif

/* 1 where every instruction costs ten, under sanitizers and emulators: then there are fewer cases of a kind. */
#if CHECK_SANITIZER || defined(CHECK_EMULATOR)
#define SLOW 1
#else
#define SLOW 0
#endif

/* ---- buffers ---- */

enum { GUARD = 192, FILL = 0xfd }; /* FILL: a byte of which floats and doubles are large and odd */

/* `bytes` bytes at p, between two guards. AddressSanitizer sees reads of the guards too. */
typedef struct buffer {
    unsigned char *memory, *p;
    size_t bytes;
} buffer;

/* shift: 0 for an alignment of 64, else how far from it. */
static inline buffer buffer_new(size_t bytes, size_t shift) {
    buffer b = {.bytes = bytes};
    b.memory = aligned_alloc(64, (bytes + 2 * GUARD + shift + 63) / 64 * 64);
    CHECK(b.memory);
    b.p = b.memory + GUARD + shift;
    memset(b.memory, FILL, GUARD + shift + bytes + GUARD);
#if POISON
    ASAN_POISON_MEMORY_REGION(b.memory, GUARD + shift);
    ASAN_POISON_MEMORY_REGION(b.p + bytes, GUARD);
#endif
    return b;
}

static inline int all_fill(const unsigned char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != FILL)
            return 0;
    return 1;
}

/* Frees the buffer. The guards must be as they were. */
static inline void buffer_free(buffer *b) {
    if (!b->memory)
        return;
#if POISON
    ASAN_UNPOISON_MEMORY_REGION(b->memory, (size_t)(b->p - b->memory) + b->bytes + GUARD);
#endif
    CHECK(all_fill(b->memory, (size_t)(b->p - b->memory)));
    CHECK(all_fill(b->p + b->bytes, GUARD));
    free(b->memory);
}

/* ---- numbers ---- */

/* The index-th of the numbers that belong to a seed, spread evenly over -1..1. Exact on every machine. */
static inline double uniform(uint64_t seed, uint64_t index) {
    uint64_t z = (seed << 40) + index + 1;
    for (int i = 0; i < 2; i++) {
        z = (z ^ (z >> 31)) * 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 29)) * 0xd1342543de82ef95u;
    }
    return (double)(int64_t)(z >> 11) * 0x1p-52 - 1;
}

static inline double get(int dtype, const void *p, int64_t i) {
    return dtype == CLSTM_FLOAT32 ? ((const float *)p)[i] : ((const double *)p)[i];
}

static inline void put(int dtype, void *p, int64_t i, double value) {
    if (dtype == CLSTM_FLOAT32)
        ((float *)p)[i] = (float)value;
    else
        ((double *)p)[i] = value;
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- problems ---- */

/* How a (T, B, n) array lies in memory. ONE_ROW and ONE_STEP: the same for the whole batch, or for all time. */
enum layout { TIME_MAJOR, BATCH_MAJOR, REVERSED, PADDED, ONE_ROW, ONE_STEP, LAYOUTS };

enum { MAX_PARAMS = 64 };

typedef struct problem {
    clstm_spec spec;
    int64_t T, B;
    int with_lengths, with_order, no_h0, no_c0, no_dy, no_dhn, no_dcn;
    enum layout x_layout, y_layout, dx_layout, dy_layout;
    double scale;  /* of the weights; 0: 1 / sqrt(H), as networks start */
    uint64_t seed; /* of every number, and of the dropout */

    /* made by problem_make; contiguous */
    size_t size;                /* bytes of a real */
    int64_t D, P;               /* P: features of h */
    int64_t h_states, c_states; /* L * D * B * P, L * D * B * H */
    int64_t *lengths, *order;
    buffer params[MAX_PARAMS], x, h0, c0, dy, dhn, dcn;
} problem;

static inline const char *problem_text(const problem *p) {
    static _Thread_local char text[200];
    const clstm_spec *s = &p->spec;
    snprintf(text, sizeof text,
             "f%d I=%d H=%d P=%d coupling=%d peepholes=%d norm=%g L=%d D=%d bias=%d T=%d B=%d lengths=%d order=%d "
             "layouts=%d%d%d%d "
             "dropout=%g %s",
             s->dtype ? 64 : 32, (int)s->input_size, (int)s->hidden_size, (int)p->P, s->variant.coupling,
             s->variant.peepholes, s->variant.layer_norm_eps, (int)s->num_layers, (int)p->D, s->bias, (int)p->T,
             (int)p->B, p->with_lengths, p->with_order, p->x_layout, p->y_layout, p->dx_layout, p->dy_layout,
             s->dropout, clstm_isa());
    return text;
}

#define CHECK_PROBLEM(p, condition)                                                                                    \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            fprintf(stderr, "%s\n", problem_text(p));                                                                  \
        CHECK(condition);                                                                                              \
    } while (0)

static inline int64_t layer_inputs(const problem *p, int64_t layer) { return layer ? p->D * p->P : p->spec.input_size; }

/* Elements of parameter i. */
static inline int64_t param_count(const problem *p, int i) {
    int64_t rows, columns;
    CHECK(clstm_param_shape(&p->spec, i, &rows, &columns) == CLSTM_OK);
    return columns ? rows * columns : rows;
}

/* n numbers of their own seed, not aligned to more than an element. */
static inline buffer random_array(const problem *p, int64_t n, uint64_t seed, double scale) {
    buffer b = buffer_new((size_t)n * p->size, p->size);
    for (int64_t i = 0; i < n; i++)
        put(p->spec.dtype, b.p, i, scale * uniform(p->seed * 64 + seed, (uint64_t)i));
    return b;
}

/* (T, B, n) numbers that fit the layout. */
static inline buffer random_sequence(const problem *p, int64_t n, enum layout layout, uint64_t seed) {
    buffer b = random_array(p, p->T * p->B * n, seed, 1);
    for (int64_t t = 0; t < p->T; t++)
        for (int64_t row = 0; row < p->B; row++) {
            const int64_t from = (layout == ONE_STEP ? 0 : t) * p->B + (layout == ONE_ROW ? 0 : row);
            memmove(b.p + (size_t)((t * p->B + row) * n) * p->size, b.p + (size_t)(from * n) * p->size,
                    (size_t)n * p->size);
        }
    return b;
}

/* Valid steps of row `row` of x. */
static inline int64_t row_length(const problem *p, int64_t row) {
    int64_t b = 0;
    while (p->order ? p->order[b] != row : b != row)
        b++;
    return p->lengths ? p->lengths[b] : p->T;
}

static inline void problem_make(problem *p) {
    const int64_t H = p->spec.hidden_size, n_params = clstm_num_params(&p->spec);
    p->size = p->spec.dtype == CLSTM_FLOAT32 ? 4 : 8;
    p->D = 1 + p->spec.bidirectional;
    p->P = p->spec.variant.proj_size ? p->spec.variant.proj_size : H;
    p->h_states = p->spec.num_layers * p->D * p->B * p->P;
    p->c_states = p->spec.num_layers * p->D * p->B * H;
    CHECK(n_params <= MAX_PARAMS);
    for (int i = 0; i < n_params; i++)
        p->params[i] = random_array(p, param_count(p, i), 10 + (uint64_t)i, p->scale ? p->scale : 1 / sqrt((double)H));
    p->x = random_sequence(p, p->spec.input_size, p->x_layout, 0);
    p->dy = random_sequence(p, p->D * p->P, p->dy_layout, 1);
    p->h0 = random_array(p, p->h_states, 2, 1);
    p->c0 = random_array(p, p->c_states, 3, 2);
    p->dhn = random_array(p, p->h_states, 4, 1);
    p->dcn = random_array(p, p->c_states, 5, 1);
    p->lengths = p->with_lengths ? malloc((size_t)(p->B + 1) * sizeof *p->lengths) : NULL;
    for (int64_t row = 0; p->lengths && row < p->B; row++) /* from T down to 0 */
        p->lengths[row] = p->T - p->T * row / (p->B > 1 ? p->B - 1 : 1);
    p->order = p->with_order ? malloc((size_t)(p->B + 1) * sizeof *p->order) : NULL;
    for (int64_t row = 0; p->order && row < p->B; row++)
        p->order[row] = (row + p->B / 3 + 1) % p->B;
}

static inline void problem_free(problem *p) {
    for (int i = 0; i < MAX_PARAMS; i++)
        buffer_free(&p->params[i]);
    buffer *const arrays[] = {&p->x, &p->dy, &p->h0, &p->c0, &p->dhn, &p->dcn};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        buffer_free(arrays[i]);
    free(p->lengths);
    free(p->order);
}

/* ---- sequences in every layout ---- */

/* A (T, B, n) array in a layout: element (0, 0, 0) at p. */
typedef struct grid {
    buffer memory;
    unsigned char *p;
    int64_t T, B, n, time, row; /* strides in elements */
    size_t size;
} grid;

static inline unsigned char *grid_at(const grid *g, int64_t t, int64_t row) {
    return g->p + (t * g->time + row * g->row) * (int64_t)g->size;
}

static inline grid grid_new(const problem *p, enum layout layout, int64_t n) {
    const int64_t T = p->T, B = p->B, wide = n + 3;
    const struct {
        int64_t time, row, first, elements;
    } of[LAYOUTS] = {[TIME_MAJOR] = {B * n, n, 0, T * B * n},
                     [BATCH_MAJOR] = {n, T * n, 0, T * B * n},
                     [REVERSED] = {-B * n, -n, (T * B - 1) * n, T * B * n},
                     [PADDED] = {B * wide + 5, wide, 0, T * (B * wide + 5)},
                     [ONE_ROW] = {n, 0, 0, T * n},
                     [ONE_STEP] = {0, n, 0, B * n}};
    grid g = {.T = T, .B = B, .n = n, .time = of[layout].time, .row = of[layout].row, .size = p->size};
    g.memory = buffer_new((size_t)of[layout].elements * p->size, p->size);
    g.p = g.memory.p + (T * B > 0 ? of[layout].first : 0) * (int64_t)p->size;
    return g;
}

static inline void grid_write(const grid *g, const unsigned char *from) {
    const size_t bytes = (size_t)g->n * g->size;
    for (int64_t t = 0; t < g->T; t++)
        for (int64_t row = 0; row < g->B; row++)
            memcpy(grid_at(g, t, row), from + (size_t)(t * g->B + row) * bytes, bytes);
}

/* Copies the elements out and frees the grid; between them nothing may have been written. */
static inline void grid_take(grid *g, unsigned char *to) {
    const size_t bytes = (size_t)g->n * g->size;
    for (int64_t t = 0; t < g->T; t++)
        for (int64_t row = 0; row < g->B; row++) {
            memcpy(to + (size_t)(t * g->B + row) * bytes, grid_at(g, t, row), bytes);
            memset(grid_at(g, t, row), FILL, bytes);
        }
    CHECK(all_fill(g->memory.p, g->memory.bytes));
    buffer_free(&g->memory);
}

/* Frees a grid that was read only. */
static inline void grid_done(const problem *p, grid *g, const buffer *from) {
    const size_t bytes = (size_t)g->n * p->size;
    for (int64_t t = 0; t < g->T; t++)
        for (int64_t row = 0; row < g->B; row++)
            CHECK(memcmp(grid_at(g, t, row), from->p + (size_t)(t * g->B + row) * bytes, bytes) == 0);
    buffer_free(&g->memory);
}

/* ---- results ---- */

/* All results of a problem in one run of contiguous arrays, to be compared as bytes. Offsets are in bytes. */
typedef struct results {
    unsigned char *p;
    size_t y, hn, cn, dx, dh0, dc0, dparams, bytes;
} results;

static inline results results_new(const problem *p) {
    const size_t sequence = (size_t)(p->T * p->B) * p->size;
    const size_t h_states = (size_t)p->h_states * p->size, c_states = (size_t)p->c_states * p->size;
    const size_t y = sequence * (size_t)(p->D * p->P), x = sequence * (size_t)p->spec.input_size;
    results r = {.hn = y, .cn = y + h_states, .dx = y + h_states + c_states};
    r.dh0 = r.dx + x;
    r.dc0 = r.dh0 + h_states;
    r.dparams = r.bytes = r.dc0 + c_states;
    for (int i = 0; i < clstm_num_params(&p->spec); i++)
        r.bytes += (size_t)param_count(p, i) * p->size;
    r.p = calloc(r.bytes + 1, 1);
    CHECK(r.p);
    return r;
}

static inline int same_results(const results *a, const results *b) {
    return a->bytes == b->bytes && memcmp(a->p, b->p, a->bytes) == 0;
}

/* ---- calls ---- */

/* A pack for the current instruction set. */
static inline buffer pack_new(const problem *p, int training) {
    size_t bytes;
    const void *params[MAX_PARAMS];
    for (int i = 0; i < MAX_PARAMS; i++)
        params[i] = p->params[i].p;
    CHECK(clstm_pack_size(&p->spec, training, &bytes) == CLSTM_OK);
    buffer pack = buffer_new(bytes, 0);
    CHECK(clstm_pack(&p->spec, training, params, pack.p) == CLSTM_OK);
    return pack;
}

static inline buffer tape_new(const problem *p) {
    size_t bytes;
    CHECK(clstm_tape_size(&p->spec, p->T, p->B, &bytes) == CLSTM_OK);
    return buffer_new(bytes, 0);
}

/* y, hn and cn. tape: NULL for inference. */
static inline void forward_with(const problem *p, const buffer *pack, const buffer *tape, results *r) {
    size_t bytes;
    CHECK(clstm_forward_workspace(&p->spec, p->T, p->B, &bytes) == CLSTM_OK);
    buffer workspace = buffer_new(bytes, 0);
    buffer hn = buffer_new(p->h0.bytes, p->size), cn = buffer_new(p->c0.bytes, p->size);
    grid x = grid_new(p, p->x_layout, p->spec.input_size), y = grid_new(p, p->y_layout, p->D * p->P);
    grid_write(&x, p->x.p);
    const clstm_sequence sequence = {.T = p->T,
                                     .B = p->B,
                                     .lengths = p->lengths,
                                     .order = p->order,
                                     .seed = p->seed,
                                     .x = x.p,
                                     .x_time_stride = x.time,
                                     .x_row_stride = x.row,
                                     .h0 = p->no_h0 ? NULL : p->h0.p,
                                     .c0 = p->no_c0 ? NULL : p->c0.p,
                                     .y = y.p,
                                     .y_time_stride = y.time,
                                     .y_row_stride = y.row,
                                     .hn = hn.p,
                                     .cn = cn.p};
    CHECK_PROBLEM(p,
                  clstm_forward(&p->spec, pack->p, &sequence, tape ? tape->p : NULL, workspace.p, bytes) == CLSTM_OK);
    memcpy(r->p + r->hn, hn.p, hn.bytes);
    memcpy(r->p + r->cn, cn.p, cn.bytes);
    grid_take(&y, r->p + r->y);
    grid_done(p, &x, &p->x);
    buffer_free(&hn);
    buffer_free(&cn);
    buffer_free(&workspace);
}

/* All gradients, of the forward call that recorded the tape. */
static inline void backward_with(const problem *p, const buffer *pack, const buffer *tape, results *r) {
    size_t bytes;
    CHECK(clstm_backward_workspace(&p->spec, p->T, p->B, &bytes) == CLSTM_OK);
    buffer workspace = buffer_new(bytes, 0), dparams[MAX_PARAMS];
    buffer dh0 = buffer_new(p->h0.bytes, p->size), dc0 = buffer_new(p->c0.bytes, p->size);
    grid dy = grid_new(p, p->dy_layout, p->D * p->P), dx = grid_new(p, p->dx_layout, p->spec.input_size);
    grid_write(&dy, p->dy.p);
    const int n_params = (int)clstm_num_params(&p->spec);
    void *dparam_pointers[MAX_PARAMS];
    for (int i = 0; i < n_params; i++) {
        dparams[i] = buffer_new((size_t)param_count(p, i) * p->size, p->size);
        dparam_pointers[i] = dparams[i].p;
    }
    const clstm_gradients gradients = {.dy = p->no_dy ? NULL : dy.p,
                                       .dy_time_stride = dy.time,
                                       .dy_row_stride = dy.row,
                                       .dhn = p->no_dhn ? NULL : p->dhn.p,
                                       .dcn = p->no_dcn ? NULL : p->dcn.p,
                                       .dx = dx.p,
                                       .dx_time_stride = dx.time,
                                       .dx_row_stride = dx.row,
                                       .dh0 = dh0.p,
                                       .dc0 = dc0.p,
                                       .dparams = dparam_pointers};
    CHECK_PROBLEM(p, clstm_backward(&p->spec, pack->p, tape->p, &gradients, workspace.p, bytes) == CLSTM_OK);
    unsigned char *to = r->p + r->dparams;
    for (int i = 0; i < n_params; to += dparams[i].bytes, i++) {
        memcpy(to, dparams[i].p, dparams[i].bytes);
        buffer_free(&dparams[i]);
    }
    memcpy(r->p + r->dh0, dh0.p, dh0.bytes);
    memcpy(r->p + r->dc0, dc0.p, dc0.bytes);
    grid_take(&dx, r->p + r->dx);
    grid_done(p, &dy, &p->dy);
    buffer_free(&dh0);
    buffer_free(&dc0);
    buffer_free(&workspace);
}

/* Inference: y, hn, cn. */
static inline results infer(const problem *p) {
    results r = results_new(p);
    buffer pack = pack_new(p, 0);
    forward_with(p, &pack, NULL, &r);
    buffer_free(&pack);
    return r;
}

/* A training step: y, hn, cn and all gradients. */
static inline results train(const problem *p) {
    results r = results_new(p);
    buffer pack = pack_new(p, 1), tape = tape_new(p);
    forward_with(p, &pack, &tape, &r);
    backward_with(p, &pack, &tape, &r);
    buffer_free(&tape);
    buffer_free(&pack);
    return r;
}

/* The line that tells of a check that held. */
static inline void passed(const char *what) { printf("ok     %s\n", what); }

#endif

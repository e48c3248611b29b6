/* What surrounds the computation: specs, sizes, packs, tapes, workspaces, and every status. */
#include "eight_processors.h"

#include "problem.h"

static const clstm_spec good = {3, 5, 2, CLSTM_FLOAT32, 1, 0, 0};

/* ---- specs ---- */

static clstm_spec changed(int field, int64_t value) {
    clstm_spec s = good;
    switch (field) {
    case 0:
        s.input_size = value;
        break;
    case 1:
        s.hidden_size = value;
        break;
    case 2:
        s.num_layers = value;
        break;
    case 3:
        s.dtype = (int32_t)value;
        break;
    case 4:
        s.bias = (int32_t)value;
        break;
    case 5:
        s.bidirectional = (int32_t)value;
        break;
    }
    return s;
}

static void specs_are_checked(void) {
    static const int64_t fine[][2] = {{0, 1}, {1, 1}, {2, 1}, {3, 0}, {3, 1},
                                      {4, 0}, {4, 1}, {5, 0}, {5, 1}, {0, 1 << 30}};
    static const int64_t wrong[][2] = {{0, 0},  {0, -1},        {0, INT64_MAX}, {0, INT64_MIN}, {1, 0},
                                       {1, -1}, {1, INT64_MAX}, {2, 0},         {2, -1},        {2, INT64_MAX},
                                       {3, 2},  {3, -1},        {4, 2},         {4, -1},        {4, INT32_MIN},
                                       {5, 2},  {5, -1},        {5, INT32_MIN}};
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++) {
        const clstm_spec s = changed((int)fine[i][0], fine[i][1]);
        CHECK(clstm_check_spec(&s) == CLSTM_OK);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const clstm_spec s = changed((int)wrong[i][0], wrong[i][1]);
        CHECK(clstm_check_spec(&s) == CLSTM_ERROR_SPEC);
    }
    static const double dropouts[] = {0, 0.5, 1, -0.01, 1.01, NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 8; i++) {
        clstm_spec s = good;
        s.dropout = dropouts[i];
        CHECK(clstm_check_spec(&s) == (i < 3 ? CLSTM_OK : CLSTM_ERROR_SPEC));
    }
    CHECK(clstm_check_spec(NULL) == CLSTM_ERROR_NULL);
}

static void parameters_are_counted(void) {
    for (int L = 1; L <= 3; L++)
        for (int D = 1; D <= 2; D++)
            for (int bias = 0; bias <= 1; bias++) {
                const clstm_spec s = {3, 5, L, CLSTM_FLOAT32, bias, D - 1, 0};
                CHECK(clstm_num_params(&s) == L * D * (bias ? 4 : 2));
            }
}

/* ---- sizes ---- */

typedef int size_query(const clstm_spec *spec, int64_t T, int64_t B, size_t *bytes);

static int pack_query(const clstm_spec *spec, int64_t T, int64_t B, size_t *bytes) {
    return T < 0 || B < 0 ? CLSTM_ERROR_SIZE : clstm_pack_size(spec, (int)(T & 1), bytes);
}

static size_query *const queries[] = {clstm_forward_workspace, clstm_backward_workspace, clstm_tape_size, pack_query};
enum { QUERIES = 4 };

/* A refused query leaves *bytes as it was. */
static void expect(size_query *query, const clstm_spec *spec, int64_t T, int64_t B, int status) {
    size_t bytes = 12345;
    CHECK(query(spec, T, B, &bytes) == status);
    CHECK((bytes == 12345) == (status != CLSTM_OK));
    CHECK(status != CLSTM_OK || query(spec, T, B, NULL) == CLSTM_ERROR_NULL);
}

static void sizes_are_checked(void) {
    const clstm_spec wrong = changed(1, 0);
    for (int i = 0; i < QUERIES; i++) {
        expect(queries[i], &good, 7, 3, CLSTM_OK);
        expect(queries[i], &good, 0, 0, CLSTM_OK);
        expect(queries[i], &good, -1, 3, CLSTM_ERROR_SIZE);
        expect(queries[i], &good, 7, -1, CLSTM_ERROR_SIZE);
        expect(queries[i], &good, INT64_MIN, INT64_MIN, CLSTM_ERROR_SIZE);
        expect(queries[i], &wrong, 7, 3, CLSTM_ERROR_SPEC);
        expect(queries[i], NULL, 7, 3, CLSTM_ERROR_NULL);
    }
}

/* Products that leave size_t, at each of their factors, are seen; those that fit in 64 bits are not refused. */
static void products_that_overflow_are_refused(void) {
    static const int64_t huge[] = {1LL << 31, 1LL << 33, 1LL << 40, 1LL << 47, 1LL << 48, 1LL << 62, INT64_MAX};
    for (int i = 0; i < 3; i++)
        for (size_t a = 0; a < 7; a++)
            for (size_t b = 0; b < 7; b++) {
                size_t bytes = 0;
                const int status = queries[i](&good, huge[a], huge[b], &bytes);
                /* forward without a tape keeps (T, B, H) between layers; the others keep more */
                const int fits = (double)huge[a] * (double)huge[b] * 5 * 4 < 0x1p62;
                CHECK(status == CLSTM_ERROR_SIZE || (status == CLSTM_OK && fits));
                CHECK(status == CLSTM_ERROR_SIZE || (double)bytes >= (double)huge[a] * (double)huge[b] * 5 * 4);
            }
    const clstm_spec wide = {1LL << 40, 1LL << 40, 1, CLSTM_FLOAT64, 1, 0, 0};
    const clstm_spec deep = {3, 1LL << 24, 1 << 20, CLSTM_FLOAT32, 1, 1, 0};
    expect(pack_query, &wide, 0, 0, CLSTM_ERROR_SIZE);
    expect(pack_query, &wide, 1, 0, CLSTM_ERROR_SIZE);
    expect(pack_query, &deep, 0, 0, CLSTM_ERROR_SIZE);
    expect(clstm_tape_size, &wide, 1LL << 20, 1 << 3, CLSTM_ERROR_SIZE);
    expect(clstm_backward_workspace, &wide, 1, 1LL << 31, CLSTM_ERROR_SIZE);
}

/* Beyond 2^31 and 2^32 bytes and elements, sizes are what they should be. */
static void large_sizes_are_right(void) {
    const clstm_spec s = {1000, 20000, 1, CLSTM_FLOAT32, 1, 0, 0};
    size_t bytes;
    const double weights = 4 * 20000.0 * 21000 * 4;
    CHECK(clstm_pack_size(&s, 0, &bytes) == CLSTM_OK && (double)bytes > weights && (double)bytes < 1.01 * weights);
    CHECK(clstm_pack_size(&s, 1, &bytes) == CLSTM_OK && (double)bytes > 2 * weights && (double)bytes < 2.1 * weights);
    const double tape = 1000.0 * 500 * (6 * 20000 + 1000) * 4;
    CHECK(clstm_tape_size(&s, 1000, 500, &bytes) == CLSTM_OK && (double)bytes > tape && (double)bytes < 1.01 * tape);
}

/* ---- NULL ---- */

typedef struct setup {
    problem p;
    buffer pack, tape, workspace, y, out[4];
    clstm_sequence sequence;
    clstm_gradients gradients;
    void *dparams[MAX_PARAMS];
    buffer dparam[MAX_PARAMS];
} setup;

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* A forward and a backward call that succeed, in buffers of their own. */
static setup setup_new(clstm_spec spec) {
    setup s = {.p = {.spec = spec, .T = 4, .B = 3}};
    problem *p = &s.p;
    problem_make(p);
    s.pack = pack_new(p, 1);
    s.tape = tape_new(p);
    size_t forward, backward;
    CHECK(clstm_forward_workspace(&spec, 4, 3, &forward) == CLSTM_OK);
    CHECK(clstm_backward_workspace(&spec, 4, 3, &backward) == CLSTM_OK);
    s.workspace = buffer_new(larger(forward, backward), 0);
    const int64_t DH = p->D * spec.hidden_size;
    s.y = buffer_new((size_t)(p->T * p->B * larger((size_t)DH, (size_t)spec.input_size)) * p->size, 0);
    for (int i = 0; i < 4; i++)
        s.out[i] = buffer_new((size_t)p->c_states * p->size, 0);
    for (int i = 0; i < clstm_num_params(&spec); i++) {
        s.dparam[i] = buffer_new(p->params[i].bytes, 0);
        s.dparams[i] = s.dparam[i].p;
    }
    s.sequence = (clstm_sequence){.T = 4,
                                  .B = 3,
                                  .x = p->x.p,
                                  .x_time_stride = 3 * spec.input_size,
                                  .x_row_stride = spec.input_size,
                                  .y = s.y.p,
                                  .y_time_stride = 3 * DH,
                                  .y_row_stride = DH,
                                  .hn = s.out[0].p,
                                  .cn = s.out[1].p};
    s.gradients = (clstm_gradients){.dy = p->dy.p,
                                    .dy_time_stride = 3 * DH,
                                    .dy_row_stride = DH,
                                    .dx = s.y.p,
                                    .dx_time_stride = 3 * spec.input_size,
                                    .dx_row_stride = spec.input_size,
                                    .dh0 = s.out[2].p,
                                    .dc0 = s.out[3].p};
    return s;
}

static void setup_free(setup *s) {
    buffer_free(&s->pack);
    buffer_free(&s->tape);
    buffer_free(&s->workspace);
    buffer_free(&s->y);
    for (int i = 0; i < 4; i++)
        buffer_free(&s->out[i]);
    for (int i = 0; i < MAX_PARAMS; i++)
        buffer_free(&s->dparam[i]);
    problem_free(&s->p);
}

/* The status of a call; nothing but the workspace may be written unless it is CLSTM_OK. */
static int forward(setup *s, const clstm_spec *spec, const void *pack, void *tape, void *workspace, size_t bytes) {
    memset(s->y.p, FILL, s->y.bytes);
    memset(s->out[0].p, FILL, s->out[0].bytes);
    memset(s->out[1].p, FILL, s->out[1].bytes);
    const int status = clstm_forward(spec, pack, &s->sequence, tape, workspace, bytes);
    const int written = !all_fill(s->y.p, s->y.bytes) || !all_fill(s->out[0].p, s->out[0].bytes) ||
                        !all_fill(s->out[1].p, s->out[1].bytes);
    CHECK(written == (status == CLSTM_OK));
    return status;
}

static int backward(setup *s, const clstm_spec *spec, const void *pack, const void *tape, void *workspace,
                    size_t bytes) {
    memset(s->y.p, FILL, s->y.bytes);
    memset(s->out[2].p, FILL, s->out[2].bytes);
    memset(s->out[3].p, FILL, s->out[3].bytes);
    memset(s->dparam[0].p, FILL, s->dparam[0].bytes);
    s->gradients.dparams = s->dparams;
    const int status = clstm_backward(spec, pack, tape, &s->gradients, workspace, bytes);
    const int written = !all_fill(s->y.p, s->y.bytes) || !all_fill(s->out[2].p, s->out[2].bytes) ||
                        !all_fill(s->out[3].p, s->out[3].bytes) || !all_fill(s->dparam[0].p, s->dparam[0].bytes);
    CHECK(written == (status == CLSTM_OK));
    return status;
}

static void null_is_refused(void) {
    setup s = setup_new(good);
    void *const pack = s.pack.p, *const tape = s.tape.p, *const workspace = s.workspace.p;
    const size_t bytes = s.workspace.bytes;
    const void *params[MAX_PARAMS], *const some = s.p.x.p;
    for (int i = 0; i < MAX_PARAMS; i++)
        params[i] = s.p.params[i].p;

    CHECK(clstm_pack(NULL, 1, params, pack) == CLSTM_ERROR_NULL);
    CHECK(clstm_pack(&good, 1, NULL, pack) == CLSTM_ERROR_NULL);
    CHECK(clstm_pack(&good, 1, params, NULL) == CLSTM_ERROR_NULL);
    for (int i = 0; i < clstm_num_params(&good); i++) {
        const void *missing[MAX_PARAMS];
        memcpy(missing, params, sizeof missing);
        missing[i] = NULL;
        CHECK(clstm_pack(&good, 1, missing, pack) == CLSTM_ERROR_NULL);
    }

    CHECK(forward(&s, NULL, pack, tape, workspace, bytes) == CLSTM_ERROR_NULL);
    CHECK(forward(&s, &good, NULL, tape, workspace, bytes) == CLSTM_ERROR_NULL);
    CHECK(forward(&s, &good, pack, tape, NULL, bytes) == CLSTM_ERROR_NULL);
    CHECK(clstm_forward(&good, pack, NULL, tape, workspace, bytes) == CLSTM_ERROR_NULL);
    s.sequence.x = NULL;
    CHECK(forward(&s, &good, pack, tape, workspace, bytes) == CLSTM_ERROR_NULL);
    s.sequence.x = some;
    s.sequence.y = NULL;
    CHECK(forward(&s, &good, pack, tape, workspace, bytes) == CLSTM_ERROR_NULL);
    s.sequence.y = s.y.p;
    CHECK(forward(&s, &good, pack, tape, workspace, bytes) == CLSTM_OK);

    CHECK(backward(&s, NULL, pack, tape, workspace, bytes) == CLSTM_ERROR_NULL);
    CHECK(backward(&s, &good, NULL, tape, workspace, bytes) == CLSTM_ERROR_NULL);
    CHECK(backward(&s, &good, pack, NULL, workspace, bytes) == CLSTM_ERROR_NULL);
    CHECK(backward(&s, &good, pack, tape, NULL, bytes) == CLSTM_ERROR_NULL);
    CHECK(clstm_backward(&good, pack, tape, NULL, workspace, bytes) == CLSTM_ERROR_NULL);
    for (int i = 0; i < clstm_num_params(&good); i++) {
        s.dparams[i] = NULL;
        CHECK(backward(&s, &good, pack, tape, workspace, bytes) == CLSTM_ERROR_NULL);
        s.dparams[i] = s.dparam[i].p;
    }
    CHECK(backward(&s, &good, pack, tape, workspace, bytes) == CLSTM_OK);

    void *const h = s.out[0].p, *const c = s.out[1].p;
    CHECK(clstm_step(NULL, pack, 3, some, s.p.h0.p, c, h, c) == CLSTM_ERROR_NULL);
    CHECK(clstm_step(&good, NULL, 3, some, s.p.h0.p, c, h, c) == CLSTM_ERROR_NULL);
    CHECK(clstm_step(&good, pack, 3, NULL, s.p.h0.p, c, h, c) == CLSTM_ERROR_NULL);
    CHECK(clstm_step(&good, pack, 3, some, NULL, c, h, c) == CLSTM_ERROR_NULL);
    CHECK(clstm_step(&good, pack, 3, some, s.p.h0.p, NULL, h, c) == CLSTM_ERROR_NULL);
    CHECK(clstm_step(&good, pack, 3, some, s.p.h0.p, c, NULL, c) == CLSTM_ERROR_NULL);
    CHECK(clstm_step(&good, pack, 3, some, s.p.h0.p, c, h, NULL) == CLSTM_ERROR_NULL);
    CHECK(clstm_step(&good, pack, 0, NULL, NULL, NULL, NULL, NULL) == CLSTM_OK);

    float value = 2;
    CHECK(clstm_apply(CLSTM_EXP, CLSTM_FLOAT32, 1, NULL, &value) == CLSTM_ERROR_NULL);
    CHECK(clstm_apply(CLSTM_EXP, CLSTM_FLOAT32, 1, &value, NULL) == CLSTM_ERROR_NULL);
    CHECK(clstm_apply(CLSTM_EXP, CLSTM_FLOAT32, 0, NULL, NULL) == CLSTM_OK);
    setup_free(&s);
}

/* ---- other statuses ---- */

static void sizes_of_calls_are_checked(void) {
    setup s = setup_new(good);
    static const int64_t wrong[] = {-1, INT64_MIN, INT64_MAX};
    float value = 2;
    void *const c = s.out[1].p;
    for (int i = 0; i < 3; i++) {
        s.sequence.T = wrong[i];
        CHECK(forward(&s, &good, s.pack.p, NULL, s.workspace.p, s.workspace.bytes) == CLSTM_ERROR_SIZE);
        s.sequence.T = 4;
        s.sequence.B = wrong[i];
        CHECK(forward(&s, &good, s.pack.p, NULL, s.workspace.p, s.workspace.bytes) == CLSTM_ERROR_SIZE);
        s.sequence.B = 3;
        s.sequence.part = i < 2 ? wrong[i] : good.num_layers * (1 + good.bidirectional) + 1;
        CHECK(forward(&s, &good, s.pack.p, NULL, s.workspace.p, s.workspace.bytes) == CLSTM_ERROR_SIZE);
        s.sequence.part = 0;
        s.sequence.first_step = i < 2 ? wrong[i] : -2;
        CHECK(forward(&s, &good, s.pack.p, NULL, s.workspace.p, s.workspace.bytes) == CLSTM_ERROR_SIZE);
        s.sequence.first_step = 0;
        CHECK(clstm_step(&good, s.pack.p, wrong[i], s.p.x.p, s.p.h0.p, c, s.out[0].p, c) == CLSTM_ERROR_SIZE);
    }
    CHECK(clstm_apply(CLSTM_EXP, CLSTM_FLOAT32, -1, &value, &value) == CLSTM_ERROR_SIZE && value == 2);
    CHECK(clstm_apply(3, CLSTM_FLOAT32, 1, &value, &value) == CLSTM_ERROR_SPEC && value == 2);
    CHECK(clstm_apply(-1, CLSTM_FLOAT32, 1, &value, &value) == CLSTM_ERROR_SPEC && value == 2);
    CHECK(clstm_apply(CLSTM_EXP, 2, 1, &value, &value) == CLSTM_ERROR_SPEC && value == 2);
    setup_free(&s);
}

/* The pack of another network, of no network, or without what training needs. */
static void packs_are_checked(void) {
    setup s = setup_new(good);
    void *const c = s.out[1].p;
    for (int field = 0; field < 6; field++) {
        const clstm_spec other = changed(field, field < 2 ? 4 : field == 2 ? 1 : field == 4 ? 0 : 1);
        CHECK(forward(&s, &other, s.pack.p, NULL, s.workspace.p, s.workspace.bytes) == CLSTM_ERROR_PACK);
        CHECK(backward(&s, &other, s.pack.p, s.tape.p, s.workspace.p, s.workspace.bytes) == CLSTM_ERROR_PACK);
        CHECK(clstm_step(&other, s.pack.p, 3, s.p.x.p, s.p.h0.p, c, s.out[0].p, c) == CLSTM_ERROR_PACK);
    }
    buffer zeros = buffer_new(s.pack.bytes, 0), inference = pack_new(&s.p, 0);
    memset(zeros.p, 0, zeros.bytes);
    CHECK(forward(&s, &good, zeros.p, NULL, s.workspace.p, s.workspace.bytes) == CLSTM_ERROR_PACK);
    CHECK(inference.bytes < s.pack.bytes);
    CHECK(forward(&s, &good, inference.p, s.tape.p, s.workspace.p, s.workspace.bytes) == CLSTM_ERROR_PACK);
    CHECK(forward(&s, &good, inference.p, NULL, s.workspace.p, s.workspace.bytes) == CLSTM_OK);
    CHECK(forward(&s, &good, s.pack.p, s.tape.p, s.workspace.p, s.workspace.bytes) == CLSTM_OK);
    CHECK(backward(&s, &good, inference.p, s.tape.p, s.workspace.p, s.workspace.bytes) == CLSTM_ERROR_PACK);
    buffer_free(&zeros);
    buffer_free(&inference);

    clstm_spec dropout = good; /* the same weights fit */
    dropout.dropout = 0.5;
    CHECK(forward(&s, &dropout, s.pack.p, NULL, s.workspace.p, s.workspace.bytes) == CLSTM_OK);
    setup_free(&s);
}

/* The tape of another network, with other dropout, or never recorded. */
static void tapes_are_checked(void) {
    setup s = setup_new(good);
    CHECK(backward(&s, &good, s.pack.p, s.tape.p, s.workspace.p, s.workspace.bytes) == CLSTM_ERROR_TAPE);
    CHECK(forward(&s, &good, s.pack.p, s.tape.p, s.workspace.p, s.workspace.bytes) == CLSTM_OK);
    CHECK(backward(&s, &good, s.pack.p, s.tape.p, s.workspace.p, s.workspace.bytes) == CLSTM_OK);
    clstm_spec dropout = good;
    dropout.dropout = 0.5;
    CHECK(backward(&s, &dropout, s.pack.p, s.tape.p, s.workspace.p, s.workspace.bytes) == CLSTM_ERROR_TAPE);
    for (int field = 0; field < 6; field++) {
        setup other = setup_new(changed(field, field < 2 ? 4 : field == 2 ? 1 : field == 4 ? 0 : 1));
        CHECK(backward(&other, &other.p.spec, other.pack.p, s.tape.p, other.workspace.p, other.workspace.bytes) ==
              CLSTM_ERROR_TAPE);
        setup_free(&other);
    }
    setup_free(&s);
}

/* Forward passes return the status; one that is refused leaves the tape as it was. */
static void forward_returns(setup *s, int status) {
    CHECK(forward(s, &good, s->pack.p, NULL, s->workspace.p, s->workspace.bytes) == status);
    memset(s->tape.p, FILL, s->tape.bytes);
    CHECK(forward(s, &good, s->pack.p, s->tape.p, s->workspace.p, s->workspace.bytes) == status);
    CHECK(all_fill(s->tape.p, s->tape.bytes) == (status != CLSTM_OK));
}

static void lengths_are_checked(void) {
    setup s = setup_new(good);
    static const int64_t fine[][3] = {{4, 4, 4}, {4, 2, 0}, {0, 0, 0}, {3, 3, 1}};
    static const int64_t wrong[][3] = {{5, 4, 4}, {4, 4, -1},        {3, 4, 4},
                                       {4, 2, 3}, {INT64_MAX, 4, 4}, {4, 4, INT64_MIN}};
    for (int i = 0; i < 10; i++) {
        s.sequence.lengths = i < 4 ? fine[i] : wrong[i - 4];
        forward_returns(&s, i < 4 ? CLSTM_OK : CLSTM_ERROR_LENGTHS);
    }
    setup_free(&s);
}

static void order_is_checked(void) {
    setup s = setup_new(good);
    static const int64_t fine[][3] = {{0, 1, 2}, {2, 0, 1}}, wrong[][3] = {{0, 1, 3}, {-1, 1, 2}, {0, INT64_MAX, 1}};
    for (int i = 0; i < 5; i++) {
        s.sequence.order = i < 2 ? fine[i] : wrong[i - 2];
        forward_returns(&s, i < 2 ? CLSTM_OK : CLSTM_ERROR_LENGTHS);
    }
    char anything;
    const clstm_trace trace = {&anything, &anything, &anything};
    s.sequence.order = fine[1];
    s.sequence.trace = &trace;
    CHECK(forward(&s, &good, s.pack.p, NULL, s.workspace.p, s.workspace.bytes) == CLSTM_ERROR_LENGTHS);
    setup_free(&s);
}

/* The smallest workspace that a forward or backward call accepts: the query allows for lengths and more threads. */
static size_t least_workspace(setup *s, int is_backward, void *tape) {
    size_t refused = 0, accepted = s->workspace.bytes;
    while (accepted - refused > 1) {
        const size_t bytes = refused + (accepted - refused) / 2;
        const int status = is_backward ? backward(s, &s->p.spec, s->pack.p, tape, s->workspace.p, bytes)
                                       : forward(s, &s->p.spec, s->pack.p, tape, s->workspace.p, bytes);
        CHECK(status == CLSTM_OK || status == CLSTM_ERROR_WORKSPACE);
        *(status == CLSTM_OK ? &accepted : &refused) = bytes;
    }
    return accepted;
}

/* Refused, or kept to: the guards around the least workspace are watched. */
static void workspaces_are_checked(void) {
    setup s = setup_new(good);
    for (int call = 0; call < 3; call++) { /* inference, recording, backward */
        void *const tape = call ? s.tape.p : NULL;
        buffer least = buffer_new(least_workspace(&s, call == 2, tape), 0);
        CHECK(least.bytes > 1);
        if (call < 2)
            CHECK(forward(&s, &good, s.pack.p, tape, least.p, least.bytes) == CLSTM_OK);
        else
            CHECK(backward(&s, &good, s.pack.p, tape, least.p, least.bytes) == CLSTM_OK);
        buffer_free(&least);
    }
    CHECK(forward(&s, &good, s.pack.p, NULL, s.workspace.p, 0) == CLSTM_ERROR_WORKSPACE);
    CHECK(backward(&s, &good, s.pack.p, s.tape.p, s.workspace.p, 0) == CLSTM_ERROR_WORKSPACE);
    setup_free(&s);
}

/* A workspace that was large enough for one number of threads serves any other; the bits stay the same. */
static void workspaces_outlive_the_number_of_threads(void) {
    const int before = clstm_get_num_threads();
    CHECK(clstm_set_isa("portable") == CLSTM_OK); /* whose small calls are worth threads */
    for (int64_t B = 1; B <= (SLOW ? 70 : 130); B += 1 + B / 2) {
        problem p = {.spec = {2, 16, 1, CLSTM_FLOAT64, 1, 0, 0}, .T = 20, .B = B};
        problem_make(&p);
        buffer pack = pack_new(&p, 0);
        results expected = infer(&p);
        for (int queried = 1; queried <= 5; queried++) {
            size_t bytes;
            CHECK(clstm_set_num_threads(queried) == CLSTM_OK);
            CHECK(clstm_forward_workspace(&p.spec, p.T, B, &bytes) == CLSTM_OK);
            buffer workspace = buffer_new(bytes, 0), y = buffer_new(expected.hn, 0);
            const clstm_sequence q = {.T = p.T,
                                      .B = B,
                                      .x = p.x.p,
                                      .x_time_stride = 2 * B,
                                      .x_row_stride = 2,
                                      .h0 = p.h0.p,
                                      .c0 = p.c0.p,
                                      .y = y.p,
                                      .y_time_stride = 16 * B,
                                      .y_row_stride = 16};
            for (int used = 1; used <= 5; used += 2) {
                CHECK(clstm_set_num_threads(used) == CLSTM_OK);
                CHECK_PROBLEM(&p, clstm_forward(&p.spec, pack.p, &q, NULL, workspace.p, bytes) == CLSTM_OK);
                CHECK_PROBLEM(&p, memcmp(y.p, expected.p, y.bytes) == 0);
            }
            buffer_free(&workspace);
            buffer_free(&y);
        }
        free(expected.p);
        buffer_free(&pack);
        problem_free(&p);
    }
    CHECK(clstm_set_isa(clstm_isa_available(0)) == CLSTM_OK && clstm_set_num_threads(before) == CLSTM_OK);
}

/* Packs go on with their kernels when clstm_set_isa chooses others for new packs, in tapes and workspaces whose sizes
 * were asked for afterwards. */
static void packs_outlive_the_choice_of_kernels(void) {
    const char *before = clstm_isa();
    for (int kind = 0; kind < 4; kind++)
        for (int64_t H = 1; H < 40; H += 6) {
            const int dtype = kind / 2;
            problem p = {.spec = {3, H, 2, dtype, 1, 1, 0.3}, .T = 5, .B = 7, .with_lengths = 1};
            p.spec.variant.peepholes = kind % 2;
            problem_make(&p);
            results expected = train(&p);
            for (int a = 0; clstm_isa_available(a); a++)
                for (int b = 0; clstm_isa_available(b); b++) {
                    CHECK(clstm_set_isa(clstm_isa_available(a)) == CLSTM_OK);
                    buffer pack = pack_new(&p, 1);
                    CHECK(clstm_set_isa(clstm_isa_available(b)) == CLSTM_OK);
                    buffer tape = tape_new(&p);
                    results r = results_new(&p);
                    forward_with(&p, &pack, &tape, &r);
                    backward_with(&p, &pack, &tape, &r);
                    CHECK_PROBLEM(&p, same_results(&r, &expected));
                    free(r.p);
                    buffer_free(&tape);
                    buffer_free(&pack);
                }
            CHECK(clstm_set_isa(before) == CLSTM_OK);
            free(expected.p);
            problem_free(&p);
        }
}

static void bidirectional_networks_do_not_step(void) {
    setup s = setup_new(changed(5, 1));
    CHECK(clstm_step(&s.p.spec, s.pack.p, 3, s.p.x.p, s.p.h0.p, s.p.c0.p, s.out[0].p, s.out[1].p) ==
          CLSTM_ERROR_STREAM);
    setup_free(&s);
}

static void every_status_has_a_sentence(void) {
    for (int status = CLSTM_OK; status <= CLSTM_ERROR_WORKSPACE; status++) {
        CHECK(strlen(clstm_strerror(status)) > 5);
        CHECK(strcmp(clstm_strerror(status), clstm_strerror(-1)) != 0);
    }
    CHECK(strcmp(clstm_strerror(CLSTM_ERROR_INTERRUPTED + 1), clstm_strerror(-1)) == 0);
}

static void run(void (*check)(void), const char *what) {
    for (int isa = 0; clstm_isa_available(isa); isa++) {
        CHECK(clstm_set_isa(clstm_isa_available(isa)) == CLSTM_OK);
        check();
    }
    passed(what);
}

int main(void) {
    run(specs_are_checked, "every field of a spec is checked");
    run(parameters_are_counted, "parameters are counted");
    run(sizes_are_checked, "queries of sizes check their arguments, and write nothing when they refuse");
    run(products_that_overflow_are_refused, "products that overflow are refused");
    run(large_sizes_are_right, "sizes beyond 32 bits are right");
    run(null_is_refused, "NULL is refused wherever something is required");
    run(sizes_of_calls_are_checked, "sizes of calls are checked");
    run(packs_are_checked, "packs of other networks are refused");
    run(tapes_are_checked, "tapes of other networks are refused");
    run(lengths_are_checked, "lengths are checked");
    run(order_is_checked, "the order of rows is checked");
    run(workspaces_are_checked, "a workspace one byte too small is refused");
    run(workspaces_outlive_the_number_of_threads, "workspaces outlive the number of threads");
    run(packs_outlive_the_choice_of_kernels, "packs outlive the choice of kernels");
    run(bidirectional_networks_do_not_step, "bidirectional networks do not step");
    run(every_status_has_a_sentence, "every status has a sentence");
    return 0;
}

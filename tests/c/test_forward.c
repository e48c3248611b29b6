/* clstm_forward and clstm_step against the formulas in double arithmetic, over sizes, options and memory layouts. */
#include "dropout.h"
#include "reference.h"

/* Allowed error, relative to 1 + |value|: several times what was found, and far less than any mistake makes. */
static const double tolerance[] = {[CLSTM_FLOAT32] = 4e-6, [CLSTM_FLOAT64] = 1e-14};
static double worst[2];

/* Compares y, hn and cn, which results and reference both have in this order. */
static void compare(const problem *p, const results *r, const double *reference) {
    const int64_t n = (int64_t)(r->dx / p->size);
    for (int64_t i = 0; i < n; i++) {
        const double error = fabs(get(p->spec.dtype, r->p, i) - reference[i]) / (1 + fabs(reference[i]));
        CHECK_PROBLEM(p, error <= tolerance[p->spec.dtype]);
        worst[p->spec.dtype] = error > worst[p->spec.dtype] ? error : worst[p->spec.dtype];
    }
}

/* Inference, and with `training` the same bytes from a call that records a tape; on every instruction set. */
static void check(problem p, int training) {
    problem_make(&p);
    double *reference = reference_forward(&p);
    for (int isa = 0; clstm_isa_available(isa); isa++) {
        CHECK(clstm_set_isa(clstm_isa_available(isa)) == CLSTM_OK);
        results r = infer(&p);
        compare(&p, &r, reference);
        if (training) {
            results with_tape = results_new(&p);
            buffer pack = pack_new(&p, 1), tape = tape_new(&p);
            forward_with(&p, &pack, &tape, &with_tape);
            CHECK_PROBLEM(&p, same_results(&r, &with_tape));
            buffer_free(&tape);
            buffer_free(&pack);
            free(with_tape.p);
        }
        free(r.p);
    }
    free(reference);
    problem_free(&p);
}

/* ---- sizes ---- */

static const int64_t widths[] = {1, 3, 7, 8, 13, 16, 17, 31, 33, 65, 127, 129};
static const int64_t batches[] = {1, 2, 3, 5, 6, 7, 17, 33, 49, 64, 97};
static const int64_t times[] = {0, 1, 2, 7};
enum { WIDTHS = 12, BATCHES = 11, TIMES = 4 };

/* Every pair of I and H; T and B in turn, smaller batches for wide layers. */
static void pairs_of_widths(int dtype) {
    int turn = 0;
    for (int i = 0; i < WIDTHS; i++)
        for (int j = 0; j < WIDTHS; j++, turn++) {
            const int64_t I = widths[i], H = widths[j], T = times[1 + turn % 3];
            int b = turn % BATCHES;
            while (b > 0 && 4 * H * (I + H) * T * batches[b] > (SLOW ? 30000 : 300000))
                b--;
            check((problem){.spec = {I, H, 1, dtype, 1, 0, 0}, .T = T, .B = batches[b], .seed = (uint64_t)turn}, 0);
        }
}

static void pairs_of_time_and_batch(int dtype) {
    for (int t = 0; t < TIMES; t++)
        for (int b = 0; b < BATCHES; b += SLOW ? 2 : 1)
            for (int lengths = 0; lengths < 2; lengths++)
                check((problem){.spec = {3, 9, 2, dtype, 1, lengths, 0},
                                .T = times[t],
                                .B = batches[b],
                                .with_lengths = lengths,
                                .seed = (uint64_t)(t * BATCHES + b)},
                      1);
}

/* Wide batches and wide layers, and more steps and inputs than the library handles at once. */
static void large_sizes(int dtype) {
    static const int64_t sizes[][4] = {{129, 65, 2, 97}, {33, 129, 1, 64}, {300, 33, 2, 49},
                                       {4, 129, 70, 1},  {1, 1, 2500, 1},  {2, 3, 700, 3}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        check(
            (problem){
                .spec = {sizes[i][0], sizes[i][1], 1, dtype, 1, 0, 0}, .T = sizes[i][2], .B = sizes[i][3], .seed = i},
            0);
}

/* One row: up to three inputs are added in the step, more come from a product of many steps; from the left and from the
 * right, and over more steps than one call of the kernel runs. */
static void one_row(int dtype) {
    static const int64_t hidden[] = {1, 8, 15, 16, 20, 33, 40, 97};
    for (int64_t I = 1; I <= 5; I++)
        for (size_t h = 0; h < sizeof hidden / sizeof hidden[0]; h++)
            check((problem){.spec = {I, hidden[h], 1, dtype, 1, 1, 0}, .T = 9, .B = 1, .seed = (uint64_t)I}, 1);
    for (int64_t I = 3; I <= 4; I++)
        check((problem){.spec = {I, 129, 1, dtype, 1, 1, 0}, .T = 260, .B = 1, .seed = (uint64_t)I}, 1);
}

/* ---- options ---- */

static void options(int dtype) {
    for (int i = 0; i < 3 * 2 * 2 * 2 * 4; i++)
        check((problem){.spec = {3, 5, 1 + i % 3, dtype, i / 6 % 2, i / 3 % 2, 0},
                        .T = 4,
                        .B = 8,
                        .with_lengths = i / 12 % 2,
                        .with_order = i % 5 > 2,
                        .no_h0 = i / 24 % 2,
                        .no_c0 = i / 48,
                        .seed = (uint64_t)i},
              1);
}

static void layouts(int dtype) {
    for (int x = 0; x < LAYOUTS; x++)
        for (int y = 0; y < ONE_ROW; y++)
            for (int i = 0; i < 4; i++)
                check((problem){.spec = {3, 5, 1 + i % 2, dtype, 1, i % 2, 0},
                                .T = 3,
                                .B = i < 2 ? 3 : 70, /* 70: inputs and steps in one product */
                                .with_lengths = i == 1,
                                .with_order = i % 2,
                                .x_layout = (enum layout)x,
                                .y_layout = (enum layout)y,
                                .seed = (uint64_t)i},
                      1);
}

/* Without steps the final states are the initial ones, bit for bit. */
static void no_steps(int dtype) {
    for (int i = 0; i < 8; i++) {
        problem p = {.spec = {3, 5, 2, dtype, 1, i % 2, 0}, .T = 0, .B = 4, .no_h0 = i / 2 % 2, .no_c0 = i / 4};
        problem_make(&p);
        results r = infer(&p);
        const size_t bytes = (size_t)p.c_states * p.size;
        unsigned char *zeros = calloc(bytes, 1);
        CHECK_PROBLEM(&p, memcmp(r.p + r.hn, p.no_h0 ? zeros : p.h0.p, bytes) == 0);
        CHECK_PROBLEM(&p, memcmp(r.p + r.cn, p.no_c0 ? zeros : p.c0.p, bytes) == 0);
        free(zeros);
        free(r.p);
        problem_free(&p);
    }
    check((problem){.spec = {3, 5, 2, dtype, 1, 1, 0}, .T = 4, .B = 0}, 1);
}

/* ---- values ---- */

/* Pre-activations far beyond any overflow of exp: gates are 0 or 1 exactly. */
static void saturated_gates(int dtype) {
    check((problem){.spec = {5, 9, 2, dtype, 1, 0, 0}, .T = 20, .B = 6, .scale = 1e30}, 1);
}

/* A NaN or an infinity in row 2 at step 3 leaves the other rows, and the steps before, as they were. */
static void poison_stays_in_its_row(int dtype) {
    for (int infinite = 0; infinite < 2; infinite++) {
        problem p = {.spec = {5, 9, 2, dtype, 1, 0, 0}, .T = 6, .B = 7};
        problem_make(&p);
        results clean = infer(&p);
        put(dtype, p.x.p, (3 * p.B + 2) * 5, infinite ? INFINITY : NAN);
        results r = infer(&p);
        const int64_t H = p.spec.hidden_size;
        for (int64_t i = 0; i < p.T * p.B * H; i++) {
            const double before = get(dtype, clean.p, i), after = get(dtype, r.p, i);
            if (i / H % p.B == 2 && i / H / p.B >= 3)
                CHECK_PROBLEM(&p, infinite ? fabs(after) <= 1 : isnan(after));
            else
                CHECK_PROBLEM(&p, before == after);
        }
        free(clean.p);
        free(r.p);
        problem_free(&p);
    }
}

/* ---- dropout ---- */

/* Dropout acts only while recording a tape, and between layers only: with 1, the second layer sees zeros, as it does
 * when its input weights are zeros. */
static void dropout_between_layers(int dtype) {
    problem p = {.spec = {5, 9, 2, dtype, 1, 1, 0.5}, .T = 6, .B = 7, .with_lengths = 1, .seed = 3};
    problem without = p, one = p;
    without.spec.dropout = 0;
    one.spec.dropout = 1;
    problem *const all[] = {&p, &without, &one};
    results inferred[3], trained[3];
    for (int i = 0; i < 3; i++) {
        problem_make(all[i]);
        inferred[i] = infer(all[i]);
        trained[i] = train(all[i]);
    }
    CHECK(same_results(&inferred[0], &inferred[1]) && same_results(&inferred[0], &inferred[2]));
    CHECK(!same_results(&trained[0], &trained[1]));
    problem cut = without;
    for (int i = 8; i < 16; i += 4) { /* weight_ih of the second layer */
        cut.params[i] = buffer_new(without.params[i].bytes, cut.size);
        memset(cut.params[i].p, 0, cut.params[i].bytes);
    }
    results second_layer_alone = infer(&cut);
    CHECK(memcmp(second_layer_alone.p, trained[2].p, second_layer_alone.dx) == 0);
    buffer_free(&cut.params[8]);
    buffer_free(&cut.params[12]);
    free(second_layer_alone.p);
    p.seed++; /* of the dropout: the numbers are made */
    results other_seed = train(&p);
    CHECK(memcmp(other_seed.p, trained[0].p, other_seed.hn) != 0);
    free(other_seed.p);
    for (int i = 0; i < 3; i++) {
        free(inferred[i].p);
        free(trained[i].p);
        problem_free(all[i]);
    }
}

/* Elements are 0 with probability p, else divided by 1 - p. */
static void dropout_keeps_the_mean(int dtype) {
    enum { N = 20000 };
    const clstm_spec spec = {1, N, 2, dtype, 1, 0, 0.25};
    const network net = network_of(&spec, clstm_current_kernels());
    double *values = calloc(N, sizeof *values);
    for (int i = 0; i < N; i++)
        put(dtype, values, i, 3);
    dropout_apply(&net, 1, 1, 0, 1, 0, values, values);
    int zeros = 0;
    for (int i = 0; i < N; i++) {
        const double value = get(dtype, values, i);
        zeros += value == 0;
        CHECK(value == 0 || fabs(value - 4) < 1e-6);
    }
    CHECK(abs(zeros - N / 4) < 400); /* 6.5 standard deviations */
    free(values);
}

/* ---- steps ---- */

/* T calls of clstm_step give the bytes of one clstm_forward. c is updated in place. */
static void check_steps(problem p) {
    problem_make(&p);
    results r = infer(&p);
    buffer pack = pack_new(&p, 0), h[2], c = buffer_new(p.c0.bytes, p.size);
    const size_t in = (size_t)(p.B * p.spec.input_size) * p.size, out = (size_t)(p.B * p.spec.hidden_size) * p.size;
    for (int i = 0; i < 2; i++)
        h[i] = buffer_new(p.h0.bytes, p.size);
    memcpy(h[0].p, p.h0.p, h[0].bytes);
    memcpy(c.p, p.c0.p, c.bytes);
    for (int64_t t = 0; t < p.T; t++) {
        const unsigned char *x = p.x.p + (size_t)t * in, *y = r.p + (size_t)t * out;
        unsigned char *h_out = h[(t + 1) % 2].p;
        CHECK(clstm_step(&p.spec, pack.p, p.B, x, h[t % 2].p, c.p, h_out, c.p) == CLSTM_OK);
        CHECK_PROBLEM(&p, memcmp(h_out + p.h0.bytes - out, y, out) == 0);
    }
    CHECK_PROBLEM(&p, memcmp(h[p.T % 2].p, r.p + r.hn, p.h0.bytes) == 0);
    CHECK_PROBLEM(&p, memcmp(c.p, r.p + r.cn, c.bytes) == 0);
    for (int i = 0; i < 2; i++)
        buffer_free(&h[i]);
    buffer_free(&c);
    buffer_free(&pack);
    free(r.p);
    problem_free(&p);
}

static void steps_are_a_sequence(int dtype) {
    for (int i = 0; i < (SLOW ? 1 : 4) * WIDTHS; i++) {
        const int64_t I = widths[(i + i / WIDTHS) % WIDTHS], H = widths[i % WIDTHS];
        check_steps((problem){.spec = {I, H, 1 + (H < 60 ? i % 3 : 0), dtype, i % 2, 0, 0},
                              .T = 3,
                              .B = batches[i % (H < 30 ? BATCHES : 6)],
                              .seed = (uint64_t)i});
    }
}

/* The checks that do not choose the instruction set themselves. */
static void on_every_isa(void (*run)(int dtype), int dtype) {
    for (int isa = 0; clstm_isa_available(isa); isa++) {
        CHECK(clstm_set_isa(clstm_isa_available(isa)) == CLSTM_OK);
        run(dtype);
    }
}

int main(void) {
    static const char *const names[] = {"float32", "float64"};
    for (int dtype = CLSTM_FLOAT32; dtype <= CLSTM_FLOAT64; dtype++) {
        pairs_of_widths(dtype);
        pairs_of_time_and_batch(dtype);
        large_sizes(dtype);
        one_row(dtype);
        options(dtype);
        layouts(dtype);
        no_steps(dtype);
        saturated_gates(dtype);
        printf("ok     %s: y, h_n, c_n are those of the formulas, within %.2g\n", names[dtype], worst[dtype]);
        on_every_isa(poison_stays_in_its_row, dtype);
        printf("ok     %s: NaN and infinity stay in their row\n", names[dtype]);
        dropout_keeps_the_mean(dtype);
        on_every_isa(dropout_between_layers, dtype);
        printf("ok     %s: dropout acts between layers, in training\n", names[dtype]);
        on_every_isa(steps_are_a_sequence, dtype);
        printf("ok     %s: steps have the bytes of a sequence\n", names[dtype]);
    }
    return 0;
}

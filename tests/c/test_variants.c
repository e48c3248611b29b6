/* Variants: gradients against central differences in double, and the promise about bits. */
#include "eight_processors.h"

#include "problem.h"

/* Variant number i of problem p: every option, alone and with others. smooth: without kinks. */
static clstm_variant nth_variant(int i, int64_t H, int smooth) {
    static const clstm_activation functions[] = {{0, 0, 0},
                                                 {CLSTM_ACTIVATION_AFFINE, 0.7, 0.2},
                                                 {CLSTM_ACTIVATION_SCALED_TANH, 1.2, 0.6},
                                                 {CLSTM_ACTIVATION_SOFTPLUS, 0, 0},
                                                 {CLSTM_ACTIVATION_IDENTITY, 0, 0},
                                                 {CLSTM_ACTIVATION_SIGMOID, 0, 0},
                                                 {CLSTM_ACTIVATION_TANH, 0, 0},
                                                 {CLSTM_ACTIVATION_HARD_SIGMOID, 0.2, 0.5},
                                                 {CLSTM_ACTIVATION_RELU, 0, 0},
                                                 {CLSTM_ACTIVATION_LEAKY_RELU, 0.1, 0},
                                                 {CLSTM_ACTIVATION_THRESHOLDED_RELU, 0.3, 0},
                                                 {CLSTM_ACTIVATION_ELU, 0.6, 0},
                                                 {CLSTM_ACTIVATION_SOFTSIGN, 0, 0}};
    enum { ALL = sizeof functions / sizeof functions[0], SMOOTH = 7 };
    clstm_variant v = {.proj_size = i % 3 == 0 && H > 1 ? 1 + (i * 7) % (H - 1) : 0,
                       .coupling = i / 2 % 4,
                       .peepholes = i % 5 > 2 || i % 3 == 1,
                       .learned_state = i % 4 == 3,
                       .layer_norm_eps = i % 5 % 2 ? 0.3 : 0};
    for (int which = 0; which < 5 && i % 4; which++)
        v.activations[which] = functions[(i * 5 + which * 3) % (smooth ? SMOOTH : ALL)];
    if (!smooth) {
        v.clip = i % 2 ? 0.8 : 0;
        v.cell_clip = i % 4 > 1 ? 0.7 : 0;
        v.proj_clip = v.proj_size && i % 2 ? 0.3 : 0;
    }
    return v;
}

static problem nth_problem(int i, int dtype, int smooth) {
    static const int64_t widths[] = {3, 1, 7, 8, 13, 16, 17, 31, 33, 65}, batches[] = {2, 1, 5, 7, 70, 17};
    const int64_t H = widths[i % 10];
    return (problem){
        .spec = {widths[(i * 3 + 1) % 10], H, 1 + i % 2, dtype, i % 7 != 0, i % 3 == 1, 0, nth_variant(i, H, smooth)},
        .T = 1 + i % 6,
        .B = batches[i % 6],
        .with_lengths = i % 2,
        .with_order = i / 2 % 2,
        .no_h0 = i % 4 == 3,
        .no_c0 = i % 8 == 3,
        .seed = (uint64_t)i};
}

/* Larger, with work for several threads on every instruction set. */
static problem nth_large_problem(int i, int dtype) {
    static const int64_t sizes[][3] = {{65, 20, 17}, {33, 40, 49}, {100, 9, 33}};
    const int64_t *s = sizes[i % 3];
    problem p = nth_problem(i, dtype, 0);
    p.spec.input_size = p.spec.hidden_size = s[0];
    p.spec.variant = nth_variant(i + 1, s[0], 0);
    p.T = s[1];
    p.B = s[2];
    return p;
}

enum { PROBLEMS = SLOW ? 20 : 60, LARGE = SLOW ? 4 : 12 };

static problem any_problem(int i, int dtype) {
    return i < PROBLEMS ? nth_problem(i, dtype, 0) : nth_large_problem(i - PROBLEMS, dtype);
}

static void same_bits(int dtype) {
    for (int i = 0; i < PROBLEMS + LARGE; i++) {
        problem p = any_problem(i, dtype);
        const int random = i % 3 == 2;
        p.spec.variant.zoneout_c = random ? 0.3 : 0;
        p.spec.variant.zoneout_h = random ? 0.2 : 0;
        p.spec.variant.variational_dropout_x = random ? 0.2 : 0;
        p.spec.variant.variational_dropout_h = random ? 0.3 : 0;
        problem_make(&p);
        CHECK(clstm_set_isa("portable") == CLSTM_OK && clstm_set_num_threads(1) == CLSTM_OK);
        results portable = train(&p), expectation = infer(&p);
        for (int isa = 0; clstm_isa_available(isa); isa++) {
            CHECK(clstm_set_isa(clstm_isa_available(isa)) == CLSTM_OK);
            CHECK(clstm_set_num_threads(1 + (i + isa) % 4) == CLSTM_OK);
            results r = train(&p), inferred = infer(&p);
            CHECK_PROBLEM(&p, same_results(&r, &portable));
            CHECK_PROBLEM(&p, memcmp(random ? expectation.p : r.p, inferred.p, r.dx) == 0);
            free(r.p);
            free(inferred.p);
        }
        free(portable.p);
        free(expectation.p);
        problem_free(&p);
    }
    CHECK(clstm_set_isa(clstm_isa_available(0)) == CLSTM_OK);
    printf(
        "ok     float%d: variants have the same bits on every instruction set, on any number of threads, in training "
        "and inference\n",
        dtype ? 64 : 32);
}

/* The scalar whose gradients are dy, dhn and dcn. */
static double loss(const problem *p) {
    results r = results_new(p);
    buffer pack = pack_new(p, 1), tape = tape_new(p);
    forward_with(p, &pack, &tape, &r);
    double sum = 0;
    for (int64_t i = 0; i < (int64_t)(r.hn / p->size); i++)
        sum += get(CLSTM_FLOAT64, r.p + r.y, i) * get(CLSTM_FLOAT64, p->dy.p, i);
    for (int64_t i = 0; i < p->h_states; i++)
        sum += get(CLSTM_FLOAT64, r.p + r.hn, i) * get(CLSTM_FLOAT64, p->dhn.p, i);
    for (int64_t i = 0; i < p->c_states; i++)
        sum += get(CLSTM_FLOAT64, r.p + r.cn, i) * get(CLSTM_FLOAT64, p->dcn.p, i);
    buffer_free(&tape);
    buffer_free(&pack);
    free(r.p);
    return sum;
}

/* The derivative of the loss along a direction in an array of n doubles. */
static double difference(const problem *p, buffer *of, const double *direction) {
    const double step = 0x1p-16;
    double *values = (double *)(void *)of->p, side[2];
    const int64_t n = (int64_t)(of->bytes / sizeof(double));
    double *start = malloc(of->bytes + 1);
    memcpy(start, values, of->bytes);
    for (int i = 0; i < 2; i++) {
        for (int64_t j = 0; j < n; j++)
            values[j] = start[j] + (i ? -step : step) * direction[j];
        side[i] = loss(p);
    }
    memcpy(values, start, of->bytes);
    free(start);
    return (side[0] - side[1]) / (2 * step);
}

static void check_gradient(problem *p, buffer *of, const unsigned char *gradient) {
    const int64_t n = (int64_t)(of->bytes / sizeof(double));
    double *direction = malloc(of->bytes + 1), along = 0;
    for (int64_t i = 0; i < n; i++) {
        direction[i] = (uniform(77, (uint64_t)i) < 0 ? -1 : 1) / sqrt((double)n);
        along += direction[i] * get(CLSTM_FLOAT64, gradient, i);
    }
    const double expected = n ? difference(p, of, direction) : 0;
    CHECK_PROBLEM(p, fabs(along - expected) <= 1e-7 * (1 + fabs(expected)));
    free(direction);
}

static void gradients_are_derivatives(void) {
    for (int i = 0; i < (SLOW ? 12 : 40); i++) {
        problem p = nth_problem(i, CLSTM_FLOAT64, 1);
        p.spec.variant.recurrent_dropout = i % 5 == 4 ? 0.3 : 0;
        p.spec.variant.zoneout_c = i % 3 == 1 ? 0.4 : 0;
        p.spec.variant.variational_dropout_x = i % 7 > 4 ? 0.3 : 0;
        p.spec.variant.variational_dropout_h = i % 5 > 2 ? 0.2 : 0;
        p.spec.variant.zoneout_h = i % 4 > 1 ? 0.3 : 0;
        problem_make(&p);
        results r = train(&p);
        check_gradient(&p, &p.x, r.p + r.dx);
        if (!p.no_h0)
            check_gradient(&p, &p.h0, r.p + r.dh0);
        if (!p.no_c0)
            check_gradient(&p, &p.c0, r.p + r.dc0);
        const unsigned char *gradient = r.p + r.dparams;
        for (int j = 0; j < clstm_num_params(&p.spec); gradient += p.params[j++].bytes)
            check_gradient(&p, &p.params[j], gradient);
        free(r.p);
        problem_free(&p);
    }
    passed("gradients of variants are the derivatives");
}

static void specs_are_checked(void) {
    const clstm_variant wrong[] = {{.proj_size = -1},
                                   {.proj_size = 5},
                                   {.coupling = 4},
                                   {.coupling = -1},
                                   {.peepholes = 2},
                                   {.learned_state = 2},
                                   {.reserved = 1},
                                   {.clip = -1},
                                   {.clip = NAN},
                                   {.cell_clip = -1},
                                   {.recurrent_dropout = 1.5},
                                   {.zoneout_c = -0.5},
                                   {.variational_dropout_x = 2},
                                   {.variational_dropout_h = -1},
                                   {.zoneout_h = NAN},
                                   {.layer_norm_eps = -1},
                                   {.layer_norm_eps = INFINITY},
                                   {.layer_norm_eps = 5e-324},
                                   {.zoneout_c = 1e-40},
                                   {.proj_clip = 1},
                                   {.activations = {{13, 0, 0}}},
                                   {.activations = {[4] = {-1, 0, 0}}},
                                   {.activations = {[2] = {CLSTM_ACTIVATION_ELU, INFINITY, 0}}},
                                   {.activations = {[3] = {CLSTM_ACTIVATION_AFFINE, 0, NAN}}}};
    clstm_spec spec = {3, 5, 2, CLSTM_FLOAT32, 1, 0, 0, {.proj_size = 2, .proj_clip = 1, .coupling = 3}};
    CHECK(clstm_check_spec(&spec) == CLSTM_OK);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        spec.variant = wrong[i];
        CHECK(clstm_check_spec(&spec) == CLSTM_ERROR_SPEC);
    }
    passed("every field of a variant is checked");
}

int main(void) {
    specs_are_checked();
    same_bits(CLSTM_FLOAT32);
    same_bits(CLSTM_FLOAT64);
    gradients_are_derivatives();
    return 0;
}

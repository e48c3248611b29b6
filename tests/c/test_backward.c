/* clstm_backward against central differences of clstm_forward in double, and what it owes to those who call it. */
#include "problem.h"

/* ---- central differences ---- */

/* The scalar whose gradients are dy, dhn and dcn. */
static double loss(const problem *p) {
    results r = results_new(p);
    buffer pack = pack_new(p, 1), tape = tape_new(p);
    forward_with(p, &pack, &tape, &r); /* with a tape: dropout too */
    double sum = 0;
    for (int64_t i = 0; i < (int64_t)(r.hn / p->size) && !p->no_dy; i++)
        sum += get(p->spec.dtype, r.p + r.y, i) * get(p->spec.dtype, p->dy.p, i);
    for (int64_t i = 0; i < p->c_states; i++) {
        sum += p->no_dhn ? 0 : get(p->spec.dtype, r.p + r.hn, i) * get(p->spec.dtype, p->dhn.p, i);
        sum += p->no_dcn ? 0 : get(p->spec.dtype, r.p + r.cn, i) * get(p->spec.dtype, p->dcn.p, i);
    }
    buffer_free(&tape);
    buffer_free(&pack);
    free(r.p);
    return sum;
}

enum { STEP_BITS = 16 }; /* of 2^-16: errors of 2^-32 from curvature and 2^-37 from rounding, times small factors */
static const double tolerance = 2e-8;
static double worst;

static void compare(const problem *p, double gradient, double difference) {
    const double error = fabs(gradient - difference) / (1 + fabs(difference));
    CHECK_PROBLEM(p, error <= tolerance);
    worst = error > worst ? error : worst;
}

/* An array of doubles that the loss depends on, and its gradients. */
typedef struct variable {
    double *values;
    const double *gradients;
    int64_t n;
} variable;

/* d loss / d values[i] along a direction: += step * direction[i]. */
static double difference(const problem *p, const variable *v, const double *direction) {
    const double step = 1.0 / (1 << STEP_BITS);
    double *start = malloc((size_t)v->n * sizeof *start), side[2];
    memcpy(start, v->values, (size_t)v->n * sizeof *start);
    for (int i = 0; i < 2; i++) {
        for (int64_t j = 0; j < v->n; j++)
            v->values[j] = start[j] + (i ? -step : step) * direction[j];
        side[i] = loss(p);
    }
    memcpy(v->values, start, (size_t)v->n * sizeof *start);
    free(start);
    return (side[0] - side[1]) / (2 * step);
}

static void check_each_element(const problem *p, const variable *v) {
    double *direction = calloc((size_t)v->n, sizeof *direction);
    for (int64_t i = 0; i < v->n; i++) {
        direction[i] = 1;
        compare(p, v->gradients[i], difference(p, v, direction));
        direction[i] = 0;
    }
    free(direction);
}

/* One difference for all elements: a direction of length 1 that has a share of each. */
static void check_one_direction(const problem *p, const variable *v) {
    double *direction = malloc((size_t)v->n * sizeof *direction), along = 0;
    for (int64_t i = 0; i < v->n; i++) {
        direction[i] = (uniform(77, (uint64_t)i) < 0 ? -1 : 1) / sqrt((double)v->n);
        along += direction[i] * v->gradients[i];
    }
    compare(p, along, difference(p, v, direction));
    free(direction);
}

/* Checks the gradients of x, h0, c0 and all parameters. */
static void check(problem p, void (*check_variable)(const problem *, const variable *)) {
    CHECK(p.spec.dtype == CLSTM_FLOAT64);
    problem_make(&p);
    results r = train(&p);
    const int n_params = (int)clstm_num_params(&p.spec);
    const unsigned char *dparams = r.p + r.dparams;
    for (int i = 0; i < 3 + n_params; i++) {
        const buffer *of = i == 0 ? &p.x : i == 1 ? &p.h0 : i == 2 ? &p.c0 : &p.params[i - 3];
        const unsigned char *gradient = i == 0 ? r.p + r.dx : i == 1 ? r.p + r.dh0 : i == 2 ? r.p + r.dc0 : dparams;
        const variable v = {(double *)(void *)of->p, (const double *)(const void *)gradient,
                            (int64_t)(of->bytes / sizeof(double))};
        if (i >= 3)
            dparams += of->bytes;
        if (v.n > 0 && !(i == 1 && p.no_h0) && !(i == 2 && p.no_c0))
            check_variable(&p, &v);
    }
    free(r.p);
    problem_free(&p);
}

static void every_element_of_small_networks(void) {
    for (int i = 0; i < 16; i += SLOW ? 3 : 1)
        check((problem){.spec = {2, 3, 1 + i % 2, CLSTM_FLOAT64, i / 4 % 2 == 0, i / 2 % 2, i % 3 == 2 ? 0.4 : 0},
                        .T = 4,
                        .B = 3,
                        .with_lengths = i / 8,
                        .with_order = i % 3 == 1,
                        .no_h0 = i == 5,
                        .no_c0 = i == 9,
                        .no_dy = i == 6,
                        .no_dhn = i == 10,
                        .no_dcn = i == 13,
                        .seed = (uint64_t)i},
              check_each_element);
}

static void all_sizes(void) {
    static const int64_t widths[] = {1, 3, 7, 8, 13, 16, 17, 31, 33, 65}, batches[] = {1, 2, 3, 5, 6, 7, 17, 33, 49};
    static const int64_t times[] = {1, 2, 7, 3};
    for (int i = 0; i < (SLOW ? 10 : 40); i++)
        check((problem){.spec = {widths[(i + i / 10 * 3) % 10], widths[i % 10], 1 + (i % 10 < 7 && i % 4 == 1),
                                 CLSTM_FLOAT64, 1, i % 10 < 7 && i % 3 == 1, 0},
                        .T = times[i % 4],
                        .B = batches[i * 7 % (i % 10 < 6 ? 9 : 6)],
                        .with_lengths = i % 5 > 2,
                        .with_order = i % 3 > 0,
                        .dy_layout = (enum layout)(i % LAYOUTS),
                        .dx_layout = (enum layout)(i % ONE_ROW),
                        .seed = (uint64_t)i},
              check_one_direction);
}

/* More steps and rows than the library handles at once. */
static void long_sequences(void) {
    static const int64_t sizes[][2] = {{300, 1}, {150, 3}, {60, 9}, {3, 97}, {1, 600}};
    for (int i = 0; i < 10; i += SLOW ? 3 : 1)
        check((problem){.spec = {2, 3, 2, CLSTM_FLOAT64, 1, i % 2, 0},
                        .T = sizes[i / 2][0],
                        .B = sizes[i / 2][1],
                        .with_lengths = i / 2 % 2,
                        .with_order = i % 4 > 1,
                        .seed = (uint64_t)i},
              check_one_direction);
}

/* ---- float32 ---- */

/* The gradients in float are those in double of the same numbers. */
static void floats_follow_doubles(void) {
    for (int i = 0; i < 24; i++) {
        problem p = {.spec = {1 + i * 5 % 23, 1 + i * 7 % 34, 1 + i % 3, CLSTM_FLOAT32, 1, i / 3 % 2, 0},
                     .T = 5,
                     .B = 1 + i * 3 % 20,
                     .with_lengths = i / 6 % 2,
                     .seed = (uint64_t)i};
        problem q = p;
        q.spec.dtype = CLSTM_FLOAT64;
        problem_make(&p);
        problem_make(&q);
        buffer *const from[] = {&p.x, &p.h0, &p.c0, &p.dy, &p.dhn, &p.dcn}, *const to[] = {&q.x,  &q.h0,  &q.c0,
                                                                                           &q.dy, &q.dhn, &q.dcn};
        for (int j = 0; j < 6 + clstm_num_params(&p.spec); j++) {
            const buffer *a = j < 6 ? from[j] : &p.params[j - 6], *b = j < 6 ? to[j] : &q.params[j - 6];
            for (size_t k = 0; k < a->bytes / 4; k++)
                put(CLSTM_FLOAT64, b->p, (int64_t)k, get(CLSTM_FLOAT32, a->p, (int64_t)k));
        }
        results a = train(&p), b = train(&q);
        for (int64_t k = 0; k < (int64_t)(a.bytes / 4); k++) {
            const double exact = get(CLSTM_FLOAT64, b.p, k), error = fabs(get(CLSTM_FLOAT32, a.p, k) - exact);
            CHECK_PROBLEM(&p, error <= 1e-5 * (1 + fabs(exact)));
        }
        free(a.p);
        free(b.p);
        problem_free(&p);
        problem_free(&q);
    }
}

/* ---- no steps, no rows ---- */

/* Without steps, gradients on the final states are those on the initial ones; dW is 0. */
static void no_steps(void) {
    for (int dtype = CLSTM_FLOAT32; dtype <= CLSTM_FLOAT64; dtype++) {
        problem p = {.spec = {2, 3, 2, dtype, 1, 1, 0}, .T = 0, .B = 3};
        problem_make(&p);
        results r = train(&p);
        CHECK(memcmp(r.p + r.dh0, p.dhn.p, p.dhn.bytes) == 0 && memcmp(r.p + r.dc0, p.dcn.p, p.dcn.bytes) == 0);
        for (size_t i = r.dparams; i < r.bytes; i++)
            CHECK(r.p[i] == 0);
        free(r.p);
        problem_free(&p);
        problem none = {.spec = {2, 3, 2, dtype, 1, 1, 0}, .T = 3, .B = 0};
        problem_make(&none);
        r = train(&none);
        for (size_t i = r.dparams; i < r.bytes; i++)
            CHECK(r.p[i] == 0);
        free(r.p);
        problem_free(&none);
    }
}

/* ---- what is asked for ---- */

/* Every choice of outputs gives the bytes that asking for all gives, and leaves the others alone. */
static void every_output_is_optional(void) {
    for (int i = 0; i < 8; i++) {
        problem p = {.spec = {3, 5, 1 + i % 3, i / 4, 1, i / 2 % 2, 0.25}, .T = 4, .B = 7, .with_lengths = i % 2};
        problem_make(&p);
        results all = train(&p), r = results_new(&p);
        buffer pack = pack_new(&p, 1), tape = tape_new(&p);
        forward_with(&p, &pack, &tape, &r);
        size_t bytes;
        CHECK(clstm_backward_workspace(&p.spec, p.T, p.B, &bytes) == CLSTM_OK);
        buffer workspace = buffer_new(bytes, 0);
        const int64_t I = p.spec.input_size, DH = p.D * p.spec.hidden_size;
        for (int wanted = 0; wanted < 16; wanted++) {
            memset(r.p + r.dx, 0, r.bytes - r.dx);
            void *dparams[MAX_PARAMS];
            unsigned char *next = r.p + r.dparams;
            for (int j = 0; j < clstm_num_params(&p.spec); next += p.params[j].bytes, j++)
                dparams[j] = next;
            const clstm_gradients g = {.dy = p.dy.p,
                                       .dy_time_stride = p.B * DH,
                                       .dy_row_stride = DH,
                                       .dhn = p.dhn.p,
                                       .dcn = p.dcn.p,
                                       .dx = wanted & 1 ? r.p + r.dx : NULL,
                                       .dx_time_stride = p.B * I,
                                       .dx_row_stride = I,
                                       .dh0 = wanted & 2 ? r.p + r.dh0 : NULL,
                                       .dc0 = wanted & 4 ? r.p + r.dc0 : NULL,
                                       .dparams = wanted & 8 ? dparams : NULL};
            CHECK(clstm_backward(&p.spec, pack.p, tape.p, &g, workspace.p, bytes) == CLSTM_OK);
            const size_t ends[] = {r.dx, r.dh0, r.dc0, r.dparams, r.bytes};
            for (int j = 0; j < 4; j++)
                for (size_t k = ends[j]; k < ends[j + 1]; k++)
                    CHECK_PROBLEM(&p, r.p[k] == (wanted >> j & 1 ? all.p[k] : 0));
        }
        buffer_free(&workspace);
        buffer_free(&tape);
        buffer_free(&pack);
        free(all.p);
        free(r.p);
        problem_free(&p);
    }
}

/* NULL for dy, dhn or dcn gives the bytes that zeros give. */
static void missing_inputs_are_zeros(void) {
    for (int i = 0; i < 16; i++) {
        problem p = {
            .spec = {3, 5, 2, i / 8, 1, 1, 0}, .T = 4, .B = 3, .no_dy = i & 1, .no_dhn = i & 2, .no_dcn = i & 4};
        problem_make(&p);
        results missing = train(&p);
        if (p.no_dy)
            memset(p.dy.p, 0, p.dy.bytes);
        if (p.no_dhn)
            memset(p.dhn.p, 0, p.dhn.bytes);
        if (p.no_dcn)
            memset(p.dcn.p, 0, p.dcn.bytes);
        p.no_dy = p.no_dhn = p.no_dcn = 0;
        results zeros = train(&p);
        CHECK_PROBLEM(&p, same_results(&missing, &zeros));
        free(missing.p);
        free(zeros.p);
        problem_free(&p);
    }
}

/* The tape is read only: it serves again, and its bytes stay. The results of the forward call may be gone. */
static void tapes_serve_again(void) {
    problem p = {.spec = {3, 5, 3, CLSTM_FLOAT32, 1, 1, 0.25}, .T = 40, .B = 9, .with_lengths = 1};
    problem_make(&p);
    results once = train(&p), twice = results_new(&p);
    buffer pack = pack_new(&p, 1), tape = tape_new(&p);
    forward_with(&p, &pack, &tape, &twice);
    unsigned char *copy = malloc(tape.bytes);
    memcpy(copy, tape.p, tape.bytes);
    for (int i = 0; i < 2; i++) {
        memset(twice.p + twice.dx, FILL, twice.bytes - twice.dx);
        backward_with(&p, &pack, &tape, &twice);
        CHECK(same_results(&once, &twice));
        CHECK(memcmp(copy, tape.p, tape.bytes) == 0);
    }
    free(copy);
    buffer_free(&tape);
    buffer_free(&pack);
    free(once.p);
    free(twice.p);
    problem_free(&p);
}

static void run(void (*check)(void), const char *what) {
    for (int isa = 0; clstm_isa_available(isa); isa++) {
        CHECK(clstm_set_isa(clstm_isa_available(isa)) == CLSTM_OK);
        check();
    }
    passed(what);
}

int main(void) {
    run(every_element_of_small_networks, "float64: every gradient is the central difference");
    run(all_sizes, "float64: gradients of all sizes agree along a direction");
    run(long_sequences, "float64: gradients over many steps and rows agree along a direction");
    printf("       within %.2g\n", worst);
    run(floats_follow_doubles, "float32: gradients are those in double");
    run(no_steps, "without steps, gradients on the states pass through");
    run(every_output_is_optional, "every output is optional");
    run(missing_inputs_are_zeros, "missing gradients count as zeros");
    run(tapes_serve_again, "tapes are read only");
    return 0;
}

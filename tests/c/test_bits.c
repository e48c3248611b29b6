/* The promise about bits, by comparing bytes: a result does not depend on the batch it came in, on the number of
 * threads, on how time was cut, nor on the instruction set. */
#include "eight_processors.h"

#include "problem.h"

static const int64_t widths[] = {1, 3, 7, 8, 13, 16, 17, 31, 33, 65, 127, 129};
static const int64_t batches[] = {1, 2, 3, 5, 6, 7, 17, 16, 18, 33, 49, 64, 97};
static const int64_t times[] = {1, 2, 7, 3};

/* Problems of many kinds: number i of them. Lengths and dropout come with every few; large layers with few rows. */
static problem nth_problem(int i, int dtype) {
    const int64_t H = widths[i % 12], I = widths[(i * 5 + i / 12) % 12];
    return (problem){.spec = {I, H, 1 + (H < 40) * (i % 3), dtype, i % 7 != 0, i % 5 > 2, i % 4 == 3 ? 0.3 : 0},
                     .T = times[i % 4],
                     .B = batches[i * 3 %
                                  (H < 20   ? 13
                                   : H < 60 ? 7
                                            : 4)],
                     .with_lengths = i % 3 == 1,
                     .with_order = i % 6 == 1 || i % 11 == 6,
                     .scale = i % 6 == 5 ? 4 : 0,
                     .seed = (uint64_t)i};
}

/* Larger: T, B and products beyond what the library takes at once, and work for several threads. Of one row without
 * lengths these share the units; the second problem has so few steps that the pieces are small. */
static problem nth_large_problem(int i, int dtype) {
    static const int64_t sizes[][4] = {{300, 33, 2, 17}, {330, 330, 2, 1},  {5, 7, 30, 49},
                                       {13, 65, 20, 2},  {530, 3, 2, 9},    {60, 140, 20, 1},
                                       {17, 129, 2, 13}, {40, 110, 12, 11}, {21, 140, 9, 1}};
    enum { SIZES = sizeof sizes / sizeof sizes[0] };
    const int64_t *s = sizes[i % SIZES];
    return (problem){.spec = {s[0], s[1], 1 + (i + i / SIZES) % 2, dtype, 1, i / 2 % 2, i % 4 == 1 ? 0.3 : 0},
                     .T = s[2],
                     .B = s[3],
                     .with_lengths = i % 2 == 0 && s[3] > 1,
                     .with_order = i % 4 > 1 && s[3] > 1,
                     .seed = (uint64_t)i};
}

enum { PROBLEMS = SLOW ? 12 : 36, LARGE = SLOW ? 9 : 18 };

static problem any_problem(int i, int dtype) {
    return i < PROBLEMS ? nth_problem(i, dtype) : nth_large_problem(i - PROBLEMS, dtype);
}

/* ---- instruction sets ---- */

static void same_bits_on_every_instruction_set(int dtype) {
    for (int i = 0; i < PROBLEMS + LARGE; i++) {
        problem p = any_problem(i, dtype);
        problem_make(&p);
        CHECK(clstm_set_isa("portable") == CLSTM_OK);
        results portable = train(&p);
        for (int isa = 0; strcmp(clstm_isa_available(isa), "portable") != 0; isa++) {
            CHECK(clstm_set_isa(clstm_isa_available(isa)) == CLSTM_OK);
            results r = train(&p);
            CHECK_PROBLEM(&p, same_results(&r, &portable));
            free(r.p);
        }
        free(portable.p);
        problem_free(&p);
    }
}

/* ---- threads ---- */

/* With the portable kernels small calls are worth threads too. */
static void same_bits_on_any_number_of_threads(int dtype) {
    for (int i = 0; i < 2 * LARGE; i++) {
        problem p = nth_large_problem(i / 2, dtype);
        CHECK(clstm_set_isa(i % 2 ? "portable" : clstm_isa_available(0)) == CLSTM_OK);
        problem_make(&p);
        CHECK(clstm_set_num_threads(1) == CLSTM_OK);
        results alone = train(&p), alone_inferred = infer(&p);
        for (int threads = 2; threads <= 5; threads += SLOW ? 3 : 1) {
            CHECK(clstm_set_num_threads(threads) == CLSTM_OK);
            results r = train(&p), inferred = infer(&p);
            CHECK_PROBLEM(&p, same_results(&r, &alone));
            CHECK_PROBLEM(&p, same_results(&inferred, &alone_inferred));
            free(r.p);
            free(inferred.p);
        }
        free(alone.p);
        free(alone_inferred.p);
        problem_free(&p);
    }
}

/* ---- the batch ---- */

/* n elements of a problem's array in the library's type. */
static void copy(const problem *p, unsigned char *to, int64_t to_i, const unsigned char *from, int64_t from_i,
                 int64_t n) {
    memcpy(to + (size_t)to_i * p->size, from + (size_t)from_i * p->size, (size_t)n * p->size);
}

static int same(const problem *p, const unsigned char *a, int64_t a_i, const unsigned char *b, int64_t b_i, int64_t n) {
    return memcmp(a + (size_t)a_i * p->size, b + (size_t)b_i * p->size, (size_t)n * p->size) == 0;
}

/* A problem that is row `row` of p, alone, cut to its own length. Its parameters are p's. */
static problem row_alone(const problem *p, int64_t row) {
    problem one = *p;
    one.B = 1;
    one.T = row_length(p, row);
    one.with_lengths = one.with_order = 0;
    problem_make(&one);
    const int64_t I = p->spec.input_size, H = p->spec.hidden_size, P = p->P, DP = p->D * P;
    for (int i = 0; i < clstm_num_params(&p->spec); i++)
        memcpy(one.params[i].p, p->params[i].p, p->params[i].bytes);
    for (int64_t t = 0; t < one.T; t++) {
        copy(p, one.x.p, t * I, p->x.p, (t * p->B + row) * I, I);
        copy(p, one.dy.p, t * DP, p->dy.p, (t * p->B + row) * DP, DP);
    }
    for (int64_t s = 0; s < p->spec.num_layers * p->D; s++) {
        copy(p, one.h0.p, s * P, p->h0.p, (s * p->B + row) * P, P);
        copy(p, one.c0.p, s * H, p->c0.p, (s * p->B + row) * H, H);
        copy(p, one.dhn.p, s * P, p->dhn.p, (s * p->B + row) * P, P);
        copy(p, one.dcn.p, s * H, p->dcn.p, (s * p->B + row) * H, H);
    }
    return one;
}

/* All but the gradients of the parameters, which are sums over rows. */
static void check_row(const problem *p, const results *all, int64_t row) {
    problem one = row_alone(p, row);
    results r = train(&one);
    const int64_t I = p->spec.input_size, H = p->spec.hidden_size, P = p->P, DP = p->D * P;
    for (int64_t t = 0; t < one.T; t++) {
        CHECK_PROBLEM(p, same(p, all->p + all->y, (t * p->B + row) * DP, r.p + r.y, t * DP, DP));
        CHECK_PROBLEM(p, same(p, all->p + all->dx, (t * p->B + row) * I, r.p + r.dx, t * I, I));
    }
    for (int64_t s = 0; s < p->spec.num_layers * p->D; s++) {
        CHECK_PROBLEM(p, same(p, all->p + all->hn, (s * p->B + row) * P, r.p + r.hn, s * P, P));
        CHECK_PROBLEM(p, same(p, all->p + all->cn, (s * p->B + row) * H, r.p + r.cn, s * H, H));
        CHECK_PROBLEM(p, same(p, all->p + all->dh0, (s * p->B + row) * P, r.p + r.dh0, s * P, P));
        CHECK_PROBLEM(p, same(p, all->p + all->dc0, (s * p->B + row) * H, r.p + r.dc0, s * H, H));
    }
    /* the padding is zeros */
    static const unsigned char zeros[16];
    for (int64_t i = one.T * p->B * DP; i < p->T * p->B * DP; i++)
        if (i / DP % p->B == row)
            CHECK_PROBLEM(p, same(p, all->p + all->y, i, zeros, 0, 1));
    for (int64_t i = one.T * p->B * I; i < p->T * p->B * I; i++)
        if (i / I % p->B == row)
            CHECK_PROBLEM(p, same(p, all->p + all->dx, i, zeros, 0, 1));
    free(r.p);
    problem_free(&one);
}

/* Each row alone has the bits that it has in its batch. (Dropout belongs to the place in the batch.) */
static void same_bits_in_any_batch(int dtype) {
    for (int isa = 0; clstm_isa_available(isa); isa++) {
        CHECK(clstm_set_isa(clstm_isa_available(isa)) == CLSTM_OK);
        for (int i = 0; i < PROBLEMS + LARGE; i++) {
            problem p = any_problem(i, dtype);
            p.spec.dropout = 0;
            problem_make(&p);
            results all = train(&p);
            for (int64_t row = p.B - 1; row >= 0; row -= 1 + p.B / (SLOW ? 1 : 3))
                check_row(&p, &all, row);
            free(all.p);
            problem_free(&p);
        }
    }
}

/* Training and inference give the same y, h_n and c_n. */
static void same_bits_with_a_tape(int dtype) {
    for (int i = 0; i < PROBLEMS; i++) {
        problem p = nth_problem(i, dtype);
        p.spec.dropout = 0;
        problem_make(&p);
        results trained = train(&p), inferred = infer(&p);
        CHECK_PROBLEM(&p, memcmp(trained.p, inferred.p, inferred.dx) == 0);
        free(trained.p);
        free(inferred.p);
        problem_free(&p);
    }
}

/* Packs of some MiB, which threads share out: plain, and with all that a variant has. */
static void same_packs_on_any_number_of_threads(int dtype) {
    const clstm_spec plain = {150, 197, 2, dtype, 1, 1, 0};
    clstm_spec variant = plain;
    variant.variant = (clstm_variant){.proj_size = 120, .peepholes = 1, .learned_state = 1, .layer_norm_eps = 1e-5};
    for (int isa = 0; clstm_isa_available(isa); isa++) {
        CHECK(clstm_set_isa(clstm_isa_available(isa)) == CLSTM_OK);
        for (int i = 0; i < 2; i++) {
            problem p = {.spec = i ? variant : plain, .T = 1, .B = 1};
            problem_make(&p);
            CHECK(clstm_set_num_threads(1) == CLSTM_OK);
            buffer alone = pack_new(&p, 1);
            for (int threads = 2; threads <= 5; threads++) {
                CHECK(clstm_set_num_threads(threads) == CLSTM_OK);
                buffer shared = pack_new(&p, 1);
                CHECK(memcmp(alone.p, shared.p, alone.bytes) == 0);
                buffer_free(&shared);
            }
            buffer_free(&alone);
            problem_free(&p);
        }
    }
}

/* ---- time ---- */

/* Steps `first` .. first + T of p as a problem of its own, between states that the caller sets. */
static problem piece_of(const problem *p, int64_t first, int64_t T) {
    problem piece = *p;
    piece.T = T;
    problem_make(&piece);
    const int64_t in = p->B * p->spec.input_size, out = p->B * p->P;
    for (int i = 0; i < clstm_num_params(&p->spec); i++)
        memcpy(piece.params[i].p, p->params[i].p, p->params[i].bytes);
    copy(p, piece.x.p, 0, p->x.p, first * in, T * in);
    copy(p, piece.dy.p, 0, p->dy.p, first * out, T * out);
    return piece;
}

/* In pieces, with states and their gradients handed from each to the next, y, dx and the states at both ends have the
 * bits of the whole. (Gradients of the parameters are sums over time.) */
static void check_cut(const problem *p, const results *whole, const int64_t *cuts, int n_pieces) {
    enum { MOST = 64 };
    problem pieces[MOST];
    results r[MOST];
    buffer packs[MOST], tapes[MOST];
    const int64_t in = p->B * p->spec.input_size, out = p->B * p->P;
    for (int i = 0; i < n_pieces; i++) {
        pieces[i] = piece_of(p, cuts[i], cuts[i + 1] - cuts[i]);
        memcpy(pieces[i].h0.p, i ? r[i - 1].p + r[i - 1].hn : p->h0.p, p->h0.bytes);
        memcpy(pieces[i].c0.p, i ? r[i - 1].p + r[i - 1].cn : p->c0.p, p->c0.bytes);
        r[i] = results_new(&pieces[i]);
        packs[i] = pack_new(p, 1);
        tapes[i] = tape_new(&pieces[i]);
        forward_with(&pieces[i], &packs[i], &tapes[i], &r[i]);
        CHECK_PROBLEM(p, same(p, whole->p + whole->y, cuts[i] * out, r[i].p, 0, pieces[i].T * out));
    }
    const results *last = &r[n_pieces - 1];
    CHECK_PROBLEM(p, memcmp(whole->p + whole->hn, last->p + last->hn, p->h0.bytes) == 0);
    CHECK_PROBLEM(p, memcmp(whole->p + whole->cn, last->p + last->cn, p->c0.bytes) == 0);
    for (int i = n_pieces - 1; i >= 0; i--) {
        const results *after = i < n_pieces - 1 ? &r[i + 1] : NULL;
        memcpy(pieces[i].dhn.p, after ? after->p + after->dh0 : p->dhn.p, p->dhn.bytes);
        memcpy(pieces[i].dcn.p, after ? after->p + after->dc0 : p->dcn.p, p->dcn.bytes);
        backward_with(&pieces[i], &packs[i], &tapes[i], &r[i]);
        CHECK_PROBLEM(p, same(p, whole->p + whole->dx, cuts[i] * in, r[i].p + r[i].dx, 0, pieces[i].T * in));
    }
    CHECK_PROBLEM(p, memcmp(whole->p + whole->dh0, r[0].p + r[0].dh0, p->h0.bytes) == 0);
    CHECK_PROBLEM(p, memcmp(whole->p + whole->dc0, r[0].p + r[0].dc0, p->c0.bytes) == 0);
    for (int i = 0; i < n_pieces; i++) {
        buffer_free(&packs[i]);
        buffer_free(&tapes[i]);
        free(r[i].p);
        problem_free(&pieces[i]);
    }
}

static void same_bits_however_time_is_cut(int dtype) {
    static const int64_t sizes[][3] = {{3, 5, 1}, {17, 33, 1}, {7, 13, 6}, {5, 16, 40}, {1, 1, 3}, {129, 31, 2}};
    static const int64_t two[] = {0, 1, 20}, some[] = {0, 7, 7, 9, 20};
    int64_t each[21];
    for (int t = 0; t <= 20; t++)
        each[t] = t;
    for (int isa = 0; clstm_isa_available(isa); isa++) {
        CHECK(clstm_set_isa(clstm_isa_available(isa)) == CLSTM_OK);
        for (int i = 0; i < (SLOW ? 4 : 6); i++) {
            problem p = {.spec = {sizes[i][0], sizes[i][1], 1 + i % 2, dtype, 1, 0, 0}, .T = 20, .B = sizes[i][2]};
            problem_make(&p);
            results whole = train(&p);
            check_cut(&p, &whole, two, 2);
            check_cut(&p, &whole, some, 4);
            check_cut(&p, &whole, each, 20);
            free(whole.p);
            problem_free(&p);
        }
    }
}

static void run(void (*check)(int dtype), const char *what) {
    static const char *const names[] = {"float32", "float64"};
    for (int dtype = CLSTM_FLOAT32; dtype <= CLSTM_FLOAT64; dtype++) {
        CHECK(clstm_set_isa(clstm_isa_available(0)) == CLSTM_OK);
        CHECK(clstm_set_num_threads(2) == CLSTM_OK);
        check(dtype);
        printf("ok     %s: the same bits %s\n", names[dtype], what);
    }
}

int main(void) {
    run(same_bits_on_every_instruction_set, "on every instruction set, gradients included");
    run(same_bits_on_any_number_of_threads, "on any number of threads");
    run(same_packs_on_any_number_of_threads, "in packs made on any number of threads");
    run(same_bits_in_any_batch, "alone and in any batch");
    run(same_bits_with_a_tape, "in training and inference");
    run(same_bits_however_time_is_cut, "however time is cut");
    return 0;
}

/* The kernels' products, as bytes, in buffers of exactly their size: gemm against one chain of fma for each element;
 * steps of many rows against their rows one by one, of BPTT upwards and downwards. Sizes are drawn around those at
 * which the kernels choose other tiles. */
#include "dispatch.h"
#include "fpmode.h"
#include "problem.h"

#include <stdlib.h>

enum { CASES = SLOW ? 60 : 600 };

/* The draws of a case. */
typedef struct draws {
    uint64_t seed, count;
} draws;

static idx draw(draws *d, idx low, idx high) {
    return low + (idx)((uniform(d->seed, d->count++) + 1) / 2 * (double)(high - low + 1));
}

/* Mostly the rows of one or two tiles. */
static idx draw_rows(draws *d) { return draw(d, 0, 3) ? draw(d, 4, 8) : draw(d, 1, 40); }

static idx draw_k(draws *d) {
    static const idx edges[] = {0,   1,   3,   4,   5,   63,  64,  65,  127, 128, 129, 159, 160,
                                161, 192, 255, 256, 257, 261, 383, 385, 511, 512, 513, 600, 1030};
    const idx count = (idx)(sizeof edges / sizeof *edges);
    return draw(d, 0, 2) ? edges[draw(d, 0, count - 1)] : draw(d, 0, 700);
}

typedef struct array {
    int dtype;
    buffer b;
} array;

static array array_of(int dtype, idx n, draws *d) {
    array a = {dtype, buffer_new((size_t)n * (dtype == CLSTM_FLOAT32 ? 4 : 8), 0)};
    const uint64_t seed = d->seed * 1000 + d->count++;
    for (idx i = 0; i < n; i++)
        put(dtype, a.b.p, i, uniform(seed, (uint64_t)i));
    return a;
}

static array copy_of(const array *a) {
    array copy = {a->dtype, buffer_new(a->b.bytes, 0)};
    memcpy(copy.b.p, a->b.p, a->b.bytes);
    return copy;
}

static void *element(const array *a, idx i) { return a->b.p + i * (a->dtype == CLSTM_FLOAT32 ? 4 : 8); }

static int same(const array *a, const array *b) { return memcmp(a->b.p, b->b.p, a->b.bytes) == 0; }

/* (K, n) in gemm panels. */
static array panels_of(const kernels *k, const array *matrix, idx K, idx n, draws *d) {
    array panels = array_of(matrix->dtype, K * ((n + k->vl - 1) / k->vl * k->vl), d);
    const pack_rows_args g = {.K = K, .n = n, .src = matrix->b.p, .src_row = n, .dst = panels.b.p, .rows = K};
    k->pack_rows(&g);
    return panels;
}

/* ---- gemm ---- */

/* How the rows of groups lie: those of a group together, or those of all groups in turn, `gap` elements between. */
typedef struct rows_layout {
    idx group, row, size;
} rows_layout;

static rows_layout layout_of(idx groups, idx M, idx n, int in_turn, idx gap) {
    const idx row = n + gap, size = groups * M * row - gap;
    return in_turn ? (rows_layout){row, groups * row, size} : (rows_layout){M * row, row, size};
}

/* start + sum over k of a[k * a_step] b[k * b_step], in the order of k. */
static double chain(int dtype, double start, const void *a, idx a_step, const void *b, idx b_step, idx K) {
    double sum = start;
    for (idx k = 0; k < K; k++)
        sum = dtype == CLSTM_FLOAT32 ? fmaf(((const float *)a)[k * a_step], ((const float *)b)[k * b_step], (float)sum)
                                     : fma(((const double *)a)[k * a_step], ((const double *)b)[k * b_step], sum);
    return sum;
}

enum init { ZEROS, ONE_INIT_ROW, INIT_ROWS, C_ITSELF, INITS };

/* tiles: A comes as a transposed matrix (K, M) in tiles. */
static void check_gemm(const kernels *k, int dtype, uint64_t seed, int tiles) {
    draws d = {.seed = seed};
    const idx groups = tiles || draw(&d, 0, 2) ? 1 : draw(&d, 2, 4), M = draw_rows(&d), K = draw_k(&d);
    const idx N = draw(&d, 0, 3) ? draw(&d, 1, K > 400 ? k->panel + 16 : 5 * k->panel) : k->panel * draw(&d, 1, 3);
    const idx a_in_turn = draw(&d, 0, 1), a_gap = draw(&d, 0, 3), c_in_turn = draw(&d, 0, 1), c_gap = draw(&d, 0, 3);
    const rows_layout in = layout_of(groups, M, K, (int)a_in_turn, a_gap);
    const rows_layout out = layout_of(groups, M, N, (int)c_in_turn, c_gap);
    const enum init init = (enum init)draw(&d, 0, INITS - 1);
    const idx init_row = init == INIT_ROWS ? N + 2 : init == C_ITSELF ? out.row : 0;
    const idx init_group = init == INIT_ROWS ? M * init_row : init == C_ITSELF ? out.group : 0;
    const idx tile_count = (M + k->max_rows - 1) / k->max_rows, a_tile = tiles ? K * k->max_rows : 0;

    array A = array_of(dtype, tiles ? K * M : K ? in.size : 0, &d), B = array_of(dtype, K * N, &d);
    array C = array_of(dtype, out.size, &d), own = array_of(dtype, init == INIT_ROWS ? groups * M * init_row : N, &d);
    array panels = panels_of(k, &B, K, N, &d), tiled = array_of(dtype, tile_count * a_tile, &d), expected = copy_of(&C);
    const array *start = init == C_ITSELF ? &C : &own;
    for (idx group = 0; group < groups; group++)
        for (idx m = 0; m < M; m++)
            for (idx n = 0; n < N; n++) {
                const double from = init == ZEROS ? 0 : get(dtype, start->b.p, group * init_group + m * init_row + n);
                const void *a = element(&A, tiles ? m : group * in.group + m * in.row);
                put(dtype, expected.b.p, group * out.group + m * out.row + n,
                    chain(dtype, from, a, tiles ? M : 1, element(&B, n), N, K));
            }
    if (tiles)
        k->pack_tiles(&(tile_args){.K = K, .M = M, .src = A.b.p, .src_row = M, .dst = tiled.b.p});
    const gemm_args g = {.groups = groups,
                         .M = M,
                         .N = N,
                         .K = K,
                         .A = tiles ? tiled.b.p : A.b.p,
                         .a_group = in.group,
                         .a_row = in.row,
                         .a_tile = a_tile,
                         .B = panels.b.p,
                         .init = init == ZEROS ? NULL : start->b.p,
                         .init_group = init_group,
                         .init_row = init_row,
                         .C = C.b.p,
                         .c_group = out.group,
                         .c_row = out.row,
                         .c_is_far = tiles && draw(&d, 0, 1)};
    k->gemm(&g);
    if (!same(&C, &expected))
        fprintf(stderr, "f%d groups=%d M=%d N=%d K=%d init=%d tiles=%d seed=%d\n", dtype ? 64 : 32, (int)groups, (int)M,
                (int)N, (int)K, init, tiles, (int)seed);
    CHECK(same(&C, &expected));
    array *const all[] = {&A, &B, &C, &own, &panels, &tiled, &expected};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        buffer_free(&all[i]->b);
}

/* ---- one step of BPTT ---- */

enum { DZ_NEXT, GATES, DY, CELL, CELL_BEFORE, DC, DZ, GRAD_ARRAYS };

static idx grad_width(int which, idx H) { return which == DZ_NEXT || which == GATES || which == DZ ? 4 * H : H; }

/* Rows first .. first + rows of a step, units first_unit .. end_unit. arrays: of all rows. */
static void run_grad(const kernels *k, const array *arrays, const array *w_hh, idx H, idx first, idx rows,
                     idx first_unit, idx end_unit, int downwards) {
    void *at[GRAD_ARRAYS];
    for (int i = 0; i < GRAD_ARRAYS; i++)
        at[i] = element(&arrays[i], first * grad_width(i, H));
    const cell_grad_args g = {.rows = rows,
                              .H = H,
                              .first_unit = first_unit,
                              .end_unit = end_unit,
                              .downwards = downwards,
                              .dz_next = at[DZ_NEXT],
                              .dz_next_row = 4 * H,
                              .w_hh = w_hh->b.p,
                              .dy = at[DY],
                              .dy_row = H,
                              .gates = at[GATES],
                              .gates_row = 4 * H,
                              .c = at[CELL],
                              .c_prev = at[CELL_BEFORE],
                              .c_row = H,
                              .c_prev_row = H,
                              .dc = at[DC],
                              .dc_row = H,
                              .dz = at[DZ],
                              .dz_row = 4 * H};
    k->cell_grad(&g);
}

static void check_grad(const kernels *k, int dtype, uint64_t seed) {
    draws d = {.seed = seed};
    const idx rows = draw_rows(&d), H = draw(&d, 1, 150);
    const idx first_unit = draw(&d, 0, 1) ? k->panel * draw(&d, 0, (H - 1) / k->panel) : 0;
    const idx end_unit = draw(&d, 0, 1) && first_unit + k->panel < H ? first_unit + k->panel : H;
    array together[GRAD_ARRAYS], alone[GRAD_ARRAYS];
    for (int i = 0; i < GRAD_ARRAYS; i++) {
        together[i] = array_of(dtype, rows * grad_width(i, H), &d);
        alone[i] = copy_of(&together[i]);
    }
    array drawn_dz = copy_of(&together[DZ]), W = array_of(dtype, 4 * H * H, &d);
    array w_hh = panels_of(k, &W, 4 * H, H, &d);
    run_grad(k, together, &w_hh, H, 0, rows, first_unit, end_unit, (int)draw(&d, 0, 1));
    for (idx row = 0; row < rows; row++)
        run_grad(k, alone, &w_hh, H, row, 1, first_unit, end_unit, 0);
    CHECK(!same(&together[DZ], &drawn_dz));
    for (int i = 0; i < GRAD_ARRAYS; i++) {
        if (!same(&together[i], &alone[i]))
            fprintf(stderr, "f%d rows=%d H=%d units %d to %d seed=%d\n", dtype ? 64 : 32, (int)rows, (int)H,
                    (int)first_unit, (int)end_unit, (int)seed);
        CHECK(same(&together[i], &alone[i]));
        buffer_free(&together[i].b);
        buffer_free(&alone[i].b);
    }
    buffer_free(&drawn_dz.b);
    buffer_free(&W.b);
    buffer_free(&w_hh.b);
}

/* ---- one step forward, of weights so large that more rows go together ---- */

static void check_cell(const kernels *k, int dtype, idx rows) {
    enum { BLOCKS = 2 };
    draws d = {.seed = (uint64_t)rows};
    const idx H = dtype == CLSTM_FLOAT32 ? 1024 : 736, columns = BLOCKS * 4 * k->vl;
    array W = array_of(dtype, H * columns, &d), w_hh = panels_of(k, &W, H, columns, &d);
    array bias = array_of(dtype, columns, &d), h = array_of(dtype, rows * H, &d), c = array_of(dtype, rows * H, &d);
    array together = array_of(dtype, rows * H, &d), alone = copy_of(&together), drawn = copy_of(&together);
    array c_together = copy_of(&c), c_alone = copy_of(&c);
    for (idx row = 0; row <= rows; row++) { /* one by one, then all of them */
        const int all = row == rows;
        const idx first = all ? 0 : row;
        const cell_args g = {.steps = 1,
                             .rows = all ? rows : 1,
                             .H = H,
                             .end_block = BLOCKS,
                             .init = bias.b.p,
                             .h = element(&h, first * H),
                             .h_row = H,
                             .w_hh = w_hh.b.p,
                             .c = element(&c, first * H),
                             .c_row = H,
                             .c_out = element(all ? &c_together : &c_alone, first * H),
                             .c_out_row = H,
                             .h_out = element(all ? &together : &alone, first * H),
                             .h_out_row = H};
        k->cell(&g);
    }
    CHECK(same(&together, &alone) && same(&c_together, &c_alone) && !same(&together, &drawn));
    array *const all[] = {&W, &w_hh, &bias, &h, &c, &together, &alone, &drawn, &c_together, &c_alone};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        buffer_free(&all[i]->b);
}

int main(void) {
    const fpmode caller = fpmode_enter();
    for (int i = 0; i < CLSTM_ISAS; i++) {
        const clstm_isa_kernels *isa = clstm_kernels_at(i);
        for (int dtype = CLSTM_FLOAT32; isa && dtype <= CLSTM_FLOAT64; dtype++) {
            for (uint64_t seed = 0; seed < CASES; seed++) {
                check_gemm(isa->type[dtype], dtype, seed, seed % 6 == 0);
                if (seed % 3 == 0)
                    check_grad(isa->type[dtype], dtype, seed);
            }
            for (idx rows = 143; rows <= 145; rows++)
                check_cell(isa->type[dtype], dtype, rows);
            printf("ok     %s float%d\n", isa->name, dtype == CLSTM_FLOAT32 ? 32 : 64);
        }
    }
    fpmode_leave(caller);
    return 0;
}

/* Checksums of the results of some networks, gradients included. Every instruction set of the machine must give the
 * same, and every machine those in golden.txt.
 *
 *     golden FILE     compares with the file
 *     golden          prints them, for `make golden`, which renews the file after a change of bits */
#include "problem.h"

/* FNV-1a, 64 bits (Fowler, Noll & Vo). */
static uint64_t checksum(const unsigned char *p, size_t n) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

/* The functions over x = -limit .. limit. */
static uint64_t apply_checksum(int function, int dtype, double limit) {
    enum { N = 9999 };
    const size_t size = dtype == CLSTM_FLOAT32 ? 4 : 8;
    unsigned char *x = calloc(N, size);
    for (int i = 0; i < N; i++)
        put(dtype, x, i, limit * uniform(1, (uint64_t)i));
    CHECK(clstm_apply(function, dtype, N, x, x) == CLSTM_OK);
    const uint64_t sum = checksum(x, N * size);
    free(x);
    return sum;
}

enum { LINES = 200, WIDTH = 160 };

typedef struct page {
    int n;
    char line[LINES][WIDTH];
} page;

static void print_functions(page *to, int dtype) {
    static const char *const names[] = {"exp", "sigmoid", "tanh"};
    static const double limits[] = {0.01, 1, 10, 100, 1000};
    for (int function = CLSTM_EXP; function <= CLSTM_TANH; function++)
        for (int i = 0; i < 5; i++)
            snprintf(to->line[to->n++], WIDTH, "float%d %-7s |x| < %-4g %016llx", dtype ? 64 : 32, names[function],
                     limits[i], (unsigned long long)apply_checksum(function, dtype, limits[i]));
}

/* Weights of 1/sqrt(H), and of 8, where most gates saturate. */
static void print_networks(page *to, int dtype) {
    static const int64_t sizes[][4] = {{1, 1, 5, 1},     {3, 5, 7, 3},   {7, 8, 4, 6},
                                       {16, 13, 5, 17},  {31, 33, 6, 5}, {65, 17, 3, 49},
                                       {129, 31, 20, 2}, {5, 64, 9, 7},  {270, 7, 40, 8}};
    for (int i = 0; i < 18; i++) {
        const int64_t *s = sizes[i / 2];
        problem p = {.spec = {s[0], s[1], 1 + i / 2 % 3, dtype, i % 5 != 0, i / 4 % 2, i % 7 == 3 ? 0.25 : 0},
                     .T = s[2],
                     .B = s[3],
                     .with_lengths = i % 3 == 1,
                     .scale = i % 2 ? 8 : 0,
                     .seed = (uint64_t)i};
        problem_make(&p);
        results r = train(&p);
        snprintf(to->line[to->n++], WIDTH,
                 "float%d I=%d H=%d L=%d D=%d T=%d B=%d scale=%g forward %016llx gradients %016llx", dtype ? 64 : 32,
                 (int)s[0], (int)s[1], (int)p.spec.num_layers, (int)p.D, (int)p.T, (int)p.B, p.scale,
                 (unsigned long long)checksum(r.p, r.dx), (unsigned long long)checksum(r.p + r.dx, r.bytes - r.dx));
        free(r.p);
        problem_free(&p);
    }
}

/* Every option of a variant, together with others. */
static void print_variants(page *to, int dtype) {
    for (int i = 0; i < 20; i++) {
        clstm_variant v = {.proj_size = i % 2 * 5,
                           .coupling = i % 4,
                           .peepholes = i % 3 != 0,
                           .learned_state = i % 5 == 1,
                           .clip = i % 4 == 2 ? 0.7 : 0,
                           .cell_clip = i % 3 == 1 ? 0.6 : 0,
                           .proj_clip = i % 4 == 3 ? 0.2 : 0,
                           .layer_norm_eps = i > 12 ? 0.01 : 0,
                           .recurrent_dropout = i > 16 ? 0.1 : 0,
                           .variational_dropout_x = i > 16 ? 0.2 : 0,
                           .variational_dropout_h = i > 16 ? 0.3 : 0,
                           .zoneout_c = i > 16 ? 0.4 : 0,
                           .zoneout_h = i > 16 ? 0.5 : 0};
        for (int which = 0; which < 5 && i; which++) /* each function in each place */
            v.activations[which] = (clstm_activation){(i + which * 5) % 13, 0.3, 0.4};
        problem p = {.spec = {7, 17, 1 + i % 2, dtype, 1, i % 3 == 2, 0, v},
                     .T = 6,
                     .B = 5,
                     .with_lengths = i % 2,
                     .no_h0 = i % 5 == 1,
                     .seed = (uint64_t)i};
        problem_make(&p);
        results r = train(&p);
        snprintf(to->line[to->n++], WIDTH, "float%d variant %d forward %016llx gradients %016llx", dtype ? 64 : 32, i,
                 (unsigned long long)checksum(r.p, r.dx), (unsigned long long)checksum(r.p + r.dx, r.bytes - r.dx));
        free(r.p);
        problem_free(&p);
    }
}

static page print_all(const char *isa) {
    page all = {0};
    CHECK(clstm_set_isa(isa) == CLSTM_OK);
    for (int dtype = CLSTM_FLOAT32; dtype <= CLSTM_FLOAT64; dtype++) {
        print_functions(&all, dtype);
        print_networks(&all, dtype);
    }
    for (int dtype = CLSTM_FLOAT32; dtype <= CLSTM_FLOAT64; dtype++)
        print_variants(&all, dtype);
    return all;
}

/* Lines of `all` that differ from those of the file; both must end together. */
static int compare_with_file(const page *all, const char *path) {
    FILE *file = fopen(path, "r");
    CHECK(file);
    int differences = 0;
    for (int i = 0; i <= all->n; i++) {
        char expected[WIDTH + 1] = "";
        if (fgets(expected, sizeof expected, file))
            expected[strcspn(expected, "\n")] = '\0';
        const char *line = i < all->n ? all->line[i] : "";
        if (strcmp(line, expected) != 0) {
            fprintf(stderr, "%s\n    %s\n    %s\n", path, expected, line);
            differences++;
        }
    }
    fclose(file);
    return differences;
}

static int compare_isas(const page *best) {
    int differences = 0;
    for (int isa = 1; clstm_isa_available(isa); isa++) {
        const page other = print_all(clstm_isa_available(isa));
        for (int i = 0; i < best->n; i++)
            if (strcmp(best->line[i], other.line[i]) != 0) {
                fprintf(stderr, "%s\n    %s\n    %s\n", clstm_isa_available(isa), best->line[i], other.line[i]);
                differences++;
            }
    }
    return differences;
}

int main(int argc, char **argv) {
    const page best = print_all(clstm_isa_available(0));
    const int differences = compare_isas(&best) + (argc > 1 ? compare_with_file(&best, argv[1]) : 0);
    for (int i = 0; i < best.n && argc == 1; i++)
        puts(best.line[i]);
    if (argc > 1 && !differences)
        printf("ok     the %d checksums of %s, on every instruction set\n", best.n, argv[1]);
    return differences != 0;
}

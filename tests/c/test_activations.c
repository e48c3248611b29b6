/* clstm_apply: exp, sigmoid and tanh against libm in a wider type, on every instruction set.
 * Without arguments a sample of the inputs, in about a second; with --all every float, in about an hour. */
#include "check.h"
#include "clstm.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

static const char *const function_names[] = {"exp", "sigmoid", "tanh"};
static const char *const dtype_names[] = {"float32", "float64"};

static int failures;

static void report(int passed, const char *function, const char *what) {
    printf("%-6s %-7s %s\n", passed ? "ok" : "FAILED", function, what);
    failures += !passed;
}

/* ---- the true value ---- */

typedef struct format {
    int digits; /* of the significand, base 2 */
    long double min, max;
    double limit; /* allowed error in ulp; one more where libm has no wider type to compare with */
} format;

static const format formats[] = {{FLT_MANT_DIG, FLT_MIN, FLT_MAX, 2},
                                 {DBL_MANT_DIG, DBL_MIN, DBL_MAX, 4 + (LDBL_MANT_DIG == DBL_MANT_DIG)}};

static long double truth(int function, int dtype, double x) {
    if (fabs(x) < formats[dtype].min)
        x = copysign(0, x); /* a denormal input counts as 0 */
    if (dtype == CLSTM_FLOAT32)
        return function == CLSTM_EXP ? exp(x) : function == CLSTM_SIGMOID ? 1 / (1 + exp(-x)) : tanh(x);
    return function == CLSTM_EXP ? expl(x) : function == CLSTM_SIGMOID ? 1 / (1 + expl(-(long double)x)) : tanhl(x);
}

/* |y - t| in units of the last place of t; INFINITY if y is of the wrong kind. Where t lies below the smallest normal
 * number or above the largest, y must be 0 or infinite, or `limit` ulp of rounding away from it. */
static double error_ulp(const format *f, double y, long double t) {
    const long double margin = f->limit * ldexpl(1, 1 - f->digits);
    if (isnan(t) || isnan(y))
        return isnan(t) && isnan(y) ? 0 : INFINITY;
    if (!signbit(y) != !signbit(t))
        return INFINITY;
    if (isinf(y) || isinf(t))
        return isinf(y) && t > f->max * (1 - margin) ? 0 : INFINITY;
    if (y == 0 || fabsl(t) < f->min)
        return fabs(y) <= f->min && fabsl(t) < f->min * (1 + margin) && (y == 0 || fabsl(t) > f->min * (1 - margin))
                   ? 0
                   : INFINITY;
    int exponent;
    frexpl(t, &exponent);
    return (double)fabsl(ldexpl(y - t, f->digits - exponent));
}

/* ---- sweeps: collect inputs in blocks, check each block ---- */

enum { BLOCK = 4096 };

typedef union block {
    float f32[BLOCK];
    double f64[BLOCK];
} block;

static double get(const block *b, int dtype, int i) { return dtype == CLSTM_FLOAT32 ? b->f32[i] : b->f64[i]; }

static void put(block *b, int dtype, int i, double value) {
    if (dtype == CLSTM_FLOAT32)
        b->f32[i] = (float)value;
    else
        b->f64[i] = value;
}

typedef struct sweep {
    int function, dtype, n;
    block x;
    double worst, worst_x;  /* largest error in ulp, and where */
    long inputs, differing; /* inputs on which an instruction set differs from the best one */
} sweep;

static void check_block(sweep *s) {
    block y, other;
    CHECK(clstm_set_isa(clstm_isa_available(0)) == CLSTM_OK);
    CHECK(clstm_apply(s->function, s->dtype, s->n, &s->x, &y) == CLSTM_OK);
    for (int i = 0; i < s->n; i++) {
        const double x = get(&s->x, s->dtype, i), value = get(&y, s->dtype, i);
        double error = error_ulp(&formats[s->dtype], value, truth(s->function, s->dtype, x));
        if (s->function != CLSTM_EXP && fabs(value) > 1)
            error = INFINITY;
        if (error > s->worst) {
            s->worst = error;
            s->worst_x = x;
        }
    }
    for (int isa = 1; clstm_isa_available(isa); isa++) {
        CHECK(clstm_set_isa(clstm_isa_available(isa)) == CLSTM_OK);
        CHECK(clstm_apply(s->function, s->dtype, s->n, &s->x, &other) == CLSTM_OK);
        for (int i = 0; i < s->n; i++) {
            const double a = get(&y, s->dtype, i), b = get(&other, s->dtype, i);
            s->differing += isnan(a) ? !isnan(b) : a != b || !signbit(a) != !signbit(b);
        }
    }
    s->inputs += s->n;
    s->n = 0;
}

static void add(sweep *s, double x) {
    put(&s->x, s->dtype, s->n++, x);
    if (s->n == BLOCK)
        check_block(s);
}

/* x and its neighbours, with both signs. */
static void add_around(sweep *s, double x) {
    for (int sign = -1; sign <= 1; sign += 2)
        for (int step = -3; step <= 3; step++)
            add(s, sign * x * (1 + step * (s->dtype == CLSTM_FLOAT32 ? FLT_EPSILON : DBL_EPSILON)));
}

/* Where the reduction of the argument or the kind of the result changes: odd multiples of log(2)/2 and log(2)/4, of
 * 1/5.4, and powers of two; saturation, overflow and underflow lie among them. */
static void add_borders(sweep *s) {
    for (int k = 1; k < 2200; k++) {
        add_around(s, k * log(2) / 2);
        add_around(s, k * log(2) / 4);
        add_around(s, k / 5.4);
    }
    for (int k = -1074; k < 1024; k++)
        add_around(s, ldexp(1, k));
}

static void add_every_float(sweep *s, uint32_t stride) {
    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += stride) {
        const uint32_t word = (uint32_t)bits;
        float x;
        memcpy(&x, &word, sizeof x);
        add(s, x);
    }
}

static void add_doubles(sweep *s, int n) {
    const double ends[] = {0.2, 1, 40, 760};
    for (int e = 0; e < 4; e++)
        for (int k = 0; k < n; k++)
            add(s, ends[e] * (2 * (k + 0.618) / n - 1));
    for (uint64_t k = 0; k < (uint64_t)n; k++) {
        const uint64_t bits = k * 0x9e3779b97f4a7c15; /* golden ratio: spread evenly over all patterns */
        double x;
        memcpy(&x, &bits, sizeof x);
        add(s, x);
    }
}

static void check_accuracy(int function, int dtype, int all) {
    static sweep s;
    s = (sweep){.function = function, .dtype = dtype};
    add_borders(&s);
    if (dtype == CLSTM_FLOAT32)
        add_every_float(&s, all ? 1 : 2047);
    else
        add_doubles(&s, all ? 40000000 : 50000);
    check_block(&s);

    char what[200];
    snprintf(what, sizeof what, "%s: within %.3f ulp of the true value (limit %g; at %a), %ld inputs",
             dtype_names[dtype], s.worst, formats[dtype].limit, s.worst_x, s.inputs);
    report(s.worst <= formats[dtype].limit, function_names[function], what);
    snprintf(what, sizeof what, "%s: the same bits on every instruction set", dtype_names[dtype]);
    report(s.differing == 0, function_names[function], what);
}

/* ---- exact values ---- */

static int same(double a, double b) { return isnan(a) ? isnan(b) : a == b && !signbit(a) == !signbit(b); }

static void check_special_values(int dtype) {
    static const struct {
        int function;
        double x, y;
    } cases[] = {
        {CLSTM_EXP, -INFINITY, 0},
        {CLSTM_EXP, INFINITY, INFINITY},
        {CLSTM_EXP, NAN, NAN},
        {CLSTM_EXP, 0.0, 1},
        {CLSTM_EXP, -0.0, 1},
        {CLSTM_EXP, -1000, 0},
        {CLSTM_EXP, 1000, INFINITY},
        {CLSTM_SIGMOID, -INFINITY, 0},
        {CLSTM_SIGMOID, INFINITY, 1},
        {CLSTM_SIGMOID, NAN, NAN},
        {CLSTM_SIGMOID, 0.0, 0.5},
        {CLSTM_SIGMOID, -0.0, 0.5},
        {CLSTM_SIGMOID, -1000, 0},
        {CLSTM_SIGMOID, 40, 1},
        {CLSTM_SIGMOID, 1e30, 1},
        {CLSTM_TANH, -INFINITY, -1},
        {CLSTM_TANH, INFINITY, 1},
        {CLSTM_TANH, NAN, NAN},
        {CLSTM_TANH, 0.0, 0.0},
        {CLSTM_TANH, -0.0, -0.0},
        {CLSTM_TANH, 20, 1},
        {CLSTM_TANH, -20, -1},
        {CLSTM_TANH, -1e30, -1},
        {CLSTM_TANH, 0x1p-60, 0x1p-60},
        {CLSTM_TANH, -0x1p-126, -0x1p-126},
    };
    for (int isa = 0; clstm_isa_available(isa); isa++) {
        CHECK(clstm_set_isa(clstm_isa_available(isa)) == CLSTM_OK);
        int passed = 1;
        for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
            block x, y;
            put(&x, dtype, 0, cases[k].x);
            CHECK(clstm_apply(cases[k].function, dtype, 1, &x, &y) == CLSTM_OK);
            if (!same(get(&y, dtype, 0), cases[k].y)) {
                printf("%s(%g) = %g, expected %g\n", function_names[cases[k].function], cases[k].x, get(&y, dtype, 0),
                       cases[k].y);
                passed = 0;
            }
        }
        char what[100];
        snprintf(what, sizeof what, "%s: infinities, zeros, NaN and saturation on %s", dtype_names[dtype],
                 clstm_isa_available(isa));
        report(passed, "all", what);
    }
}

/* ---- any length, in place ---- */

/* An element's value does not depend on its place, and nothing past the n-th is written. */
static void check_lengths(int dtype) {
    int passed = 1;
    for (int isa = 0; clstm_isa_available(isa); isa++) {
        CHECK(clstm_set_isa(clstm_isa_available(isa)) == CLSTM_OK);
        for (int n = 0; n <= 40; n++) {
            block x, y, one;
            for (int i = 0; i <= n; i++)
                put(&x, dtype, i, 0.3 * i - 5);
            y = x;
            CHECK(clstm_apply(CLSTM_TANH, dtype, n, &y, &y) == CLSTM_OK);
            for (int i = 0; i < n; i++) {
                put(&one, dtype, 0, get(&x, dtype, i));
                CHECK(clstm_apply(CLSTM_TANH, dtype, 1, &one, &one) == CLSTM_OK);
                passed &= same(get(&y, dtype, i), get(&one, dtype, 0));
            }
            passed &= same(get(&y, dtype, n), get(&x, dtype, n));
        }
    }
    char what[100];
    snprintf(what, sizeof what, "%s: any length, in place, nothing written past the end", dtype_names[dtype]);
    report(passed, "all", what);
}

int main(int argc, char **argv) {
    const int all = argc > 1 && strcmp(argv[1], "--all") == 0;
    for (int dtype = CLSTM_FLOAT32; dtype <= CLSTM_FLOAT64; dtype++) {
        for (int function = CLSTM_EXP; function <= CLSTM_TANH; function++)
            check_accuracy(function, dtype, all);
        check_special_values(dtype);
        check_lengths(dtype);
    }
    return failures != 0;
}

/* Plain C, one element at a time, fma from libm: for any processor, and the reference for the others. */
#include "kernels.h"

#include <math.h>
#include <string.h>

#define ISA portable
#define TARGET
#define PANEL_VECTORS 1
#define MAX_ROWS 4
#define PANELS_1 4
#define PANELS_2 2
#define PANELS_3 1
#define VL 1

static inline float exp2_bits_f32(float t) {
    uint32_t bits;
    memcpy(&bits, &t, sizeof bits);
    bits <<= 23;
    memcpy(&t, &bits, sizeof bits);
    return t;
}

static inline double exp2_bits_f64(double t) {
    uint64_t bits;
    memcpy(&bits, &t, sizeof bits);
    bits <<= 52;
    memcpy(&t, &bits, sizeof bits);
    return t;
}

#define v_set1(x) (x)
#define v_load(p) (*(p))
#define v_store(p, a) (*(p) = (a))
#define v_load_n(p, n) (*(p)) /* VL is 1: never fewer lanes */
#define v_store_n(p, a, n) (*(p) = (a))
#define v_add(a, b) ((a) + (b))
#define v_sub(a, b) ((a) - (b))
#define v_mul(a, b) ((a) * (b))
#define v_div(a, b) ((a) / (b))
#define v_min(a, b) ((a) < (b) ? (a) : (b))
#define v_max(a, b) ((a) > (b) ? (a) : (b))
#define v_upper(a) (a)        /* VL is 1: no halves */
#define v_zip_lower(a, b) (a) /* nor anything to zip */
#define v_zip_upper(a, b) (b)

#define TYPE f32
#define real float
#define vec float
#define v_fma(a, b, c) fmaf(a, b, c)
#define v_abs(a) fabsf(a)
#define v_copysign(a, s) copysignf(a, s)
#define v_exp2_bits(t) exp2_bits_f32(t)
#include "kernels.inc"
#undef TYPE
#undef real
#undef vec
#undef v_fma
#undef v_abs
#undef v_copysign
#undef v_exp2_bits

#define TYPE f64
#define real double
#define vec double
#define v_fma(a, b, c) fma(a, b, c)
#define v_abs(a) fabs(a)
#define v_copysign(a, s) copysign(a, s)
#define v_exp2_bits(t) exp2_bits_f64(t)
#include "kernels.inc"

const clstm_isa_kernels clstm_kernels_portable = {"portable", {&portable_f32_kernels, &portable_f64_kernels}, NULL};

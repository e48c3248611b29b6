/* NEON on AArch64: 4 floats or 2 doubles in a vector, 32 registers. Vocabulary: see kernels.inc. */
#include "kernels.h"

#if CLSTM_ARM64
#include <arm_neon.h>
#include <string.h>

#define ISA neon
#define TARGET
#define PANEL_VECTORS 4
#define MAX_ROWS 6
#define PANELS_1 6
#define PANELS_2 3
#define PANELS_3 2

static inline float32x4_t load_n_f32(const float *p, ptrdiff_t n) {
    float lanes[4] = {0};
    memcpy(lanes, p, (size_t)n * sizeof *p);
    return vld1q_f32(lanes);
}

static inline void store_n_f32(float *p, float32x4_t a, ptrdiff_t n) {
    float lanes[4];
    vst1q_f32(lanes, a);
    memcpy(p, lanes, (size_t)n * sizeof *p);
}

#define TYPE f32
#define real float
#define vec float32x4_t
#define VL 4
#define v_set1(x) vdupq_n_f32(x)
#define v_load(p) vld1q_f32(p)
#define v_store(p, a) vst1q_f32(p, a)
#define v_load_n(p, n) load_n_f32(p, n)
#define v_store_n(p, a, n) store_n_f32(p, a, n)
#define v_add(a, b) vaddq_f32(a, b)
#define v_sub(a, b) vsubq_f32(a, b)
#define v_mul(a, b) vmulq_f32(a, b)
#define v_div(a, b) vdivq_f32(a, b)
#define v_fma(a, b, c) vfmaq_f32(c, a, b)
#define v_min(a, b) vminq_f32(a, b)
#define v_max(a, b) vmaxq_f32(a, b)
#define v_abs(a) vabsq_f32(a)
#define v_copysign(a, s) vbslq_f32(vdupq_n_u32(0x80000000), s, a)
#define v_upper(a) vextq_f32(a, a, 2)
#define v_zip_lower(a, b) vzip1q_f32(a, b)
#define v_zip_upper(a, b) vzip2q_f32(a, b)
#define v_exp2_bits(t) vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(t), 23))
#include "kernels.inc"
#include "vocabulary_end.inc"

#define TYPE f64
#define real double
#define vec float64x2_t
#define VL 2
#define v_set1(x) vdupq_n_f64(x)
#define v_load(p) vld1q_f64(p)
#define v_store(p, a) vst1q_f64(p, a)
#define v_load_n(p, n) vsetq_lane_f64(*(p), vdupq_n_f64(0), 0) /* VL is 2: one lane */
#define v_store_n(p, a, n) vst1q_lane_f64(p, a, 0)
#define v_add(a, b) vaddq_f64(a, b)
#define v_sub(a, b) vsubq_f64(a, b)
#define v_mul(a, b) vmulq_f64(a, b)
#define v_div(a, b) vdivq_f64(a, b)
#define v_fma(a, b, c) vfmaq_f64(c, a, b)
#define v_min(a, b) vminq_f64(a, b)
#define v_max(a, b) vmaxq_f64(a, b)
#define v_abs(a) vabsq_f64(a)
#define v_copysign(a, s) vbslq_f64(vdupq_n_u64(0x8000000000000000), s, a)
#define v_upper(a) vextq_f64(a, a, 1)
#define v_zip_lower(a, b) vzip1q_f64(a, b)
#define v_zip_upper(a, b) vzip2q_f64(a, b)
#define v_exp2_bits(t) vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(t), 52))
#include "kernels.inc"
#include "vocabulary_end.inc"

const clstm_isa_kernels clstm_kernels_neon = {"neon", {&neon_f32_kernels, &neon_f64_kernels}, NULL};
#endif

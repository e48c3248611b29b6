/* AVX2 + FMA: 8 floats or 4 doubles in a vector, 16 registers. Vocabulary: see kernels.inc. */
#include "kernels.h"

#if CLSTM_X86
#include <immintrin.h>

#define ISA avx2
#define TARGET __attribute__((target("avx2,fma")))
#define PANEL_VECTORS 2
#define MAX_ROWS 6
#define PANELS_1 6
#define PANELS_2 3
#define PANELS_3 2

#define FMA_INTO(instruction, acc, a, b) __asm__(instruction " %2, %1, %0" : "+x"(acc) : "x"(a), "x"(b))

/* -1 in the first n lanes of a load at offset 8 - n */
static const int32_t mask_words[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
#define MASK(words) _mm256_loadu_si256((const __m256i *)(mask_words + 8 - (words)))

/* ZIP: unpacking zips the halves of 128 bits one by one; halves 0x20 joins the lower ones of both results, 0x31 the
 * upper. */
#define TYPE f32
#define real float
#define vec __m256
#define VL 8
#define v_set1(x) _mm256_set1_ps(x)
#define v_load(p) _mm256_loadu_ps(p)
#define v_store(p, a) _mm256_storeu_ps(p, a)
#define v_load_n(p, n) _mm256_maskload_ps(p, MASK(n))
#define v_store_n(p, a, n) _mm256_maskstore_ps(p, MASK(n), a)
#define v_add(a, b) _mm256_add_ps(a, b)
#define v_sub(a, b) _mm256_sub_ps(a, b)
#define v_mul(a, b) _mm256_mul_ps(a, b)
#define v_div(a, b) _mm256_div_ps(a, b)
#define v_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define v_fma_into(acc, a, b) FMA_INTO("vfmadd231ps", acc, a, b)
#define v_min(a, b) _mm256_min_ps(a, b)
#define v_max(a, b) _mm256_max_ps(a, b)
#define v_abs(a) _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a)
#define v_copysign(a, s) _mm256_or_ps(a, _mm256_and_ps(_mm256_set1_ps(-0.0f), s))
#define v_upper(a) _mm256_permute2f128_ps(a, a, 1)
#define ZIP(a, b, halves) _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), halves)
#define v_zip_lower(a, b) ZIP(a, b, 0x20)
#define v_zip_upper(a, b) ZIP(a, b, 0x31)
#define v_exp2_bits(t) _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t), 23))
#include "kernels.inc"
#include "vocabulary_end.inc"
#undef ZIP

#define TYPE f64
#define real double
#define vec __m256d
#define VL 4
#define v_set1(x) _mm256_set1_pd(x)
#define v_load(p) _mm256_loadu_pd(p)
#define v_store(p, a) _mm256_storeu_pd(p, a)
#define v_load_n(p, n) _mm256_maskload_pd(p, MASK(2 * (n)))
#define v_store_n(p, a, n) _mm256_maskstore_pd(p, MASK(2 * (n)), a)
#define v_add(a, b) _mm256_add_pd(a, b)
#define v_sub(a, b) _mm256_sub_pd(a, b)
#define v_mul(a, b) _mm256_mul_pd(a, b)
#define v_div(a, b) _mm256_div_pd(a, b)
#define v_fma(a, b, c) _mm256_fmadd_pd(a, b, c)
#define v_fma_into(acc, a, b) FMA_INTO("vfmadd231pd", acc, a, b)
#define v_min(a, b) _mm256_min_pd(a, b)
#define v_max(a, b) _mm256_max_pd(a, b)
#define v_abs(a) _mm256_andnot_pd(_mm256_set1_pd(-0.0), a)
#define v_copysign(a, s) _mm256_or_pd(a, _mm256_and_pd(_mm256_set1_pd(-0.0), s))
#define v_upper(a) _mm256_permute2f128_pd(a, a, 1)
#define ZIP(a, b, halves) _mm256_permute2f128_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b), halves)
#define v_zip_lower(a, b) ZIP(a, b, 0x20)
#define v_zip_upper(a, b) ZIP(a, b, 0x31)
#define v_exp2_bits(t) _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(t), 52))
#include "kernels.inc"
#include "vocabulary_end.inc"

const clstm_isa_kernels clstm_kernels_avx2 = {"avx2", {&avx2_f32_kernels, &avx2_f64_kernels}, NULL};
#endif

/* AVX-512: 16 floats or 8 doubles in a vector, 32 registers. Vocabulary: see kernels.inc. */
#include "kernels.h"

#if CLSTM_X86
#include <immintrin.h>

#define ISA avx512
#ifndef TARGET /* empty where AVX-512 is emulated (make simde) */
#define TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#define FMA_INTO(instruction, acc, a, b) __asm__(instruction " %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b))
#else
#define FMA_INTO(instruction, acc, a, b) ((acc) = v_fma(a, b, acc))
#endif
#define PANEL_VECTORS 4
#define MAX_ROWS 6
#define PANELS_1 6
#define PANELS_2 3
#define PANELS_3 2

#define TYPE f32
#define real float
#define vec __m512
#define VL 16
#define MASK(n) ((__mmask16)((1u << (n)) - 1))
#define SIGN _mm512_set1_epi32((int)0x80000000)
#define v_set1(x) _mm512_set1_ps(x)
#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, a) _mm512_storeu_ps(p, a)
#define v_load_n(p, n) _mm512_maskz_loadu_ps(MASK(n), p)
#define v_store_n(p, a, n) _mm512_mask_storeu_ps(p, MASK(n), a)
#define v_add(a, b) _mm512_add_ps(a, b)
#define v_sub(a, b) _mm512_sub_ps(a, b)
#define v_mul(a, b) _mm512_mul_ps(a, b)
#define v_div(a, b) _mm512_div_ps(a, b)
#define v_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define v_fma_into(acc, a, b) FMA_INTO("vfmadd231ps", acc, a, b)
#define v_min(a, b) _mm512_min_ps(a, b)
#define v_max(a, b) _mm512_max_ps(a, b)
#define v_abs(a) _mm512_castsi512_ps(_mm512_andnot_epi32(SIGN, _mm512_castps_si512(a)))
#define v_copysign(a, s)                                                                                               \
    _mm512_castsi512_ps(_mm512_or_epi32(_mm512_castps_si512(a), _mm512_and_epi32(SIGN, _mm512_castps_si512(s))))
#define v_upper(a) _mm512_shuffle_f32x4(a, a, 0x4e)
#define ZIP _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define v_zip_lower(a, b) _mm512_permutex2var_ps(a, ZIP, b)
#define v_zip_upper(a, b) _mm512_permutex2var_ps(a, _mm512_add_epi32(ZIP, _mm512_set1_epi32(8)), b)
#define v_exp2_bits(t) _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t), 23))
#include "kernels.inc"
#include "vocabulary_end.inc"
#undef MASK
#undef SIGN
#undef ZIP

#define TYPE f64
#define real double
#define vec __m512d
#define VL 8
#define MASK(n) ((__mmask8)((1u << (n)) - 1))
#define SIGN _mm512_set1_epi64((long long)0x8000000000000000)
#define v_set1(x) _mm512_set1_pd(x)
#define v_load(p) _mm512_loadu_pd(p)
#define v_store(p, a) _mm512_storeu_pd(p, a)
#define v_load_n(p, n) _mm512_maskz_loadu_pd(MASK(n), p)
#define v_store_n(p, a, n) _mm512_mask_storeu_pd(p, MASK(n), a)
#define v_add(a, b) _mm512_add_pd(a, b)
#define v_sub(a, b) _mm512_sub_pd(a, b)
#define v_mul(a, b) _mm512_mul_pd(a, b)
#define v_div(a, b) _mm512_div_pd(a, b)
#define v_fma(a, b, c) _mm512_fmadd_pd(a, b, c)
#define v_fma_into(acc, a, b) FMA_INTO("vfmadd231pd", acc, a, b)
#define v_min(a, b) _mm512_min_pd(a, b)
#define v_max(a, b) _mm512_max_pd(a, b)
#define v_abs(a) _mm512_castsi512_pd(_mm512_andnot_epi64(SIGN, _mm512_castpd_si512(a)))
#define v_copysign(a, s)                                                                                               \
    _mm512_castsi512_pd(_mm512_or_epi64(_mm512_castpd_si512(a), _mm512_and_epi64(SIGN, _mm512_castpd_si512(s))))
#define v_upper(a) _mm512_shuffle_f64x2(a, a, 0x4e)
#define ZIP _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11)
#define v_zip_lower(a, b) _mm512_permutex2var_pd(a, ZIP, b)
#define v_zip_upper(a, b) _mm512_permutex2var_pd(a, _mm512_add_epi64(ZIP, _mm512_set1_epi64(4)), b)
#define v_exp2_bits(t) _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(t), 52))
#include "kernels.inc"
#include "vocabulary_end.inc"

const clstm_isa_kernels clstm_kernels_avx512 = {
    "avx512", {&avx512_f32_kernels, &avx512_f64_kernels}, &clstm_kernels_avx2};
#endif

/* The compiler's header, with AVX-512 translated to AVX2 and FMA by SIMDe (see make simde). */
#include_next <immintrin.h>

#ifndef SIMDE_IMMINTRIN_H
#define SIMDE_IMMINTRIN_H

#if !defined(__AVX2__) || !defined(__FMA__)
#error "SIMDe's fmadd rounds once only where it can use the processor's"
#endif

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <string.h>
#undef I /* of <complex.h> */

/* Masked loads and stores, which not every version of SIMDe has. Lanes outside the mask touch no memory. */
#define MASKED(lanes, real, type, mask)                                                                                \
    static inline type masked_load_##real(mask k, const void *p) {                                                     \
        real lane[lanes] = {0};                                                                                        \
        for (int i = 0; i < lanes; i++)                                                                                \
            if (k >> i & 1)                                                                                            \
                memcpy(lane + i, (const real *)p + i, sizeof *lane);                                                   \
        type a;                                                                                                        \
        memcpy(&a, lane, sizeof a);                                                                                    \
        return a;                                                                                                      \
    }                                                                                                                  \
    static inline void masked_store_##real(void *p, mask k, type a) {                                                  \
        real lane[lanes];                                                                                              \
        memcpy(lane, &a, sizeof a);                                                                                    \
        for (int i = 0; i < lanes; i++)                                                                                \
            if (k >> i & 1)                                                                                            \
                memcpy((real *)p + i, lane + i, sizeof *lane);                                                         \
    }
MASKED(16, float, __m512, __mmask16)
MASKED(8, double, __m512d, __mmask8)
#undef MASKED
#undef _mm512_maskz_loadu_ps
#undef _mm512_maskz_loadu_pd
#undef _mm512_mask_storeu_ps
#undef _mm512_mask_storeu_pd
#define _mm512_maskz_loadu_ps(k, p) masked_load_float(k, p)
#define _mm512_maskz_loadu_pd(k, p) masked_load_double(k, p)
#define _mm512_mask_storeu_ps(p, k, a) masked_store_float(p, k, a)
#define _mm512_mask_storeu_pd(p, k, a) masked_store_double(p, k, a)

/* SIMDe has these without their native names. */
#undef _mm512_shuffle_f32x4
#undef _mm512_shuffle_f64x2
#define _mm512_shuffle_f32x4(a, b, lanes) simde_mm512_shuffle_f32x4(a, b, lanes)
#define _mm512_shuffle_f64x2(a, b, lanes) simde_mm512_shuffle_f64x2(a, b, lanes)

#endif

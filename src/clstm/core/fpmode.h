/* Floating-point mode of a thread inside a call: rounding to nearest, denormals flushed to zero, no traps.
 *
 *     fpmode caller = fpmode_enter();
 *     ...
 *     fpmode_leave(caller);
 *
 * Calls nest. On processors other than x86-64 and 64-bit ARM the mode stays what it was. */
#ifndef CLSTM_FPMODE_H
#define CLSTM_FPMODE_H

#include "kernels.h"

#if CLSTM_X86
#include <xmmintrin.h>

typedef unsigned fpmode;

/* MXCSR: FTZ (bit 15) and DAZ (bit 6), all exceptions masked (bits 7 to 12), RC = nearest. Intel SDM vol. 1, 10.2.3. */
enum { FPMODE_INSIDE = 0x8000 | 0x0040 | 0x1f80 };

static inline fpmode fpmode_get(void) { return _mm_getcsr(); }
static inline void fpmode_set(fpmode mode) { _mm_setcsr(mode); }

#elif CLSTM_ARM64
typedef uint64_t fpmode;

/* FPCR: FZ (bit 24), no traps, RMode = nearest. Arm Architecture Reference Manual, C5.2.8. */
enum { FPMODE_INSIDE = 1 << 24 };

#if defined(_MSC_VER)
#include <intrin.h>
static inline fpmode fpmode_get(void) { return (fpmode)_ReadStatusReg(ARM64_FPCR); }
static inline void fpmode_set(fpmode mode) { _WriteStatusReg(ARM64_FPCR, (__int64)mode); }
#else
static inline fpmode fpmode_get(void) {
    fpmode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static inline void fpmode_set(fpmode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#endif

#else
typedef int fpmode;
enum { FPMODE_INSIDE = 0 };
static inline fpmode fpmode_get(void) { return 0; }
static inline void fpmode_set(fpmode mode) { (void)mode; }
#endif

static inline fpmode fpmode_enter(void) {
    fpmode caller = fpmode_get();
    fpmode_set(FPMODE_INSIDE);
    return caller;
}

static inline void fpmode_leave(fpmode caller) { fpmode_set(caller); }

#endif

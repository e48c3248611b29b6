/* Chooses the instruction set: what the processor has and the operating system saves, or what the user asks for. */
#include "dispatch.h"
#include "clstm.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if CLSTM_X86 && defined(_MSC_VER)
#include <intrin.h>
#elif CLSTM_X86
#include <cpuid.h>
#endif

/* ---- what the machine has ----------------------------------------------------------------------------- */

static int always(void) { return 1; }

#if CLSTM_X86
/* Intel SDM vol. 2, CPUID, and vol. 1, 13.3 (XCR0). */
enum { LEAF1_FMA = 1 << 12, LEAF1_OSXSAVE = 1 << 27, LEAF1_AVX = 1 << 28 };
enum { LEAF7_AVX2 = 1 << 5, LEAF7_AVX512_F_DQ_BW = 1 << 16 | 1 << 17 | 1 << 30 };
static const unsigned LEAF7_AVX512_VL = 1u << 31;
enum { XCR0_YMM = 0x06, XCR0_ZMM = 0xe6 };

typedef struct cpuid_registers {
    unsigned eax, ebx, ecx, edx;
} cpuid_registers;

/* All zero when the processor has no such leaf. */
static cpuid_registers cpuid(unsigned leaf) {
    cpuid_registers r = {0, 0, 0, 0};
#if defined(_MSC_VER)
    int words[4];
    __cpuid(words, 0);
    if ((unsigned)words[0] < leaf)
        return r;
    __cpuidex(words, (int)leaf, 0);
    memcpy(&r, words, sizeof r);
#else
    __get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
    return r;
}

/* The register states that the operating system saves; callable only with OSXSAVE. */
static unsigned xcr0(void) {
#if defined(_MSC_VER)
    return (unsigned)_xgetbv(0);
#else
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
#endif
}

static int has_all(unsigned word, unsigned bits) { return (word & bits) == bits; }

static int has_avx2(void) {
    return has_all(cpuid(1).ecx, LEAF1_FMA | LEAF1_OSXSAVE | LEAF1_AVX) && has_all(xcr0(), XCR0_YMM) &&
           has_all(cpuid(7).ebx, LEAF7_AVX2);
}

#if !defined(CLSTM_TEST_EMULATED_AVX512)
#define CLSTM_TEST_EMULATED_AVX512 0 /* 1: the AVX-512 kernels are made of AVX2 instructions (make simde) */
#endif

static int has_avx512(void) {
    return has_avx2() && (CLSTM_TEST_EMULATED_AVX512 ||
                          (has_all(xcr0(), XCR0_ZMM) && has_all(cpuid(7).ebx, LEAF7_AVX512_F_DQ_BW | LEAF7_AVX512_VL)));
}
#endif

/* ---- the table, best first ---------------------------------------------------------------------------- */

typedef struct isa_row {
    const clstm_isa_kernels *kernels;
    int (*supported)(void);
    const char *why_best;
} isa_row;

static const isa_row table[] = {
#if CLSTM_X86
    {&clstm_kernels_avx512, has_avx512,
     "The processor has AVX-512 F, DQ, BW and VL, and the operating system saves its registers."},
    {&clstm_kernels_avx2, has_avx2,
     "The processor has AVX2 and FMA, and the operating system saves their registers; AVX-512 F, DQ, BW, VL or its "
     "registers are missing."},
#endif
#if CLSTM_ARM64
    {&clstm_kernels_neon, always, "Every 64-bit ARM processor has NEON."},
#endif
    {&clstm_kernels_portable, always, "No vector kernels in this build run on this machine."},
};
enum { ROWS = sizeof table / sizeof table[0] };
_Static_assert((int)ROWS <= (int)CLSTM_ISAS, "every row has an index");

/* Bit i: the machine runs row i. Asked once, because cpuid takes microseconds in a virtual machine. */
static int supported_rows(void) {
    static atomic_int cache; /* 0: not asked yet; the portable row is always there */
    int rows = atomic_load_explicit(&cache, memory_order_relaxed);
    if (rows == 0) {
        for (int i = 0; i < ROWS; i++)
            rows |= (table[i].supported() != 0) << i;
        atomic_store_explicit(&cache, rows, memory_order_relaxed);
    }
    return rows;
}

static int best_row(void) {
    int i = 0;
    while (!clstm_kernels_at(i))
        i++;
    return i;
}

const clstm_isa_kernels *clstm_kernels_at(int index) {
    return index >= 0 && index < ROWS && supported_rows() >> index & 1 ? table[index].kernels : NULL;
}

int clstm_isa_index(const char *name) {
    for (int i = 0; i < ROWS; i++)
        if (clstm_kernels_at(i) && strcmp(table[i].kernels->name, name) == 0)
            return i;
    return -1;
}

/* ---- the choice --------------------------------------------------------------------------------------- */

typedef enum choice_reason { BEST, ASKED_BY_ENVIRONMENT, ENVIRONMENT_REFUSED, ASKED_BY_CALL, REASONS } choice_reason;

static const char *const reasons[REASONS] = {
    [ASKED_BY_ENVIRONMENT] = "CLSTM_ISA in the environment names it.",
    [ENVIRONMENT_REFUSED] = "CLSTM_ISA in the environment names no instruction set that this build has and this "
                            "machine runs, so this is the best of those that are left.",
    [ASKED_BY_CALL] = "clstm_set_isa was called with it.",
};

/* Row and reason in one word, so that readers never see half of a change: 1 + row * REASONS + reason; 0: not made. */
static atomic_int choice;

static int encode(int row, choice_reason reason) { return 1 + row * REASONS + (int)reason; }
static int chosen_row(int word) { return (word - 1) / REASONS; }
static choice_reason chosen_reason(int word) { return (choice_reason)((word - 1) % REASONS); }

static int first_choice(void) {
    const char *name = getenv("CLSTM_ISA");
    if (!name || !*name)
        return encode(best_row(), BEST);
    int row = clstm_isa_index(name);
    return row < 0 ? encode(best_row(), ENVIRONMENT_REFUSED) : encode(row, ASKED_BY_ENVIRONMENT);
}

static int current_choice(void) {
    int word = atomic_load_explicit(&choice, memory_order_relaxed);
    if (word == 0) {
        int first = first_choice();
        if (atomic_compare_exchange_strong(&choice, &word, first))
            word = first;
    }
    return word;
}

const clstm_isa_kernels *clstm_current_kernels(void) { return table[chosen_row(current_choice())].kernels; }

const char *clstm_isa(void) { return clstm_current_kernels()->name; }

const char *clstm_isa_reason(void) {
    int word = current_choice();
    return chosen_reason(word) == BEST ? table[chosen_row(word)].why_best : reasons[chosen_reason(word)];
}

const char *clstm_isa_available(int i) {
    for (int row = 0; i >= 0 && row < ROWS; row++)
        if (clstm_kernels_at(row) && i-- == 0)
            return table[row].kernels->name;
    return NULL;
}

int clstm_set_isa(const char *name) {
    if (!name)
        return CLSTM_ERROR_NULL;
    int row = clstm_isa_index(name);
    if (row < 0)
        return CLSTM_ERROR_ISA;
    atomic_store(&choice, encode(row, ASKED_BY_CALL));
    return CLSTM_OK;
}

/* ---- words -------------------------------------------------------------------------------------------- */

const char *clstm_version(void) { return "0.1.0"; }

const char *clstm_strerror(int status) {
    static const char *const sentences[] = {
        [CLSTM_OK] = "no error",
        [CLSTM_ERROR_NULL] = "a required pointer is NULL",
        [CLSTM_ERROR_SPEC] = "a field of the network's specification is out of range",
        [CLSTM_ERROR_SIZE] = "a size is negative, or the product of the sizes does not fit in memory",
        [CLSTM_ERROR_PACK] = "the pack was made for another network, or lacks what training needs",
        [CLSTM_ERROR_TAPE] = "the tape was recorded by another network, or with other sizes",
        [CLSTM_ERROR_LENGTHS] = "lengths lie outside 0..T or are not sorted, longest first, or order is outside 0..B-1",
        [CLSTM_ERROR_ISA] = "this build has no such instruction set, or the machine lacks it",
        [CLSTM_ERROR_STREAM] = "clstm_step runs neither bidirectional networks nor variants",
        [CLSTM_ERROR_THREADS] = "the number of threads lies outside 1..1024",
        [CLSTM_ERROR_WORKSPACE] = "the workspace is smaller than the call needs",
        [CLSTM_ERROR_INTERRUPTED] = "the caller's interrupt function ended the call",
    };
    enum { COUNT = sizeof sentences / sizeof sentences[0] };
    return status >= 0 && status < COUNT ? sentences[status] : "unknown status";
}

/* Measures what a processor can do: multiply-adds per instruction set and type, and reads per working set.
 *
 *     roof THREADS SECONDS BYTES...
 *
 * prints, each the best of many short trials that take about SECONDS together:
 *
 *     fma ISA TYPE GFLOP/s      a multiply-add counts 2
 *     read BYTES GB/s           each thread reads its own BYTES again and again
 *
 * for all THREADS together. The loops are inline assembly in which the compiler only chooses registers, so it can
 * neither fold nor drop the instructions: `cc -O2 -S roof.c` shows loops of nothing else. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Goes `rounds` times through a loop; returns how many operations, or bytes of `data`, that were. */
typedef double loop(const char *data, size_t bytes, long rounds);

/* ---- loops -------------------------------------------------------------------------------------------- */

#define REPEAT_4(STEP, i, ...)                                                                                         \
    STEP(i, __VA_ARGS__) STEP(i + 1, __VA_ARGS__) STEP(i + 2, __VA_ARGS__) STEP(i + 3, __VA_ARGS__)
#define REPEAT_8(STEP, i, ...) REPEAT_4(STEP, i, __VA_ARGS__) REPEAT_4(STEP, i + 4, __VA_ARGS__)
#define REPEAT_12(STEP, i, ...) REPEAT_8(STEP, i, __VA_ARGS__) REPEAT_4(STEP, i + 8, __VA_ARGS__)
#define REPEAT_24(STEP, i, ...) REPEAT_12(STEP, i, __VA_ARGS__) REPEAT_12(STEP, i + 12, __VA_ARGS__)

/* sum[i] += a * b */
#define FMA(i, instruction, register) __asm__ volatile(instruction : "+" register(sum[i]) : register(a), register(b));
#define LOAD(i, instruction, register) __asm__ volatile(instruction : "=" register(v) : "m"(((const vector *)p)[i]));

/* CHAINS sums that do not wait for each other: more than latency times units (4 * 2 on x86, 4 * 4 on ARM), and no
 * more than there are registers beside a and b. */
#define FMA_LOOP(NAME, TARGET, TYPE, VECTOR_BYTES, CHAINS, INSTRUCTION, REGISTER)                                      \
    TARGET static double NAME(const char *data, size_t bytes, long rounds) {                                           \
        typedef TYPE vector __attribute__((vector_size(VECTOR_BYTES)));                                                \
        vector a = (vector){0} + 1, b = a, sum[CHAINS] = {a - b};                                                      \
        (void)data, (void)bytes;                                                                                       \
        for (long round = 0; round < rounds; round++) {                                                                \
            REPEAT_##CHAINS(FMA, 0, INSTRUCTION, REGISTER)                                                             \
        }                                                                                                              \
        return 2.0 * CHAINS * (VECTOR_BYTES / sizeof(TYPE)) * rounds;                                                  \
    }

/* Vector loads of all `bytes`, a multiple of 8 vectors. */
#define READ_LOOP(NAME, TARGET, VECTOR_BYTES, INSTRUCTION, REGISTER)                                                   \
    TARGET static double NAME(const char *data, size_t bytes, long rounds) {                                           \
        typedef float vector __attribute__((vector_size(VECTOR_BYTES)));                                               \
        vector v;                                                                                                      \
        for (long round = 0; round < rounds; round++)                                                                  \
            for (const char *p = data; p < data + bytes; p += 8 * sizeof(vector)) {                                    \
                REPEAT_8(LOAD, 0, INSTRUCTION, REGISTER)                                                               \
            }                                                                                                          \
        return (double)bytes * rounds;                                                                                 \
    }

typedef struct isa {
    const char *name;
    loop *fma_float32, *fma_float64, *read;
} isa;

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f")))
FMA_LOOP(avx2_float32, AVX2, float, 32, 12, "vfmadd231ps %2, %1, %0", "x")
FMA_LOOP(avx2_float64, AVX2, double, 32, 12, "vfmadd231pd %2, %1, %0", "x")
READ_LOOP(avx2_read, AVX2, 32, "vmovaps %1, %0", "x")
FMA_LOOP(avx512_float32, AVX512, float, 64, 24, "vfmadd231ps %2, %1, %0", "v")
FMA_LOOP(avx512_float64, AVX512, double, 64, 24, "vfmadd231pd %2, %1, %0", "v")
READ_LOOP(avx512_read, AVX512, 64, "vmovaps %1, %0", "v")

/* The instruction sets that run here, best last. */
static int find_isas(isa *found) {
    int n = 0;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        found[n++] = (isa){"avx2", avx2_float32, avx2_float64, avx2_read};
    if (__builtin_cpu_supports("avx512f"))
        found[n++] = (isa){"avx512", avx512_float32, avx512_float64, avx512_read};
    return n;
}
#elif defined(__aarch64__)
FMA_LOOP(neon_float32, , float, 16, 24, "fmla %0.4s, %1.4s, %2.4s", "w")
FMA_LOOP(neon_float64, , double, 16, 24, "fmla %0.2d, %1.2d, %2.2d", "w")
READ_LOOP(neon_read, , 16, "ldr %q0, %1", "w")

static int find_isas(isa *found) {
    found[0] = (isa){"neon", neon_float32, neon_float64, neon_read};
    return 1;
}
#else
#error "loops for x86-64 and AArch64 only"
#endif

/* ---- trials ------------------------------------------------------------------------------------------- */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* One measurement: what its threads share. */
typedef struct measurement {
    loop *loop;
    size_t bytes; /* of each thread's data */
    long rounds;  /* of a trial */
    int threads, trials;
    double *start, *end; /* (trials, threads) seconds */
    double work;         /* of one thread in one trial: operations or bytes */
    atomic_int joined, arrived;
} measurement;

/* Each trial starts when all threads have arrived at it. Yields only after a while, so that each keeps its processor.
 */
static void wait_for_all(measurement *m, int trial) {
    long spins = 0;
    atomic_fetch_add(&m->arrived, 1);
    while (atomic_load(&m->arrived) < (trial + 1) * m->threads)
        if (++spins % 65536 == 0)
            sched_yield();
}

static void *run_trials(void *argument) {
    measurement *m = argument;
    int thread = atomic_fetch_add(&m->joined, 1);
    char *data = NULL;
    if (posix_memalign((void **)&data, 4096, m->bytes + 1))
        abort();
    memset(data, 0, m->bytes); /* so that the pages exist */
    for (int trial = 0; trial < m->trials; trial++) {
        wait_for_all(m, trial);
        m->start[trial * m->threads + thread] = now();
        double work = m->loop(data, m->bytes, m->rounds);
        m->end[trial * m->threads + thread] = now();
        if (thread == 0)
            m->work = work;
    }
    free(data);
    return NULL;
}

/* Seconds of the fastest trial, from its first thread's start to its last thread's end. */
static double fastest_trial(measurement *m) {
    size_t n = (size_t)m->threads * m->trials;
    pthread_t *handles = malloc(m->threads * sizeof *handles);
    m->start = malloc(n * sizeof(double));
    m->end = malloc(n * sizeof(double));
    atomic_init(&m->joined, 0);
    atomic_init(&m->arrived, 0);
    for (int i = 0; i < m->threads; i++)
        if (pthread_create(&handles[i], NULL, run_trials, m))
            abort();
    for (int i = 0; i < m->threads; i++)
        pthread_join(handles[i], NULL);
    double fastest = 1e9;
    for (size_t trial = 0; trial < n; trial += m->threads) {
        double first = m->start[trial], last = m->end[trial];
        for (int i = 1; i < m->threads; i++) {
            first = m->start[trial + i] < first ? m->start[trial + i] : first;
            last = m->end[trial + i] > last ? m->end[trial + i] : last;
        }
        fastest = last - first < fastest ? last - first : fastest;
    }
    free(handles);
    free(m->start);
    free(m->end);
    return fastest;
}

/* Operations or bytes per nanosecond of all threads together. */
static double rate(loop *loop, size_t bytes, int threads, double seconds) {
    const double trial_seconds = 1e-3;
    measurement m = {.loop = loop, .bytes = bytes, .threads = 1, .trials = 3};
    m.rounds = 1 + (4 << 20) / (bytes + 64); /* some clocks count microseconds */
    double fastest = fastest_trial(&m), round_seconds = (fastest > 1e-6 ? fastest : 1e-6) / (double)m.rounds;
    m.rounds = 1 + (long)(trial_seconds / round_seconds);
    m.threads = threads;
    m.trials = 3 + (int)(seconds / (round_seconds * (double)m.rounds));
    fastest = fastest_trial(&m);
    return 1e-9 * m.threads * m.work / fastest;
}

int main(int argc, char **argv) {
    isa isas[2];
    int num_isas = find_isas(isas), threads = argc > 2 ? atoi(argv[1]) : 0;
    double seconds = argc > 2 ? atof(argv[2]) : 0;
    if (threads < 1 || seconds <= 0) {
        fprintf(stderr, "usage: roof THREADS SECONDS BYTES...\n");
        return 2;
    }
    if (num_isas == 0) {
        fprintf(stderr, "this processor has none of AVX2, AVX-512 and NEON\n");
        return 1;
    }
    for (int i = 0; i < num_isas; i++) {
        printf("fma %s float32 %.1f\n", isas[i].name, rate(isas[i].fma_float32, 0, threads, seconds));
        printf("fma %s float64 %.1f\n", isas[i].name, rate(isas[i].fma_float64, 0, threads, seconds));
    }
    for (int i = 3; i < argc; i++) {
        size_t bytes = strtoull(argv[i], NULL, 10) / 4096 * 4096;
        printf("read %s %.1f\n", argv[i], rate(isas[num_isas - 1].read, bytes, threads, seconds));
    }
    return 0;
}

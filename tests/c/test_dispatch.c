/* The choice of the instruction set, in child processes, because a process makes it once. */
#define _GNU_SOURCE
#include "check.h"
#include "clstm.h"
#include "dispatch.h"

#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int same(const char *a, const char *b) { return strcmp(a, b) == 0; }

/* Runs `check` in a fresh process in which CLSTM_ISA is `isa` (NULL: unset). */
static void in_child(const char *isa, void (*check)(const char *isa)) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (isa)
            setenv("CLSTM_ISA", isa, 1);
        else
            unsetenv("CLSTM_ISA");
        check(isa);
        _Exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* What the machine has, as the compiler's run-time library sees it. */
static int machine_runs(const char *isa) {
#if defined(__x86_64__)
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (same(isa, "avx2"))
        return avx2;
    if (same(isa, "avx512"))
#if defined(CLSTM_TEST_EMULATED_AVX512)
        return avx2;
#else
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
#elif defined(__aarch64__)
    if (same(isa, "neon"))
        return 1;
#endif
    return same(isa, "portable");
}

static const char *const best_first[] = {"avx512", "avx2", "neon", "portable"};

static void available_is_what_the_machine_runs(const char *isa) {
    (void)isa;
    int found = 0;
    for (int i = 0; i < 4; i++) {
        int runs = machine_runs(best_first[i]);
        CHECK((clstm_isa_index(best_first[i]) >= 0) == runs);
        if (runs)
            CHECK(same(clstm_isa_available(found++), best_first[i]));
    }
    CHECK(clstm_isa_available(found) == NULL && clstm_isa_available(-1) == NULL);
}

static void default_is_the_best(const char *isa) {
    (void)isa;
    CHECK(same(clstm_isa(), clstm_isa_available(0)));
    CHECK(!strstr(clstm_isa_reason(), "CLSTM_ISA"));
}

static void environment_is_obeyed(const char *isa) {
    CHECK(same(clstm_isa(), isa));
    CHECK(same(clstm_current_kernels()->name, isa));
    CHECK(strstr(clstm_isa_reason(), "CLSTM_ISA"));
}

static void environment_is_refused(const char *isa) {
    CHECK(!same(clstm_isa(), isa) && same(clstm_isa(), clstm_isa_available(0)));
    CHECK(strstr(clstm_isa_reason(), "CLSTM_ISA"));
}

static void set_isa_changes_the_current_kernels(const char *isa) {
    for (int i = 0; clstm_isa_available(i); i++) {
        const char *name = clstm_isa_available(i);
        CHECK(clstm_set_isa(name) == CLSTM_OK);
        CHECK(same(clstm_isa(), name) && same(clstm_current_kernels()->name, name));
        CHECK(!same(clstm_isa_reason(), "") && !strstr(clstm_isa_reason(), "CLSTM_ISA"));
    }
    const char *before = clstm_isa();
    CHECK(clstm_set_isa("avx1024") == CLSTM_ERROR_ISA);
    CHECK(clstm_set_isa("") == CLSTM_ERROR_ISA);
    CHECK(clstm_set_isa("AVX2") == CLSTM_ERROR_ISA);
    CHECK(clstm_set_isa(NULL) == CLSTM_ERROR_NULL);
    CHECK(same(clstm_isa(), before));
    (void)isa;
}

static void indices_name_the_kernels(const char *isa) {
    (void)isa;
    for (int i = 0; clstm_isa_available(i); i++) {
        const char *name = clstm_isa_available(i);
        const clstm_isa_kernels *set = clstm_kernels_at(clstm_isa_index(name));
        CHECK(set && same(set->name, name));
        CHECK(set->type[CLSTM_FLOAT32] && set->type[CLSTM_FLOAT64]);
    }
    CHECK(clstm_isa_index("avx1024") == -1);
    CHECK(clstm_kernels_at(-1) == NULL && clstm_kernels_at(1000) == NULL);
    for (int i = 0; i < 8; i++)
        CHECK(!clstm_kernels_at(i) || machine_runs(clstm_kernels_at(i)->name));
}

static void *first_look(void *unused) {
    (void)unused;
    return (void *)clstm_isa();
}

static void threads_see_the_same_choice(const char *isa) {
    (void)isa;
    pthread_t threads[8];
    for (int i = 0; i < 8; i++)
        CHECK(pthread_create(&threads[i], NULL, first_look, NULL) == 0);
    for (int i = 0; i < 8; i++) {
        void *seen;
        pthread_join(threads[i], &seen);
        CHECK(seen == (void *)clstm_isa());
    }
}

static void every_status_has_its_own_sentence(void) {
    for (int a = CLSTM_OK; a <= CLSTM_ERROR_INTERRUPTED + 1; a++)
        for (int b = CLSTM_OK; b < a; b++)
            CHECK(!same(clstm_strerror(a), clstm_strerror(b)));
    CHECK(same(clstm_strerror(-1), clstm_strerror(CLSTM_ERROR_INTERRUPTED + 1)));
}

static void version_is_three_numbers(void) {
    int numbers[3], end = 0;
    CHECK(sscanf(clstm_version(), "%d.%d.%d%n", &numbers[0], &numbers[1], &numbers[2], &end) == 3);
    CHECK(clstm_version()[end] == '\0');
}

int main(void) {
    static const char *const refused[] = {"avx1024", "AVX2", "avx", "avx2 "};
    in_child(NULL, available_is_what_the_machine_runs);
    in_child(NULL, default_is_the_best);
    in_child("", default_is_the_best);
    for (int i = 0; i < 4; i++)
        in_child(best_first[i], machine_runs(best_first[i]) ? environment_is_obeyed : environment_is_refused);
    for (int i = 0; i < 4; i++)
        in_child(refused[i], environment_is_refused);
    in_child(NULL, set_isa_changes_the_current_kernels);
    in_child("portable", set_isa_changes_the_current_kernels);
    in_child(NULL, indices_name_the_kernels);
    in_child(NULL, threads_see_the_same_choice);
    every_status_has_its_own_sentence();
    version_is_three_numbers();
    return 0;
}

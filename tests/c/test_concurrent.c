/* Many threads use one network, pack and tape at once, each with its own outputs, while the limit of threads
 * changes. ThreadSanitizer watches (make tsan); the bytes must be those of one thread alone. */
#define _GNU_SOURCE
#include "problem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { CALLERS = 5, ROUNDS = SLOW ? 8 : 40 };

static problem shared;
static buffer pack, tape;
static results expected;
static atomic_int callers_left;

/* T steps of clstm_step on the first rows of x from the initial states; returns whether the last h is y's. */
static int steps_agree(void) {
    const problem *p = &shared;
    const size_t in = (size_t)(p->B * p->spec.input_size) * p->size,
                 out = (size_t)(p->B * p->spec.hidden_size) * p->size;
    buffer h[2] = {buffer_new(p->h0.bytes, 0), buffer_new(p->h0.bytes, 0)}, c = buffer_new(p->c0.bytes, 0);
    memcpy(h[0].p, p->h0.p, p->h0.bytes);
    memcpy(c.p, p->c0.p, p->c0.bytes);
    int agree = 1;
    for (int64_t t = 0; t < p->T; t++) {
        unsigned char *to = h[(t + 1) % 2].p;
        CHECK(clstm_step(&p->spec, pack.p, p->B, p->x.p + (size_t)t * in, h[t % 2].p, c.p, to, c.p) == CLSTM_OK);
        agree &= memcmp(to + p->h0.bytes - out, expected.p + (size_t)t * out, out) == 0;
    }
    buffer_free(&h[0]);
    buffer_free(&h[1]);
    buffer_free(&c);
    return agree;
}

/* Inference, training with a tape of its own, gradients from the shared tape, steps, and a pack of its own. */
static void *call_everything(void *number) {
    for (int round = *(int *)number; round < *(int *)number + ROUNDS; round++) {
        results r = results_new(&shared);
        buffer own_tape = tape_new(&shared), own_pack = pack_new(&shared, 1);
        switch (round % 4) {
        case 0:
            forward_with(&shared, &pack, NULL, &r);
            CHECK(memcmp(r.p, expected.p, r.dx) == 0);
            break;
        case 1:
            forward_with(&shared, &pack, &own_tape, &r);
            backward_with(&shared, &pack, &tape, &r);
            CHECK(same_results(&r, &expected));
            break;
        case 2:
            forward_with(&shared, &own_pack, &own_tape, &r);
            backward_with(&shared, &own_pack, &own_tape, &r);
            CHECK(same_results(&r, &expected));
            break;
        case 3:
            CHECK(steps_agree());
            break;
        }
        buffer_free(&own_tape);
        buffer_free(&own_pack);
        free(r.p);
    }
    atomic_fetch_sub(&callers_left, 1);
    return NULL;
}

/* Until the callers are done: 1 to 5 threads in turn. */
static void *change_the_limit(void *unused) {
    for (int n = 0; atomic_load(&callers_left) > 0; n++) {
        CHECK(clstm_set_num_threads(1 + n % 5) == CLSTM_OK);
        CHECK(clstm_get_num_threads() >= 1);
        usleep(200);
    }
    return unused;
}

static void run(int dtype, int64_t H, int64_t B) {
    shared = (problem){.spec = {9, H, 2, dtype, 1, 0, 0}, .T = 7, .B = B, .seed = 1};
    problem_make(&shared);
    expected = results_new(&shared);
    pack = pack_new(&shared, 1);
    tape = tape_new(&shared);
    forward_with(&shared, &pack, &tape, &expected);
    backward_with(&shared, &pack, &tape, &expected);
    pthread_t threads[CALLERS + 1];
    int numbers[CALLERS];
    atomic_store(&callers_left, CALLERS);
    CHECK(pthread_create(&threads[CALLERS], NULL, change_the_limit, NULL) == 0);
    for (int i = 0; i < CALLERS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, call_everything, &numbers[i]) == 0);
    }
    for (int i = 0; i <= CALLERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    buffer_free(&tape);
    buffer_free(&pack);
    free(expected.p);
    problem_free(&shared);
}

int main(void) {
    CHECK(clstm_set_isa("portable") == CLSTM_OK); /* whose small calls are worth threads */
    for (int dtype = CLSTM_FLOAT32; dtype <= CLSTM_FLOAT64; dtype++) {
        run(dtype, 33, 17);
        run(dtype, 130, 1); /* too few rows: threads share the hidden units, where there are threads */
    }
    passed("callers share a network, a pack and a tape");
    return 0;
}

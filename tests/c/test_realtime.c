/* Real time: on prepared objects step, forward and backward allocate nothing, take no lock and make no system call. */
#define _GNU_SOURCE
#include "check.h"
#include "clstm.h"

#if CHECK_SANITIZER || !defined(__GLIBC__)
int main(void) {
    puts("test_realtime: skipped, for it needs the allocator of glibc");
    return 0;
}
#else
#include <dlfcn.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- counters in front of glibc's functions ----------------------------------------------------------- */

static _Thread_local int allocations, locks; /* workers may still be on their way to sleep */

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *p, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);
extern void __libc_free(void *p);

void *malloc(size_t bytes) {
    allocations++;
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes) {
    allocations++;
    return __libc_calloc(count, bytes);
}

void *realloc(void *p, size_t bytes) {
    allocations++;
    return __libc_realloc(p, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes) {
    allocations++;
    return __libc_memalign(alignment, bytes);
}

void free(void *p) {
    allocations++;
    __libc_free(p);
}

int pthread_mutex_lock(pthread_mutex_t *lock) {
    locks++;
    int (*next)(pthread_mutex_t *);
    *(void **)&next = dlsym(RTLD_NEXT, "pthread_mutex_lock");
    return next(lock);
}

static void counters_count(void) {
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    allocations = locks = 0;
    free(aligned_alloc(64, 64));
    pthread_mutex_lock(&lock);
    pthread_mutex_unlock(&lock);
    CHECK(allocations == 2 && locks == 1);
}

/* ---- prepared objects --------------------------------------------------------------------------------- */

enum { T = 9, B = 5, I = 7, H = 33, L = 2, PARAMS = 4 * L };

static const clstm_spec spec = {.input_size = I, .hidden_size = H, .num_layers = L, .bias = 1, .dropout = 0.5};
static void *pack, *tape, *workspace;
static size_t workspace_bytes;
static float x[T * B * I], y[T * B * H], state[4][L * B * H], dx[T * B * I];
static float gradients[PARAMS][4 * H * H];

static void *memory(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    CHECK(p);
    memset(p, 0, bytes);
    return p;
}

static void prepare(void) {
    const void *params[PARAMS];
    size_t bytes, forward, backward;
    for (int i = 0; i < PARAMS; i++)
        params[i] = memory(4 * H * H * sizeof(float));
    CHECK(clstm_num_params(&spec) == PARAMS);
    CHECK(clstm_pack_size(&spec, 1, &bytes) == CLSTM_OK);
    pack = memory(bytes);
    CHECK(clstm_pack(&spec, 1, params, pack) == CLSTM_OK);
    CHECK(clstm_tape_size(&spec, T, B, &bytes) == CLSTM_OK);
    tape = memory(bytes);
    CHECK(clstm_forward_workspace(&spec, T, B, &forward) == CLSTM_OK);
    CHECK(clstm_backward_workspace(&spec, T, B, &backward) == CLSTM_OK);
    workspace_bytes = forward > backward ? forward : backward;
    workspace = memory(workspace_bytes);
}

static void step(void) {
    CHECK(clstm_step(&spec, pack, B, x, state[0], state[1], state[2], state[1]) == CLSTM_OK);
    CHECK(clstm_step(&spec, pack, 1, x, state[2], state[1], state[0], state[1]) == CLSTM_OK);
}

static clstm_sequence sequence(int64_t rows, int has_lengths) {
    static const int64_t lengths[B] = {T, 6, 6, 1, 0};
    const clstm_sequence seq = {.T = T,
                                .B = rows,
                                .lengths = has_lengths ? lengths : NULL,
                                .x = x,
                                .x_time_stride = rows * I,
                                .x_row_stride = I,
                                .y = y,
                                .y_time_stride = rows * H,
                                .y_row_stride = H,
                                .hn = state[2],
                                .cn = state[3]};
    return seq;
}

static void forward(int64_t rows, int has_lengths) {
    const clstm_sequence seq = sequence(rows, has_lengths);
    CHECK(clstm_forward(&spec, pack, &seq, NULL, workspace, workspace_bytes) == CLSTM_OK);
}

static void train(int64_t rows, int has_lengths) {
    const clstm_sequence seq = sequence(rows, has_lengths);
    void *dparams[PARAMS];
    for (int i = 0; i < PARAMS; i++)
        dparams[i] = gradients[i];
    const clstm_gradients grads = {.dy = y,
                                   .dy_time_stride = rows * H,
                                   .dy_row_stride = H,
                                   .dx = dx,
                                   .dx_time_stride = rows * I,
                                   .dx_row_stride = I,
                                   .dparams = dparams};
    CHECK(clstm_forward(&spec, pack, &seq, tape, workspace, workspace_bytes) == CLSTM_OK);
    CHECK(clstm_backward(&spec, pack, tape, &grads, workspace, workspace_bytes) == CLSTM_OK);
}

/* With a limit of one thread; and with more threads, of which inference of one row needs none. */
static void on_one_thread(void) {
    for (int i = 0; i < 50; i++) {
        step();
        forward(B, i % 2);
        train(B, i % 2);
    }
}

static void beside_idle_workers(void) {
    for (int i = 0; i < 50; i++) {
        step();
        forward(1, i % 2);
    }
}

/* ---- tests -------------------------------------------------------------------------------------------- */

static void nothing_is_allocated_or_locked(void (*loop)(void)) {
    allocations = locks = 0;
    loop();
    CHECK(allocations == 0);
    CHECK(locks == 0);
}

/* In strict mode the kernel kills a thread at any system call but read, write, sigreturn and the exit of a thread. */
enum { NO_SECCOMP = 77 };

static void no_system_call(void (*loop)(void)) {
    int status;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        loop(); /* a forked process copies its pages at the first write */
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
            _exit(NO_SECCOMP);
        loop();
        syscall(SYS_exit, 0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_SECCOMP)
        puts("test_realtime: system calls are not watched, for this kernel lacks seccomp");
    else
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void the_watch_sees_a_system_call(void) {
    int status;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
            _exit(NO_SECCOMP);
        getppid();
        syscall(SYS_exit, 0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) == NO_SECCOMP);
}

int main(void) {
    counters_count();
    the_watch_sees_a_system_call();
    CHECK(clstm_set_num_threads(1) == CLSTM_OK);
    prepare();
    on_one_thread();
    nothing_is_allocated_or_locked(on_one_thread);
    no_system_call(on_one_thread);
    CHECK(clstm_set_num_threads(3) == CLSTM_OK);
    train(B, 1); /* starts workers */
    nothing_is_allocated_or_locked(beside_idle_workers);
    no_system_call(beside_idle_workers);
    return 0;
}
#endif

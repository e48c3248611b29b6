/* The worker pool: every part once, the limit, fork, sleep, and the floating-point mode. */
#define _GNU_SOURCE
#include "affinity.h"
#include "check.h"
#include "clstm.h"
#include "threads.h"

#include <dirent.h>
#include <fenv.h>
#include <float.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_PARTS = 1000 };

/* Threads wait for counters of each other, asleep. One that waits in vain is ended by alarm() in main. */
static pthread_mutex_t counters = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t advanced = PTHREAD_COND_INITIALIZER;

static void advance(atomic_int *counter) {
    pthread_mutex_lock(&counters);
    atomic_fetch_add(counter, 1);
    pthread_cond_broadcast(&advanced);
    pthread_mutex_unlock(&counters);
}

static void wait_until(atomic_int *counter, int value) {
    pthread_mutex_lock(&counters);
    while (atomic_load(counter) < value)
        pthread_cond_wait(&advanced, &counters);
    pthread_mutex_unlock(&counters);
}

static pid_t fork_here(void) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        counters = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
        advanced = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
        alarm(200);
    }
    return child;
}

static void expect_good_end(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Runs `check` in a child process and expects it to end well. */
static void in_child(void (*check)(void)) {
    const pid_t child = fork_here();
    if (child == 0) {
        check();
        _Exit(0);
    }
    expect_good_end(child);
}

/* ---- the number of threads ---------------------------------------------------------------------------- */

static void default_is_the_affinity(void) {
    unsetenv("CLSTM_NUM_THREADS");
    cpu_set_t set;
    CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
    CHECK(clstm_get_num_threads() == CPU_COUNT(&set));
}

static void default_on_one_processor_is_one(void) {
    cpu_set_t set;
    CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
    int first = 0;
    while (!CPU_ISSET(first, &set))
        first++;
    CPU_ZERO(&set);
    CPU_SET(first, &set);
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
    unsetenv("CLSTM_NUM_THREADS");
    CHECK(clstm_get_num_threads() == 1);
}

static void environment_sets_the_number(void) {
    setenv("CLSTM_NUM_THREADS", "7", 1);
    CHECK(clstm_get_num_threads() == 7);
}

static const char *garbage;

static void environment_is_ignored(void) {
    setenv("CLSTM_NUM_THREADS", garbage, 1);
    cpu_set_t set;
    CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
    CHECK(clstm_get_num_threads() == CPU_COUNT(&set));
}

static void numbers_out_of_range_are_refused(void) {
    CHECK(clstm_set_num_threads(1) == CLSTM_OK && clstm_get_num_threads() == 1);
    CHECK(clstm_set_num_threads(1024) == CLSTM_OK && clstm_get_num_threads() == 1024);
    CHECK(clstm_set_num_threads(0) == CLSTM_ERROR_THREADS);
    CHECK(clstm_set_num_threads(-1) == CLSTM_ERROR_THREADS);
    CHECK(clstm_set_num_threads(1025) == CLSTM_ERROR_THREADS);
    CHECK(clstm_get_num_threads() == 1024);
}

/* ---- every part once ---------------------------------------------------------------------------------- */

static void count_part(void *counts, int part) { atomic_fetch_add(&((atomic_int *)counts)[part], 1); }

static void run_and_check(int parts) {
    atomic_int counts[MAX_PARTS + 1] = {0};
    clstm_parallel(parts, count_part, counts);
    for (int i = 0; i <= MAX_PARTS; i++)
        CHECK(atomic_load(&counts[i]) == (i < parts));
}

static void every_part_runs_once(void) {
    static const int sizes[] = {0, 1, 2, 3, 7, 64, MAX_PARTS};
    for (int threads = 1; threads <= 5; threads++) {
        clstm_set_num_threads(threads);
        for (int i = 0; i < 7; i++)
            run_and_check(sizes[i]);
    }
}

/* Both threads have to be at it before the rush for the other parts begins. */
enum { RUSH = 1000000 };
static atomic_char rush_counts[RUSH];
static atomic_int rush_threads;

static void rush_part(void *unused, int part) {
    static _Thread_local int here;
    (void)unused;
    if (!here++)
        atomic_fetch_add(&rush_threads, 1);
    while (atomic_load(&rush_threads) < 2)
        sched_yield();
    atomic_fetch_add(&rush_counts[part], 1);
}

static void claims_do_not_collide(void) {
    clstm_set_num_threads(2);
    clstm_parallel(RUSH, rush_part, NULL);
    for (int i = 0; i < RUSH; i++)
        CHECK(atomic_load(&rush_counts[i]) == 1);
}

static void own_part(void *owner, int part) {
    (void)part;
    CHECK(pthread_equal(pthread_self(), *(pthread_t *)owner));
    sched_yield();
}

/* Idle workers are at hand, but a call inside a part keeps to its thread. */
static void nested_part(void *unused, int part) {
    (void)unused, (void)part;
    pthread_t self = pthread_self();
    clstm_parallel(MAX_PARTS, own_part, &self);
    run_and_check(11);
}

static void calls_nest(void) {
    clstm_set_num_threads(3);
    clstm_parallel(1, nested_part, NULL);
    clstm_parallel(10, nested_part, NULL);
}

/* ---- many callers ------------------------------------------------------------------------------------- */

enum { CALLERS = 6 };

static void *caller(void *unused) {
    (void)unused;
    for (int i = 0; i < 200; i++)
        run_and_check(i % 13);
    return NULL;
}

static void start(pthread_t *threads, int n, void *(*run)(void *)) {
    for (int i = 0; i < n; i++)
        CHECK(pthread_create(&threads[i], NULL, run, NULL) == 0);
}

static void join(const pthread_t *threads, int n) {
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

static void callers_do_not_mix(void) {
    pthread_t threads[CALLERS];
    clstm_set_num_threads(4);
    start(threads, CALLERS, caller);
    join(threads, CALLERS);
}

static void number_changes_while_running(void) {
    pthread_t threads[CALLERS];
    start(threads, CALLERS, caller);
    for (int i = 0; i < 300; i++)
        CHECK(clstm_set_num_threads(1 + i % 5) == CLSTM_OK);
    join(threads, CALLERS);
}

/* ---- sleep -------------------------------------------------------------------------------------------- */

static long cpu_microseconds(void) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000L + use.ru_utime.tv_usec + use.ru_stime.tv_usec;
}

/* A spinning thread would use some 50 ms in each of the tries; what a sanitizer's own thread does now and then is not
 * in all of them. */
static void check_that_nobody_spins(void) {
    long used = LONG_MAX;
    for (int tries = 0; tries < 3 && used >= 5000; tries++) {
        long before = cpu_microseconds();
        usleep(50000);
        used = cpu_microseconds() - before;
    }
    CHECK(used < 5000);
}

/* ---- the limit ---------------------------------------------------------------------------------------- */

typedef struct gauge {
    atomic_int inside, most, arrived;
    int wanted; /* parts wait until so many have arrived */
} gauge;

static void measured_part(void *context, int part) {
    gauge *g = context;
    (void)part;
    int inside = 1 + atomic_fetch_add(&g->inside, 1), most = atomic_load(&g->most);
    while (inside > most && !atomic_compare_exchange_weak(&g->most, &most, inside))
        ;
    advance(&g->arrived);
    wait_until(&g->arrived, g->wanted);
    sched_yield();
    atomic_fetch_sub(&g->inside, 1);
}

/* The parts wait for `threads` of them to be inside together: so many threads do run, and never one more. */
static void one_caller_uses_the_limit_and_no_more(void) {
    static const int numbers[] = {1, 4, 2, 5, 3};
    for (int i = 0; i < 5; i++) {
        gauge g = {.wanted = numbers[i]};
        clstm_set_num_threads(numbers[i]);
        clstm_parallel(200, measured_part, &g);
        CHECK(atomic_load(&g.most) == numbers[i]);
    }
}

/* As many callers as the limit stay inside, workers are idle and stay so, and one more call gets along on its own. */
enum { LIMIT = 3 };
static atomic_int staying, may_leave;

static void staying_part(void *unused, int part) {
    (void)unused, (void)part;
    advance(&staying);
    wait_until(&may_leave, 1);
}

static void *staying_caller(void *unused) {
    (void)unused;
    clstm_parallel(1, staying_part, NULL);
    return NULL;
}

static void idle_part(void *owner, int part) {
    own_part(owner, part);
    if (part == 0)
        check_that_nobody_spins();
}

static void start_staying_callers(pthread_t *threads) {
    clstm_set_num_threads(LIMIT);
    atomic_store(&staying, 0);
    atomic_store(&may_leave, 0);
    start(threads, LIMIT, staying_caller);
    wait_until(&staying, LIMIT);
}

static void callers_beyond_the_limit_run_alone(void) {
    pthread_t threads[LIMIT], self = pthread_self();
    start_staying_callers(threads);
    clstm_parallel(MAX_PARTS, own_part, &self);
    clstm_parallel(2, idle_part, &self); /* while one part is left */
    advance(&may_leave);
    join(threads, LIMIT);
}

/* Limit 2. A long call has a worker. Then another caller comes in and stays: the worker finishes the part that it has
 * claimed, and takes no other. When the other caller leaves, the long call gets a worker again, also if it is a team.
 */
static struct {
    pthread_t owner;                              /* of the long call */
    atomic_int helped, own_parts, claimed_beside; /* parts of the long call */
    atomic_int other_inside, other_may_leave, helped_again;
} scene;

static void other_part(void *unused, int part) {
    (void)unused, (void)part;
    advance(&scene.other_inside);
    wait_until(&scene.other_may_leave, 1);
}

static void *other_caller(void *unused) {
    (void)unused;
    wait_until(&scene.helped, 1);
    clstm_parallel(1, other_part, NULL);
    return NULL;
}

static void long_part(void *unused, int part) {
    (void)unused, (void)part;
    if (!pthread_equal(pthread_self(), scene.owner)) {
        advance(&scene.helped);
        if (atomic_load(&scene.other_may_leave))
            advance(&scene.helped_again);
        else if (atomic_load(&scene.other_inside))
            atomic_fetch_add(&scene.claimed_beside, 1);
        wait_until(&scene.other_inside, 1);
        return;
    }
    wait_until(&scene.other_inside, 1);
    int own = 1 + atomic_fetch_add(&scene.own_parts, 1);
    sched_yield();
    if (own == 500) {
        check_that_nobody_spins(); /* not even the worker that had to leave */
        advance(&scene.other_may_leave);
    }
    if (own >= 500 && !atomic_load(&scene.helped_again))
        usleep(1000);
}

static void workers_make_room_for_callers(int threads) {
    clstm_set_num_threads(2);
    memset(&scene, 0, sizeof scene);
    scene.owner = pthread_self();
    pthread_t other;
    start(&other, 1, other_caller);
    clstm_team(threads, MAX_PARTS, long_part, NULL);
    join(&other, 1);
    CHECK(atomic_load(&scene.claimed_beside) <= 1);
    CHECK(atomic_load(&scene.own_parts) >= 500 && atomic_load(&scene.helped_again) > 0);
}

static void idle_workers_sleep(void) {
    gauge g = {.wanted = 5};
    clstm_set_num_threads(5);
    clstm_parallel(5, measured_part, &g);
    check_that_nobody_spins();
}

/* ---- workers come and go ------------------------------------------------------------------------------ */

static int threads_of_this_process(void) {
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks);
    for (struct dirent *entry; (entry = readdir(tasks));)
        count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

static int alone; /* threads of this process without the pool */

static void few_threads_part(void *most, int part) {
    (void)part;
    CHECK(threads_of_this_process() <= *(int *)most);
}

static void workers_number_less_than_the_highest_limit(void) {
    int most = alone + 2;
    for (int i = 0; i < 20; i++) {
        clstm_set_num_threads(1 + i % 3);
        clstm_parallel(MAX_PARTS, few_threads_part, &most);
    }
}

/* ---- fork --------------------------------------------------------------------------------------------- */

static void use_the_pool(void) {
#if CHECK_SANITIZER /* whose own locks may be held in such a fork, so that no thread can be started after it */
    clstm_set_num_threads(1);
    run_and_check(MAX_PARTS);
#else
    every_part_runs_once();
    one_caller_uses_the_limit_and_no_more();
#endif
}

static void fork_while_busy(void) {
    pthread_t stay[LIMIT], threads[CALLERS];
    start_staying_callers(stay);
    start(threads, CALLERS, caller);
    for (int i = 0; i < 10; i++)
        in_child(use_the_pool);
    join(threads, CALLERS);
    advance(&may_leave);
    join(stay, LIMIT);
}

/* A caller forks inside a part, as its interrupt function may, while a worker runs another part. The child's call
 * returns without the worker, and says so; the parent's goes on. */
static struct {
    pthread_t owner;
    pid_t child;
    atomic_int helped, forked, done;
} forking;

static void forking_part(void *unused, int part) {
    (void)unused, (void)part;
    if (!pthread_equal(pthread_self(), forking.owner)) {
        advance(&forking.helped);
        wait_until(&forking.forked, 1);
    } else if (!atomic_load(&forking.forked)) {
        wait_until(&forking.helped, 1);
        forking.child = fork_here();
        CHECK(clstm_workers_lost() == (forking.child == 0));
        advance(&forking.forked);
    }
    atomic_fetch_add(&forking.done, 1);
}

static void fork_inside_a_part(int threads) {
    memset(&forking, 0, sizeof forking);
    forking.owner = pthread_self();
    clstm_set_num_threads(3);
    clstm_team(threads, MAX_PARTS, forking_part, NULL);
    if (forking.child == 0) {
        use_the_pool();
        CHECK(!clstm_workers_lost());
        _Exit(0);
    }
    CHECK(atomic_load(&forking.done) == MAX_PARTS);
    expect_good_end(forking.child);
}

static void fork_keeps_the_number(void) { CHECK(clstm_get_num_threads() == 3); }

/* ---- floating-point mode ------------------------------------------------------------------------------ */

static int flushes(void) {
    volatile float tiny = FLT_MIN;
    return tiny * 0.5f == 0.0f;
}

static int rounds_up(void) {
    volatile float one = 1.0f;
    return one + 0x1p-30f > 1.0f;
}

static void mode_part(void *context, int part) {
    CHECK(flushes() && !rounds_up());
    measured_part(context, part);
}

static void parts_flush_and_the_caller_keeps_its_mode(void) {
    gauge g = {.wanted = 4};
    CHECK(!flushes() && !rounds_up());
    fesetround(FE_UPWARD);
    clstm_set_num_threads(4);
    clstm_parallel(4, mode_part, &g);
    CHECK(!flushes() && rounds_up());
    fesetround(FE_TONEAREST);
    CHECK(!flushes() && !rounds_up());
}

/* ---- keeping off a processor ---- */

static cpu_set_t allowed_now(void) { return whereabouts_now().allowed; }

static cpu_set_t only(int processor) {
    cpu_set_t set = {{0}};
    CPU_SET((size_t)processor, &set);
    return set;
}

static int processors_allowed(void) {
    const cpu_set_t now = allowed_now();
    return CPU_COUNT(&now);
}

static void allow(cpu_set_t set) { CHECK(sched_setaffinity(0, sizeof set, &set) == 0); }

static void check_allowed(cpu_set_t expected) {
    const cpu_set_t now = allowed_now();
    CHECK(CPU_EQUAL(&now, &expected));
}

/* A thread goes from the processor it keeps off to another one, and takes the last one up again. */
static void a_processor_is_avoided(void) {
    const cpu_set_t all = allowed_now();
    avoidance a = {.processor = -1};
    for (int i = 0; i < 20; i++) {
        const whereabouts other = {processor_now(), all};
        avoidance_change(&a, &other);
        CHECK(processor_now() != other.processor);
        cpu_set_t expected = all;
        CPU_CLR((size_t)other.processor, &expected);
        check_allowed(expected);
    }
    avoidance_change(&a, &(whereabouts){.processor = -1});
    check_allowed(all);
}

/* What others have set meanwhile holds, even if it is what the thread had set itself. */
static void what_others_allow_holds(void) {
    const whereabouts here = whereabouts_now();
    cpu_set_t rest = here.allowed;
    CPU_CLR((size_t)here.processor, &rest);
    avoidance a = {.processor = -1};
    avoidance_change(&a, &here);
    allow(only(here.processor));
    avoidance_change(&a, &here);
    check_allowed(only(here.processor)); /* it may run nowhere else */

    allow(here.allowed);
    avoidance_change(&a, &here);
    check_allowed(rest);
    allow(here.allowed);
    avoidance_change(&a, &here);
    check_allowed(rest); /* again, though the processor is the same */

    allow(rest);
    avoidance_change(&a, &(whereabouts){.processor = -1, .allowed = rest});
    check_allowed(rest); /* it was meant for all threads */
    allow(here.allowed);
}

int main(void) {
    static const char *const texts[] = {"", "0", "-2", "2x", "1e3", "1025", "99999999999999999999", "two"};
    alarm(300);
    alone = threads_of_this_process() + CHECK_SANITIZER; /* which may have a thread of its own */
    in_child(default_is_the_affinity);
    in_child(default_on_one_processor_is_one);
    in_child(environment_sets_the_number);
    for (int i = 0; i < 8; i++) {
        garbage = texts[i];
        in_child(environment_is_ignored);
    }
    in_child(numbers_out_of_range_are_refused);
    if (processors_allowed() > 1) {
        a_processor_is_avoided();
        what_others_allow_holds();
    }

    workers_number_less_than_the_highest_limit(); /* first, for workers stay */
    parts_flush_and_the_caller_keeps_its_mode();
    every_part_runs_once();
    claims_do_not_collide();
    calls_nest();
    callers_do_not_mix();
    number_changes_while_running();
    one_caller_uses_the_limit_and_no_more();
    callers_beyond_the_limit_run_alone();
    workers_make_room_for_callers(MAX_PARTS);
    workers_make_room_for_callers(2);
    idle_workers_sleep();
    fork_while_busy();
    fork_inside_a_part(MAX_PARTS);
    fork_inside_a_part(2);
    clstm_set_num_threads(3);
    in_child(fork_keeps_the_number);
    return 0;
}

/* The worker pool: callers publish jobs, workers help where they find unclaimed parts. See threads.h. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "threads.h"
#include "affinity.h"
#include "clstm.h"
#include "fpmode.h"
#include "spin.h"
#include "sync.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { MAX_THREADS = 1024 };

/* One call, on its caller's stack. */
typedef struct job {
    void (*run)(void *context, int part);
    void *context;
    int threads, parts;
    whereabouts caller; /* workers keep off its processor, unless that is -1 */
    atomic_int next;    /* the first part that nobody has claimed */
    atomic_int helpers; /* workers that run parts of it; less than threads. Raised with the lock held */
    struct job *link;
} job;

/* Everything but the atomics is guarded by the lock. Callers and workers hold it between parts, never within one. */
static struct {
    sync_lock lock;
    sync_condition work;     /* there may be something for an idle worker to do */
    sync_condition finished; /* the helpers of some job became 0 */
    job *open;               /* the jobs whose callers still claim parts */
    whereabouts caller;      /* of the job that was opened last */
    int workers;             /* started; they stay when the limit is lowered */
    atomic_int jobs;         /* how many are open */
    atomic_int opened;       /* how many have been, with the lock free again */
    atomic_int expecting;    /* callers that may open another */
    atomic_int running;      /* callers and busy workers */
    atomic_int busy;         /* workers that run parts */
    atomic_int limit;        /* of running; 0: nobody has asked yet */
} pool = {
    .lock = SYNC_LOCK_INIT, .work = SYNC_CONDITION_INIT, .finished = SYNC_CONDITION_INIT, .caller = {.processor = -1}};

static _Thread_local int inside_part; /* this thread runs parts: it counts already, and must not wait for others */
static _Thread_local int expects;     /* between clstm_expect_work and clstm_expect_no_work */
static _Thread_local int workers_lost;

/* ---- fork: the child has the lock in hand, this thread and no workers --------------------------------- */

int clstm_workers_lost(void) { return workers_lost; }

#if defined(_WIN32)
static void survive_fork(void) {}
#else
static void before_fork(void) { sync_acquire(&pool.lock); }
static void after_fork_in_parent(void) { sync_release(&pool.lock); }

static void after_fork_in_child(void) {
    pool.lock = (sync_lock)SYNC_LOCK_INIT;
    pool.work = pool.finished = (sync_condition)SYNC_CONDITION_INIT;
    workers_lost = inside_part && pool.open;
    pool.open = NULL;
    pool.workers = 0;
    atomic_store(&pool.busy, 0);
    atomic_store(&pool.jobs, 0);
    atomic_store(&pool.running, inside_part);
    atomic_store(&pool.expecting, expects);
}

static void register_handlers(void) { pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child); }

static void survive_fork(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_handlers);
}
#endif

/* ---- the limit ---------------------------------------------------------------------------------------- */

static int default_limit(void) {
    const char *text = getenv("CLSTM_NUM_THREADS");
    char *end = NULL;
    long n = text ? strtol(text, &end, 10) : 0;
    if (n < 1 || n > MAX_THREADS || *end)
        n = sync_processors();
    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : (int)n;
}

int clstm_get_num_threads(void) {
    int limit = atomic_load(&pool.limit);
    if (limit == 0) {
        int first = default_limit();
        if (atomic_compare_exchange_strong(&pool.limit, &limit, first))
            limit = first;
    }
    return limit;
}

int clstm_most_at_once(void) {
    const int limit = clstm_get_num_threads(), processors = sync_processors();
    return limit < processors ? limit : processors < 1 ? 1 : processors;
}

int clstm_gets_help(void) { return !inside_part && atomic_load(&pool.running) + 2 <= clstm_get_num_threads(); }

int clstm_set_num_threads(int n) {
    if (n < 1 || n > MAX_THREADS)
        return CLSTM_ERROR_THREADS;
    atomic_store(&pool.limit, n);
    return CLSTM_OK;
}

/* ---- parts -------------------------------------------------------------------------------------------- */

static int is_team(const job *job) { return job->threads < job->parts; }

static int wants_helper(const job *job) {
    return atomic_load(&job->next) < job->parts && atomic_load(&job->helpers) + 1 < job->threads;
}

static int has_room(void) { return atomic_load(&pool.running) < atomic_load(&pool.limit); }

/* 1 and the next part of a job, or 0 when all are claimed. */
static int claim(job *job, int *part) {
    *part = atomic_fetch_add(&job->next, 1);
    return *part < job->parts;
}

/* ---- workers ------------------------------------------------------------------------------------------ */

static job *find_job(void) {
    job *job = has_room() ? pool.open : NULL;
    while (job && !wants_helper(job))
        job = job->link;
    return job;
}

/* Runs parts until none is left, or until callers need this worker's place. */
static void help(job *job) {
    int part;
    while (atomic_load(&pool.running) <= atomic_load(&pool.limit) && claim(job, &part))
        job->run(job->context, part);
}

/* Helps with a job, which is gone when this returns; with the lock held before and after. */
static void work_on(job *job) {
    atomic_fetch_add(&pool.running, 1);
    atomic_fetch_add(&pool.busy, 1);
    atomic_fetch_add(&job->helpers, 1);
    sync_release(&pool.lock);
    help(job);
    atomic_fetch_sub(&pool.running, 1); /* before the caller goes on, so that its next call finds this place free */
    atomic_fetch_sub(&pool.busy, 1);
    const int last = atomic_fetch_sub(&job->helpers, 1) == 1;
    sync_acquire(&pool.lock);
    if (last)
        sync_wake_all(&pool.finished);
}

/* Waits a moment for a job to be opened, if one is expected; with the lock held before and after. */
static void stay_awake(void) {
    const int opened = atomic_load(&pool.opened);
    const int limit = atomic_load(&pool.limit), expecting = atomic_load(&pool.expecting);
    if (expecting == 0 || expecting >= limit || atomic_load(&pool.running) >= limit)
        return;
    sync_release(&pool.lock);
    spin_changes(&pool.opened, opened);
    sync_acquire(&pool.lock);
}

/* A worker keeps off the last caller's processor while it sleeps: after a rest the system wakes it up there though
 * others are idle, and gives it no time for some milliseconds. A caller may have moved to the only processor that the
 * worker kept for itself, and its job be over when the worker gets to run: so a worker without a job, too, moves off
 * the last caller's processor before it sleeps again, and again if a caller on another one came meanwhile. */
static void work_forever(void) {
    enum { NOBODY = -2 }; /* -1 is a caller without a known processor */
    avoidance avoided = {.processor = -1};
    int awake = 0;
    int off = NOBODY; /* the caller's processor that it moved off since its last job, or since it woke up */
    sync_acquire(&pool.lock);
    for (;;) {
        job *job = find_job();
        const whereabouts caller = job ? job->caller : pool.caller;
        const int in_the_way = job && caller.processor >= 0 && caller.processor == processor_now();
        const int about_to_sleep = !job && !awake;
        if ((in_the_way || about_to_sleep) && off != caller.processor) {
            sync_release(&pool.lock);
            avoidance_change(&avoided, &caller);
            sync_acquire(&pool.lock);
            off = caller.processor;
            continue; /* jobs may have come and gone */
        }
        if (job)
            work_on(job);
        else if (awake)
            stay_awake();
        else
            sync_wait(&pool.work, &pool.lock);
        awake = job != NULL;
        off = NOBODY;
    }
}

SYNC_THREAD(worker) {
    (void)unused;
    fpmode_enter();
    inside_part = 1;
    work_forever();
    return 0;
}

/* Wakes up to `wanted` idle workers, as many as there is room for, and starts those that do not exist yet. */
static void call_workers(int wanted) {
    int room = atomic_load(&pool.limit) - atomic_load(&pool.running);
    int count = wanted < room ? wanted : room;
    while (pool.workers - atomic_load(&pool.busy) < count && sync_start(worker))
        pool.workers++;
    for (; count > 0; count--)
        sync_wake_one(&pool.work);
}

/* ---- callers ------------------------------------------------------------------------------------------ */

static void open_job(job *job) {
    sync_acquire(&pool.lock);
    atomic_fetch_add(&pool.running, 1);
    atomic_fetch_add(&pool.jobs, 1);
    job->link = pool.open;
    pool.open = job;
    pool.caller = job->caller;
    call_workers((job->threads < job->parts ? job->threads : job->parts) - 1);
    sync_release(&pool.lock);
    atomic_fetch_add(&pool.opened, 1);
}

/* Waits until no worker runs parts of a job that is no longer open. */
static void wait_for_helpers(job *job) {
    int helpers = atomic_load(&job->helpers);
    while (helpers > 0 && spin_changes(&job->helpers, helpers))
        helpers = atomic_load(&job->helpers);
    if (helpers == 0)
        return;
    sync_acquire(&pool.lock);
    while (atomic_load(&job->helpers) > 0)
        sync_wait(&pool.finished, &pool.lock);
    sync_release(&pool.lock);
}

/* A worker takes the place that a caller left, unless that will be back at once. Not in a team, whose parts are short:
 * a caller that comes back for its next call needs the place sooner than the worker wakes up. See run_claimed. */
static void fill_place(void) {
    if (expects || atomic_load(&pool.jobs) == 0)
        return;
    sync_acquire(&pool.lock);
    job *job = pool.open;
    while (job && (is_team(job) || !wants_helper(job)))
        job = job->link;
    if (job)
        call_workers(1);
    sync_release(&pool.lock);
}

static void close_job(job *job) {
    if (workers_lost) {
        atomic_fetch_sub(&pool.running, 1);
        return;
    }
    sync_acquire(&pool.lock);
    struct job **link = &pool.open;
    while (*link != job)
        link = &(*link)->link;
    *link = job->link;
    atomic_fetch_sub(&pool.jobs, 1);
    atomic_fetch_sub(&pool.running, 1);
    sync_release(&pool.lock);
    fill_place();
    wait_for_helpers(job);
}

/* One part needs no worker, and so no lock, unless another call waits for this caller's place. */
static void run_alone(void (*run)(void *context, int part), void *context) {
    survive_fork();
    atomic_fetch_add(&pool.running, 1);
    run(context, 0);
    atomic_fetch_sub(&pool.running, 1);
    fill_place();
}

/* Runs parts until none is left. A team's caller calls a worker when it sees a free place for several parts. */
static void run_claimed(job *job) {
    enum { PATIENCE = 8 };
    int part, seen = 0;
    while (claim(job, &part)) {
        job->run(job->context, part);
        seen = is_team(job) && has_room() && wants_helper(job) ? seen + 1 : 0;
        if (seen == PATIENCE) {
            sync_acquire(&pool.lock);
            call_workers(1);
            sync_release(&pool.lock);
        }
    }
}

static void run_with_workers(int threads, int parts, void (*run)(void *context, int part), void *context) {
    job job = {.run = run, .context = context, .threads = threads, .parts = parts, .caller = whereabouts_now()};
    if (threads > clstm_most_at_once()) /* no processor for each */
        job.caller.processor = -1;
    survive_fork();
    open_job(&job);
    run_claimed(&job);
    close_job(&job);
}

void clstm_expect_work(void) {
    expects = 1;
    atomic_fetch_add(&pool.expecting, 1);
}

void clstm_expect_no_work(void) {
    expects = 0;
    atomic_fetch_sub(&pool.expecting, 1);
    fill_place();
}

void clstm_parallel(int parts, void (*run)(void *context, int part), void *context) {
    clstm_team(parts, parts, run, context);
}

void clstm_team(int threads, int parts, void (*run)(void *context, int part), void *context) {
    const fpmode caller = fpmode_enter();
    if (inside_part) {
        for (int part = 0; part < parts; part++)
            run(context, part);
    } else {
        inside_part = 1;
        workers_lost = 0;
        if (parts == 1)
            run_alone(run, context);
        else
            run_with_workers(threads, parts, run, context);
        inside_part = 0;
    }
    fpmode_leave(caller);
}

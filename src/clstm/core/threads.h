/* The worker pool: one for the process, started on first use, asleep between calls. Within a call, whoever has nothing
 * to do stays awake for some tens of microseconds, for waking a sleeper takes as long. */
#ifndef CLSTM_THREADS_H
#define CLSTM_THREADS_H

/* Runs part 0 .. parts - 1 once each, on the calling thread and on workers that are free or become free meanwhile;
 * returns when all are done. Every part runs in the floating-point mode of fpmode.h. Parts are begun in order, each by
 * a thread that goes on to its end, so a part may wait for earlier ones, but not for later ones: all may run on one
 * thread. Inside a part, a call runs on its own thread.
 *
 * The limit is clstm_get_num_threads(). A call never waits for a worker, and a worker takes up a part only while no
 * more than `limit` callers and busy workers run: when callers crowd in, workers leave after the part in hand, and
 * callers beyond the limit run alone. */
void clstm_parallel(int parts, void (*run)(void *context, int part), void *context);

/* The same on no more than `threads` threads, for a team: many short parts that wait for each other. */
void clstm_team(int threads, int parts, void (*run)(void *context, int part), void *context);

/* Whether a call that began now could have a worker's help. */
int clstm_gets_help(void);

/* Inside a part: whether this is the child of a fork that this thread made there. The workers of its call stayed with
 * the parent, so that some parts may never end. */
int clstm_workers_lost(void);

/* Between these two, a caller may have more for workers to do: they stay awake a little longer for it. */
void clstm_expect_work(void);
void clstm_expect_no_work(void);

/* How many threads can run at the same time: the limit, or fewer if there are fewer processors. */
int clstm_most_at_once(void);

#endif

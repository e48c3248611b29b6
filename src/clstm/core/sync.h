/* Locks, condition variables and detached threads: POSIX, or Windows. Locks and conditions start as {0}-like statics
 * (SYNC_LOCK_INIT, SYNC_CONDITION_INIT) and need no destruction. */
#ifndef CLSTM_SYNC_H
#define CLSTM_SYNC_H

#if defined(_WIN32)
#include <windows.h>

typedef SRWLOCK sync_lock;
typedef CONDITION_VARIABLE sync_condition;
#define SYNC_LOCK_INIT SRWLOCK_INIT
#define SYNC_CONDITION_INIT CONDITION_VARIABLE_INIT

static inline void sync_acquire(sync_lock *lock) { AcquireSRWLockExclusive(lock); }
static inline void sync_release(sync_lock *lock) { ReleaseSRWLockExclusive(lock); }
static inline void sync_wait(sync_condition *condition, sync_lock *lock) {
    SleepConditionVariableSRW(condition, lock, INFINITE, 0);
}
static inline void sync_wake_one(sync_condition *condition) { WakeConditionVariable(condition); }
static inline void sync_wake_all(sync_condition *condition) { WakeAllConditionVariable(condition); }

#define SYNC_THREAD(name) static DWORD WINAPI name(void *unused)
static inline int sync_start(DWORD(WINAPI *run)(void *)) {
    HANDLE thread = CreateThread(NULL, 0, run, NULL, 0, NULL);
    return thread && CloseHandle(thread);
}

static inline int sync_processors(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return (int)info.dwNumberOfProcessors;
}

#else
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#endif

typedef pthread_mutex_t sync_lock;
typedef pthread_cond_t sync_condition;
#define SYNC_LOCK_INIT PTHREAD_MUTEX_INITIALIZER
#define SYNC_CONDITION_INIT PTHREAD_COND_INITIALIZER

static inline void sync_acquire(sync_lock *lock) { pthread_mutex_lock(lock); }
static inline void sync_release(sync_lock *lock) { pthread_mutex_unlock(lock); }
static inline void sync_wait(sync_condition *condition, sync_lock *lock) { pthread_cond_wait(condition, lock); }
static inline void sync_wake_one(sync_condition *condition) { pthread_cond_signal(condition); }
static inline void sync_wake_all(sync_condition *condition) { pthread_cond_broadcast(condition); }

/* The thread receives no signals: they belong to the threads of the program. Returns 1 when it runs. */
#define SYNC_THREAD(name) static void *name(void *unused)
static inline int sync_start(void *(*run)(void *)) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    int started = pthread_create(&thread, NULL, run, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started && pthread_detach(thread) == 0;
}

/* Processors that this process may run on. */
static inline int sync_processors(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}
#endif

#endif

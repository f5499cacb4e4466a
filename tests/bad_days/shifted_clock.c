/* For LD_PRELOAD: the process and its children live $SHIFTED_CLOCK_SECONDS in the future, or in the past.

   Only the time of day is shifted. Clocks that count on from the start are right on a machine whose date is wrong. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t shift(void)
{
    const char *seconds = getenv("SHIFTED_CLOCK_SECONDS");
    return seconds ? (time_t)atol(seconds) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += shift();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone)
{
    int failed = (int)syscall(SYS_gettimeofday, now, zone);
    if (!failed && now)
        now->tv_sec += shift();
    return failed;
}

time_t time(time_t *now)
{
    struct timespec read;
    clock_gettime(CLOCK_REALTIME, &read);
    if (now)
        *now = read.tv_sec;
    return read.tv_sec;
}

/* The kernel's own clock is right, so a time of day to wait for has to be shifted back. */
int sem_timedwait(sem_t *semaphore, const struct timespec *until)
{
    int (*real)(sem_t *, const struct timespec *) = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec shifted = *until;
    shifted.tv_sec -= shift();
    return real(semaphore, &shifted);
}

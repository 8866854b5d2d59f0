/*
 * clock.h - seconds of CLOCK_MONOTONIC, and waiting for some
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CLOCK_H
#define CLOCK_H

#include <time.h>

static inline double clock_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void clock_nap(double seconds)
{
    const struct timespec t = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};

    nanosleep(&t, NULL);
}

#endif

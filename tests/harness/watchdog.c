/*
 * watchdog.c - a test that hangs ends here
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/harness/ranks.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_t thread;
static int armed;
static const char *guarded;
static struct timespec until;

static void *watch(void *arg)
{
    (void)arg;
    pthread_mutex_lock(&lock);
    while (armed) {
        if (pthread_cond_timedwait(&changed, &lock, &until) != ETIMEDOUT || !armed)
            continue;
        fprintf(stderr, "watchdog: %s did not end in time\n", guarded);
        abort();
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

void watchdog_arm(const char *what, double seconds)
{
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)seconds + 1;
    guarded = what;
    armed = 1;
    if (pthread_create(&thread, NULL, watch, NULL) != 0)
        abort();
}

void watchdog_disarm(void)
{
    pthread_mutex_lock(&lock);
    armed = 0;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
}

/*
 * queue.c - who runs the queued operations, in which order, and who waits
 *
 * Any thread that waits drives the queues; so does the device thread, once there is one. One operation runs at a time. The next one
 * is drawn at random from those whose predecessor in the stream and whose events are done.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/sim.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

pthread_mutex_t xp_sim_lock = PTHREAD_MUTEX_INITIALIZER;

static pthread_cond_t changed; /* an operation ended, was enqueued, or the engine became free */
static bool busy;              /* an operation runs, */
static unsigned turned_away;   /* and so many threads wait for its end, whether it ends or only pauses */
static uint64_t next_id;
static unsigned queued;
static struct clock host; /* what the host knows to be done */
static __thread struct node *current;

static pthread_t device_thread;
static bool device_on, stopping;
static unsigned delay_us = 2000, look_us = 50;
static double patience = 120;
static const char *told_times; /* CUEMU_TIMES */

double xp_sim_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double number_of(const char *name, double otherwise)
{
    const char *text = getenv(name);

    return text && *text ? strtod(text, NULL) : otherwise;
}

__attribute__((constructor)) static void set_up(void)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &attr);
    pthread_condattr_destroy(&attr);
    delay_us = (unsigned)number_of("CUEMU_DELAY_US", delay_us);
    look_us = (unsigned)number_of("CUEMU_LOOK_US", look_us);
    patience = number_of("CUEMU_TIMEOUT_S", patience);
    told_times = getenv("CUEMU_TIMES");
}

static void pause_us(unsigned us)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)us * 1000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&changed, &xp_sim_lock, &until);
}

/* ---- random numbers */

static uint64_t seed, state;

static void draw_seed(void)
{
    const char *text = getenv("CUEMU_SEED");
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    seed = text && *text ? strtoull(text, NULL, 0) : ((uint64_t)t.tv_nsec << 16 ^ (uint64_t)getpid()) & 0xffffffffu;
    state = seed * 0x9e3779b97f4a7c15u + 1;
}

uint64_t xp_cuemu_seed(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, draw_seed);
    return seed;
}

uint32_t xp_sim_random(void)
{
    xp_cuemu_seed();
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

uint32_t xp_cuemu_random(void)
{
    pthread_mutex_lock(&xp_sim_lock);
    uint32_t r = xp_sim_random();
    pthread_mutex_unlock(&xp_sim_lock);
    return r;
}

/* ---- nodes */

struct node *xp_sim_node(const struct xp_cuemu_op *op, unsigned maxdeps)
{
    struct node *node = calloc(1, sizeof *node);

    if (node) {
        node->op = *op;
        node->deps = maxdeps ? calloc(maxdeps, sizeof(struct node *)) : NULL;
        if (maxdeps && !node->deps) {
            free(node);
            return NULL;
        }
        node->refs = 1;
        node->id = ++next_id;
        node->clock = host;
    }
    return node;
}

void xp_sim_hold(struct node *node)
{
    node->refs++;
}

void xp_sim_release(struct node *node)
{
    if (node && --node->refs == 0) {
        free(node->deps);
        free(node);
    }
}

/* A done one counts as well: its clock does. */
void xp_sim_dep(struct node *node, struct node *on)
{
    if (on) {
        xp_sim_hold(on);
        node->deps[node->ndeps++] = on;
    }
}

static void *device_main(void *unused);

static void start_device(void)
{
    if (device_on || stopping)
        return;
    device_on = pthread_create(&device_thread, NULL, device_main, NULL) == 0;
}

void xp_sim_push(struct CUstream_st *stream, struct node *node)
{
    node->stream = stream;
    node->refs++; /* the queue's and, as tail, the stream's */
    if (stream->head)
        stream->tail->next = node;
    else
        stream->head = node;
    xp_sim_release(stream->tail);
    stream->tail = node;
    queued++;
    if (node->op.outside)
        start_device();
    pthread_cond_broadcast(&changed);
}

/* ---- running */

static bool ready(const struct node *node)
{
    for (unsigned i = 0; i < node->ndeps; i++)
        if (!node->deps[i]->done)
            return false;
    return true;
}

/* Draws one of the operations that may run now; those in tried[] had nothing to do a moment ago. */
static struct node *draw(const uint64_t *tried, unsigned ntried)
{
    struct node *found = NULL;
    unsigned n = 0;

    for (struct CUstream_st *s = xp_sim_streams(); s; s = s->next) {
        struct node *node = s->head;
        bool was = false;
        if (!node || !ready(node))
            continue;
        for (unsigned i = 0; i < ntried && !was; i++)
            was = tried[i] == node->id;
        if (!was && xp_sim_random() % ++n == 0)
            found = node;
    }
    return found;
}

static void set_clock(struct node *node)
{
    xp_sim_join(&node->clock, &node->stream->clock);
    for (unsigned i = 0; i < node->ndeps; i++)
        xp_sim_join(&node->clock, &node->deps[i]->clock);
    if (node->meets_host)
        xp_sim_join(&node->clock, &host);
    if (!node->started)
        node->clock.tick[node->stream->slot]++;
}

/* Seconds that an operation takes by CUEMU_TIMES. */
static double told_time(const char *name)
{
    size_t length = strlen(name);

    for (const char *at = told_times; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, length) == 0 && at[length] == '=')
            return 1e-6 * strtod(at + length + 1, NULL);
    }
    return 0;
}

/* When it ended: now, or as long as it is said to take after all that it waited for. */
static double end_of(const struct node *node)
{
    double begin = node->stream->ended;

    if (!told_times)
        return xp_sim_seconds();
    for (unsigned i = 0; i < node->ndeps; i++)
        begin = node->deps[i]->ended > begin ? node->deps[i]->ended : begin;
    return begin + told_time(node->op.name);
}

static void finish(struct node *node)
{
    struct CUstream_st *stream = node->stream;

    if (node->meets_host) {
        xp_sim_join(&node->clock, &host);
        xp_sim_join(&host, &node->clock);
    }
    stream->clock = node->clock;
    stream->head = node->next;
    node->next = NULL;
    node->done = true;
    node->ended = stream->ended = end_of(node);
    for (unsigned i = 0; i < node->ndeps; i++)
        xp_sim_release(node->deps[i]);
    node->ndeps = 0;
    queued--;
    xp_sim_reap(stream);
    xp_sim_release(node);
}

/* Runs one operation, the lock released meanwhile. */
static bool run(struct node *node)
{
    bool first = !node->started;

    set_clock(node);
    node->started = true;
    busy = true;
    current = node;
    xp_sim_open_memory(true);
    pthread_mutex_unlock(&xp_sim_lock);
    bool done = node->op.run(node->op.arg, first) == XP_CUEMU_DONE;
    if (done && node->op.drop)
        node->op.drop(node->op.arg);
    pthread_mutex_lock(&xp_sim_lock);
    xp_sim_open_memory(false);
    current = NULL;
    busy = false;
    if (done)
        finish(node);
    if (done || turned_away) /* to wake all those that have just looked would make them look without end */
        pthread_cond_broadcast(&changed);
    return done;
}

/* Runs up to `most` operations to their end (0: until nothing moves). *waiting: some wait for the world outside. */
unsigned xp_sim_step(unsigned most, bool *waiting)
{
    uint64_t tried[MAX_STREAMS];
    unsigned ended = 0, ntried = 0;
    struct node *node;

    *waiting = false;
    while (!busy && (!most || ended < most) && ntried < MAX_STREAMS && (node = draw(tried, ntried))) {
        uint64_t id = node->id;
        if (run(node)) {
            ended++;
            ntried = 0;
        } else {
            tried[ntried++] = id;
            *waiting = true;
        }
    }
    return ended;
}

static void stuck(void)
{
    fprintf(stderr, "cuemu: nothing moved for %.0f s (CUEMU_SEED=%llu); at the heads of the streams:\n", patience,
            (unsigned long long)xp_cuemu_seed());
    for (struct CUstream_st *s = xp_sim_streams(); s; s = s->next)
        if (s->head)
            fprintf(stderr, "  device %d stream %u: %s, %s\n", s->device, s->slot, s->head->op.name,
                    ready(s->head) ? "running without end" : "waits for an event");
    fflush(stderr);
    _exit(EXIT_STUCK);
}

/* One round of a waiting thread; *since: when something last moved. */
static void wait_round(double *since)
{
    bool waiting;
    uint64_t before = next_id;

    if (!busy && xp_sim_step(1, &waiting)) {
        *since = xp_sim_seconds();
        return;
    }
    if (busy) {
        turned_away++;
        pause_us(1000);
        turned_away--;
    } else {
        pause_us(look_us);
    }
    if (next_id != before)
        *since = xp_sim_seconds();
    if (xp_sim_seconds() - *since > patience)
        stuck();
}

void xp_sim_host_saw(const struct clock *clock)
{
    xp_sim_join(&host, clock);
}

void xp_sim_wait(struct node *node)
{
    double since = xp_sim_seconds();

    if (!node)
        return;
    xp_sim_hold(node);
    while (!node->done)
        wait_round(&since);
    xp_sim_host_saw(&node->clock);
    xp_sim_release(node);
}

/* What is in the queues now; what others add meanwhile is not waited for. */
void xp_sim_wait_all(int device)
{
    struct node *tails[MAX_STREAMS];
    unsigned n = 0;

    for (struct CUstream_st *s = xp_sim_streams(); s && n < MAX_STREAMS; s = s->next)
        if (s->tail && (device < 0 || s->device == device)) {
            xp_sim_hold(s->tail);
            tails[n++] = s->tail;
        }
    for (unsigned i = 0; i < n; i++) {
        xp_sim_wait(tails[i]);
        xp_sim_release(tails[i]);
    }
}

struct node *xp_sim_current(void)
{
    return current;
}

bool xp_sim_in_op(const char *call)
{
    if (!current)
        return false;
    xp_cuemu_violation("%s called inside an operation of a stream (%s)", call, current->op.name);
    return true;
}

/* ---- the device thread: what is queued runs in the end, also when nobody asks */

static void *device_main(void *unused)
{
    bool waiting;

    pthread_mutex_lock(&xp_sim_lock);
    while (!stopping) {
        if (!queued) {
            pause_us(100000);
            continue;
        }
        if (delay_us)
            pause_us(1 + xp_sim_random() % delay_us);
        if (!busy && !stopping && !xp_sim_step(1 + xp_sim_random() % 4, &waiting) && waiting)
            pause_us(2 * look_us);
    }
    pthread_mutex_unlock(&xp_sim_lock);
    return NULL;
}

__attribute__((destructor)) static void tear_down(void)
{
    struct timespec until;
    bool join;

    pthread_mutex_lock(&xp_sim_lock);
    stopping = true;
    join = device_on && !pthread_equal(device_thread, pthread_self());
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&xp_sim_lock);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 2;
    if (join)
        pthread_timedjoin_np(device_thread, NULL, &until);
}

/* ---- the hooks */

uint64_t xp_cuemu_running(void)
{
    return current ? (uint64_t)current->stream->slot << 32 | current->clock.tick[current->stream->slot] : 0;
}

int xp_cuemu_ordered(uint64_t earlier)
{
    return !current || current->clock.tick[earlier >> 32] >= (uint32_t)earlier;
}

void xp_cuemu_reads(const void *p, size_t bytes)
{
    pthread_mutex_lock(&xp_sim_lock);
    xp_sim_access(current, p, bytes, false);
    pthread_mutex_unlock(&xp_sim_lock);
}

void xp_cuemu_writes(void *p, size_t bytes)
{
    pthread_mutex_lock(&xp_sim_lock);
    xp_sim_access(current, p, bytes, true);
    pthread_mutex_unlock(&xp_sim_lock);
}

unsigned xp_cuemu_step(unsigned most)
{
    bool waiting;

    pthread_mutex_lock(&xp_sim_lock);
    unsigned n = xp_sim_step(most, &waiting);
    pthread_mutex_unlock(&xp_sim_lock);
    return n;
}

int xp_cuemu_drain(void)
{
    if (xp_sim_in_op("xp_cuemu_drain"))
        return NOT_PERMITTED;
    pthread_mutex_lock(&xp_sim_lock);
    xp_sim_wait_all(-1);
    pthread_mutex_unlock(&xp_sim_lock);
    return OK;
}

/*
 * comm.c - the life of a communicator, and who may be inside it
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/syscall.h>
#include <unistd.h>

#include "lib/bootstrap.h"
#include "lib/fork.h"
#include "lib/liveness.h"
#include "lib/routes.h"

#define NEWS_SECONDS 0.5     /* by which the news of a death may be later than its consequences */
#define LINGER_SECONDS 5.0   /* what a rank that leaves grants peers that are busy elsewhere */
#define DEPARTED_SECONDS 1.0 /* what a rank sent before it left has arrived by then, if anybody looks */

void xp_config_init(xp_config *cfg)
{
    if (!cfg)
        return;
    memset(cfg, 0, sizeof(*cfg));
    cfg->size = sizeof(*cfg);
}

void xp_bootstrap_init(xp_bootstrap *boot)
{
    if (!boot)
        return;
    memset(boot, 0, sizeof(*boot));
    boot->size = sizeof(*boot);
}

/* ------------------------------------------------------------------------------------------------ creation */

static xp_status check_arguments(xp_comm **out, const xp_bootstrap *boot, const xp_config *cfg)
{
    if (!out)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "xp_comm_create: out is NULL");
    if (boot && boot->size != sizeof(*boot))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "xp_comm_create: boot was not filled by xp_bootstrap_init");
    if (cfg && cfg->size != sizeof(*cfg))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "xp_comm_create: cfg was not filled by xp_config_init");
    if (boot && boot->threads && boot->allgather)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "xp_comm_create: boot has both threads and allgather");
    if (cfg && !(cfg->timeout_s >= 0 && cfg->timeout_s <= 1e9))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "xp_comm_create: timeout_s is out of range");
    return XP_OK;
}

static void warn_setting(void *comm, const char *text)
{
    xp_log(comm, XP_LOG_WARN, "%s", text);
}

static int copy_setting(char *out, size_t size, const char *value)
{
    if (!value)
        return 1;
    if (strlen(value) >= size)
        return 0;
    snprintf(out, size, "%s", value);
    return 1;
}

/* The environment, then what the caller set. */
static xp_status read_settings(struct xp_comm *c, const xp_config *cfg)
{
    static const char *const transports[] = {"auto", "shm", "tcp", "ucx"};
    struct xp_params *p = &c->params;
    char text[256];
    int known = 0;
    xp_status s;

    if (cfg) {
        c->log = cfg->log;
        c->log_user = cfg->log_user;
    }
    s = xp_params_read(p, warn_setting, c, text, sizeof(text));
    if (s != XP_OK)
        return xp_error(c, s, "%s", text);
    if (!cfg)
        return XP_OK;
    if (cfg->timeout_s > 0)
        p->timeout = cfg->timeout_s;
    if (!copy_setting(p->node, sizeof(p->node), cfg->node) ||
        !copy_setting(p->transport, sizeof(p->transport), cfg->transport) ||
        !copy_setting(p->interface_, sizeof(p->interface_), cfg->interface_))
        return xp_error(c, XP_ERR_INVALID_ARG, "xp_comm_create: a text in cfg is too long");
    for (size_t i = 0; i < sizeof(transports) / sizeof(transports[0]); i++)
        known |= strcmp(p->transport, transports[i]) == 0;
    if (!known)
        return xp_error(c, XP_ERR_INVALID_ARG, "xp_comm_create: transport \"%s\" is not auto, shm, tcp or ucx", p->transport);
    return XP_OK;
}

/* Finds the group and starts to watch it. Writes the interface this went through, "" = unknown. */
static xp_status join_group(struct xp_comm *c, const xp_bootstrap *boot, char *interface_, size_t size)
{
    struct xp_bootstrap_net net;
    char text[sizeof(c->error)] = "";
    xp_status s = xp_bootstrap_run(&net, boot, &c->params, text, sizeof(text));

    interface_[0] = '\0';
    if (s != XP_OK)
        return xp_error(c, s, "%s", text);
    c->rank = net.rank;
    c->size = net.size;
    c->job = net.job;
    if (c->size == 1) {
        xp_star_close(&net);
        return XP_OK;
    }
    xp_interface_of_socket(net.rank == 0 ? net.fds[1] : net.fds[0], interface_, size);
    s = xp_liveness_start(&c->live, &net, c->params.heartbeat);
    if (s != XP_OK) {
        xp_star_close(&net);
        return xp_error(c, s, "start-up: rank %d cannot start its liveness thread", c->rank);
    }
    return XP_OK;
}

static xp_status build(struct xp_comm *c, const xp_bootstrap *boot, const xp_config *cfg)
{
    struct xp_place mine, *places;
    char interface_[32];
    xp_status s = read_settings(c, cfg);

    if (s == XP_OK)
        s = join_group(c, boot, interface_, sizeof(interface_));
    if (s != XP_OK)
        return s;
    places = calloc((size_t)c->size, sizeof(*places));
    if (!places)
        return xp_error(c, XP_ERR_NO_MEMORY, "no memory for the places of %d ranks", c->size);
    xp_place_read(&mine, c->params.node);
    s = xp_comm_allgather_inside(c, "topology", &mine, places, sizeof(mine));
    if (s == XP_OK && !xp_topology_build(c, places))
        s = xp_error(c, XP_ERR_NO_MEMORY, "no memory for the topology of %d ranks", c->size);
    if (s == XP_OK)
        s = xp_routes_open(c, places, interface_[0] ? interface_ : NULL);
    free(places);
    return s;
}

/*
 * A broken connection is often only the echo of a death elsewhere: a peer that has heard of it hangs up before the news is
 * here. Gives the news a moment; returns the error to report, whose text is then in text.
 */
static xp_status find_cause(struct xp_comm *c, xp_status s, char *text, size_t size)
{
    if ((s == XP_ERR_REMOTE || s == XP_ERR_SYSTEM) && xp_liveness_await_news(c->live, NEWS_SECONDS) != XP_OK) {
        xp_routes_fail(c, xp_liveness_news(c->live, text, size));
        return xp_liveness_health(c->live);
    }
    return s;
}

/* Tells all ranks that this one gives up, and why. Returns the error to report, as find_cause. */
static xp_status tell_all(struct xp_comm *c, xp_status s, char *text, size_t size)
{
    s = find_cause(c, s, text, size);
    xp_liveness_revoke(c->live, s, text);
    return s;
}

/* Nobody else need wait for this rank. Where the group has failed, that is the reason, not what this rank saw of it. */
static xp_status give_up_start(struct xp_comm *c, xp_status s)
{
    char text[sizeof(c->error)];

    memcpy(text, c->error, sizeof(text));
    s = tell_all(c, s, text, sizeof(text));
    return xp_error(c, s, "start-up: %s", text);
}

static void tear_down(struct xp_comm *c)
{
    xp_fork_unwatch(c);
    xp_routes_close(c);
    xp_liveness_stop(c->live);
    xp_topology_free(c);
    free(c);
}

xp_status xp_comm_create(xp_comm **out, const xp_bootstrap *boot, const xp_config *cfg)
{
    struct xp_comm *c;
    xp_status s = check_arguments(out, boot, cfg);

    if (s != XP_OK)
        return s;
    c = calloc(1, sizeof(*c));
    if (!c)
        return xp_error(NULL, XP_ERR_NO_MEMORY, "xp_comm_create: no memory");
    c->size = 1;
    c->forks = xp_fork_count();
    xp_fork_watch(c);
    s = build(c, boot, cfg);
    if (s != XP_OK) {
        if (c->live)
            s = give_up_start(c, s);
        tear_down(c);
        return s;
    }
    xp_log(c, XP_LOG_INFO, "comm of %d ranks on %d nodes is ready", c->size, c->nodes);
    *out = c;
    return XP_OK;
}

/* Slow peers may still have to take rows that this rank's exchanges have sent. */
static void let_rows_leave(struct xp_comm *c)
{
    double end = xp_now() + LINGER_SECONDS;
    unsigned idle = 0;

    if (!c->live || xp_liveness_health(c->live) != XP_OK)
        return;
    xp_liveness_say_goodbye(c->live);
    while (!xp_routes_flushed(c) && xp_liveness_health(c->live) == XP_OK && xp_now() < end) {
        idle = xp_comm_progress(c) > 0 ? 0 : idle + 1;
        if (idle > 0)
            xp_comm_idle(c, idle);
    }
}

void xp_comm_destroy(xp_comm *c)
{
    int gone = -1;
    char text[XP_BAD_NEWS_MAX];

    if (!c || c->forks != xp_fork_count())
        return; /* a forked child owns nothing of it */
    if (xp_comm_enter(c) != XP_OK)
        return;
    if (c->plans > 0)
        xp_log(c, XP_LOG_ERROR, "comm destroyed while %d of its plans are alive", c->plans);
    if (c->live && xp_liveness_health(c->live) != XP_OK)
        gone = xp_liveness_news(c->live, text, sizeof(text));
    xp_routes_fail(c, gone);
    let_rows_leave(c);
    tear_down(c);
}

/* ------------------------------------------------------------------------------------------------- queries */

int xp_comm_rank(const xp_comm *comm)
{
    return comm ? comm->rank : -1;
}

int xp_comm_size(const xp_comm *comm)
{
    return comm ? comm->size : 0;
}

int xp_comm_nodes(const xp_comm *comm)
{
    return comm ? comm->nodes : 0;
}

int xp_comm_node_of(const xp_comm *comm, int rank)
{
    return comm && rank >= 0 && rank < comm->size ? comm->node_of[rank] : -1;
}

/* ----------------------------------------------------------------------------------------- who may be inside */

static unsigned this_thread(void)
{
    static _Thread_local unsigned id;

    if (id == 0)
        id = (unsigned)syscall(SYS_gettid);
    return id;
}

xp_status xp_comm_enter(struct xp_comm *c)
{
    unsigned none = 0, me = this_thread();

    if (c->forks != xp_fork_count())
        return xp_error(NULL, XP_ERR_STATE, "this comm belongs to the parent process: a forked child cannot use it");
    if (atomic_load_explicit(&c->owner, memory_order_relaxed) != me) {
        if (!atomic_compare_exchange_strong_explicit(&c->owner, &none, me, memory_order_acquire, memory_order_relaxed))
            return xp_error(NULL, XP_ERR_STATE, "another thread is inside this comm");
    }
    c->depth++;
    return XP_OK;
}

void xp_comm_leave(struct xp_comm *c)
{
    if (--c->depth == 0)
        atomic_store_explicit(&c->owner, 0, memory_order_release);
}

/* -------------------------------------------------------------------------------------------- small gathers */

xp_status xp_comm_allgather_inside(struct xp_comm *c, const char *what, const void *in, void *out, size_t len)
{
    char text[XP_BAD_NEWS_MAX];
    xp_status s;

    if (!c->live) {
        if (len > 0)
            memmove(out, in, len);
        return XP_OK;
    }
    s = xp_liveness_gather(c->live, what, in, out, len, c->params.timeout, text, sizeof(text));
    if (s == XP_OK)
        return s;
    c->failed |= xp_liveness_health(c->live) != XP_OK;
    return xp_error(c, s, "%s", text);
}

xp_status xp_comm_allgather(xp_comm *comm, const void *in, void *out, size_t len)
{
    xp_status s;

    if (!comm)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "xp_comm_allgather: comm is NULL");
    s = xp_comm_enter(comm);
    if (s != XP_OK)
        return s;
    if (len > XP_GATHER_MAX || (len > 0 && (!in || !out)))
        s = xp_error(comm, XP_ERR_INVALID_ARG, "allgather: %s",
                     len > XP_GATHER_MAX ? "more than 1 MiB of a rank" : "a buffer is NULL");
    else
        s = xp_comm_allgather_inside(comm, "allgather", in, out, len);
    xp_comm_leave(comm);
    return s;
}

xp_status xp_comm_barrier(xp_comm *comm)
{
    xp_status s;

    if (!comm)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "xp_comm_barrier: comm is NULL");
    s = xp_comm_enter(comm);
    if (s != XP_OK)
        return s;
    s = xp_comm_allgather_inside(comm, "barrier", NULL, NULL, 0);
    xp_comm_leave(comm);
    return s;
}

/* ---------------------------------------------------------------------------------------- progress and health */

xp_status xp_comm_health(struct xp_comm *c)
{
    xp_status s = c->live ? xp_liveness_health(c->live) : XP_OK;
    char text[XP_BAD_NEWS_MAX];
    int gone;

    if (s == XP_OK)
        return s;
    gone = xp_liveness_news(c->live, text, sizeof(text));
    if (!c->failed) {
        c->failed = 1;
        xp_routes_fail(c, gone);
        return xp_error(c, s, "%s", text);
    }
    snprintf(c->error, sizeof(c->error), "%s", text);
    return s;
}

xp_status xp_comm_revoke(struct xp_comm *c, xp_status s, const char *fmt, ...)
{
    char text[XP_BAD_NEWS_MAX];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (c->live)
        s = tell_all(c, s, text, sizeof(text));
    c->failed = 1;
    return xp_error(c, s, "%s", text);
}

/* Ranks that left in good order owe nothing; but what is still awaited of them will never come. */
static void handle_departures(struct xp_comm *c, int moved)
{
    unsigned n = xp_liveness_departures(c->live);

    if (n == c->departures && c->departed_at == 0)
        return;
    if (n != c->departures || moved > 0) {
        c->departures = n;
        c->departed_at = xp_now();
        return;
    }
    if (xp_now() - c->departed_at < DEPARTED_SECONDS)
        return;
    c->departed_at = 0;
    for (int r = 0; r < c->size; r++)
        if (r != c->rank && xp_liveness_has_left(c->live, r))
            xp_routes_fail(c, r);
}

int xp_comm_progress(struct xp_comm *c)
{
    int moved = 0;

    if (c->shm)
        moved += c->shm->ops->progress(c->shm);
    if (c->ucx)
        moved += c->ucx->ops->progress(c->ucx);
    if (c->live)
        handle_departures(c, moved);
    return moved;
}

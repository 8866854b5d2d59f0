/*
 * bootstrap.c - from "here are some ranks" to the star of sockets
 *
 * Three ways lead there. With an allgather at hand (threads, a user's callback, PMI) rank 0 listens where it likes and tells the
 * others address and secret. A door is the same in one step: rank 0 listens before it knows the others, and the caller carries
 * address and secret. With a launcher's environment only, the address of rank 0 is agreed beforehand and the
 * secret is CROSSPRESS_SECRET, or else is made from what the launcher set for this job: that keeps out strangers and stale
 * ranks, not an attacker who can read the environment of the job.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sodium.h>

#include "config.h"
#include "lib/bootstrap.h"
#include "lib/comm.h"
#include "lib/host.h"
#include "lib/launcher.h"
#include "lib/pmi.h"
#include "lib/thread_group.h"

#define START_SECONDS 60.0
#define ROOT_ADDRESSES 4

/* One start-up under way. */
struct start {
    struct xp_bootstrap_net *net;
    const struct xp_params *p;
    struct xp_identity me;
    double deadline;
    char *err;
    size_t err_size;
};

/* Settings that must be equal on all ranks, one a line; a difference is reported by its line. */
static void describe_settings(const struct xp_params *p, char *text, size_t size)
{
    static const char *const equal[] = {"MODE", "EPS", "EPS_REF", "CODEC", "RATE", "ALGO", "TRANSPORT", "ROW", "CHUNK",
                                        "HEARTBEAT"};
    size_t at = (size_t)snprintf(text, size, "version %s\n", XP_VERSION);

    for (size_t i = 0; i < sizeof(equal) / sizeof(equal[0]) && at < size; i++) {
        char value[64];
        const char *source;

        xp_params_show(p, equal[i], value, sizeof(value), &source);
        at += (size_t)snprintf(text + at, size - at, "CROSSPRESS_%s %s\n", equal[i], value);
    }
}

static uint64_t number_of(const char *text)
{
    uint8_t hash[crypto_hash_sha256_BYTES];

    crypto_hash_sha256(hash, (const uint8_t *)text, strlen(text));
    return xp_get64(hash);
}

/* ----------------------------------------------------------------------------------- with an allgather */

/* Round 1: where every rank is. */
struct where {
    struct xp_host host;
    struct xp_address address; /* a reachable one of this host, if it has any */
};

/* Round 2: rank 0's door; the others only say whether they are still there. */
struct door {
    int32_t status;
    struct xp_address address;
    uint8_t secret[16];
    char text[160];
};

_Static_assert(sizeof(struct where) <= XP_PMI_MAX && sizeof(struct door) <= XP_PMI_MAX, "both fit into a PMI value");

struct gatherer {
    xp_allgather_fn fn;
    void *user;
    const char *text; /* where fn leaves the text of its failure, or NULL */
};

static xp_status gather(struct start *s, const struct gatherer *g, const void *in, void *out, size_t len)
{
    int e = g->fn(g->user, in, out, len);

    if (e == 0)
        return XP_OK;
    if (g->text) {
        snprintf(s->err, s->err_size, "%s", g->text);
        return (xp_status)e;
    }
    snprintf(s->err, s->err_size, "start-up: the allgather of the caller returned %d", e);
    return XP_ERR_REMOTE;
}

/* The address rank 0 listens on: as private as the ranks allow. */
static xp_status choose_address(struct start *s, const struct where *all, struct xp_address *out)
{
    int far = -1;

    for (int r = 1; r < s->me.size && far < 0; r++)
        if (strcmp(all[r].host.boot, all[0].host.boot) != 0 || all[r].host.netns != all[0].host.netns)
            far = r;
    if (s->p->interface_[0]) {
        if (xp_address_of_interface(s->p->interface_, out))
            return XP_OK;
        snprintf(s->err, s->err_size, "start-up: interface \"%s\" (CROSSPRESS_INTERFACE) has no address", s->p->interface_);
        return XP_ERR_INVALID_ARG;
    }
    if (far < 0) {
        xp_address_loopback(out, 0);
        return XP_OK;
    }
    if ((all[far].address.len && xp_address_facing(&all[far].address, out)) || xp_address_of_interface(NULL, out))
        return XP_OK;
    snprintf(s->err, s->err_size, "start-up: rank 0 has no network address that other hosts could reach");
    return XP_ERR_SYSTEM;
}

/* Rank 0: opens the door. Returns the listening socket, or -1 with door->status and door->text saying why. */
static int open_door(struct start *s, const struct where *all, struct door *door)
{
    int fd;

    door->status = choose_address(s, all, &door->address);
    if (door->status != XP_OK) {
        snprintf(door->text, sizeof(door->text), "%.159s", s->err);
        return -1;
    }
    xp_address_set_port(&door->address, 0);
    fd = xp_socket_listen(&door->address);
    if (fd < 0) {
        door->status = XP_ERR_SYSTEM;
        snprintf(door->text, sizeof(door->text), "start-up: rank 0 cannot listen: %s", strerror(-fd));
        return -1;
    }
    randombytes_buf(door->secret, sizeof(door->secret));
    return fd;
}

static xp_status first_failure(struct start *s, const struct door *doors)
{
    for (int r = 0; r < s->me.size; r++) {
        if (doors[r].status == XP_OK)
            continue;
        snprintf(s->err, s->err_size, "%.*s", (int)sizeof(doors[r].text) - 1, doors[r].text);
        return doors[r].status < 0 ? (xp_status)doors[r].status : XP_ERR_REMOTE;
    }
    return XP_OK;
}

/* Round 2 and the star, with everybody's place known. */
static xp_status meet(struct start *s, const struct gatherer *g, const struct where *all, struct door *doors)
{
    struct door mine;
    int listener = -1;
    xp_status e;

    memset(&mine, 0, sizeof(mine));
    if (s->me.rank == 0)
        listener = open_door(s, all, &mine);
    e = gather(s, g, &mine, doors, sizeof(mine));
    if (e == XP_OK)
        e = first_failure(s, doors);
    if (e == XP_OK) {
        if (s->p->secret[0])
            xp_handshake_key(s->me.key, s->p->secret, strlen(s->p->secret));
        else
            xp_handshake_key(s->me.key, doors[0].secret, sizeof(doors[0].secret));
        if (s->me.rank == 0)
            e = xp_star_gather(s->net, listener, &s->me, s->deadline, s->err, s->err_size);
        else
            e = xp_star_join(s->net, &doors[0].address, 1, &s->me, s->deadline, s->err, s->err_size);
    }
    if (listener >= 0)
        close(listener);
    sodium_memzero(&mine, sizeof(mine));
    sodium_memzero(doors, (size_t)s->me.size * sizeof(*doors));
    return e;
}

static xp_status start_by_allgather(struct start *s, const struct gatherer *g)
{
    size_t n = (size_t)s->me.size;
    struct where mine, *all = calloc(n, sizeof(*all));
    struct door *doors = calloc(n, sizeof(*doors));
    xp_status e = all && doors ? XP_OK : XP_ERR_NO_MEMORY;

    memset(&mine, 0, sizeof(mine));
    xp_host_read(&mine.host);
    xp_address_of_interface(s->p->interface_[0] ? s->p->interface_ : NULL, &mine.address);
    if (e == XP_OK)
        e = gather(s, g, &mine, all, sizeof(mine));
    if (e == XP_OK)
        e = meet(s, g, all, doors);
    free(all);
    free(doors);
    return e;
}

/* ------------------------------------------------------------------------------------------- by a door */

xp_status xp_door_open(char *text, size_t size, int *fd)
{
    struct xp_params p;
    struct xp_address at;
    char err[256], where[64];
    uint8_t secret[16];
    int listener;
    xp_status e;

    if (!text || !fd || size < XP_DOOR_MAX)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "xp_door_open: no room for %d characters, or for the socket", XP_DOOR_MAX);
    if (sodium_init() < 0)
        return xp_error(NULL, XP_ERR_SYSTEM, "xp_door_open: libsodium finds no source of random numbers");
    e = xp_params_read(&p, NULL, NULL, err, sizeof(err));
    if (e != XP_OK)
        return xp_error(NULL, e, "%s", err);
    if (!xp_address_of_interface(p.interface_[0] ? p.interface_ : NULL, &at)) {
        if (p.interface_[0])
            return xp_error(NULL, XP_ERR_INVALID_ARG, "xp_door_open: interface \"%s\" (CROSSPRESS_INTERFACE) has no address", p.interface_);
        xp_address_loopback(&at, 0); /* then nobody can come from elsewhere */
    }
    xp_address_set_port(&at, 0);
    listener = xp_socket_listen(&at);
    if (listener < 0)
        return xp_error(NULL, XP_ERR_SYSTEM, "xp_door_open: cannot listen: %s", strerror(-listener));
    randombytes_buf(secret, sizeof(secret));
    snprintf(text, size, "%s ", xp_address_text(&at, where, sizeof(where)));
    sodium_bin2hex(text + strlen(text), size - strlen(text), secret, sizeof(secret));
    *fd = listener;
    return XP_OK;
}

/* "10.0.0.1:4711 SECRET" or "[fe80::1]:4711 SECRET". Returns the secret; NULL: the text is none of a door. */
static const char *read_door(const char *text, struct xp_address *at)
{
    const char *space = strchr(text, ' '), *colon = space ? memrchr(text, ':', (size_t)(space - text)) : NULL;
    int bracket = text[0] == '[';
    char host[INET6_ADDRSTRLEN];
    long port = colon ? strtol(colon + 1, NULL, 10) : 0;
    size_t len = colon && colon - text >= 2 * bracket ? (size_t)(colon - text) - 2 * (size_t)bracket : 0;

    if (port < 1 || port > 65535 || len == 0 || len >= sizeof(host))
        return NULL;
    memcpy(host, text + bracket, len);
    host[len] = '\0';
    return xp_address_resolve(host, (int)port, at, 1) == 1 ? space + 1 : NULL;
}

/* --------------------------------------------------------------------------------- with an environment */

/* Rank 0 listens on the address that everybody knows. Returns the socket or -1 with a text. */
static int listen_as_agreed(struct start *s, const struct xp_launch *l)
{
    struct xp_address found[ROOT_ADDRESSES];
    int n, e = -EADDRNOTAVAIL;

    if (l->listen_fd >= 0) {
        e = fcntl(l->listen_fd, F_GETFL);
        if (e >= 0 && fcntl(l->listen_fd, F_SETFL, e | O_NONBLOCK) == 0 &&
            fcntl(l->listen_fd, F_SETFD, FD_CLOEXEC) == 0)
            return l->listen_fd;
        snprintf(s->err, s->err_size, "start-up (%s): CROSSPRESS_LISTEN_FD %d: %s", l->name, l->listen_fd, strerror(errno));
        return -1;
    }
    n = xp_address_resolve(l->host, l->port, found, ROOT_ADDRESSES);
    for (int port = l->port; port < l->port + l->nports; port++) {
        for (int i = 0; i < n; i++) {
            int fd;

            xp_address_set_port(&found[i], port);
            fd = xp_socket_listen(&found[i]);
            if (fd >= 0)
                return fd;
            e = fd;
        }
    }
    snprintf(s->err, s->err_size, "start-up (%s): rank 0 cannot listen on %s port %d: %s%s", l->name, l->host, l->port,
             n == 0 ? "unknown host" : strerror(-e),
             e == -EADDRNOTAVAIL ? "; set CROSSPRESS_ROOT=host:port to an address of rank 0's host" : "");
    return -1;
}

static xp_status join_as_agreed(struct start *s, const struct xp_launch *l)
{
    struct xp_address roots[ROOT_ADDRESSES * XP_LAUNCH_PORTS];
    int n = 0;

    for (int port = l->port; port < l->port + l->nports; port++)
        n += xp_address_resolve(l->host, port, roots + n, ROOT_ADDRESSES);
    if (n == 0) {
        snprintf(s->err, s->err_size, "start-up (%s): rank %d cannot resolve \"%s\", the host of rank 0", l->name, l->rank,
                 l->host);
        return XP_ERR_SYSTEM;
    }
    return xp_star_join(s->net, roots, n, &s->me, s->deadline, s->err, s->err_size);
}

static xp_status start_by_address(struct start *s, const struct xp_launch *l)
{
    const char *secret = s->p->secret[0] ? s->p->secret : l->identity;
    int listener;
    xp_status e;

    xp_handshake_key(s->me.key, secret, strlen(secret));
    s->me.job = number_of(l->identity);
    if (s->me.rank != 0)
        return join_as_agreed(s, l);
    if (s->me.size == 1) /* nobody to wait for: no socket */
        return xp_star_gather(s->net, -1, &s->me, s->deadline, s->err, s->err_size);
    listener = listen_as_agreed(s, l);
    if (listener < 0)
        return XP_ERR_SYSTEM;
    e = xp_star_gather(s->net, listener, &s->me, s->deadline, s->err, s->err_size);
    if (listener != l->listen_fd)
        close(listener);
    return e;
}

/* ------------------------------------------------------------------------------------------ the sources */

static xp_status run_threads(struct start *s, const xp_bootstrap *boot)
{
    struct xp_thread_seat seat = {.group = boot->threads, .rank = boot->rank, .deadline = s->deadline};
    struct gatherer g = {xp_thread_group_allgather, &seat, seat.err};
    xp_status e;

    s->me.rank = boot->rank;
    s->me.size = xp_thread_group_size(boot->threads);
    if (boot->rank < 0 || boot->rank >= s->me.size) {
        snprintf(s->err, s->err_size, "start-up: rank %d of a thread group of %d", boot->rank, s->me.size);
        return XP_ERR_INVALID_ARG;
    }
    e = start_by_allgather(s, &g);
    if (e != XP_OK)
        xp_thread_group_break(boot->threads, boot->rank, s->err[0] ? s->err : "start-up: no memory");
    return e;
}

/* The place that the caller names. */
static int take_place(struct start *s, const xp_bootstrap *boot)
{
    s->me.rank = boot->rank;
    s->me.size = boot->nranks;
    if (boot->nranks >= 1 && boot->rank >= 0 && boot->rank < boot->nranks)
        return 1;
    snprintf(s->err, s->err_size, "start-up: rank %d of %d ranks", boot->rank, boot->nranks);
    return 0;
}

static xp_status run_callback(struct start *s, const xp_bootstrap *boot)
{
    struct gatherer g = {boot->allgather, boot->allgather_user, NULL};
    return take_place(s, boot) ? start_by_allgather(s, &g) : XP_ERR_INVALID_ARG;
}

static xp_status run_door(struct start *s, const xp_bootstrap *boot)
{
    struct xp_address root;
    const char *secret;

    if (!take_place(s, boot))
        return XP_ERR_INVALID_ARG;
    secret = read_door(boot->door, &root);
    if (!secret) {
        snprintf(s->err, s->err_size, "start-up: \"%.60s\" is not the text of a door", boot->door);
        return XP_ERR_INVALID_ARG;
    }
    if (s->p->secret[0])
        secret = s->p->secret;
    xp_handshake_key(s->me.key, secret, strlen(secret));
    if (s->me.rank == 0)
        return xp_star_gather(s->net, boot->door_fd, &s->me, s->deadline, s->err, s->err_size);
    return xp_star_join(s->net, &root, 1, &s->me, s->deadline, s->err, s->err_size);
}

static const char *read_env(const char *name)
{
    return getenv(name);
}

static xp_status run_environment(struct start *s)
{
    struct xp_launch l;
    xp_status e = xp_launch_detect(&l, s->p, read_env, s->err, s->err_size);

    if (e != XP_OK)
        return e;
    s->me.rank = l.rank;
    s->me.size = l.size;
    if (l.pmi_fd >= 0) {
        struct xp_pmi pmi = {.fd = l.pmi_fd, .rank = l.rank, .size = l.size, .deadline = s->deadline};
        struct gatherer g = {xp_pmi_allgather, &pmi, pmi.err};
        return start_by_allgather(s, &g);
    }
    return start_by_address(s, &l);
}

xp_status xp_bootstrap_run(struct xp_bootstrap_net *net, const xp_bootstrap *boot, const struct xp_params *p, char *err,
                           size_t err_size)
{
    struct start s = {.net = net, .p = p, .err = err, .err_size = err_size};
    xp_status e;

    memset(net, 0, sizeof(*net));
    if (sodium_init() < 0) {
        snprintf(err, err_size, "start-up: libsodium finds no source of random numbers");
        return XP_ERR_SYSTEM;
    }
    s.deadline = xp_now() + (p->timeout < START_SECONDS ? p->timeout : START_SECONDS);
    describe_settings(p, s.me.settings, sizeof(s.me.settings));
    if (boot && boot->threads)
        e = run_threads(&s, boot);
    else if (boot && boot->allgather)
        e = run_callback(&s, boot);
    else if (boot && boot->door)
        e = run_door(&s, boot);
    else
        e = run_environment(&s);
    sodium_memzero(s.me.key, sizeof(s.me.key));
    if (e == XP_ERR_NO_MEMORY && err[0] == '\0')
        snprintf(err, err_size, "start-up: no memory");
    return e;
}

/*
 * routes.c - which transport reaches which peer, and the messages of a comm
 *
 * auto: shared memory inside a node, UCX between nodes. shm: everything over shared memory. tcp: UCX over TCP, also inside a
 * node. ucx: UCX for everything, over what it likes best.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/routes.h"

/* Which transport serves a pair of ranks; computed alike on both. */
enum route { ROUTE_NONE, ROUTE_SHM, ROUTE_UCX };

static enum route route_of(const struct xp_comm *c, int a, int b)
{
    if (a == b)
        return ROUTE_NONE;
    if (strcmp(c->params.transport, "shm") == 0)
        return ROUTE_SHM;
    if (strcmp(c->params.transport, "auto") == 0 && c->node_of[a] == c->node_of[b])
        return ROUTE_SHM;
    return ROUTE_UCX;
}

static int needs(const struct xp_comm *c, enum route route)
{
    for (int peer = 0; peer < c->size; peer++)
        if (route_of(c, c->rank, peer) == route)
            return 1;
    return 0;
}

/* Network cards that are not network interfaces (InfiniBand and the like) must stay in sight of UCX. */
static int has_rdma(void)
{
    return access("/sys/class/infiniband", F_OK) == 0;
}

static const struct xp_transport_ops *find_transport(const char *name)
{
    for (const struct xp_transport_ops *const *t = xp_transport_list(); *t; t++)
        if (strcmp((*t)->name, name) == 0)
            return *t;
    return NULL;
}

/* What one rank tells the others before the addresses: whether it could open, and how much is to come. */
struct opening {
    int32_t status;
    uint32_t len;
    char text[200];
};

static xp_status open_one(struct xp_comm *c, const char *name, const struct xp_transport_env *env,
                          struct xp_transport **out, uint8_t *address, struct opening *o)
{
    const struct xp_transport_ops *ops = find_transport(name);
    char why[160] = "not in this build";
    size_t len = 0;
    xp_status s = XP_ERR_UNSUPPORTED;

    if (ops && ops->available(why, sizeof(why)))
        s = ops->open(out, env, address, &len, why, sizeof(why));
    if (s != XP_OK) {
        snprintf(o->text, sizeof(o->text), "transport %s on rank %d: %s", name, c->rank, why);
        *out = NULL;
    }
    o->status = s;
    o->len = (uint32_t)len;
    return s;
}

/* All ranks come here, also those that do not use the transport, since the gathers are everybody's. */
static xp_status connect_all(struct xp_comm *c, struct xp_transport *t, enum route route, const struct opening *mine,
                             const uint8_t *my_address, uint8_t *addresses, struct opening *all)
{
    char why[200] = "";
    xp_status s = xp_comm_allgather_inside(c, "connect", mine, all, sizeof(*mine));

    for (int r = 0; r < c->size && s == XP_OK; r++)
        if (all[r].status != XP_OK)
            s = xp_error(c, (xp_status)all[r].status, "%.*s", (int)sizeof(all[r].text) - 1, all[r].text);
    if (s == XP_OK)
        s = xp_comm_allgather_inside(c, "connect", my_address, addresses, XP_ADDRESS_MAX);
    for (int peer = 0; peer < c->size && s == XP_OK && t; peer++) {
        if (route_of(c, c->rank, peer) != route)
            continue;
        c->route[peer] = t;
        s = t->ops->connect(t, peer, addresses + (size_t)peer * XP_ADDRESS_MAX, all[peer].len, why, sizeof(why));
        if (s != XP_OK)
            xp_error(c, s, "transport %s: rank %d cannot connect to rank %d: %s", t->ops->name, c->rank, peer, why);
    }
    return s;
}

static xp_status open_route(struct xp_comm *c, const char *name, enum route route, const struct xp_transport_env *env,
                            struct xp_transport **out)
{
    size_t n = (size_t)c->size;
    uint8_t mine[XP_ADDRESS_MAX];
    uint8_t *addresses = calloc(n, XP_ADDRESS_MAX);
    struct opening o, *all = calloc(n, sizeof(*all));
    xp_status s;

    memset(mine, 0, sizeof(mine));
    memset(&o, 0, sizeof(o));
    if (needs(c, route))
        open_one(c, name, env, out, mine, &o);
    if (addresses && all)
        s = connect_all(c, *out, route, &o, mine, addresses, all);
    else
        s = xp_error(c, XP_ERR_NO_MEMORY, "connect: no memory for %d addresses", c->size);
    free(addresses);
    free(all);
    return s;
}

static int any_pair(const struct xp_comm *c, enum route route)
{
    for (int a = 0; a < c->size; a++)
        for (int b = 0; b < a; b++)
            if (route_of(c, a, b) == route)
                return 1;
    return 0;
}

static void transport_log(void *comm, xp_log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void transport_log(void *comm, xp_log_level level, const char *fmt, ...)
{
    char text[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    xp_log(comm, level, "%s", text);
}

/* With transport shm the nodes may be simulated: to shared memory all ranks of the machine are then of one node. */
static xp_status open_shm(struct xp_comm *c, struct xp_transport_env env)
{
    int *one_node = NULL;
    xp_status s;

    if (strcmp(c->params.transport, "shm") == 0) {
        one_node = calloc((size_t)c->size, sizeof(*one_node));
        if (!one_node)
            return xp_error(c, XP_ERR_NO_MEMORY, "no memory for the nodes of %d ranks", c->size);
        env.node_of = one_node;
        env.node_local_size = c->size;
    }
    s = open_route(c, "shm", ROUTE_SHM, &env, &c->shm);
    free(one_node);
    return s;
}

xp_status xp_routes_open(struct xp_comm *c, const struct xp_place *places, const char *interface_)
{
    int one_machine = xp_topology_one_machine(places, c->size);
    struct xp_transport_env env = {
        .rank = c->rank,
        .size = c->size,
        .node_of = c->node_of,
        .node_local_size = c->node_size[c->node],
        .job = c->job,
        .interface_ = c->params.interface_[0] ? c->params.interface_ : has_rdma() ? NULL : interface_,
        .tcp_only = strcmp(c->params.transport, "tcp") == 0 || xp_topology_nodes_share_kernel(c, places),
        .log = transport_log,
        .comm = c,
    };
    xp_status s = XP_OK;

    c->route = calloc((size_t)c->size, sizeof(*c->route));
    if (!c->route)
        return xp_error(c, XP_ERR_NO_MEMORY, "no memory for %d routes", c->size);
    if (strcmp(c->params.transport, "shm") == 0 && !one_machine)
        return xp_error(c, XP_ERR_INVALID_ARG, "transport shm was asked for, but the ranks run on several machines");
    if (any_pair(c, ROUTE_SHM))
        s = open_shm(c, env);
    if (s == XP_OK && any_pair(c, ROUTE_UCX))
        s = open_route(c, "ucx", ROUTE_UCX, &env, &c->ucx);
    if (s == XP_OK)
        s = xp_comm_allgather_inside(c, "connect", NULL, NULL, 0);
    if (s == XP_OK && c->shm)
        c->shm->ops->settled(c->shm);
    if (s == XP_OK && c->ucx)
        c->ucx->ops->settled(c->ucx);
    return s;
}

int xp_routes_flushed(struct xp_comm *c)
{
    return (!c->shm || c->shm->ops->flushed(c->shm)) && (!c->ucx || c->ucx->ops->flushed(c->ucx));
}

void xp_routes_close(struct xp_comm *c)
{
    if (c->shm)
        c->shm->ops->close(c->shm);
    if (c->ucx)
        c->ucx->ops->close(c->ucx);
    c->shm = c->ucx = NULL;
    free(c->route);
    c->route = NULL;
}

void xp_routes_fail(struct xp_comm *c, int peer)
{
    if (c->route && peer >= 0 && c->route[peer])
        c->route[peer]->ops->fail(c->route[peer], peer);
}

/* ------------------------------------------------------------------------------------------------ messages */

static struct xp_transport *transport_to(const struct xp_comm *c, int peer)
{
    return peer >= 0 && peer < c->size ? c->route[peer] : NULL;
}

void xp_comm_send(struct xp_comm *c, int peer, enum xp_lane lane, uint64_t tag, const void *buf, size_t len, struct xp_op *op)
{
    struct xp_transport *t = transport_to(c, peer);
    xp_status s;

    *op = (struct xp_op){.status = XP_IN_PROGRESS};
    s = t ? t->ops->send(t, peer, lane, tag, buf, len, op) : XP_ERR_INVALID_ARG;
    if (s < 0)
        op->status = s;
}

void xp_comm_recv(struct xp_comm *c, int peer, enum xp_lane lane, uint64_t tag, void *buf, size_t cap, struct xp_op *op)
{
    struct xp_transport *t = transport_to(c, peer);
    xp_status s;

    *op = (struct xp_op){.status = XP_IN_PROGRESS};
    s = t ? t->ops->recv(t, peer, lane, tag, buf, cap, op) : XP_ERR_INVALID_ARG;
    if (s < 0)
        op->status = s;
}

void xp_comm_cancel(struct xp_comm *c, int peer, struct xp_op *op)
{
    struct xp_transport *t = transport_to(c, peer);

    if (t && op->status == XP_IN_PROGRESS)
        t->ops->cancel(t, op);
}

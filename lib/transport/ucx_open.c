/*
 * ucx_open.c - the life of the UCX transport: settings, workers, endpoints
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/transport/ucx_state.h"

#include <dirent.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ADDRESS_MAGIC 0x31786375u
#define FLUSH_SECONDS 0.5 /* close(): for what peers have not taken yet */
#define CLOSE_SECONDS 1.0 /* close(): for UCX to let go of its endpoints */

struct address_head {
    uint32_t magic;
    uint16_t len[2]; /* of the two workers' addresses, which follow */
};

double xp_ucx_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

const char *xp_ucx_lane_name(int lane)
{
    return lane == XP_LANE_CTRL ? "ctrl" : "bulk";
}

/* ------------------------------------------------------------------ settings */

/*
 * Pinned for every UCX (a variable UCX_<name> of the user wins).
 *  TCP_CONN_NB: connecting to a host that is not there blocks for 135 s otherwise.
 *  KEEPALIVE_INTERVAL: UCX's keepalive is data to the kernel; on an idle connection it replaces the kernel's quick probes by a
 *    retransmission that gives up after 15 minutes. The comm has a liveness of its own.
 *  RNDV_THRESH: receives are posted before their messages come, so asking first only costs. The question waits behind the peer's
 *    own bulk bytes: 58 % of a 1 Gbit/s link between 4 hosts, 93 % without it.
 *  TCP_RX_SEG_SIZE, ZCOPY_THRESH: a segment of ours (ucx_message.c) is one packet, whatever its size. 64 MiB a rank between two hosts at
 *    10 Gbit/s, best of 75: 512k 28.3 ms, 256k 28.9, 192k 31.5, 64k 40 (Open MPI 30.7). In several packets, a peer's death can
 *    leave a receive half written, and UCX then never gives it back.
 *  TCP_MAX_POLL: of several events taken at once, handling one may close the connection of another, and UCX (1.13 to 1.22) then aborts
 *    the process: "Assertion `ep->conn_state != UCT_TCP_EP_CONN_STATE_CLOSED' failed", seen once in some
 *    thousands of trials with a rank that dies.
 */
static const struct {
    const char *name, *value;
} pinned[] = {
    {"TCP_CONN_NB", "y"}, {"KEEPALIVE_INTERVAL", "100000s"}, {"RNDV_THRESH", "inf"}, {"TCP_RX_SEG_SIZE", "512k"}, {"ZCOPY_THRESH", "4k"},
    {"TCP_MAX_POLL", "1"},
};

static void modify(const struct xp_transport_env *env, const struct xp_ucx_lib *lib, ucp_config_t *c, const char *name, const char *value)
{
    char variable[64];

    snprintf(variable, sizeof variable, "UCX_%s", name);
    if (getenv(variable) != NULL)
        return;
    ucs_status_t s = lib->ucp_config_modify(c, name, value);
    if (strncmp(name, "TCP_", 4) == 0) /* UCX 1.13 takes the names of a transport's table without its prefix, others with it */
        s = lib->ucp_config_modify(c, name + 4, value);
    if (s != UCS_OK && env->log != NULL)
        env->log(env->comm, XP_LOG_WARN, "ucx: this version does not take %s=%s: %s", name, value, lib->ucs_status_string(s));
}

/* The network interface asked for, and RDMA devices, which go by other names. */
static void device_list(char *list, size_t size, const char *interface_, int tcp_only)
{
    size_t n = (size_t)snprintf(list, size, "%s", interface_);
    DIR *d = tcp_only ? NULL : opendir("/sys/class/infiniband");
    struct dirent *e;

    while (d != NULL && (e = readdir(d)) != NULL && n < size) {
        if (e->d_name[0] != '.')
            n += (size_t)snprintf(list + n, size - n, ",%s:1", e->d_name);
    }
    if (d != NULL)
        closedir(d);
}

static ucs_status_t make_context(struct xp_ucx *t)
{
    const struct xp_transport_env *e = &t->env;
    ucp_config_t *c;
    ucs_status_t s = t->lib->ucp_config_read(NULL, NULL, &c);

    if (s != UCS_OK)
        return s;
    for (size_t i = 0; i < sizeof pinned / sizeof pinned[0]; i++)
        modify(e, t->lib, c, pinned[i].name, pinned[i].value);
    /* Never shared memory: UCX takes it between network namespaces too, past the link; inside a node there is shm. */
    modify(e, t->lib, c, "TLS", e->tcp_only ? "tcp,self" : "^sm");
    if (e->interface_ != NULL && e->interface_[0] != '\0') {
        char devices[512];

        device_list(devices, sizeof devices, e->interface_, e->tcp_only);
        modify(e, t->lib, c, "NET_DEVICES", devices);
    }
    ucp_params_t p = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_TAG};
    s = t->lib->ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &p, c, &t->context);
    t->lib->ucp_config_release(c);
    return s;
}

/* Whether this UCX was built with CUDA, and found it. */
static int takes_cuda(const struct xp_ucx *t)
{
    ucp_context_attr_t a = {.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES};
    return t->lib->ucp_context_query(t->context, &a) == UCS_OK && (a.memory_types & UCS_BIT(UCS_MEMORY_TYPE_CUDA));
}

/* ------------------------------------------------------------------ opening */

static ucs_status_t make_worker(struct xp_ucx *t, int lane, unsigned char *address, size_t room, size_t *len)
{
    ucp_worker_params_t p = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE, .thread_mode = UCS_THREAD_MODE_SERIALIZED};
    ucs_status_t s = t->lib->ucp_worker_create(t->context, &p, &t->worker[lane]);

    if (s != UCS_OK) {
        t->worker[lane] = NULL;
        return s;
    }
    ucp_worker_attr_t a = {.field_mask = UCP_WORKER_ATTR_FIELD_ADDRESS | UCP_WORKER_ATTR_FIELD_ADDRESS_FLAGS,
                           .address_flags = UCP_WORKER_ADDRESS_FLAG_NET_ONLY};
    s = t->lib->ucp_worker_query(t->worker[lane], &a);
    if (s != UCS_OK)
        return s;
    *len = a.address_length;
    if (a.address_length <= room)
        memcpy(address, a.address, a.address_length);
    else
        s = UCS_ERR_BUFFER_TOO_SMALL;
    t->lib->ucp_worker_release_address(t->worker[lane], a.address);
    return s;
}

static xp_status make_workers(struct xp_ucx *t, unsigned char *address, size_t *address_len, char *err, size_t err_size)
{
    struct address_head h = {ADDRESS_MAGIC, {0, 0}};
    size_t at = sizeof h;

    for (int lane = 0; lane < 2; lane++) {
        size_t len = 0;
        ucs_status_t s = make_worker(t, lane, address + at, XP_ADDRESS_MAX - at, &len);

        if (s != UCS_OK) {
            snprintf(err, err_size, "ucx: worker of the %s lane (address of %zu bytes): %s", xp_ucx_lane_name(lane), len,
                     t->lib->ucs_status_string(s));
            return s == UCS_ERR_NO_MEMORY ? XP_ERR_NO_MEMORY : XP_ERR_SYSTEM;
        }
        h.len[lane] = (uint16_t)len;
        at += len;
    }
    memcpy(address, &h, sizeof h);
    *address_len = at;
    return XP_OK;
}

xp_status xp_ucx_open(struct xp_transport **out, const struct xp_transport_env *env, void *address, size_t *address_len, char *err,
                      size_t err_size)
{
    const struct xp_ucx_lib *lib = xp_ucx_load(err, err_size);

    if (lib == NULL)
        return XP_ERR_UNSUPPORTED;
    if (env->interface_ != NULL && env->interface_[0] != '\0' && if_nametoindex(env->interface_) == 0) {
        snprintf(err, err_size, "ucx: interface %s: %s", env->interface_, strerror(errno)); /* UCX would go on without it */
        return XP_ERR_INVALID_ARG;
    }
    struct xp_ucx *t = calloc(1, sizeof *t);
    if (t != NULL)
        t->peer = calloc((size_t)env->size, sizeof *t->peer);
    if (t == NULL || t->peer == NULL) {
        free(t);
        snprintf(err, err_size, "ucx: out of memory");
        return XP_ERR_NO_MEMORY;
    }
    t->base.ops = &xp_transport_ucx;
    t->env = *env;
    t->lib = lib;
    ucs_status_t s = make_context(t);
    xp_status r = XP_ERR_SYSTEM;
    if (s != UCS_OK)
        snprintf(err, err_size, "ucx: ucp_init: %s%s%s", lib->ucs_status_string(s), env->interface_ != NULL ? ", interface " : "",
                 env->interface_ != NULL ? env->interface_ : "");
    else
        r = make_workers(t, address, address_len, err, err_size);
    t->base.takes_device_memory = r == XP_OK && takes_cuda(t);
    if (r != XP_OK) {
        xp_ucx_close(&t->base);
        return r;
    }
    *out = &t->base;
    return XP_OK;
}

/* ------------------------------------------------------------------ endpoints */

/* Inside UCX: only takes note, progress() ends the lane. */
static void on_error(void *arg, ucp_ep_h ep, ucs_status_t s)
{
    struct xp_ucx_peer *p = arg;
    int lane = ep == p->ep[XP_LANE_BULK] ? XP_LANE_BULK : XP_LANE_CTRL;

    if (p->broken[lane] || p->ended[lane])
        return;
    p->broken[lane] = 1;
    p->why = s;
    p->transport->broken_lanes++;
}

static xp_status connect_lane(struct xp_ucx *t, int peer, int lane, const void *address, char *err, size_t err_size)
{
    struct xp_ucx_peer *p = &t->peer[peer];
    ucp_ep_params_t e = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER,
                         .address = address, .err_mode = UCP_ERR_HANDLING_MODE_PEER, .err_handler = {on_error, p}};
    ucs_status_t s = t->lib->ucp_ep_create(t->worker[lane], &e, &p->ep[lane]);

    if (s == UCS_OK)
        return XP_OK;
    p->ep[lane] = NULL;
    snprintf(err, err_size, "ucx: connecting to rank %d: %s", peer, t->lib->ucs_status_string(s));
    return s == UCS_ERR_NO_MEMORY ? XP_ERR_NO_MEMORY : XP_ERR_REMOTE;
}

xp_status xp_ucx_connect(struct xp_transport *base, int peer, const void *address, size_t address_len, char *err, size_t err_size)
{
    struct xp_ucx *t = (struct xp_ucx *)base;
    struct address_head h;
    const unsigned char *a = address;

    if (peer < 0 || peer >= t->env.size || peer == t->env.rank || t->peer[peer].connected) {
        snprintf(err, err_size, "ucx: rank %d is not another rank, or connected already", peer);
        return XP_ERR_INVALID_ARG;
    }
    if (address_len < sizeof h || (memcpy(&h, a, sizeof h), h.magic != ADDRESS_MAGIC) ||
        address_len != sizeof h + h.len[0] + h.len[1]) {
        snprintf(err, err_size, "ucx: what rank %d sent is not an address", peer);
        return XP_ERR_MISMATCH;
    }
    t->peer[peer].transport = t;
    xp_status s = connect_lane(t, peer, XP_LANE_CTRL, a + sizeof h, err, err_size);
    if (s == XP_OK)
        s = connect_lane(t, peer, XP_LANE_BULK, a + sizeof h + h.len[0], err, err_size);
    t->peer[peer].connected = s == XP_OK;
    return s;
}

static void endpoint_closed(void *handle, ucs_status_t s, void *user)
{
    struct xp_ucx *t = user;

    t->closing--;
    t->lib->ucp_request_free(handle);
}

void xp_ucx_close_endpoint(struct xp_ucx *t, int peer, int lane)
{
    ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                             .flags = UCP_EP_CLOSE_FLAG_FORCE, .cb.send = endpoint_closed, .user_data = t};
    ucp_ep_h ep = t->peer[peer].ep[lane];

    t->peer[peer].ep[lane] = NULL;
    if (ep != NULL && UCS_PTR_IS_PTR(t->lib->ucp_ep_close_nbx(ep, &p)))
        t->closing++;
}

/* ------------------------------------------------------------------ closing */

static void flushed(void *handle, ucs_status_t s, void *user)
{
    struct xp_ucx *t = user;

    t->flushing--;
    t->lib->ucp_request_free(handle);
}

/* Over tcp the peer confirms a flush, in its progress. A lane that carried nothing may not even be connected. */
static void ask_for_flush(struct xp_ucx *t)
{
    ucp_request_param_t ask = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA, .cb.send = flushed, .user_data = t};

    t->flush_asked = 1;
    for (int peer = 0; peer < t->env.size; peer++) {
        struct xp_ucx_peer *p = &t->peer[peer];

        for (int lane = 0; lane < 2; lane++) {
            if (p->sent_to[lane] && p->ep[lane] != NULL && UCS_PTR_IS_PTR(t->lib->ucp_ep_flush_nbx(p->ep[lane], &ask)))
                t->flushing++;
        }
    }
}

int xp_ucx_flushed(struct xp_transport *base)
{
    struct xp_ucx *t = (struct xp_ucx *)base;

    if (!t->flush_asked)
        ask_for_flush(t);
    return t->flushing == 0;
}

static void end_all(struct xp_ucx *t)
{
    for (int peer = 0; peer < t->env.size; peer++)
        xp_ucx_end_peer(t, peer, XP_ERR_STATE);
    for (double end = xp_ucx_now() + CLOSE_SECONDS; (t->closing > 0 || t->flushing > 0) && xp_ucx_now() < end;)
        xp_ucx_progress_workers(t);
    for (int peer = 0; peer < t->env.size; peer++)
        xp_ucx_abandon_all(t, peer);
}

void xp_ucx_close(struct xp_transport *base)
{
    struct xp_ucx *t = (struct xp_ucx *)base;

    if (t->worker[XP_LANE_BULK] != NULL) {
        for (double end = xp_ucx_now() + FLUSH_SECONDS; !xp_ucx_flushed(base) && xp_ucx_now() < end;)
            xp_ucx_progress_workers(t);
        end_all(t);
    }
    if (t->closing > 0) { /* destroying a worker that still holds endpoints could wait for them */
        if (t->env.log != NULL)
            t->env.log(t->env.comm, XP_LOG_WARN, "ucx: %d endpoints did not close within %g s and are left behind", t->closing, CLOSE_SECONDS);
        return;
    }
    for (int lane = 0; lane < 2; lane++) {
        if (t->worker[lane] != NULL)
            t->lib->ucp_worker_destroy(t->worker[lane]);
    }
    if (t->context != NULL)
        t->lib->ucp_cleanup(t->context);
    for (void *slab = t->slabs, *next; slab != NULL; slab = next) {
        next = *(void **)slab;
        free(slab);
    }
    free(t->peer);
    free(t);
}

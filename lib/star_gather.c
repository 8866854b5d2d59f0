/*
 * star_gather.c - rank 0 gathers the others, whoever else may knock
 *
 * A connection that has not proved the secret is a guest: it has 5 seconds, there are at most 64, and when one more comes
 * the oldest goes. A real rank that is pushed out comes back at once (star_join.c), so a flood delays but never breaks.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <sodium.h>

#include "lib/comm.h"
#include "lib/star.h"

#define GUESTS_MAX 64
#define GUEST_SECONDS 5.0
#define RETURN_SECONDS 1.0 /* a rank whose connection broke may knock again within this */
#define ABORT_SECONDS 0.5
#define VERDICT_SECONDS 1.0 /* a start-up that has failed stays at the door, so that those still to come hear why */

struct guest {
    int fd;
    double since;
    uint8_t nonce[XP_NONCE];
    uint8_t buf[XP_RESPONSE_MAX];
    size_t got;
};

struct gathering {
    struct xp_bootstrap_net *net;
    const struct xp_identity *me;
    int listener;
    int joined; /* ranks that have proved themselves, this one included */
    int told;   /* ranks that have heard of the failure */
    double *lost; /* [size] when the connection of a rank broke; 0 = it did not */
    struct pollfd *polls;
    struct guest guests[GUESTS_MAX]; /* oldest first */
    int nguests;
    xp_status status;
    char *err;
    size_t err_size;
};

static void drop_guest(struct gathering *g, int i)
{
    if (g->guests[i].fd >= 0)
        close(g->guests[i].fd);
    g->nguests--;
    memmove(&g->guests[i], &g->guests[i + 1], (size_t)(g->nguests - i) * sizeof(g->guests[0]));
}

static void send_abort(int fd, xp_status s, const char *text, double deadline)
{
    uint8_t msg[XP_MSG_HEAD + 512];
    size_t len = strnlen(text, 512);

    xp_msg_head_write(msg, XP_MSG_ABORT, (uint32_t)s, (uint32_t)len);
    memcpy(msg + XP_MSG_HEAD, text, len);
    xp_socket_write(fd, msg, XP_MSG_HEAD + len, deadline);
}

static void take_newcomers(struct gathering *g)
{
    for (;;) {
        uint8_t msg[XP_MSG_HEAD + XP_NONCE];
        struct guest *n;
        int fd = xp_socket_accept(g->listener);

        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOBUFS || fd == -ENOMEM) {
            if (g->nguests == 0)
                return;
            drop_guest(g, 0);
            continue;
        }
        if (fd == -ECONNABORTED || fd == -EINTR)
            continue;
        if (fd < 0)
            return;
        if (g->nguests == GUESTS_MAX)
            drop_guest(g, 0);
        n = &g->guests[g->nguests++];
        n->fd = fd;
        n->since = xp_now();
        n->got = 0;
        xp_handshake_nonce(n->nonce);
        if (xp_socket_write(fd, msg, xp_challenge_write(msg, n->nonce), 0) != 0)
            drop_guest(g, g->nguests - 1); /* a fresh socket takes 48 bytes at once */
    }
}

/* Whether an authentic rank does not fit to this job; then the start-up is over. */
static void find_fault(struct gathering *g, const struct xp_response *r)
{
    char text[256];

    if (xp_settings_differ(r->settings, g->me->settings, text, sizeof(text)))
        snprintf(g->err, g->err_size, "start-up: rank %u and rank 0 have different settings: %s", r->rank, text);
    else if (r->size != (uint32_t)g->me->size || r->rank == 0 || r->rank >= r->size)
        snprintf(g->err, g->err_size, "start-up: a process says it is rank %u of %u, but this is rank 0 of %d", r->rank, r->size,
                 g->me->size);
    else if (g->net->fds[r->rank] >= 0)
        snprintf(g->err, g->err_size, "start-up: two processes say they are rank %u", r->rank);
    else
        return;
    g->status = XP_ERR_MISMATCH;
}

/* The guest has sent a whole RESPONSE. Returns 1 when it became a rank; its socket is then the star's. */
static int admit(struct gathering *g, struct guest *guest)
{
    struct xp_response r;
    uint8_t msg[XP_MSG_HEAD + XP_MAC];

    if (!xp_response_read(guest->buf + XP_MSG_HEAD, guest->got - XP_MSG_HEAD, g->me->key, guest->nonce, &r)) {
        send_abort(guest->fd, XP_ERR_REMOTE, "the secret is not that of this job", 0);
        return 0;
    }
    if (r.job != g->me->job) {
        send_abort(guest->fd, XP_ERR_REMOTE, "this is another job", 0);
        return 0;
    }
    if (g->status == XP_OK)
        find_fault(g, &r);
    if (xp_socket_write(guest->fd, msg, xp_welcome_write(msg, g->me->key, guest->nonce, r.nonce, r.rank), 0) != 0)
        return 0;
    if (g->status != XP_OK) { /* after the welcome: a leaf believes this only from a root that has proved itself */
        send_abort(guest->fd, g->status, g->err, xp_now() + ABORT_SECONDS);
        g->told++;
        return 0;
    }
    g->net->fds[r.rank] = guest->fd;
    g->lost[r.rank] = 0;
    g->joined++;
    return 1;
}

/* Returns 1 while the guest may stay. */
static int hear_guest(struct gathering *g, struct guest *guest)
{
    struct xp_msg_head head;
    size_t want = XP_MSG_HEAD;

    for (;;) {
        ssize_t n;

        if (guest->got >= XP_MSG_HEAD) {
            if (!xp_msg_head_read(guest->buf, XP_RESPONSE_MAX - XP_MSG_HEAD, &head) || head.type != XP_MSG_RESPONSE)
                return 0;
            want = XP_MSG_HEAD + head.len;
        }
        if (guest->got == want) {
            if (admit(g, guest))
                guest->fd = -1;
            return 0;
        }
        n = recv(guest->fd, guest->buf + guest->got, want - guest->got, 0);
        if (n > 0)
            guest->got += (size_t)n;
        else if (n < 0 && errno == EINTR)
            continue;
        else
            return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    }
}

static void name_the_missing(struct gathering *g, double seconds)
{
    size_t at = 0;

    g->status = XP_ERR_TIMEOUT;
    at += (size_t)snprintf(g->err, g->err_size, "start-up: within %.1f s only %d of %d ranks came; missing: rank", seconds,
                           g->joined, g->net->size);
    for (int r = 1, named = 0; r < g->net->size && at < g->err_size; r++) {
        if (g->net->fds[r] >= 0)
            continue;
        if (named++ == 16) {
            snprintf(g->err + at, g->err_size - at, " and others");
            return;
        }
        at += (size_t)snprintf(g->err + at, g->err_size - at, "%s %d", named > 1 ? "," : "", r);
    }
}

/* All that a rank says before START is that its deadline has passed. What else can be read is the end of its connection. */
static void hear_rank(struct gathering *g, int rank)
{
    uint8_t msg[XP_LATE_MSG];
    struct xp_msg_head head;
    ssize_t n = recv(g->net->fds[rank], msg, sizeof(msg), 0);

    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return;
    if (n == sizeof(msg) && xp_msg_head_read(msg, XP_LATE_MSG - XP_MSG_HEAD, &head) && head.type == XP_MSG_LATE) {
        if (g->status == XP_OK)
            name_the_missing(g, 1e-3 * (double)xp_get64(msg + XP_MSG_HEAD));
        return;
    }
    close(g->net->fds[rank]);
    g->net->fds[rank] = -1;
    g->lost[rank] = xp_now();
    g->joined--;
}

static int fill_polls(struct gathering *g)
{
    int n = 0;

    g->polls[n++] = (struct pollfd){g->listener, POLLIN, 0};
    for (int i = 0; i < g->nguests; i++)
        g->polls[n++] = (struct pollfd){g->guests[i].fd, POLLIN, 0};
    for (int r = 1; r < g->net->size; r++)
        g->polls[n++] = (struct pollfd){g->net->fds[r], POLLIN, 0}; /* poll skips negative ones */
    return n;
}

/* One round: wait a little, then hear everybody. */
static void hear_all(struct gathering *g, double deadline)
{
    int nguests = g->nguests;
    int n = fill_polls(g);
    double left = deadline - xp_now();

    poll(g->polls, (nfds_t)n, left > 0.1 ? 100 : left > 0 ? (int)(1000 * left) + 1 : 0);
    /* Broken connections first: their rank may be knocking again in this very round. */
    for (int r = 1; r < g->net->size; r++)
        if (g->net->fds[r] >= 0 && g->polls[nguests + r].fd == g->net->fds[r] && g->polls[nguests + r].revents)
            hear_rank(g, r);
    for (int i = nguests - 1; i >= 0; i--)
        if ((g->polls[1 + i].revents && !hear_guest(g, &g->guests[i])) || xp_now() - g->guests[i].since > GUEST_SECONDS)
            drop_guest(g, i);
    if (g->polls[0].revents)
        take_newcomers(g);
    for (int r = 1; r < g->net->size && g->status == XP_OK; r++) {
        if (g->lost[r] > 0 && xp_now() - g->lost[r] > RETURN_SECONDS) {
            snprintf(g->err, g->err_size, "start-up: rank %d came and went away", r);
            g->status = XP_ERR_REMOTE;
        }
    }
}

/* Everybody is here, or the start-up has failed: tells all ranks which. */
static void tell_all(struct gathering *g)
{
    uint8_t msg[XP_MSG_HEAD + 8];
    double deadline = xp_now() + ABORT_SECONDS;

    xp_msg_head_write(msg, XP_MSG_START, (uint32_t)g->net->size, 8);
    xp_put64(msg + XP_MSG_HEAD, g->net->job);
    for (int r = 1; r < g->net->size; r++) {
        if (g->net->fds[r] < 0)
            continue;
        if (g->status == XP_OK) {
            xp_socket_write(g->net->fds[r], msg, sizeof(msg), deadline); /* a death now is liveness's first finding */
        } else {
            send_abort(g->net->fds[r], g->status, g->err, deadline);
            close(g->net->fds[r]);
            g->net->fds[r] = -1;
            g->told++;
        }
    }
}

/* The start-up has failed before the deadline: the others are still coming and should not wait for a closed door. */
static void tell_latecomers(struct gathering *g)
{
    double until = xp_now() + VERDICT_SECONDS;

    while (g->told < g->net->size - 1 && xp_now() < until)
        hear_all(g, until);
}

static xp_status allocate(struct gathering *g, int size)
{
    g->net->fds = malloc((size_t)size * sizeof(*g->net->fds));
    g->lost = calloc((size_t)size, sizeof(*g->lost));
    g->polls = calloc((size_t)size + 1 + GUESTS_MAX, sizeof(*g->polls));
    for (int r = 0; g->net->fds && r < size; r++)
        g->net->fds[r] = -1;
    return g->net->fds && g->lost && g->polls ? XP_OK : XP_ERR_NO_MEMORY;
}

xp_status xp_star_gather(struct xp_bootstrap_net *net, int listener, const struct xp_identity *me, double deadline,
                         char *err, size_t err_size)
{
    struct gathering *g = calloc(1, sizeof(*g));
    double start = xp_now();
    xp_status s;

    if (!g)
        return XP_ERR_NO_MEMORY;
    net->rank = 0;
    net->size = me->size;
    randombytes_buf(&net->job, sizeof(net->job));
    *g = (struct gathering){.net = net, .me = me, .listener = listener, .joined = 1, .err = err, .err_size = err_size};
    s = allocate(g, me->size);
    g->status = s;
    while (g->status == XP_OK && g->joined < net->size) {
        if (xp_now() >= deadline) {
            name_the_missing(g, deadline - start);
            break;
        }
        hear_all(g, deadline);
    }
    if (s == XP_OK)
        tell_all(g);
    if (s == XP_OK && g->status != XP_OK && xp_now() < deadline)
        tell_latecomers(g);
    s = g->status;
    while (g->nguests > 0)
        drop_guest(g, g->nguests - 1);
    free(g->lost);
    free(g->polls);
    free(g);
    if (s != XP_OK)
        xp_star_close(net);
    return s;
}

void xp_star_close(struct xp_bootstrap_net *net)
{
    int n = net->rank == 0 ? net->size : 1;

    for (int i = 0; net->fds && i < n; i++)
        if (net->fds[i] >= 0)
            close(net->fds[i]);
    free(net->fds);
    net->fds = NULL;
}

/*
 * star_join.c - a rank finds rank 0 of its job and proves that it belongs to it
 *
 * Rank 0 may not listen yet, a stranger may sit on the port, another job's rank 0 may answer: all of these mean "try the
 * next address, then again", until the deadline.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "lib/comm.h"
#include "lib/star.h"

#define ATTEMPT_SECONDS 5.0
#define FIRST_ATTEMPT_SECONDS 0.25 /* where there are other addresses to try, patience grows from here */
#define REFUSAL_SECONDS 5.0 /* refused for so long by everybody who answers: not a matter of time */
#define ANSWER_SECONDS 1.0  /* a rank gives rank 0 so long to say who is missing, even if its deadline has passed long ago */
#define TEXT_MAX 512u

enum outcome { JOINED, TRY_AGAIN, REFUSED };

struct joining {
    const struct xp_identity *me;
    double patience; /* seconds for one attempt */
    char reason[TEXT_MAX + 64]; /* why the last attempt failed */
    int fd;
};

static enum outcome try_again(struct joining *j, int fd, const char *what, int code)
{
    if (code < 0)
        snprintf(j->reason, sizeof(j->reason), "%s: %s", what, strerror(-code));
    else
        snprintf(j->reason, sizeof(j->reason), "%s", what);
    if (fd >= 0)
        close(fd);
    return TRY_AGAIN;
}

/* Reads a head and its body of at most size bytes. 0, -errno, or -EBADMSG when the bytes are not ours. */
static int read_message(int fd, struct xp_msg_head *head, uint8_t *body, uint32_t size, double deadline)
{
    uint8_t raw[XP_MSG_HEAD];
    int e = xp_socket_read(fd, raw, sizeof(raw), deadline);

    if (e != 0)
        return e;
    if (!xp_msg_head_read(raw, size, head))
        return -EBADMSG;
    return xp_socket_read(fd, body, head->len, deadline);
}

static enum outcome attempt(struct joining *j, const struct xp_address *root, double deadline)
{
    uint8_t body[TEXT_MAX], response[XP_RESPONSE_MAX], nonce_root[XP_NONCE], nonce_leaf[XP_NONCE];
    struct xp_msg_head head;
    double limit = xp_now() + j->patience;
    size_t len;
    int fd, e;

    if (limit > deadline)
        limit = deadline;
    fd = xp_socket_connect(root, limit);
    if (fd < 0)
        return try_again(j, -1, "connect", fd);
    e = read_message(fd, &head, body, sizeof(body), limit);
    if (e != 0 || head.type != XP_MSG_CHALLENGE || head.len != XP_NONCE)
        return try_again(j, fd, "no challenge came", e);
    memcpy(nonce_root, body, XP_NONCE);
    xp_handshake_nonce(nonce_leaf);
    len = xp_response_write(response, j->me, nonce_root, nonce_leaf);
    e = xp_socket_write(fd, response, len, limit);
    if (e == 0)
        e = read_message(fd, &head, body, sizeof(body), limit);
    if (e != 0)
        return try_again(j, fd, "no answer to the proof", e);
    if (head.type == XP_MSG_ABORT) {
        xp_msg_text(j->reason, TEXT_MAX, body, head.len);
        close(fd);
        return REFUSED;
    }
    if (head.type != XP_MSG_WELCOME ||
        !xp_welcome_read(body, head.len, j->me->key, nonce_root, nonce_leaf, (uint32_t)j->me->rank))
        return try_again(j, fd, "who answers does not know the secret", 0);
    j->fd = fd;
    return JOINED;
}

/* This rank's deadline has passed, perhaps long before rank 0's, which may have come later. */
static void ask_who_is_missing(int fd, double seconds)
{
    uint8_t msg[XP_LATE_MSG];

    xp_msg_head_write(msg, XP_MSG_LATE, XP_LATE_START, XP_LATE_MSG - XP_MSG_HEAD);
    xp_put64(msg + XP_MSG_HEAD, (uint64_t)(1000 * seconds));
    xp_socket_write(fd, msg, sizeof(msg), 0);
}

/* Rank 0 knows us. It now waits for the others. */
static xp_status await_start(struct xp_bootstrap_net *net, const struct joining *j, double start, double deadline, char *err,
                             size_t err_size)
{
    uint8_t body[TEXT_MAX];
    struct xp_msg_head head;
    int e;

    if (xp_socket_wait(j->fd, POLLIN, deadline) == 0)
        ask_who_is_missing(j->fd, deadline - start);
    e = read_message(j->fd, &head, body, sizeof(body), xp_now() + ANSWER_SECONDS);
    if (e == 0 && head.type == XP_MSG_START && head.len == 8) {
        net->job = xp_get64(body);
        return XP_OK;
    }
    if (e == 0 && head.type == XP_MSG_ABORT) {
        xp_status s = (xp_status)(int32_t)head.word;
        xp_msg_text(err, err_size, body, head.len);
        return s < 0 ? s : XP_ERR_REMOTE;
    }
    if (e == -ETIMEDOUT) {
        snprintf(err, err_size, "start-up: rank 0 came, but does not say who is missing after %.1f s", deadline - start);
        return XP_ERR_TIMEOUT;
    }
    snprintf(err, err_size, "start-up: rank 0 went away (%s)", e != 0 ? strerror(-e) : "unexpected message");
    return XP_ERR_REMOTE;
}

static void nap(double *seconds)
{
    struct timespec t = {0, (long)(1e9 * *seconds)};

    nanosleep(&t, NULL);
    *seconds = *seconds < 0.1 ? 1.5 * *seconds : 0.15;
}

xp_status xp_star_join(struct xp_bootstrap_net *net, const struct xp_address *roots, int nroots,
                       const struct xp_identity *me, double deadline, char *err, size_t err_size)
{
    struct joining j = {.me = me, .patience = nroots > 1 ? FIRST_ATTEMPT_SECONDS : ATTEMPT_SECONDS, .fd = -1};
    double start = xp_now(), refused_since = 0, pause = 0.005;
    char where[80];

    net->rank = me->rank;
    net->size = me->size;
    net->fds = malloc(sizeof(*net->fds));
    if (!net->fds)
        return XP_ERR_NO_MEMORY;
    net->fds[0] = -1;
    for (int i = 0;; i = (i + 1) % nroots) {
        enum outcome o = attempt(&j, &roots[i], deadline);
        double now = xp_now();

        if (o == JOINED)
            break;
        if (o == REFUSED && refused_since == 0)
            refused_since = now;
        if (o == REFUSED && now - refused_since > REFUSAL_SECONDS) {
            snprintf(err, err_size, "start-up: rank %d is refused by rank 0 at %s: %s", me->rank,
                     xp_address_text(&roots[i], where, sizeof(where)), j.reason);
            xp_star_close(net);
            return XP_ERR_REMOTE;
        }
        if (now >= deadline) {
            snprintf(err, err_size, "start-up: rank %d did not reach rank 0 at %s within %.1f s (%s)", me->rank,
                     xp_address_text(&roots[0], where, sizeof(where)), deadline - start, j.reason);
            xp_star_close(net);
            return XP_ERR_TIMEOUT;
        }
        if (i < nroots - 1)
            continue;
        j.patience = 2 * j.patience < ATTEMPT_SECONDS ? 2 * j.patience : ATTEMPT_SECONDS;
        nap(&pause);
    }
    net->fds[0] = j.fd;
    xp_status s = await_start(net, &j, start, deadline, err, err_size);
    if (s != XP_OK)
        xp_star_close(net);
    return s;
}

/*
 * link.c - one connection of the star
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/comm.h"
#include "lib/link.h"

struct xp_packet *xp_packet_new(enum xp_msg_type type, uint32_t word, size_t body_len)
{
    struct xp_packet *p = malloc(sizeof(*p) + XP_MSG_HEAD + body_len);

    if (!p)
        return NULL;
    p->refs = 1;
    p->len = XP_MSG_HEAD + body_len;
    xp_msg_head_write(p->bytes, type, word, (uint32_t)body_len);
    return p;
}

uint8_t *xp_packet_body(struct xp_packet *p)
{
    return p->bytes + XP_MSG_HEAD;
}

void xp_packet_release(struct xp_packet *p)
{
    if (p && --p->refs == 0)
        free(p);
}

void xp_link_init(struct xp_link *k, int rank, int fd)
{
    memset(k, 0, sizeof(*k));
    k->rank = rank;
    k->fd = fd;
    k->heard = xp_now();
    k->last = &k->first;
}

static void drop_first(struct xp_link *k)
{
    struct xp_queued *q = k->first;

    k->first = q->next;
    if (!k->first)
        k->last = &k->first;
    xp_packet_release(q->packet);
    free(q);
}

void xp_link_close(struct xp_link *k)
{
    if (k->fd >= 0)
        close(k->fd);
    k->fd = -1;
    while (k->first)
        drop_first(k);
}

void xp_link_free(struct xp_link *k)
{
    xp_link_close(k);
    free(k->body);
    k->body = NULL;
}

void xp_link_flush(struct xp_link *k)
{
    while (k->fd >= 0 && k->first) {
        struct xp_queued *q = k->first;
        ssize_t n = send(k->fd, q->packet->bytes + q->sent, q->packet->len - q->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n < 0) {
            while (k->first)
                drop_first(k);
            return;
        }
        q->sent += (size_t)n;
        if (q->sent == q->packet->len)
            drop_first(k);
    }
}

int xp_link_queue(struct xp_link *k, struct xp_packet *p)
{
    struct xp_queued *q;

    if (k->fd < 0)
        return 1;
    q = malloc(sizeof(*q));
    if (!q)
        return 0;
    *q = (struct xp_queued){NULL, p, 0};
    p->refs++;
    *k->last = q;
    k->last = &q->next;
    xp_link_flush(k);
    return 1;
}

static int make_room(struct xp_link *k, size_t len)
{
    uint8_t *body;

    if (len <= k->room)
        return 1;
    body = realloc(k->body, len);
    if (!body)
        return 0;
    k->body = body;
    k->room = len;
    return 1;
}

enum xp_link_event xp_link_next(struct xp_link *k, struct xp_msg_head *h, int *error)
{
    for (;;) {
        size_t want = XP_MSG_HEAD;
        uint8_t *to = k->head + k->got;
        ssize_t n;

        if (k->got >= XP_MSG_HEAD) {
            if (!xp_msg_head_read(k->head, XP_MSG_MAX, h))
                return XP_LINK_BAD;
            if (!make_room(k, h->len))
                return XP_LINK_NO_MEMORY;
            want = XP_MSG_HEAD + h->len;
            if (k->got == want) {
                k->got = 0;
                return XP_LINK_MESSAGE;
            }
            to = k->body + (k->got - XP_MSG_HEAD);
        }
        n = recv(k->fd, to, want - k->got, MSG_DONTWAIT);
        if (n > 0) {
            k->got += (size_t)n;
            k->heard = xp_now();
        } else if (n == 0) {
            *error = 0;
            return XP_LINK_ENDED;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return XP_LINK_QUIET;
        } else if (errno != EINTR) {
            *error = errno;
            return XP_LINK_ENDED;
        }
    }
}

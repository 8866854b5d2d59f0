/*
 * link.h - one connection of the star: messages out by a queue, messages in one by one, neither ever blocks
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_LINK_H
#define XP_LINK_H

#include "lib/message.h"

/* One message, perhaps queued on many links. */
struct xp_packet {
    unsigned refs; /* made with one, which xp_packet_release gives back */
    size_t len;
    uint8_t bytes[]; /* head and body */
};

struct xp_queued {
    struct xp_queued *next;
    struct xp_packet *packet;
    size_t sent;
};

struct xp_link {
    int fd;       /* -1: closed */
    int rank;     /* at the other end */
    int left;     /* it has said goodbye */
    double heard; /* when something last came */
    struct xp_queued *first, **last;
    uint8_t head[XP_MSG_HEAD];
    uint8_t *body; /* of the last message read; [room] */
    size_t room, got;
};

/* NULL without memory. The body is the caller's to fill. */
struct xp_packet *xp_packet_new(enum xp_msg_type type, uint32_t word, size_t body_len);
uint8_t *xp_packet_body(struct xp_packet *p);
void xp_packet_release(struct xp_packet *p);

void xp_link_init(struct xp_link *k, int rank, int fd);
/* Closes the socket; what is queued is dropped. */
void xp_link_close(struct xp_link *k);
void xp_link_free(struct xp_link *k);

/* Queues a message (with a reference of its own) and sends what the socket takes. 0 without memory. */
int xp_link_queue(struct xp_link *k, struct xp_packet *p);
/* Sends what the socket takes. A broken socket is left to the reader, which sees its end. */
void xp_link_flush(struct xp_link *k);

enum xp_link_event {
    XP_LINK_MESSAGE, /* *h and k->body hold a message */
    XP_LINK_QUIET,   /* nothing more has come */
    XP_LINK_ENDED,   /* the connection is over; *error is an errno or 0 */
    XP_LINK_BAD,     /* what came is not a message of ours */
    XP_LINK_NO_MEMORY
};

/* The next message, if it is all there. After anything but MESSAGE and QUIET the link should be closed. */
enum xp_link_event xp_link_next(struct xp_link *k, struct xp_msg_head *h, int *error);

#endif

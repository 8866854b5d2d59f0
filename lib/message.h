/*
 * message.h - the frame of every message on the start-up and liveness sockets
 *
 * 16 bytes, little endian: magic, type (16 bits), zero (16 bits), length of the body, one word whose meaning is the type's.
 * A reader checks the head before it reads the body; a body is never longer than XP_MSG_MAX.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_MESSAGE_H
#define XP_MESSAGE_H

#include <ctype.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define XP_MSG_MAGIC 0x31425058u /* "XPB1"; the digit is the version of this protocol */
#define XP_MSG_HEAD 16u
#define XP_MSG_MAX (1u << 20)

enum xp_msg_type {
    /* start-up (star.c) */
    XP_MSG_CHALLENGE = 1, /* root: nonce */
    XP_MSG_RESPONSE = 2,  /* leaf: who it is, with proof of the secret */
    XP_MSG_WELCOME = 3,   /* root: its own proof */
    XP_MSG_START = 4,     /* root: everybody is here; job number */
    XP_MSG_ABORT = 5,     /* root: word = status, body = text; the start-up is over */
    /* life (liveness.c) */
    XP_MSG_HEARTBEAT = 16,
    XP_MSG_GOODBYE = 17,      /* the sender leaves in good order */
    XP_MSG_LEFT = 18,         /* root: rank `word` has left in good order */
    XP_MSG_REVOKE = 19,       /* word = status; body = text: the group has failed */
    XP_MSG_GATHER = 20,       /* leaf: contribution to gather number `word` */
    XP_MSG_GATHERED = 21,     /* root: a piece of the result of gather `word`; body = offset (64 bits), bytes */
    XP_MSG_GATHER_FAILED = 22,/* root: gather `word` failed; body = status (32 bits), text */
    XP_MSG_LATE = 23          /* leaf: its deadline for gather `word` has passed: who is missing? body = the deadline in ms (64 bits), name */
};

#define XP_LATE_START UINT32_MAX /* the `word` of XP_MSG_LATE for the start-up, whose messages name no gather */

struct xp_msg_head {
    uint16_t type;
    uint32_t word, len;
};

static inline void xp_put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static inline void xp_put64(uint8_t *p, uint64_t v)
{
    xp_put32(p, (uint32_t)v);
    xp_put32(p + 4, (uint32_t)(v >> 32));
}

static inline uint32_t xp_get32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t xp_get64(const uint8_t *p)
{
    return xp_get32(p) | (uint64_t)xp_get32(p + 4) << 32;
}

static inline void xp_msg_head_write(uint8_t out[XP_MSG_HEAD], enum xp_msg_type type, uint32_t word, uint32_t len)
{
    xp_put32(out, XP_MSG_MAGIC);
    xp_put32(out + 4, (uint32_t)type);
    xp_put32(out + 8, len);
    xp_put32(out + 12, word);
}

/* Returns 0 when the bytes are not a head of ours or announce more than `most` bytes. */
static inline int xp_msg_head_read(const uint8_t in[XP_MSG_HEAD], uint32_t most, struct xp_msg_head *h)
{
    uint32_t type = xp_get32(in + 4);

    if (xp_get32(in) != XP_MSG_MAGIC || type > 0xffff || xp_get32(in + 8) > most)
        return 0;
    h->type = (uint16_t)type;
    h->len = xp_get32(in + 8);
    h->word = xp_get32(in + 12);
    return 1;
}

/* A text that came over the wire, made fit to print. */
static inline void xp_msg_text(char *out, size_t size, const uint8_t *body, size_t len)
{
    size_t n = len < size - 1 ? len : size - 1;

    for (size_t i = 0; i < n; i++)
        out[i] = isprint(body[i]) ? (char)body[i] : '?';
    out[n] = '\0';
}

#endif

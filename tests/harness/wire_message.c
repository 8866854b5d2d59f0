/*
 * wire_message.c - filled buffers and single messages (wire_message.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/harness/wire_message.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct area area_take(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (n + page - 1) / page * page;
    struct area a = {mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), NULL, room + page, n};

    if (a.map == MAP_FAILED || mprotect(a.map + room, page, PROT_NONE) != 0)
        abort();
    a.at = a.map + room - n;
    return a;
}

void area_give_back(struct area *a)
{
    munmap(a->map, a->mapped);
}

static unsigned char byte_at(uint64_t key, size_t i)
{
    return (unsigned char)(key * 0x9e37 + i * 131 + (i >> 8) * 7 + (i >> 16));
}

void area_fill(struct area *a, uint64_t key)
{
    for (size_t i = 0; i < a->n; i++)
        a->at[i] = byte_at(key, i);
}

long area_wrong(const struct area *a, uint64_t key, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (a->at[i] != byte_at(key, i))
            return (long)i;
    }
    return -1;
}

uint64_t wire_key(int from, int to, uint64_t tag)
{
    return (uint64_t)from << 40 ^ (uint64_t)to << 32 ^ tag;
}

/* ------------------------------------------------------------------ one message */

int wire_send_filled(struct wire *w, int to, enum xp_lane lane, uint64_t tag, size_t len)
{
    struct area a = area_take(len);
    struct xp_op op;
    int bad = 0;

    area_fill(&a, wire_key(w->rank, to, tag));
    w->ops->send(w->t, to, lane, tag, a.at, len, &op);
    if (wire_wait(w, &op, WIRE_WAIT) != XP_OK)
        bad = wire_fail(w, "send of %zu bytes to %d: %s", len, to, xp_status_string(op.status));
    area_give_back(&a);
    return bad;
}

int wire_check(struct wire *w, struct xp_op *op, const struct area *a, int from, uint64_t tag, size_t len)
{
    if (wire_wait(w, op, WIRE_WAIT) != XP_OK)
        return wire_fail(w, "receive of %zu bytes from %d: %s", len, from, xp_status_string(op->status));
    if (op->len != len)
        return wire_fail(w, "%zu bytes from %d instead of %zu", op->len, from, len);
    long at = area_wrong(a, wire_key(from, w->rank, tag), len);
    return at >= 0 ? wire_fail(w, "byte %ld of %zu from %d is wrong", at, len, from) : 0;
}

int wire_recv_filled(struct wire *w, int from, enum xp_lane lane, uint64_t tag, size_t len, size_t cap)
{
    struct area a = area_take(cap);
    struct xp_op op;

    w->ops->recv(w->t, from, lane, tag, a.at, cap, &op);
    int bad = wire_check(w, &op, &a, from, tag, len);
    area_give_back(&a);
    return bad;
}

int wire_meet(struct wire *w, uint64_t tag)
{
    struct xp_op in[WIRES_MAX], out[WIRES_MAX];
    char word[WIRES_MAX];
    int bad = 0;

    for (int p = 0; p < w->size; p++) {
        if (p == w->rank)
            continue;
        w->ops->recv(w->t, p, XP_LANE_CTRL, tag, &word[p], 1, &in[p]);
        w->ops->send(w->t, p, XP_LANE_CTRL, tag, "m", 1, &out[p]);
    }
    for (int p = 0; p < w->size; p++) {
        if (p != w->rank && (wire_wait(w, &out[p], WIRE_WAIT) != XP_OK || wire_wait(w, &in[p], WIRE_WAIT) != XP_OK))
            bad = wire_fail(w, "meeting rank %d: %s", p, xp_status_string(in[p].status));
    }
    return bad;
}

/*
 * pattern.c - which calls of a group are an all-to-all
 *
 * A decision must come out the same at both ends of every message. ncclAlltoAll is collective by definition. A set of sends and
 * receives is only this rank's part; it counts as an all-to-all when it names every rank equally often in both directions and
 * the setting GROUPS says that then all other ranks' sets do as well.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/pattern.h"

#include <stdlib.h>

size_t xp_nccl_type_size(int type)
{
    static const unsigned char size[ncclNumTypes] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return type >= 0 && type < ncclNumTypes ? size[type] : 0;
}

struct set { /* sends and receives of one communicator and data type */
    const struct xp_side *side;
    int type, size, rank;
    unsigned *sends, *recvs; /* [size] calls for each peer */
};

static int in_set(const struct xp_call *c, const struct xp_side *side, int type)
{
    return c->kind != XP_CALL_ALLTOALL && c->side == side && c->type == type;
}

/* Every rank is named equally often, as sender and as receiver, this one included. */
static int is_complete(const struct set *s)
{
    for (int p = 0; p < s->size; p++)
        if (s->sends[p] == 0 || s->sends[p] != s->sends[0] || s->recvs[p] != s->sends[0])
            return 0;
    return 1;
}

/* No rank is named twice in one direction, and another rank is named at all. */
static int is_sparse(const struct set *s)
{
    int others = 0;
    for (int p = 0; p < s->size; p++) {
        if (s->sends[p] > 1 || s->recvs[p] > 1)
            return 0;
        others += p != s->rank && s->sends[p] + s->recvs[p] > 0;
    }
    /* NCCL refuses a send to oneself without its receive; let it say so. */
    return others > 0 && s->sends[s->rank] == s->recvs[s->rank];
}

static int is_alltoall(const struct xp_call *calls, size_t ncalls, const struct xp_side *side, int type,
                       struct xp_comm_view v)
{
    struct set s = {.side = side, .type = type, .size = v.size, .rank = v.rank};
    int yes = 0;

    if (v.groups < XP_GROUPS_COMPLETE || v.size < 2 || !xp_nccl_type_size(type))
        return 0;
    s.sends = calloc(2 * (size_t)v.size, sizeof *s.sends);
    if (!s.sends)
        return 0;
    s.recvs = s.sends + v.size;
    for (size_t i = 0; i < ncalls; i++) {
        if (!in_set(&calls[i], side, type))
            continue;
        if (calls[i].peer < 0 || calls[i].peer >= v.size)
            goto out;
        (calls[i].kind == XP_CALL_SEND ? s.sends : s.recvs)[calls[i].peer]++;
    }
    yes = is_complete(&s) || (v.groups == XP_GROUPS_SPARSE && is_sparse(&s));
out:
    free(s.sends);
    return yes;
}

/* The ncclAlltoAlls of one communicator, in order. */
static size_t find_collective(struct xp_call *calls, size_t ncalls, const struct xp_side *side, struct xp_found *found,
                              size_t n, size_t max)
{
    for (size_t i = 0; i < ncalls && n < max; i++) {
        if (calls[i].side != side || calls[i].kind != XP_CALL_ALLTOALL || !xp_nccl_type_size(calls[i].type))
            continue;
        calls[i].op = (int)n;
        found[n++] = (struct xp_found){.side = calls[i].side, .type = calls[i].type, .collective = 1, .first = i};
    }
    return n;
}

/* The sets of one communicator, by data type. */
static size_t find_sets(struct xp_call *calls, size_t ncalls, struct xp_side *side, struct xp_comm_view v,
                        struct xp_found *found, size_t n, size_t max)
{
    for (int type = 0; type < ncclNumTypes && n < max; type++) {
        size_t first = 0;
        while (first < ncalls && !in_set(&calls[first], side, type))
            first++;
        if (first == ncalls || !is_alltoall(calls, ncalls, side, type, v))
            continue;
        for (size_t i = first; i < ncalls; i++)
            if (in_set(&calls[i], side, type))
                calls[i].op = (int)n;
        found[n++] = (struct xp_found){.side = side, .type = type, .first = first};
    }
    return n;
}

static int seen_before(const struct xp_call *calls, size_t i)
{
    for (size_t j = 0; j < i; j++)
        if (calls[j].side == calls[i].side)
            return 1;
    return 0;
}

size_t xp_pattern_find(struct xp_call *calls, size_t ncalls, struct xp_comm_view (*view)(const struct xp_side *side),
                       struct xp_found *found, size_t max)
{
    const struct xp_side *previous = NULL;
    size_t n = 0;

    for (size_t i = 0; i < ncalls; i++)
        calls[i].op = -1;
    for (size_t i = 0; i < ncalls; i++) {
        if (!calls[i].side || calls[i].side == previous || seen_before(calls, i))
            continue;
        previous = calls[i].side;
        struct xp_comm_view v = view(calls[i].side);
        if (v.size < 2)
            continue;
        n = find_collective(calls, ncalls, calls[i].side, found, n, max);
        if (v.groups >= XP_GROUPS_COMPLETE)
            n = find_sets(calls, ncalls, calls[i].side, v, found, n, max);
    }
    return n;
}

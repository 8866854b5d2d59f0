/*
 * routing.c - routings and their maps: the caller's arrays checked and agreed on, entries sent along their hops, expert layout
 *
 * Two kinds of messages. The hello of a rank says to every rank how many entries it has for each, and whether its arguments are
 * fine; all ranks get all hellos, so that they judge alike. Little endian:
 *
 *   offset  bytes
 *   0       4    magic "XPRT"
 *   4       4    status of the sender's arguments
 *   8       8    hash of its expert_rank
 *   16      156  text of its error
 *   172     4    1: the sender wants this step not to be folded
 *   176     4 P  entries for rank 0, 1, ...
 *           8 E  folded mode with one hop: centroids for expert 0 (4 bytes), its probes (4), the same for expert 1, ...
 *
 * Then each hop's records, in the order in which rows will travel: token (32 bits), source (16), expert (16), weight (f32), slot (32).
 * How many come from whom follows from the hellos; where these say what is for every expert, the records do too, and are not sent.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/moe_device.h"
#include "collectives/wire.h"
#include "hash/pages.h"

#define HELLO_MAGIC 0x54525058u /* "XPRT" */
#define HELLO_TEXT 156
#define HELLO_FLAG 172
#define HELLO_HEAD 176

/* ---- memory --------------------------------------------------------------------------------------------------------- */

static void map_free(struct xp_map *map)
{
    for (int l = 0; l <= XP_MOE_HOPS; l++) {
        struct xp_map_level *v = &map->level[l];
        free(v->entry);
        free(v->row);
        if (v->unit != v->back)
            free(v->unit);
        free(v->back);
    }
    for (int h = 0; h < XP_MOE_HOPS; h++) {
        free(map->hop[h].gather);
        free(map->hop[h].unit);
        free(map->hop[h].rows_to);
    }
    free(map->sends);
    free(map->rank_of);
    free(map->expert_ids);
    free(map->offsets);
    memset(map, 0, sizeof *map);
}

/* Sized for the worst case; pages that no step needs are never touched. */
static int map_create(const struct xp_moe *m, struct xp_map *map, int sum)
{
    size_t n = (size_t)m->shape.comm->size, experts = (size_t)m->shape.experts;
    int bad = 0;
    memset(map, 0, sizeof *map);
    map->sum = sum;
    map->direct = m->hops == 1 && !m->device;
    for (int l = 0; l <= m->hops; l++) {
        struct xp_map_level *v = &map->level[l];
        bad |= !(v->entry = malloc((m->cap[l] + 1) * sizeof *v->entry));
        bad |= !(v->row = malloc((m->cap[l] + 1) * sizeof *v->row));
        bad |= !(v->back = malloc((m->cap[l] + 1) * sizeof *v->back));
        v->unit = sum || map->direct ? malloc((m->cap[l] + 1) * sizeof *v->unit) : v->back;
        bad |= !v->unit;
    }
    for (int h = 0; h < m->hops; h++) {
        struct xp_map_hop *p = &map->hop[h];
        bad |= !(p->gather = malloc((m->cap[h] + 1) * sizeof *p->gather));
        bad |= !(p->unit = malloc((m->cap[h + 1] + 1) * sizeof *p->unit));
        bad |= !(p->rows_to = calloc(6 * n, sizeof *p->rows_to));
        p->rows_from = p->rows_to + n;
        p->units_to = p->rows_to + 2 * n;
        p->units_from = p->rows_to + 3 * n;
        p->entries_to = p->rows_to + 4 * n;
        p->entries_from = p->rows_to + 5 * n;
    }
    bad |= !(map->sends = calloc(2 * n, sizeof *map->sends));
    map->gets = map->sends + n;
    bad |= !(map->rank_of = calloc(experts, sizeof *map->rank_of));
    bad |= !(map->expert_ids = calloc(experts, sizeof *map->expert_ids));
    bad |= !(map->offsets = calloc(experts + 1, sizeof *map->offsets));
    return bad ? -1 : 0;
}

void xp_routing_free(struct xp_routing *r)
{
    if (!r)
        return;
    map_free(&r->map);
    map_free(&r->virtual_map);
    xp_moe_lists_destroy(r);
    xp_fold_destroy(r->fold);
    free(r->x);
    free(r->expert);
    free(r->weight);
    free(r->sequence);
    free(r);
}

static int create_folded(struct xp_moe *m, struct xp_routing *r, size_t tokens)
{
    if (map_create(m, &r->virtual_map, 0) != 0 || xp_fold_create(&r->fold, m->folder) != XP_OK)
        return -1;
    r->virtual_map.virtual_tokens = 1;
    return m->device || (r->x = xp_pages_alloc(tokens * m->shape.row_bytes + 1)) ? 0 : -1;
}

static struct xp_routing *routing_create(struct xp_moe *m)
{
    size_t tokens = m->shape.peer_max_tokens[m->shape.comm->rank], slots = tokens * (size_t)m->shape.max_topk;
    struct xp_routing *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->expert = malloc((slots + 1) * sizeof *r->expert);
    r->weight = malloc((slots + 1) * sizeof *r->weight);
    r->sequence = m->shape.sequences ? malloc((tokens + 1) * sizeof *r->sequence) : NULL;
    if (!r->expert || !r->weight || (m->shape.sequences && !r->sequence) || map_create(m, &r->map, m->shape.sum) != 0 ||
        (m->folder && create_folded(m, r, tokens) != 0) || (m->device && xp_moe_lists_create(m, r) != 0)) {
        xp_routing_free(r);
        return NULL;
    }
    r->moe = m;
    r->next = m->routings;
    m->routings = r;
    return r;
}

struct xp_routing *xp_routing_get(struct xp_moe *m)
{
    struct xp_routing *r = m->routings;
    while (r && r->used)
        r = r->next;
    if (!r)
        r = routing_create(m);
    if (r)
        r->used = 1;
    return r;
}

void xp_routing_put(struct xp_routing *r)
{
    if (r->moe)
        r->used = 0;
    else
        xp_routing_free(r);
}

/* ---- the caller's arrays ---------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) static xp_status bad(char *why, size_t size, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, size, fmt, args);
    va_end(args);
    return XP_ERR_INVALID_ARG;
}

static xp_status take_experts(struct xp_routing *r, const xp_route_desc *d, char *why, size_t size)
{
    const struct xp_moe_shape *s = &r->moe->shape;
    for (int e = 0; e < s->experts; e++) {
        int64_t rank = d->expert_rank ? d->expert_rank[e] : (int64_t)e * s->comm->size / s->experts;
        if (rank < 0 || rank >= s->comm->size)
            return bad(why, size, "expert_rank of expert %d is %lld, not in 0 .. %d", e, (long long)rank, s->comm->size - 1);
        r->map.rank_of[e] = (uint16_t)rank;
    }
    return XP_OK;
}

/* Slots of one token, left and checked; seen[e] = t + 1 when the token has had expert e. */
static xp_status take_token(struct xp_routing *r, const xp_route_desc *d, size_t t, uint32_t *seen, char *why, size_t size)
{
    int experts = r->moe->shape.experts;
    for (int k = 0; k < d->topk; k++) {
        size_t i = t * (size_t)d->topk + (size_t)k;
        int32_t e = d->expert[i];
        float w = d->weight ? d->weight[i] : 1;
        r->expert[i] = e;
        r->weight[i] = e < 0 ? 0 : w;
        if (e == -1)
            continue;
        if (e < 0 || e >= experts)
            return bad(why, size, "expert %d of token %zu, slot %d is not in -1 .. %d", e, t, k, experts - 1);
        if (seen[e] == (uint32_t)t + 1)
            return bad(why, size, "token %zu has expert %d twice", t, e);
        if (!isfinite(w))
            return bad(why, size, "the weight of token %zu, slot %d is not finite", t, k);
        seen[e] = (uint32_t)t + 1;
        r->map.sends[r->map.rank_of[e]]++;
    }
    return XP_OK;
}

xp_status xp_routing_take(struct xp_routing *r, const xp_route_desc *d, char *why, size_t size)
{
    struct xp_moe *m = r->moe;
    const struct xp_moe_shape *s = &m->shape;
    size_t most = s->peer_max_tokens[s->comm->rank];
    memset(r->map.sends, 0, (size_t)s->comm->size * sizeof *r->map.sends);
    r->map.tokens = 0;
    if (d->size != sizeof *d)
        return bad(why, size, "the description was not filled by xp_route_desc_init");
    if (d->tokens > most)
        return bad(why, size, "%zu tokens, but the plan's max_send_rows is %zu", d->tokens, most);
    if (d->topk < 0 || d->topk > s->max_topk)
        return bad(why, size, "topk is %d, not in 0 .. %d", d->topk, s->max_topk);
    if (d->tokens && d->topk && !d->expert)
        return bad(why, size, "expert is NULL");
    if (s->sequences && d->tokens && !d->sequence)
        return bad(why, size, "sequence is NULL, but XP_CENTROID_SEQUENCES needs it");
    xp_status st = take_experts(r, d, why, size);
    memset(m->bucket, 0, (size_t)s->experts * sizeof *m->bucket);
    for (size_t t = 0; st == XP_OK && t < d->tokens; t++)
        st = take_token(r, d, t, m->bucket, why, size);
    if (st != XP_OK)
        return st;
    if (r->sequence && d->tokens)
        memcpy(r->sequence, d->sequence, d->tokens * sizeof *r->sequence);
    r->map.tokens = d->tokens;
    r->topk = d->topk;
    r->stage = XP_ROUTED;
    return XP_OK;
}

/* ---- hellos ----------------------------------------------------------------------------------------------------------- */

int xp_hello_tells_all(const struct xp_moe_shape *s)
{
    return s->mode == XP_MODE_FOLDED && xp_path_hops(s->path) == 1;
}

size_t xp_moe_hello_bytes(const struct xp_moe_shape *s)
{
    return HELLO_HEAD + 4 * (size_t)s->comm->size + (xp_hello_tells_all(s) ? 8 * (size_t)s->experts : 0);
}

static uint64_t hash_map(const struct xp_moe *m, const struct xp_map *map)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int e = 0; e < m->shape.experts; e++)
        h = (h ^ map->rank_of[e]) * 0x100000001b3u; /* FNV-1a, a word at a time */
    return h;
}

void xp_hello_write(struct xp_moe *m, const struct xp_map *map, const struct xp_fold *fold, xp_status status, const char *why, int flag)
{
    int n = m->shape.comm->size;
    uint8_t *p = m->hello_out, *counts = p + HELLO_HEAD + 4 * n;
    memset(p, 0, m->hello_bytes);
    xp_put32(p, HELLO_MAGIC);
    xp_put32(p + 4, (uint32_t)status);
    snprintf((char *)p + 16, HELLO_TEXT, "%s", why);
    xp_put32(p + HELLO_FLAG, (uint32_t)flag);
    if (status == XP_OK) {
        xp_put64(p + 8, hash_map(m, map));
        for (int i = 0; i < n; i++)
            xp_put32(p + HELLO_HEAD + 4 * i, (uint32_t)map->sends[i]);
        for (int e = 0; fold && xp_hello_tells_all(&m->shape) && e < m->shape.experts; e++) {
            xp_put32(counts + 8 * e, (uint32_t)xp_fold_clusters_of(fold, (size_t)e));
            xp_put32(counts + 8 * e + 4, (uint32_t)xp_fold_probes_of(fold, (size_t)e));
        }
    }
    for (int i = 1; i < n; i++)
        memcpy(p + (size_t)i * m->hello_bytes, p, m->hello_bytes);
}

static const uint8_t *hello_of(const struct xp_moe *m, int rank)
{
    return m->hello_in + (size_t)rank * m->hello_bytes;
}

/* Entries of `source` for `dest`. */
static size_t entries_of(const struct xp_moe *m, int source, int dest)
{
    return xp_get32(hello_of(m, source) + HELLO_HEAD + 4 * dest);
}

/* Arguments of any rank, the own first. */
static xp_status first_error(struct xp_moe *m)
{
    struct xp_comm *c = m->shape.comm;
    for (int k = 0; k < c->size; k++) {
        int i = (c->rank + k) % c->size;
        int32_t st = (int32_t)xp_get32(hello_of(m, i) + 4);
        char text[HELLO_TEXT];
        if (xp_get32(hello_of(m, i)) != HELLO_MAGIC)
            return xp_comm_revoke(c, XP_ERR_CORRUPT, "route: the hello of rank %d is damaged", i);
        if (st == XP_OK)
            continue;
        snprintf(text, sizeof text, "%.*s", HELLO_TEXT - 1, (const char *)hello_of(m, i) + 16);
        return xp_error(c, k == 0 ? (xp_status)st : XP_ERR_REMOTE, "route: rank %d: %s", i, text);
    }
    return XP_OK;
}

xp_status xp_hello_verdict(struct xp_moe *m, struct xp_map *map)
{
    struct xp_comm *c = m->shape.comm;
    xp_status st = first_error(m);
    for (int i = 1; st == XP_OK && i < c->size; i++)
        if (xp_get64(hello_of(m, i) + 8) != xp_get64(hello_of(m, 0) + 8))
            st = xp_error(c, XP_ERR_MISMATCH, "route: ranks 0 and %d have different expert_rank", i);
    for (int dest = 0; st == XP_OK && dest < c->size; dest++) {
        size_t rows = 0;
        for (int i = 0; i < c->size; i++)
            rows += entries_of(m, i, dest);
        if (rows > m->shape.peer_max_rows[dest])
            st = xp_error(c, XP_ERR_INVALID_ARG, "route: the experts of rank %d get %zu rows, but its plan's max_recv_rows is %zu",
                          dest, rows, m->shape.peer_max_rows[dest]);
        if (dest == c->rank)
            map->rows = rows;
    }
    for (int i = 0; st == XP_OK && i < c->size; i++)
        map->gets[i] = entries_of(m, i, c->rank);
    return st;
}

int xp_hello_flags(const struct xp_moe *m)
{
    uint32_t any = 0;
    for (int i = 0; i < m->shape.comm->size; i++)
        any |= xp_get32(hello_of(m, i) + HELLO_FLAG);
    return any != 0;
}

/* ---- hops ------------------------------------------------------------------------------------------------------------- */

static int node_to(const struct xp_moe *m, const struct xp_map *map, const struct xp_entry *e)
{
    return m->shape.comm->node_of[map->rank_of[e->expert]];
}

/* Entries whose rows are summed before they come home stand together: those of one node; in flat, of one rank. */
static int64_t sum_key(const struct xp_moe *m, const struct xp_map *map, const struct xp_entry *e)
{
    int64_t node = node_to(m, map, e);
    int by_rank = m->shape.path == XP_PATH_FLAT && xp_entry_is_far(m, map, e);
    return node << 32 | (by_rank ? map->rank_of[e->expert] : 0);
}

static void sort_for_sums(const struct xp_moe *m, const struct xp_map *map, struct xp_entry *e, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct xp_entry x = e[i];
        int64_t key = sum_key(m, map, &x);
        size_t k = i;
        for (; k > 0 && sum_key(m, map, &e[k - 1]) > key; k--)
            e[k] = e[k - 1];
        e[k] = x;
    }
}

void xp_map_home(struct xp_moe *m, struct xp_routing *r)
{
    struct xp_map *map = &r->map;
    struct xp_map_level *v = &map->level[0];
    size_t n = 0;
    for (size_t t = 0; t < map->tokens; t++) {
        size_t begin = n;
        for (int k = 0; k < r->topk; k++) {
            size_t i = t * (size_t)r->topk + (size_t)k;
            if (r->expert[i] >= 0)
                v->entry[n++] = (struct xp_entry){(uint32_t)t, (uint16_t)m->shape.comm->rank, (uint16_t)r->expert[i], r->weight[i],
                                                  (uint32_t)k};
        }
        if (map->sum)
            sort_for_sums(m, map, v->entry + begin, n - begin);
        for (size_t i = begin; i < n; i++)
            v->row[i] = (uint32_t)t;
    }
    v->entries = n;
}

/* Whether an entry begins a new row, or a new unit, behind the entry before it in the same message. */
static int begins_row(const struct xp_moe *m, const struct xp_entry *e, const struct xp_entry *before)
{
    return m->shape.mode == XP_MODE_RAW || e->source != before->source || e->token != before->token;
}

static int begins_unit(const struct xp_moe *m, const struct xp_map *map, int hop, const struct xp_entry *e, const struct xp_entry *before)
{
    int summed = map->sum && hop <= m->slow_hop && xp_entry_is_far(m, map, e);
    return !summed || e->source != before->source || e->token != before->token || node_to(m, map, e) != node_to(m, map, before);
}

/* Stable: order[i] = the entry in place i when entries are sorted by next rank. */
static void sort_by_next(struct xp_moe *m, struct xp_map *map, int hop)
{
    const struct xp_comm *c = m->shape.comm;
    const struct xp_map_level *v = &map->level[hop];
    size_t *count = map->hop[hop].entries_to;
    uint32_t at = 0;
    memset(count, 0, (size_t)c->size * sizeof *count);
    for (size_t i = 0; i < v->entries; i++) {
        m->sort2[i] = (uint32_t)xp_path_at(c, m->shape.path, v->entry[i].source, map->rank_of[v->entry[i].expert], hop + 1);
        count[m->sort2[i]]++;
    }
    for (int i = 0; i < c->size; i++) {
        m->bucket[i] = at;
        at += (uint32_t)count[i];
    }
    for (size_t i = 0; i < v->entries; i++)
        m->sort[m->bucket[m->sort2[i]]++] = (uint32_t)i;
}

static void put_record(uint8_t *p, const struct xp_entry *e)
{
    uint32_t weight;
    memcpy(&weight, &e->weight, 4);
    xp_put32(p, e->token);
    xp_put32(p + 4, e->source | (uint32_t)e->expert << 16);
    xp_put32(p + 8, weight);
    xp_put32(p + 12, e->slot);
}

static struct xp_entry get_record(const uint8_t *p)
{
    struct xp_entry e = {.token = xp_get32(p), .source = (uint16_t)xp_get32(p + 4), .expert = (uint16_t)(xp_get32(p + 4) >> 16),
                         .slot = xp_get32(p + 12)};
    uint32_t weight = xp_get32(p + 8);
    memcpy(&e.weight, &weight, 4);
    return e;
}

/* Virtual tokens of `source` for the experts of this rank: centroids by expert, in its order, then probes likewise (folded.h). Returns whether there are
 * as many as its hello says in all. */
static int tell_records(struct xp_moe *m, const struct xp_map *map, int source, uint8_t *records)
{
    const uint8_t *counts = hello_of(m, source) + HELLO_HEAD + 4 * m->shape.comm->size;
    const int me = m->shape.comm->rank;
    struct xp_entry entry = {.source = (uint16_t)source, .weight = 1};
    size_t left = entries_of(m, source, me);
    xp_folded_order(m, map->rank_of, source);
    for (int kind = 0; kind < 2; kind++)
        for (int i = 0; i < m->shape.experts; i++) {
            const int e = m->order[i];
            const uint32_t count = xp_get32(counts + 8 * e + 4 * kind), after = entry.token + count;
            entry.expert = (uint16_t)e;
            if (map->rank_of[e] == me && count > left)
                return 0;
            for (; map->rank_of[e] == me && entry.token != after; entry.token++, left--, records += XP_MOE_RECORD)
                put_record(records, &entry);
            entry.token = after;
        }
    return left == 0;
}

xp_status xp_hello_records(struct xp_moe *m, const struct xp_map *map)
{
    uint8_t *records = m->records_in;
    for (int source = 0; source < m->shape.comm->size; source++) {
        if (!tell_records(m, map, source, records))
            return xp_comm_revoke(m->shape.comm, XP_ERR_CORRUPT, "route: the hello of rank %d is damaged", source);
        records += entries_of(m, source, m->shape.comm->rank) * XP_MOE_RECORD;
    }
    return XP_OK;
}

/* How many records each rank sends here in this hop. */
static void expect(struct xp_moe *m, struct xp_map *map, int hop)
{
    const struct xp_comm *c = m->shape.comm;
    size_t *from = map->hop[hop].entries_from;
    memset(from, 0, (size_t)c->size * sizeof *from);
    for (int source = 0; source < c->size; source++)
        for (int dest = 0; dest < c->size; dest++)
            if (xp_path_at(c, m->shape.path, source, dest, hop + 1) == c->rank)
                from[xp_path_at(c, m->shape.path, source, dest, hop)] += entries_of(m, source, dest);
}

void xp_map_leave(struct xp_moe *m, struct xp_map *map, int hop)
{
    struct xp_map_level *v = &map->level[hop];
    struct xp_map_hop *p = &map->hop[hop];
    const struct xp_entry *before = NULL;
    size_t at = 0, rows = 0, units = 0;
    sort_by_next(m, map, hop);
    expect(m, map, hop);
    for (int to = 0; to < m->shape.comm->size; to++) {
        size_t rows_before = rows, units_before = units;
        before = NULL;
        for (size_t end = at + p->entries_to[to]; at < end; at++) {
            uint32_t i = m->sort[at];
            const struct xp_entry *e = &v->entry[i];
            const int stays = xp_entry_stays(m, map, e);
            if (!stays && (!before || begins_row(m, e, before)))
                p->gather[rows++] = v->row[i];
            if (!stays && (!before || begins_unit(m, map, hop, e, before)))
                units++;
            v->unit[i] = (uint32_t)(units - 1); /* of one that stays: xp_map_layout */
            v->back[i] = (uint32_t)at; /* the same array as unit where nothing is summed: then units are entries */
            put_record(m->records_out + at * XP_MOE_RECORD, e);
            before = e;
        }
        p->rows_to[to] = rows - rows_before;
        p->units_from[to] = units - units_before;
    }
    p->rows_out = rows;
}

/* A record must be of a pair of ranks whose way leads from that peer to here. */
static int belongs(const struct xp_moe *m, const struct xp_map *map, int hop, int peer, const struct xp_entry *e)
{
    const struct xp_comm *c = m->shape.comm;
    if (e->source >= c->size || e->expert >= m->shape.experts)
        return 0;
    if (e->token >= m->shape.peer_max_tokens[e->source] * (size_t)(map->virtual_tokens ? m->shape.max_topk : 1))
        return 0;
    int dest = map->rank_of[e->expert];
    return xp_path_at(c, m->shape.path, e->source, dest, hop) == peer && xp_path_at(c, m->shape.path, e->source, dest, hop + 1) == c->rank;
}

xp_status xp_map_enter(struct xp_moe *m, struct xp_map *map, int hop)
{
    struct xp_map_level *v = &map->level[hop + 1];
    struct xp_map_hop *p = &map->hop[hop];
    size_t at = 0, rows = 0, units = 0;
    for (int from = 0; from < m->shape.comm->size; from++) {
        size_t begin = at, rows_before = rows, units_before = units;
        for (size_t end = at + p->entries_from[from]; at < end; at++) {
            struct xp_entry *e = &v->entry[at];
            *e = get_record(m->records_in + at * XP_MOE_RECORD);
            if (!belongs(m, map, hop, from, e))
                return xp_error(m->shape.comm, XP_ERR_CORRUPT, "route: rank %d sent a record that does not belong here", from);
            if (xp_entry_stays(m, map, e)) {
                v->row[at] = e->token;
                continue;
            }
            rows += at == begin || begins_row(m, e, e - 1);
            v->row[at] = (uint32_t)(rows - 1);
            if (at == begin || begins_unit(m, map, hop, e, e - 1))
                p->unit[units++].begin = (uint32_t)at;
            p->unit[units - 1].end = (uint32_t)at + 1;
        }
        p->rows_from[from] = rows - rows_before;
        p->units_to[from] = units - units_before;
    }
    p->units_in = units;
    v->entries = at;
    return XP_OK;
}

/* ---- expert layout ------------------------------------------------------------------------------------------------------ */

static void number_experts(struct xp_moe *m, struct xp_map *map)
{
    const struct xp_map_level *v = &map->level[m->hops];
    int me = m->shape.comm->rank, n = 0;
    memset(m->bucket, 0, (size_t)m->shape.experts * sizeof *m->bucket);
    for (size_t i = 0; i < v->entries; i++)
        m->bucket[v->entry[i].expert]++;
    uint32_t at = 0;
    for (int e = 0; e < m->shape.experts; e++) {
        uint32_t count = m->bucket[e];
        m->bucket[e] = at;
        if (map->rank_of[e] == me) {
            map->expert_ids[n] = e;
            map->offsets[n++] = at;
        }
        at += count;
    }
    map->local_experts = n;
    map->offsets[n] = at;
    map->rows = at;
}

void xp_map_no_rows(struct xp_moe *m, struct xp_map *map)
{
    size_t rows = map->rows;
    map->level[m->hops].entries = 0;
    number_experts(m, map);
    map->rows = rows;
}

/* Entries that stay stand in the same order here, as at their experts, as they do at home. */
static void join_ends(const struct xp_moe *m, struct xp_map *map)
{
    struct xp_map_level *home = &map->level[0];
    const struct xp_map_level *here = &map->level[1];
    size_t at = 0;
    for (int i = 0; i < m->shape.comm->rank; i++)
        at += map->hop[0].entries_from[i];
    for (size_t i = 0; i < home->entries; i++)
        if (xp_entry_stays(m, map, &home->entry[i]))
            home->unit[i] = here->unit[at++];
}

/* Sorted by source, then stably by expert. Tokens of one source come in order, because its entries for one rank share one way. */
void xp_map_layout(struct xp_moe *m, struct xp_map *map)
{
    struct xp_map_level *v = &map->level[m->hops];
    int n = m->shape.comm->size;
    memset(m->bucket, 0, ((size_t)n + 1) * sizeof *m->bucket);
    for (size_t i = 0; i < v->entries; i++)
        m->bucket[v->entry[i].source + 1]++;
    for (int s = 0; s < n; s++)
        m->bucket[s + 1] += m->bucket[s];
    for (size_t i = 0; i < v->entries; i++)
        m->sort[m->bucket[v->entry[i].source]++] = (uint32_t)i;
    number_experts(m, map);
    for (size_t k = 0; k < v->entries; k++) {
        uint32_t i = m->sort[k];
        v->unit[i] = v->back[i] = m->bucket[v->entry[i].expert]++;
    }
    if (map->direct)
        join_ends(m, map);
}

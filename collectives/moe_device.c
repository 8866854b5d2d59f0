/*
 * moe_device.c - rows of a MoE layer in device memory (moe_device.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/moe_device.h"

#include <stdlib.h>
#include <string.h>

#include "collectives/device_call.h"
#include "collectives/folded_device.h"

struct xp_moe_device {
    const struct xp_device *dev;
    struct xp_gpu gpu;            /* its stream is the operation's */
    struct xp_pool memory, pinned;
    void *copying;                /* stream: of lists */
    void *left, *dots_known;      /* events: the end of the last operation on its stream; m->dots is on the host */
    float *dots;                  /* [cap_most] */
    struct xp_call_result result; /* of the last hop in either direction, where the exchange makes it: */
    struct xp_gpu_terms terms;
    struct xp_gpu_places places;
    int made;                     /* it does */
    int error;
};

/* Rows, each made of one other row, or of terms. */
struct xp_moe_list {
    size_t rows;
    struct xp_gpu_terms terms; /* device; first NULL: one row each */
    const uint32_t *row;       /* terms.row on the host */
};

struct xp_moe_lists {
    const struct xp_device *dev;
    struct xp_pool memory, pinned; /* the same parts in both */
    void *copied;                  /* event */
    struct xp_moe_list leave[XP_MOE_HOPS], back[XP_MOE_HOPS], arrive, home;
    struct xp_gpu_places places;   /* of the rows that the last hop outward brings */
    struct xp_moe_list gradients;  /* of virtual tokens: leave[0] of their sums, which have one form for near and far */
    struct xp_gpu_places home_places; /* of virtual tokens: of the rows that the last hop back brings */
};

/* ---- life ---------------------------------------------------------------------------------------------------------- */

static void take_staging(struct xp_moe *m)
{
    struct xp_moe_device *d = m->device;
    const size_t rows = m->cap_most + 1;
    m->out = xp_pool_take(&d->memory, rows * m->shape.row_bytes);
    for (int i = 0; i < 2; i++)
        m->in[i] = xp_pool_take(&d->memory, rows * m->shape.row_bytes);
    d->dots = xp_pool_take(&d->memory, rows * sizeof *d->dots);
    m->dots = xp_pool_take(&d->pinned, rows * sizeof *m->dots);
}

static int create_on_device(struct xp_moe *m)
{
    struct xp_moe_device *d = m->device;
    int e = xp_device_describe(d->dev, &d->gpu);
    if (!e)
        e = d->dev->stream_create(&d->copying);
    if (!e)
        e = d->dev->event_create(&d->left);
    if (!e)
        e = d->dev->event_create(&d->dots_known);
    if (e)
        return e;
    take_staging(m);
    e = xp_pool_fill(&d->memory);
    if (!e)
        e = xp_pool_fill(&d->pinned);
    take_staging(m);
    return e;
}

static xp_status failed(const struct xp_moe *m, int error, const char *what)
{
    const struct xp_comm *c = m->shape.comm;
    return xp_error(m->shape.comm, XP_ERR_SYSTEM, "moe: rank %d: %s: CUDA: %s", c->rank, what, m->device->dev->text(error));
}

xp_status xp_moe_device_create(struct xp_moe *m)
{
    struct xp_moe_device *d = m->device = calloc(1, sizeof *d);
    if (!d)
        return XP_ERR_NO_MEMORY;
    d->dev = m->shape.device;
    d->memory = (struct xp_pool){.device = d->dev};
    d->pinned = (struct xp_pool){.device = d->dev, .pinned = 1};
    int e = create_on_device(m);
    return e ? failed(m, e, "setting up a plan") : XP_OK;
}

xp_status xp_moe_device_fold(struct xp_moe *m)
{
    int e = xp_fold_device_create(&m->fold_device, m->folder, m->shape.device);
    return e ? failed(m, e, "setting up a plan") : XP_OK;
}

/* The caller's stream may still be at work on the last operation's rows. */
void xp_moe_device_destroy(struct xp_moe *m)
{
    struct xp_moe_device *d = m->device;
    if (!d)
        return;
    if (d->copying) {
        if (d->left)
            d->dev->stream_wait(d->copying, d->left);
        d->dev->stream_synchronize(d->copying);
        d->dev->stream_destroy(d->copying);
    }
    if (d->left)
        d->dev->event_destroy(d->left);
    if (d->dots_known)
        d->dev->event_destroy(d->dots_known);
    for (struct xp_routing *r = m->routings; r; r = r->next)
        xp_moe_lists_destroy(r);
    xp_fold_device_destroy(m->fold_device);
    xp_pool_free(&d->memory);
    xp_pool_free(&d->pinned);
    free(d);
    m->device = NULL;
    m->fold_device = NULL;
    m->out = m->in[0] = m->in[1] = NULL;
    m->dots = NULL;
}

/* ---- lists: memory ----------------------------------------------------------------------------------------------------- */

/* A list on the host, as it is written. */
struct terms {
    uint32_t *first, *row;
    float *weight;
    uint8_t *how;
};

static void *take(struct xp_moe_lists *l, size_t bytes, const void **device)
{
    *device = xp_pool_take(&l->memory, bytes);
    return xp_pool_take(&l->pinned, bytes);
}

/* One row each. */
static struct terms take_rows(struct xp_moe_lists *l, struct xp_moe_list *list, size_t rows, int weights)
{
    struct terms t = {0};
    const void *row, *weight = NULL;
    t.row = take(l, rows * sizeof *t.row, &row);
    if (weights)
        t.weight = take(l, rows * sizeof *t.weight, &weight);
    *list = (struct xp_moe_list){rows, {.row = row, .weight = weight}, t.row};
    return t;
}

static struct terms take_terms(struct xp_moe_lists *l, struct xp_moe_list *list, size_t rows, size_t most)
{
    struct terms t = take_rows(l, list, most, 1);
    const void *first, *how;
    t.first = take(l, (rows + 1) * sizeof *t.first, &first);
    t.how = take(l, most, &how);
    list->rows = rows;
    list->terms.first = first;
    list->terms.how = how;
    return t;
}

/* The places of so many rows. */
static struct terms take_places(struct xp_moe_lists *l, struct xp_gpu_places *list, size_t rows, size_t places)
{
    const void *first, *place, *weight;
    struct terms t = {0};
    t.first = take(l, (rows + 1) * sizeof *t.first, &first);
    t.row = take(l, places * sizeof *t.row, &place);
    t.weight = take(l, places * sizeof *t.weight, &weight);
    *list = (struct xp_gpu_places){first, place, weight};
    return t;
}

static int is_summed(const struct xp_moe *m, const struct xp_map *map, int hop)
{
    return map->sum && hop == m->slow_hop;
}

/* The largest lists there can be. */
static void take_most(const struct xp_moe *m, const struct xp_map *map, struct xp_moe_lists *l)
{
    for (int h = 0; h < m->hops; h++) {
        take_rows(l, &l->leave[h], m->cap[h], 0);
        if (is_summed(m, map, h))
            take_terms(l, &l->back[h], m->cap[h + 1], m->cap[h + 1]);
        else
            take_rows(l, &l->back[h], m->cap[h + 1], 0);
    }
    take_rows(l, &l->arrive, m->cap[m->hops], 1);
    take_places(l, &l->places, m->cap[m->hops], m->cap[m->hops]);
    take_terms(l, &l->home, m->shape.peer_max_tokens[m->shape.comm->rank], m->cap[0]);
    if (!m->folder)
        return;
    take_rows(l, &l->gradients, m->cap[0], 0);
    take_places(l, &l->home_places, m->cap[0], m->cap[0]);
}

int xp_moe_lists_create(const struct xp_moe *m, struct xp_routing *r)
{
    const struct xp_moe_device *d = m->device;
    struct xp_moe_lists *l = r->lists = calloc(1, sizeof *l);
    if (!l)
        return -1;
    l->dev = d->dev;
    l->memory = (struct xp_pool){.device = d->dev};
    l->pinned = (struct xp_pool){.device = d->dev, .pinned = 1};
    struct xp_device_before before = xp_device_enter(d->dev, m->shape.device_number);
    int e = d->dev->event_create(&l->copied);
    take_most(m, &r->map, l);
    if (!e)
        e = xp_pool_fill(&l->memory);
    if (!e)
        e = xp_pool_fill(&l->pinned);
    if (!e && m->folder)
        e = xp_fold_rows_create(&r->fold_rows, m->fold_device, r->fold);
    xp_device_leave(d->dev, m->shape.device_number, before);
    return e ? -1 : 0;
}

void xp_moe_lists_destroy(struct xp_routing *r)
{
    struct xp_moe_lists *l = r->lists;
    if (!l)
        return;
    if (l->copied)
        l->dev->event_destroy(l->copied);
    xp_pool_free(&l->memory);
    xp_pool_free(&l->pinned);
    free(l);
    r->lists = NULL;
    xp_fold_rows_destroy(r->fold_rows);
    r->fold_rows = NULL;
}

/* ---- lists: what is in them ---------------------------------------------------------------------------------------------- */

static void list_leave(struct xp_moe_lists *l, struct xp_moe_list *list, const struct xp_map *map, int hop)
{
    const struct xp_map_hop *p = &map->hop[hop];
    struct terms t = take_rows(l, list, p->rows_out, 0);
    for (size_t i = 0; i < p->rows_out; i++)
        t.row[i] = p->gather[i];
}

/* Far experts' rows as the coder takes them, near ones' as the far ones will be decoded: rows `seen` and following. */
static void list_virtual(const struct xp_moe *m, struct xp_moe_lists *l, const struct xp_map *map, size_t seen)
{
    const struct xp_map_hop *p = &map->hop[0];
    struct terms t = take_rows(l, &l->leave[0], p->rows_out, 0);
    for (size_t i = 0; i < p->rows_out; i++)
        t.row[i] = p->gather[i] + (xp_entry_is_far(m, map, &map->level[0].entry[p->gather[i]]) ? 0 : (uint32_t)seen);
}

static void list_arrive(const struct xp_moe *m, struct xp_moe_lists *l, const struct xp_map *map)
{
    const struct xp_map_level *v = &map->level[m->hops];
    struct terms t = take_rows(l, &l->arrive, v->entries, 1);
    for (size_t i = 0; i < v->entries; i++) {
        t.row[v->unit[i]] = v->row[i];
        t.weight[v->unit[i]] = v->entry[i].weight;
    }
}

/* The same from the other end: the entries of a row follow one another. */
static void list_places(const struct xp_moe *m, struct xp_moe_lists *l, const struct xp_map *map)
{
    const struct xp_map_level *v = &map->level[m->hops];
    const size_t rows = v->entries ? v->row[v->entries - 1] + 1 : 0;
    struct terms t = take_places(l, &l->places, rows, v->entries);
    for (size_t i = 0; i < v->entries; i++) {
        if (i == 0 || v->row[i] != v->row[i - 1])
            t.first[v->row[i]] = (uint32_t)i;
        t.row[i] = v->unit[i];
        t.weight[i] = v->entry[i].weight;
    }
    t.first[rows] = (uint32_t)v->entries;
}

static void add_term(struct terms *t, uint32_t *n, uint32_t row, float weight, int how)
{
    t->row[*n] = row;
    t->weight[*n] = weight;
    t->how[*n] = (uint8_t)how;
    ++*n;
}

/* What xp_units_leave makes of the rows at the level behind a hop. */
static void list_back(const struct xp_moe *m, struct xp_moe_lists *l, const struct xp_map *map, int hop)
{
    const struct xp_map_level *v = &map->level[hop + 1];
    const struct xp_map_hop *p = &map->hop[hop];
    uint32_t n = 0;
    if (!is_summed(m, map, hop)) {
        struct terms t = take_rows(l, &l->back[hop], p->units_in, 0);
        for (size_t u = 0; u < p->units_in; u++)
            t.row[u] = v->unit[p->unit[u].begin];
        return;
    }
    struct terms t = take_terms(l, &l->back[hop], p->units_in, v->entries);
    for (size_t u = 0; u < p->units_in; u++) {
        size_t begin = p->unit[u].begin, end = p->unit[u].end;
        t.first[u] = n;
        if (!xp_entry_is_far(m, map, &v->entry[begin]))
            add_term(&t, &n, v->unit[begin], 1, XP_GPU_TERM_COPY);
        else
            for (size_t i = begin; i < end; i++)
                add_term(&t, &n, v->unit[i], v->entry[i].weight, i + 1 == end ? XP_GPU_TERM_LAST : 0);
    }
    t.first[p->units_in] = n;
}

/* The terms of token rows, as list_terms of combine.c has them. */
static void list_home(const struct xp_moe *m, struct xp_moe_lists *l, const struct xp_map *map)
{
    const struct xp_map_level *v = &map->level[0];
    struct terms t = take_terms(l, &l->home, map->tokens, v->entries);
    uint32_t n = 0;
    size_t i = 0;
    for (size_t token = 0; token < map->tokens; token++) {
        t.first[token] = n;
        for (; i < v->entries && v->entry[i].token == token; i++) {
            const struct xp_entry *e = &v->entry[i], *next = i + 1 < v->entries && e[1].token == token ? e + 1 : NULL;
            const int summed = map->sum && xp_entry_is_far(m, map, e);
            if (summed && n > t.first[token] && t.row[n - 1] == v->unit[i]) /* of the unit before */
                continue;
            const int last = summed || !next || (map->sum && xp_entry_is_far(m, map, next));
            add_term(&t, &n, v->unit[i], summed ? 1 : e->weight, last ? XP_GPU_TERM_LAST : 0);
        }
    }
    t.first[map->tokens] = n;
}

/* A virtual token's row comes home as it is, from a row of its own. */
static void list_virtual_home(struct xp_moe_lists *l, const struct xp_map *map)
{
    const struct xp_map_level *v = &map->level[0];
    struct terms t = take_rows(l, &l->home, v->entries, 0), places = take_places(l, &l->home_places, v->entries, v->entries);
    for (size_t i = 0; i < v->entries; i++) {
        t.row[i] = v->unit[i];
        places.first[i] = (uint32_t)i;
        places.row[v->unit[i]] = (uint32_t)i;
    }
    places.first[v->entries] = (uint32_t)v->entries;
}

/* The copy of the lists before these may still be under way, and launches that read them. */
static int copy_lists(struct xp_moe_device *d, struct xp_moe_lists *l)
{
    int e = d->dev->stream_wait(d->copying, d->left);
    if (!e)
        e = d->dev->copy(l->memory.base, l->pinned.base, l->pinned.used, d->copying);
    return e ? e : d->dev->event_record(l->copied, d->copying);
}

static void note(struct xp_moe_device *d, int error)
{
    if (!d->error)
        d->error = error;
}

static void map_known(struct xp_moe *m, const struct xp_routing *r)
{
    struct xp_moe_device *d = m->device;
    struct xp_moe_lists *l = r->lists;
    const struct xp_map *map = m->map;
    if (d->dev->event_query(l->copied) == XP_DEVICE_NOT_READY)
        note(d, d->dev->stream_synchronize(d->copying));
    l->memory.used = l->pinned.used = 0;
    for (int h = 0; h < m->hops; h++) {
        if (h > 0 || !map->virtual_tokens)
            list_leave(l, &l->leave[h], map, h);
        list_back(m, l, map, h);
    }
    list_arrive(m, l, map);
    list_places(m, l, map);
    if (map->virtual_tokens) {
        list_virtual(m, l, map, xp_fold_rows_seen(r->fold_rows));
        list_leave(l, &l->gradients, map, 0);
        list_virtual_home(l, map);
    } else {
        list_home(m, l, map);
    }
    note(d, copy_lists(d, l));
    if (xp_moe_moves_rows(m)) /* a folded step, which goes on */
        note(d, d->dev->stream_wait(m->stream, l->copied));
}

/* ---- an operation ------------------------------------------------------------------------------------------------------- */

static xp_status begin(struct xp_moe *m, const struct xp_routing *r, void *stream)
{
    struct xp_moe_device *d = m->device;
    m->stream = d->gpu.stream = stream;
    d->error = 0;
    if (m->folded)
        xp_fold_device_begin(m->fold_device);
    int e = d->dev->stream_wait(stream, d->left);
    if (!e)
        e = d->dev->stream_wait(stream, r->lists->copied);
    return e ? failed(m, e, "joining the caller's stream") : XP_OK;
}

static void end(struct xp_moe *m)
{
    struct xp_moe_device *d = m->device;
    note(d, d->dev->event_record(d->left, m->stream));
}

static xp_status dots_known(struct xp_moe *m)
{
    struct xp_moe_device *d = m->device;
    int e = d->dev->event_query(d->dots_known);
    if (e == XP_DEVICE_NOT_READY)
        return XP_IN_PROGRESS;
    return e ? failed(m, e, "products of rows") : XP_OK;
}

static xp_status error_of(struct xp_moe *m)
{
    int e = m->device->error;
    m->device->error = 0;
    return e ? failed(m, e, "moving rows") : XP_OK;
}

/* ---- rows ---------------------------------------------------------------------------------------------------------------- */

/* out = the rows of a list, made of those at `from`. */
static void make_rows(struct xp_moe *m, const struct xp_moe_list *list, const void *from, int weighted, void *out)
{
    struct xp_moe_device *d = m->device;
    struct xp_rows in = {.data = from, .index = list->terms.row, .rows = list->rows, .dim = m->shape.dim, .dtype = m->shape.dtype};
    struct xp_gpu_terms terms = list->terms;
    if (!weighted)
        terms.weight = NULL;
    note(d, terms.first ? d->dev->kernels->rows_sums(&d->gpu, &in, &terms, out) : d->dev->kernels->rows_gather(&d->gpu, &in, terms.weight, out));
}

/* Rows [first, end) of a list of one row each. */
static void gather_rows(struct xp_moe *m, const struct xp_moe_list *list, size_t first, size_t end, const void *from)
{
    struct xp_moe_list some = {.rows = end - first, .terms = {.row = list->terms.row + first}};
    if (first < end)
        make_rows(m, &some, from, 0, m->out + first * m->shape.row_bytes);
}

/* Whether the exchange of the step under way codes rows to and from a peer, and does so where they are. */
static int fuses(const struct xp_moe *m, int peer)
{
    const struct xp_channel *ch = &m->channel[m->step[m->at].channel];
    return ch->ops->fuses && xp_device_codes(ch->shape, peer);
}

/* Rows of a list to every peer, `counts` of them: those that the exchange codes are read from where they are. */
static void list_rows(struct xp_moe *m, const struct xp_moe_list *list, const size_t *counts, const void *from)
{
    size_t row = 0, gathered = 0; /* what is before has been seen to */
    for (int peer = 0; peer < m->shape.comm->size; row += counts[peer++]) {
        if (!fuses(m, peer))
            continue;
        m->call.from = from;
        m->call.at = list->row;
        gather_rows(m, list, gathered, row, from);
        gathered = row + counts[peer];
    }
    gather_rows(m, list, gathered, row, from);
}

static const struct xp_moe_lists *lists_of(const struct xp_moe *m)
{
    return m->op.routing->lists;
}

/* Tokens that go to several ranks of other nodes are coded once. As on the host, those of this rank for itself are not among the rows of the hop
 * where it is the only one. */
static void code_once(struct xp_moe *m, const struct xp_map_hop *p)
{
    size_t n = 0, row = 0;
    for (int peer = 0; peer < m->shape.comm->size; row += p->rows_to[peer++]) {
        if (peer == m->shape.comm->rank && m->hops == 1)
            continue;
        memcpy(m->sort + n, p->gather + row, p->rows_to[peer] * sizeof *m->sort);
        n += p->rows_to[peer];
    }
    m->call.all = m->sort;
    m->call.all_rows = n;
}

/* What the last hop brings is decoded where it is summed, terms, or laid out, places. */
static void make_result(struct xp_moe *m, const struct xp_moe_list *terms, const struct xp_gpu_places *places, int weighted, void *out)
{
    struct xp_moe_device *d = m->device;
    d->made = 0;
    for (int peer = 0; peer < m->shape.comm->size; peer++)
        d->made |= fuses(m, peer);
    if (!d->made)
        return;
    d->places = places ? *places : (struct xp_gpu_places){0};
    d->terms = terms ? terms->terms : (struct xp_gpu_terms){0};
    if (!weighted)
        d->terms.weight = d->places.weight = NULL;
    d->result = (struct xp_call_result){terms ? &d->terms : NULL, terms ? terms->rows : 0, &d->places, out};
    m->call.result = &d->result;
}

/* Whether rows that arrive are multiplied with the experts' rows, for the gradients of the weights, and so must be there themselves. */
static int wants_dots(const struct xp_moe *m)
{
    return m->op.kind == XP_MOE_COMBINE_BACKWARD && m->op.second && !m->folded;
}

/* Whether rows that arrive are multiplied by the weights of their entries. A folded step's weights are in the sums. */
static int weighs(const struct xp_moe *m)
{
    return m->op.kind == XP_MOE_COMBINE_BACKWARD && !m->folded;
}

static void rows_leave(struct xp_moe *m, const struct xp_map *map, int hop, const void *from)
{
    const struct xp_moe_lists *l = lists_of(m);
    const int sums = m->folded && hop == 0 && m->op.kind == XP_MOE_COMBINE_BACKWARD;
    list_rows(m, sums ? &l->gradients : &l->leave[hop], map->hop[hop].rows_to, from);
    if (hop == 0 && m->call.at && xp_path_copies(&m->shape) && !m->folded)
        code_once(m, &map->hop[hop]);
    if (hop == m->hops - 1 && !wants_dots(m))
        make_result(m, NULL, &l->places, weighs(m), m->op.out);
    else
        m->device->made = 0;
}

static void take_dots(struct xp_moe *m, const struct xp_moe_list *list, const void *from, const void *expert_rows)
{
    struct xp_moe_device *d = m->device;
    const struct xp_rows in = {.data = from, .index = list->terms.row, .rows = list->rows, .dim = m->shape.dim, .dtype = m->shape.dtype};
    int e = d->dev->kernels->rows_dots(&d->gpu, &in, expert_rows, d->dots);
    if (!e)
        e = d->dev->copy(m->dots, d->dots, list->rows * sizeof *d->dots, m->stream);
    if (!e)
        e = d->dev->event_record(d->dots_known, m->stream);
    note(d, e);
}

/* What the last hop outward has brought. */
static size_t rows_arrive(struct xp_moe *m, const struct xp_map *map, size_t most)
{
    const struct xp_moe_list *list = &lists_of(m)->arrive;
    const void *from = m->in[(m->hops - 1) & 1];
    (void)map;
    (void)most;
    if (m->device->made)
        return list->rows;
    if (wants_dots(m))
        take_dots(m, list, from, m->op.second);
    make_rows(m, list, from, weighs(m), m->op.out);
    return list->rows;
}

static void units_leave(struct xp_moe *m, const struct xp_map *map, int hop, const void *from, int weighted)
{
    const struct xp_moe_list *list = &lists_of(m)->back[hop];
    if (list->terms.first)
        make_rows(m, list, from, weighted, m->out);
    else
        list_rows(m, list, map->hop[hop].units_to, from);
    if (hop > 0)
        return;
    if (m->folded)
        make_result(m, NULL, &lists_of(m)->home_places, 0, m->fold->home_rows(m));
    else
        make_result(m, &lists_of(m)->home, NULL, weighted, m->op.out);
}

static size_t units_home(struct xp_moe *m, const struct xp_map *map, int weighted, size_t most)
{
    const struct xp_moe_list *list = &lists_of(m)->home;
    (void)map;
    (void)most;
    if (!m->device->made)
        make_rows(m, list, m->in[0], weighted, m->folded ? m->fold->home_rows(m) : m->op.out);
    return list->rows;
}

const struct xp_moe_row_ops xp_moe_device_rows = {
    .leave = rows_leave,
    .arrive = rows_arrive,
    .units_leave = units_leave,
    .units_home = units_home,
    .map_known = map_known,
    .begin = begin,
    .end = end,
    .dots_known = dots_known,
    .error = error_of,
};

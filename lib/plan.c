/*
 * plan.c - plans: what was asked for, agreed on by all ranks, and the algorithm and buffers that serve it
 *
 * Creation is collective and in three steps, each of which ends alike on all ranks: every rank resolves what it was asked for
 * into a record; the records are gathered and compared; buffers are allocated and the outcome gathered again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/plan.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/books.h"
#include "collectives/cost.h"
#include "collectives/device_coder.h"
#include "lib/device.h"

#define DIM_MAX ((size_t)1 << 20)
#define DEFAULT_CHUNK ((size_t)256 << 10)
#define CODER_ROWS_MAX ((size_t)1 << 20) /* rows that the coder looks at when it chooses a codec */

/* What one rank asks for, as it is compared. Unused bytes are zero. */
struct record {
    int32_t status; /* of resolving it */
    uint32_t id, dtype, mode, eps_ref, memory, nccl; /* nccl: 1 a communicator is to be made, 2 one is given */
    uint64_t dim, max_send_rows, max_recv_rows, chunk, seed;
    double eps, link; /* link: bytes per second of the slow hop as this rank knows it; each has its own idea */
    uint32_t dither, row_wise; /* of the coder; row_wise: of an inner plan's */
    uint32_t direct; /* the transports to other nodes take device memory; each rank has its own */
    char codec[32], algo[16], isa[16];
    char text[160]; /* of the error */
};

__attribute__((format(printf, 3, 4))) static void refuse(struct record *r, xp_status st, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(r->text, sizeof r->text, fmt, args);
    va_end(args);
    r->status = st;
}

/* ---- step 1: what this rank asks for ----------------------------------------------------------------------------- */

static void resolve_mode(struct record *r, const struct xp_comm *c, const xp_plan_desc *d)
{
    r->mode = d->mode ? d->mode : c->params.mode ? c->params.mode : XP_MODE_EXACT;
    /* Bytes are never lossy: a mode from the environment gives way, one that was asked for by name does not. */
    if (r->mode == XP_MODE_BOUNDED && d->dtype == XP_BYTE && !d->mode)
        r->mode = XP_MODE_EXACT;
    if (r->mode == XP_MODE_FOLDED)
        refuse(r, XP_ERR_UNSUPPORTED, "folded mode is for dispatch and combine: the plan needs moe");
    else if (r->mode > XP_MODE_FOLDED)
        refuse(r, XP_ERR_INVALID_ARG, "mode %u does not exist", r->mode);
    else if (r->mode == XP_MODE_BOUNDED && d->dtype == XP_BYTE)
        refuse(r, XP_ERR_UNSUPPORTED, "bounded mode is for rows of numbers, not for bytes");
    if (r->status != XP_OK || r->mode != XP_MODE_BOUNDED)
        return;
    r->eps = d->eps != 0 ? d->eps : c->params.eps;
    r->eps_ref = d->eps_ref ? d->eps_ref : c->params.eps_ref ? c->params.eps_ref : XP_EPS_REF_MIN;
    if (!(r->eps > 0 && r->eps < 1))
        refuse(r, XP_ERR_INVALID_ARG, "bounded mode needs 0 < eps < 1, not %g", r->eps);
    else if (r->eps_ref > XP_EPS_REF_ROW)
        refuse(r, XP_ERR_INVALID_ARG, "eps_ref %u does not exist", r->eps_ref);
    else if (d->dither > XP_DITHER_ON)
        refuse(r, XP_ERR_INVALID_ARG, "dither %d does not exist", (int)d->dither);
    r->dither = d->dither == XP_DITHER_ON;
}

static void resolve_shape(struct record *r, const struct xp_comm *c, const xp_plan_desc *d)
{
    size_t row_bytes = d->dim * xp_dtype_size(d->dtype), bytes;
    if (!xp_dtype_size(d->dtype))
        refuse(r, XP_ERR_INVALID_ARG, "dtype %d does not exist", (int)d->dtype);
    else if (d->dim < 1 || d->dim > DIM_MAX)
        refuse(r, XP_ERR_INVALID_ARG, "dim is %zu, not in 1 .. %zu", d->dim, DIM_MAX);
    else if (__builtin_mul_overflow(d->max_send_rows, row_bytes + 16, &bytes) ||
             __builtin_mul_overflow(d->max_recv_rows, row_bytes + 16, &bytes))
        refuse(r, XP_ERR_INVALID_ARG, "max_send_rows or max_recv_rows times the row's %zu bytes overflows", row_bytes);
    r->dtype = d->dtype;
    r->dim = d->dim;
    r->max_send_rows = d->max_send_rows;
    r->max_recv_rows = d->max_recv_rows;
    r->seed = d->seed;
    r->chunk = c->params.chunk ? c->params.chunk : DEFAULT_CHUNK;
}

static void resolve_codec(struct record *r, const struct xp_comm *c, const xp_plan_desc *d)
{
    struct xp_codec_choice choice;
    const char *name = d->codec ? d->codec : c->params.codec[0] && r->mode == XP_MODE_BOUNDED ? c->params.codec : "auto";
    if (strlen(name) >= sizeof r->codec || xp_codec_parse(name, &choice) != XP_OK) {
        refuse(r, XP_ERR_UNSUPPORTED, "no codec is called \"%.40s\" (xp_info lists them)", name);
        return;
    }
    const struct xp_codec_ops *ops = xp_codec_by_id(choice.id);
    if (r->mode != XP_MODE_BOUNDED && !choice.automatic && !(ops->caps & XP_CAP_LOSSLESS))
        refuse(r, XP_ERR_UNSUPPORTED, "codec %s is lossy, which only bounded mode allows", name);
    memcpy(r->codec, name, strlen(name));
}

static void resolve_names(struct record *r, const struct xp_comm *c, const xp_plan_desc *d)
{
    const char *algo = d->algo ? d->algo : c->params.algo[0] ? c->params.algo : "auto";
    if (strlen(algo) >= sizeof r->algo)
        refuse(r, XP_ERR_UNSUPPORTED, "no algorithm is called \"%.40s\" (xp_info lists them)", algo);
    else
        memcpy(r->algo, algo, strlen(algo));
}

/* The codecs that run on the device; in exact mode, without NCCL, rows may be coded by the host. */
static void resolve_device_codec(struct record *r)
{
    struct xp_codec_choice choice;
    xp_codec_parse(r->codec, &choice);
    if (r->mode == XP_MODE_EXACT && !r->nccl)
        return;
    const unsigned id = r->mode == XP_MODE_BOUNDED ? XP_CODEC_QUANT : r->mode == XP_MODE_EXACT ? XP_CODEC_EXACT : XP_CODEC_RAW;
    if (choice.automatic)
        snprintf(r->codec, sizeof r->codec, "%s", xp_codec_by_id(id)->name);
    else if (choice.id != XP_CODEC_RAW && choice.id != id)
        refuse(r, XP_ERR_UNSUPPORTED, "codec %s does not run on the device; raw, exact over NCCL, quant and the fixed formats (fp8, int8 ... int2) do", choice.name);
}

/* What rows in device memory need of this build and machine, and what is not for them. */
static void resolve_memory(struct record *r, const xp_plan_desc *d)
{
    char why[100];
    r->memory = d->memory;
    r->nccl = r->memory != XP_MEMORY_DEVICE ? 0 : d->nccl_comm ? 2 : d->transport && strcmp(d->transport, "nccl") == 0;
    if (r->memory > XP_MEMORY_DEVICE)
        refuse(r, XP_ERR_INVALID_ARG, "memory %u does not exist", r->memory);
    else if (r->memory == XP_MEMORY_HOST)
        return;
    else if (!xp_device_find(why, sizeof why))
        refuse(r, XP_ERR_UNSUPPORTED, "rows in device memory: %s", why);
    else if (d->transport && strcmp(d->transport, "auto") != 0 && strcmp(d->transport, "nccl") != 0)
        refuse(r, XP_ERR_UNSUPPORTED, "transport \"%.40s\" of a plan is neither auto nor nccl", d->transport);
    else
        resolve_device_codec(r);
}

static uint32_t has_direct_routes(const struct xp_comm *c)
{
    for (int i = 0; i < c->size; i++)
        if (c->node_of[i] != c->node && c->route[i] && c->route[i]->takes_device_memory)
            return 1;
    return 0;
}

static void resolve(struct record *r, const struct xp_comm *c, const xp_plan_desc *d)
{
    memset(r, 0, sizeof *r);
    resolve_shape(r, c, d);
    if (r->status == XP_OK)
        resolve_mode(r, c, d);
    if (r->status == XP_OK)
        resolve_codec(r, c, d);
    if (r->status == XP_OK)
        resolve_names(r, c, d);
    if (r->status == XP_OK)
        resolve_memory(r, d);
    r->direct = has_direct_routes(c);
}

/* ---- step 2: all ranks ask for the same --------------------------------------------------------------------------- */

static xp_status differ(struct xp_comm *c, int rank, const char *field, const char *first, const char *other)
{
    return xp_error(c, XP_ERR_MISMATCH, "plan: rank 0 asks for %s %s, rank %d for %s", field, first, rank, other);
}

static xp_status differ_number(struct xp_comm *c, int rank, const char *field, double first, double other)
{
    char a[32], b[32];
    snprintf(a, sizeof a, "%.17g", first);
    snprintf(b, sizeof b, "%.17g", other);
    return differ(c, rank, field, a, b);
}

static xp_status compare(struct xp_comm *c, const struct record *a, const struct record *b, int rank)
{
    static const char *const modes[] = {"default", "raw", "exact", "bounded", "folded"};
    static const char *const types[] = {"", "bf16", "f16", "f32", "byte"};
    static const char *const refs[] = {"", "min", "row"}, *const switches[] = {"off", "on"};
    static const char *const memories[] = {"host", "device"}, *const groups[] = {"auto", "nccl", "a given NCCL communicator"};
    if (a->dtype != b->dtype)
        return differ(c, rank, "dtype", types[a->dtype], types[b->dtype]);
    if (a->dim != b->dim)
        return differ_number(c, rank, "dim", (double)a->dim, (double)b->dim);
    if (a->mode != b->mode)
        return differ(c, rank, "mode", modes[a->mode], modes[b->mode]);
    if (a->eps != b->eps)
        return differ_number(c, rank, "eps", a->eps, b->eps);
    if (a->eps_ref != b->eps_ref)
        return differ(c, rank, "eps_ref", refs[a->eps_ref], refs[b->eps_ref]);
    if (a->dither != b->dither)
        return differ(c, rank, "dither", switches[a->dither], switches[b->dither]);
    if (strcmp(a->codec, b->codec) != 0)
        return differ(c, rank, "codec", a->codec, b->codec);
    if (strcmp(a->algo, b->algo) != 0)
        return differ(c, rank, "algorithm", a->algo, b->algo);
    if (a->seed != b->seed)
        return differ_number(c, rank, "seed", (double)a->seed, (double)b->seed);
    if (a->chunk != b->chunk)
        return differ_number(c, rank, "CROSSPRESS_CHUNK", (double)a->chunk, (double)b->chunk);
    if (a->memory != b->memory)
        return differ(c, rank, "memory", memories[a->memory], memories[b->memory]);
    if (a->nccl != b->nccl)
        return differ(c, rank, "transport", groups[a->nccl], groups[b->nccl]);
    if (a->id != b->id)
        return differ_number(c, rank, "plan number", a->id, b->id);
    return XP_OK;
}

/* The first rank that reports an error, as seen from here: the own error stays what it is. */
static xp_status first_error(struct xp_comm *c, const struct record *all)
{
    if (all[c->rank].status != XP_OK)
        return xp_error(c, all[c->rank].status, "plan: rank %d: %s", c->rank, all[c->rank].text);
    for (int i = 0; i < c->size; i++)
        if (all[i].status != XP_OK)
            return xp_error(c, XP_ERR_REMOTE, "plan: rank %d: %.159s", i, all[i].text);
    return XP_OK;
}

static xp_status agree(struct xp_comm *c, const struct record *mine, struct record *all)
{
    xp_status st = xp_comm_allgather(c, mine, all, sizeof *mine);
    if (st == XP_OK)
        st = first_error(c, all);
    for (int i = 1; st == XP_OK && i < c->size; i++)
        st = compare(c, &all[0], &all[i], i);
    return st;
}

static uint64_t hash_bytes(uint64_t h, const void *p, size_t n)
{
    for (const unsigned char *b = p; n; b++, n--)
        h = (h ^ *b) * 0x100000001b3u; /* FNV-1a */
    return h;
}

static uint64_t config_hash(const struct record *r)
{
    uint64_t h = 0xcbf29ce484222325u;
    h = hash_bytes(h, &r->dtype, sizeof r->dtype);
    h = hash_bytes(h, &r->dim, sizeof r->dim);
    h = hash_bytes(h, &r->mode, sizeof r->mode);
    h = hash_bytes(h, &r->eps, sizeof r->eps);
    h = hash_bytes(h, &r->eps_ref, sizeof r->eps_ref);
    h = hash_bytes(h, &r->dither, sizeof r->dither);
    h = hash_bytes(h, &r->chunk, sizeof r->chunk);
    h = hash_bytes(h, &r->memory, sizeof r->memory);
    h = hash_bytes(h, &r->seed, sizeof r->seed);
    h = hash_bytes(h, r->codec, sizeof r->codec);
    return hash_bytes(h, r->algo, sizeof r->algo);
}

/* Whether the host exchanges rows in device memory, to look for copies and pack rows between nodes. Where rows need not pass
 * through the host at all it does so only when a codec is named. */
static int goes_by_host(const struct xp_comm *c, const struct record *all)
{
    const struct record *r = &all[0];
    uint32_t direct = 0;
    for (int i = 0; i < c->size; i++)
        direct |= all[i].direct;
    return r->memory == XP_MEMORY_DEVICE && r->mode == XP_MODE_EXACT && !r->nccl && strcmp(r->codec, "raw") != 0 && c->nodes > 1 &&
           !(direct && strcmp(r->codec, "auto") == 0);
}

/* ---- step 3: the plan ---------------------------------------------------------------------------------------------- */

static xp_status create_coder(struct xp_plan *p, const struct record *r)
{
    struct xp_shape *s = &p->shape;
    int isa = xp_isa_parse(s->comm->params.isa[0] ? s->comm->params.isa : NULL);
    struct xp_coder_desc d = {.dtype = s->dtype, .dim = s->dim, .mode = s->mode, .eps = r->eps, .eps_ref = r->eps_ref,
                              .dither = (int)r->dither, .row_wise = (int)r->row_wise, .seed = r->seed, .isa = isa < 0 ? XP_ISA_C : (enum xp_isa)isa};
    xp_codec_parse(r->codec, &d.choice);
    s->automatic = d.choice.automatic;
    s->coder_rows = s->device && s->mode == XP_MODE_BOUNDED ? 0 : s->max_send_rows < CODER_ROWS_MAX ? s->max_send_rows : CODER_ROWS_MAX;
    if (s->coder_rows < s->chunk_rows)
        s->coder_rows = s->chunk_rows;
    d.max_rows = s->coder_rows;
    return xp_coder_create(&s->coder, &d);
}

const struct xp_device *xp_plan_device(uint32_t memory, int *number)
{
    const struct xp_device *device = memory == XP_MEMORY_DEVICE ? xp_device_find(NULL, 0) : NULL;
    if (device)
        device->get(number);
    return device;
}

struct xp_device_before xp_plan_enter(const struct xp_plan *p)
{
    struct xp_device_before none = {0};
    return p->shape.device ? xp_device_enter(p->shape.device, p->shape.device_number) : none;
}

void xp_plan_leave(const struct xp_plan *p, struct xp_device_before before)
{
    if (p->shape.device)
        xp_device_leave(p->shape.device, p->shape.device_number, before);
}

xp_status xp_plan_create_request(struct xp_plan *p)
{
    size_t n = (size_t)p->shape.comm->size;
    struct xp_request *r = p->request = calloc(1, sizeof *r);
    if (!r)
        return XP_ERR_NO_MEMORY;
    r->magic = XP_REQUEST_MAGIC;
    r->plan = p;
    r->ready = calloc(n, 1);
    r->send_rows = calloc(n, sizeof *r->send_rows);
    r->recv_rows = calloc(n, sizeof *r->recv_rows);
    p->equal_rows = calloc(n, sizeof *p->equal_rows);
    return r->ready && r->send_rows && r->recv_rows && p->equal_rows ? XP_OK : XP_ERR_NO_MEMORY;
}

/* by_host: algorithms of the host exchange the rows. */
static void fill_shape(struct xp_plan *p, struct xp_comm *c, const struct record *r, int by_host)
{
    struct xp_shape *s = &p->shape;
    s->comm = c;
    s->id = r->id;
    s->dtype = (xp_dtype)r->dtype;
    s->dim = r->dim;
    s->row_bytes = r->dim * xp_dtype_size(s->dtype);
    s->max_send_rows = r->max_send_rows;
    s->max_recv_rows = r->max_recv_rows;
    s->chunk_rows = r->chunk / s->row_bytes ? r->chunk / s->row_bytes : 1;
    s->mode = (xp_mode)r->mode;
    s->dedup = strcmp(r->codec, "raw") != 0 && (by_host ? s->mode != XP_MODE_RAW : s->mode == XP_MODE_EXACT && r->nccl);
    s->codec_stats = &p->codec_stats;
    s->device = xp_plan_device(r->memory, &s->device_number);
    s->config_hash = config_hash(r);
    p->codec_stats.size = sizeof p->codec_stats;
}

static xp_status fill_maxima(struct xp_plan *p, const struct record *all)
{
    struct xp_shape *s = &p->shape;
    size_t n = (size_t)s->comm->size;
    p->maxima = calloc(2 * n, sizeof *p->maxima);
    if (!p->maxima)
        return XP_ERR_NO_MEMORY;
    s->peer_max_send = p->maxima;
    s->peer_max_recv = p->maxima + n;
    for (size_t i = 0; i < n; i++) {
        p->maxima[i] = all[i].max_send_rows;
        p->maxima[n + i] = all[i].max_recv_rows;
        /* Rows are numbered with 32 bits where they are listed. */
        if (all[i].max_send_rows > UINT32_MAX / 4 || all[i].max_recv_rows > UINT32_MAX / 4)
            s->dedup = 0;
    }
    return XP_OK;
}

static int codes_on_device(const struct xp_plan *p, const struct record *r)
{
    return p->shape.device && p->shape.mode == XP_MODE_BOUNDED && strcmp(r->codec, "raw") != 0;
}

/* The algorithm of the plan. NULL: the error is in *out. */
static const struct xp_algo_ops *choose_algo(struct xp_plan *p, const struct record *r, int by_host, struct record *out)
{
    struct xp_shape *s = &p->shape;
    const struct xp_algo_ops *of_host = xp_algo_choose(s, r->algo);
    if (s->device && !by_host) {
        if (strcmp(r->algo, "auto") == 0 || strcmp(r->algo, "flat") == 0)
            return r->nccl ? &xp_algo_grouped : &xp_algo_staged;
        refuse(out, XP_ERR_UNSUPPORTED, "rows in device memory go directly to their ranks (algorithm flat), not by \"%s\"", r->algo);
        return NULL;
    }
    if (!of_host)
        refuse(out, XP_ERR_UNSUPPORTED, "no algorithm called \"%s\" serves these ranks (xp_info lists them)", r->algo);
    s->by_host = s->device ? of_host : NULL;
    return of_host && s->device ? &xp_algo_hosted : of_host;
}

static void build(struct xp_plan *p, struct xp_comm *c, const struct record *all, double link, struct record *out)
{
    const struct record *r = &all[c->rank];
    const char *why;
    int by_host = r->memory == XP_MEMORY_HOST || goes_by_host(c, all);
    fill_shape(p, c, r, by_host);
    p->shape.link_bytes_per_s = link;
    xp_status st = fill_maxima(p, all);
    if (st == XP_OK)
        st = xp_plan_create_request(p);
    if (st == XP_OK && ((by_host && p->shape.dedup) || codes_on_device(p, r)))
        st = create_coder(p, r);
    if (st == XP_OK && codes_on_device(p, r) && !xp_device_coder_fits(&p->shape, &why)) {
        refuse(out, XP_ERR_UNSUPPORTED, "%s: %zu values in a row, %zu rows in a message", why, p->shape.dim, p->shape.chunk_rows);
        return;
    }
    if (st == XP_OK)
        st = xp_books_create(&p->shape.books, &p->shape);
    if (st == XP_OK) {
        p->algo = choose_algo(p, r, by_host, out);
        if (!p->algo)
            return;
        struct xp_device_before before = xp_plan_enter(p);
        st = p->algo->create(&p->state, &p->shape);
        xp_plan_leave(p, before);
    }
    if (st == XP_OK)
        snprintf(p->stats.algo, sizeof p->stats.algo, "%s", p->shape.by_host ? p->shape.by_host->name : p->algo->name);
    else
        refuse(out, st, "setting up %zu rows to send and %zu to receive: %s", (size_t)r->max_send_rows, (size_t)r->max_recv_rows,
               xp_status_string(st));
}

void xp_plan_release(struct xp_plan *p)
{
    struct xp_device_before before = xp_plan_enter(p);
    if (p->state)
        p->algo->destroy(p->state);
    xp_plan_leave(p, before);
    xp_books_destroy(p->shape.books);
    xp_coder_destroy(p->shape.coder);
    free(p->maxima);
    free(p->equal_rows);
    if (p->request) {
        free(p->request->ready);
        free(p->request->send_rows);
        free(p->request->recv_rows);
        p->request->send_rows = p->request->recv_rows = NULL;
        p->request->ready = NULL;
        p->request->plan = NULL;
        if (!p->request->held)
            free(p->request);
    }
    p->magic = 0;
    free(p);
}

/*
 * The speed of the slow hop as all ranks take it for this plan: the least that one of them knows. It is measured by the first
 * plan that has a choice to make, while a rank knows none.
 */
static xp_status agree_on_link(struct xp_comm *c, const struct record *all, double *link)
{
    const struct record *r = &all[0];
    *link = r->link;
    for (int i = 1; i < c->size; i++)
        *link = all[i].link < *link ? all[i].link : *link;
    if (c->nodes < 2 || *link > 0 || r->mode == XP_MODE_RAW || (r->memory == XP_MEMORY_DEVICE && !goes_by_host(c, all)))
        return XP_OK;
    xp_status st = xp_cost_measure(c, r->id);
    *link = c->link_bytes_per_s;
    return st;
}

static xp_status connect_plan(struct xp_plan *p)
{
    struct xp_device_before before = xp_plan_enter(p);
    xp_status st = p->algo->connect ? p->algo->connect(p->state) : XP_OK;
    xp_plan_leave(p, before);
    return st;
}

xp_status xp_plan_open(struct xp_plan **out, struct xp_comm *c, const xp_plan_desc *d)
{
    return d->moe ? xp_moe_plan_open(out, c, d) : xp_plan_open_inner(out, c, d, 0, 0, NULL);
}

xp_status xp_plan_open_inner(struct xp_plan **out, struct xp_comm *c, const xp_plan_desc *d, int row_wise, size_t places, const struct xp_plan *first)
{
    struct record mine, *all = calloc((size_t)c->size, sizeof *all);
    struct xp_plan *p = calloc(1, sizeof *p);
    double link = 0;
    xp_status st = all && p ? XP_OK : xp_error(c, XP_ERR_NO_MEMORY, "plan: out of memory");
    if (st != XP_OK)
        goto fail;
    resolve(&mine, c, d);
    mine.row_wise = (uint32_t)row_wise;
    mine.id = c->next_plan++;
    mine.link = c->link_bytes_per_s;
    st = agree(c, &mine, all);
    if (st == XP_OK)
        st = agree_on_link(c, all, &link);
    if (st != XP_OK)
        goto fail;
    p->shape.nccl_comm = d->nccl_comm;
    p->shape.places = places;
    build(p, c, all, link, &mine);
    st = agree(c, &mine, all);
    p->shape.shares = first && first->algo == p->algo ? first->state : NULL;
    if (st == XP_OK)
        st = connect_plan(p);
    if (st != XP_OK)
        goto fail;
    free(all);
    p->magic = XP_PLAN_MAGIC;
    c->plans++;
    xp_log(c, XP_LOG_INFO, "plan %u: %zu values a row, mode %d, algorithm %s, codec %s, %zu rows in a message", mine.id,
           p->shape.dim, (int)p->shape.mode, p->algo->name, mine.codec, p->shape.chunk_rows);
    p->stream = d->stream;
    *out = p;
    return XP_OK;

fail:
    free(all);
    if (p)
        xp_plan_release(p);
    return st;
}

void xp_plan_close(struct xp_plan *p)
{
    xp_request_abandon(p->request);
    p->shape.comm->plans--;
    xp_moe_plan_close(p->moe);
    xp_plan_release(p);
}

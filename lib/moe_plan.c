/*
 * moe_plan.c - plans for dispatch and combine: what was asked for, agreed on, and the inner plans that carry it
 *
 * An outer plan has no algorithm of its own: its state is a struct xp_moe, which drives the algorithms of the inner plans. Those
 * are ordinary flat plans, opened one after another like any plan: one for rows of every direction that has a lossy coder of its
 * own, and three for bytes (hellos, records, scalars). Their figures are added up in the outer plan.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/device_coder.h"
#include "collectives/folded_device.h"
#include "collectives/moe_staged.h"
#include "lib/device.h"
#include "lib/plan.h"

struct xp_moe_plans {
    struct xp_plan *inner[XP_CHANNELS]; /* NULL where a channel shares another's */
};

/* What one rank asks for, as it is compared. Unused bytes are zero. */
struct moe_record {
    int32_t status;
    uint32_t id;
    int32_t dtype, experts, max_topk, sum, path, memory, staged;
    uint32_t mode, dither;
    uint64_t dim, max_tokens, max_rows;
    double eps, eps_combine, eps_grad;
    /* folded mode */
    int32_t alpha_rule, centroid, hashes, width, rounds, refine, probes;
    double rate, alpha, outlier, error_limit;
    char preset[16], codec[32];
    char text[160];
};

__attribute__((format(printf, 3, 4))) static void refuse(struct moe_record *r, xp_status st, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(r->text, sizeof r->text, fmt, args);
    va_end(args);
    r->status = st;
}

/* ---- what this rank asks for ----------------------------------------------------------------------------------------- */

static double or_else(double asked, double other)
{
    return asked != 0 ? asked : other;
}

/* Whether no row of a folded layer is too long to be coded on the device. What a message holds is judged by the inner plans. */
static int is_codable_on_device(const struct moe_record *r, const xp_plan_desc *d)
{
    struct xp_shape s = {.dim = d->dim, .row_bytes = d->dim * xp_dtype_size(d->dtype), .chunk_rows = 1};
    const char *why;
    if (strcmp(r->codec, "raw") == 0 && !(r->error_limit > 0))
        return 1;
    s.device = xp_plan_device(XP_MEMORY_DEVICE, &s.device_number);
    return xp_device_coder_fits(&s, &why);
}

/* The inner plans look at the rest: algorithm, transport, codec. */
static void resolve_memory(struct moe_record *r, const xp_plan_desc *d)
{
    char why[100];
    r->memory = (int32_t)d->memory;
    if (d->memory > XP_MEMORY_DEVICE)
        refuse(r, XP_ERR_INVALID_ARG, "memory %u does not exist", (unsigned)d->memory);
    else if (d->memory == XP_MEMORY_DEVICE && !xp_device_find(why, sizeof why))
        refuse(r, XP_ERR_UNSUPPORTED, "rows in device memory: %s", why);
    if (r->status != XP_OK || d->memory != XP_MEMORY_DEVICE || r->mode != XP_MODE_FOLDED)
        return;
    r->staged = !xp_fold_device_serves(d->moe) || !is_codable_on_device(r, d);
    if (r->staged && (d->nccl_comm || (d->transport && strcmp(d->transport, "auto") != 0)))
        refuse(r, XP_ERR_UNSUPPORTED, "folded mode sends rows of this layer from the host, so its transport is auto");
}

static void resolve_moe(struct moe_record *r, const struct xp_comm *c, const xp_plan_desc *d)
{
    const xp_moe_desc *m = d->moe;
    if (m->size != sizeof *m)
        refuse(r, XP_ERR_INVALID_ARG, "moe was not filled by xp_moe_desc_init");
    else if (m->experts < 1 || m->experts > 65535)
        refuse(r, XP_ERR_INVALID_ARG, "moe.experts is %d, not in 1 .. 65535", m->experts);
    else if (m->max_topk < 1 || m->max_topk > 64)
        refuse(r, XP_ERR_INVALID_ARG, "moe.max_topk is %d, not in 1 .. 64", m->max_topk);
    else if (m->combine > XP_COMBINE_SUM)
        refuse(r, XP_ERR_INVALID_ARG, "moe.combine %d does not exist", (int)m->combine);
    else if (d->dither > XP_DITHER_ON)
        refuse(r, XP_ERR_INVALID_ARG, "dither %d does not exist", (int)d->dither);
    else if (d->dtype == XP_BYTE || !xp_dtype_size(d->dtype))
        refuse(r, XP_ERR_UNSUPPORTED, "rows of a MoE layer are bf16, f16 or f32");
    else if (d->dim < 1 || d->dim > (size_t)1 << 20)
        refuse(r, XP_ERR_INVALID_ARG, "dim is %zu, not in 1 .. %zu", d->dim, (size_t)1 << 20);
    else if (d->max_send_rows > UINT32_MAX / 64 || d->max_recv_rows > UINT32_MAX / 64)
        refuse(r, XP_ERR_INVALID_ARG, "max_send_rows or max_recv_rows is above %u", UINT32_MAX / 64);
    r->experts = m->experts;
    r->max_topk = m->max_topk;
    r->eps = or_else(d->eps, c->params.eps);
    r->eps_combine = or_else(m->eps_combine, r->eps);
    r->eps_grad = or_else(m->eps_grad, r->eps);
    r->dither = d->dither;
}

/* What xp_folder_create is given; the folder resolves defaults and judges the knobs. */
static struct xp_folder_desc folder_desc(const struct xp_comm *c, const xp_plan_desc *d, const xp_moe_desc *moe)
{
    int isa = xp_isa_parse(c->params.isa[0] ? c->params.isa : NULL);
    return (struct xp_folder_desc){.dtype = d->dtype, .dim = d->dim, .max_tokens = d->max_send_rows, .experts = moe->experts,
                                   .max_topk = moe->max_topk, .moe = moe, .codec = d->codec, .isa = isa < 0 ? XP_ISA_C : (enum xp_isa)isa,
                                   .seed = d->seed};
}

static void resolve_folded(struct moe_record *r, const struct xp_comm *c, const xp_plan_desc *d)
{
    const xp_moe_desc *m = d->moe;
    struct xp_folder_desc f = folder_desc(c, d, m);
    struct xp_coder_desc coder;
    r->alpha_rule = (int32_t)m->alpha_rule;
    r->centroid = (int32_t)m->centroid;
    r->hashes = m->hashes;
    r->width = m->width;
    r->rounds = m->rounds;
    r->refine = m->refine;
    r->probes = m->probes;
    r->rate = or_else(m->rate, c->params.rate);
    r->alpha = m->alpha;
    r->outlier = m->outlier;
    r->error_limit = m->error_limit;
    snprintf(r->preset, sizeof r->preset, "%s", m->preset ? m->preset : "");
    if (m->centroid > XP_CENTROID_SEQUENCES || m->alpha_rule > XP_ALPHA_FIXED)
        refuse(r, XP_ERR_INVALID_ARG, "moe.centroid %d or moe.alpha_rule %d does not exist", (int)m->centroid, (int)m->alpha_rule);
    else if (!(r->rate >= 0 && r->rate <= 1) || !(r->error_limit >= 0))
        refuse(r, XP_ERR_INVALID_ARG, "moe.rate is %g, not in 0 .. 1, or moe.error_limit is %g", r->rate, r->error_limit);
    else if (xp_folder_coder(&f, &coder) != XP_OK)
        refuse(r, XP_ERR_UNSUPPORTED, "folded mode codes centroids in a fixed format (fp8, int8 ... int2, raw), not in \"%.30s\"", d->codec);
    else if (r->error_limit > 0 && !(r->eps > 0 && r->eps < 1))
        refuse(r, XP_ERR_INVALID_ARG, "moe.error_limit needs 0 < eps < 1 for steps that fall back, not %g", r->eps);
    else
        snprintf(r->codec, sizeof r->codec, "%s", coder.choice.name);
}

static void resolve(struct moe_record *r, const struct xp_comm *c, const xp_plan_desc *d)
{
    memset(r, 0, sizeof *r);
    resolve_moe(r, c, d);
    if (r->status != XP_OK)
        return;
    r->mode = d->mode ? d->mode : c->params.mode ? c->params.mode : XP_MODE_EXACT;
    if (r->mode == XP_MODE_FOLDED)
        resolve_folded(r, c, d);
    else if (r->mode > XP_MODE_FOLDED)
        refuse(r, XP_ERR_INVALID_ARG, "mode %u does not exist", r->mode);
    if (r->status == XP_OK)
        resolve_memory(r, d);
    if (r->status != XP_OK)
        return;
    r->sum = d->moe->combine ? d->moe->combine == XP_COMBINE_SUM : r->mode == XP_MODE_BOUNDED || r->mode == XP_MODE_FOLDED;
    const char *algo = d->algo ? d->algo : c->params.algo[0] ? c->params.algo : "auto";
    r->path = xp_path_choose(c, (xp_mode)r->mode, algo);
    if (r->path < 0)
        refuse(r, XP_ERR_UNSUPPORTED, "no algorithm is called \"%.40s\" (xp_info lists them)", algo);
    r->dtype = d->dtype;
    r->dim = d->dim;
    r->max_tokens = d->max_send_rows;
    r->max_rows = d->max_recv_rows;
}

/* ---- all ranks ask for the same -------------------------------------------------------------------------------------- */

static xp_status same(struct xp_comm *c, int rank, const char *field, double first, double other)
{
    if (first == other)
        return XP_OK;
    return xp_error(c, XP_ERR_MISMATCH, "plan: rank 0 asks for %s %.17g, rank %d for %.17g", field, first, rank, other);
}

static xp_status compare(struct xp_comm *c, const struct moe_record *a, const struct moe_record *b, int rank)
{
    const struct { const char *name; double first, other; } fields[] = {
        {"dtype", a->dtype, b->dtype},
        {"dim", (double)a->dim, (double)b->dim},
        {"mode", a->mode, b->mode},
        {"memory", a->memory, b->memory},
        {"rows by way of the host", a->staged, b->staged},
        {"algorithm", a->path, b->path},
        {"moe.experts", a->experts, b->experts},
        {"moe.max_topk", a->max_topk, b->max_topk},
        {"moe.combine", a->sum, b->sum},
        {"eps", a->eps, b->eps},
        {"moe.eps_combine", a->eps_combine, b->eps_combine},
        {"moe.eps_grad", a->eps_grad, b->eps_grad},
        {"dither", a->dither, b->dither},
        {"plan number", a->id, b->id},
        {"moe.rate", a->rate, b->rate},
        {"moe.alpha_rule", a->alpha_rule, b->alpha_rule},
        {"moe.alpha", a->alpha, b->alpha},
        {"moe.centroid", a->centroid, b->centroid},
        {"moe.hashes", a->hashes, b->hashes},
        {"moe.width", a->width, b->width},
        {"moe.rounds", a->rounds, b->rounds},
        {"moe.refine", a->refine, b->refine},
        {"moe.probes", a->probes, b->probes},
        {"moe.outlier", a->outlier, b->outlier},
        {"moe.error_limit", a->error_limit, b->error_limit},
    };
    xp_status st = XP_OK;
    if (strcmp(a->preset, b->preset) != 0 || strcmp(a->codec, b->codec) != 0)
        return xp_error(c, XP_ERR_MISMATCH, "plan: rank 0 asks for preset \"%s\" and codec \"%s\", rank %d for \"%s\" and \"%s\"", a->preset,
                        a->codec, rank, b->preset, b->codec);
    for (size_t i = 0; st == XP_OK && i < sizeof fields / sizeof *fields; i++)
        st = same(c, rank, fields[i].name, fields[i].first, fields[i].other);
    return st;
}

static xp_status agree(struct xp_comm *c, const struct moe_record *mine, struct moe_record *all)
{
    xp_status st = xp_comm_allgather(c, mine, all, sizeof *mine);
    for (int k = 0; st == XP_OK && k < c->size; k++) {
        int i = (c->rank + k) % c->size; /* the own error first: it says what to change here */
        if (all[i].status != XP_OK)
            st = xp_error(c, i == c->rank ? (xp_status)all[i].status : XP_ERR_REMOTE, "plan: rank %d: %.159s", i, all[i].text);
    }
    for (int i = 1; st == XP_OK && i < c->size; i++)
        st = compare(c, &all[0], &all[i], i);
    return st;
}

/* ---- inner plans --------------------------------------------------------------------------------------------------------- */

/* Whether a channel has a plan of its own. In folded mode one coder of a fixed format serves all directions, and the bounded
 * channels are there when steps may fall back. */
static int is_opened(enum xp_moe_channel ch, const struct moe_record *r)
{
    int bounded = r->mode == XP_MODE_BOUNDED || (r->mode == XP_MODE_FOLDED && r->error_limit > 0);
    if (ch >= XP_CHANNEL_HELLO)
        return 1;
    if (ch == XP_CHANNEL_FOLDED)
        return r->mode == XP_MODE_FOLDED;
    return bounded || (ch == XP_CHANNEL_DISPATCH && r->mode != XP_MODE_FOLDED);
}

/* The description of a channel's plan. */
static void describe(xp_plan_desc *in, enum xp_moe_channel ch, const xp_plan_desc *d, const struct moe_record *r,
                     const struct xp_moe_shape *s)
{
    int lossy = r->mode == XP_MODE_BOUNDED || r->mode == XP_MODE_FOLDED;
    xp_plan_desc_init(in);
    in->algo = "flat";
    in->max_send_rows = in->max_recv_rows = ch == XP_CHANNEL_HELLO ? (size_t)s->comm->size : xp_moe_most_rows(s);
    if (ch >= XP_CHANNEL_HELLO) {
        in->dtype = XP_BYTE;
        in->mode = XP_MODE_RAW;
        in->dim = ch == XP_CHANNEL_HELLO ? xp_moe_hello_bytes(s) : ch == XP_CHANNEL_RECORDS ? XP_MOE_RECORD : sizeof(float);
        return;
    }
    in->dtype = d->dtype;
    in->dim = d->dim;
    in->seed = d->seed;
    if (!r->staged) { /* those are sent from the host, wherever the caller has them */
        in->memory = d->memory;
        in->stream = d->stream;
        in->transport = d->transport;
        in->nccl_comm = d->nccl_comm;
    }
    if (ch == XP_CHANNEL_FOLDED) {
        struct xp_folder_desc f = folder_desc(s->comm, d, d->moe);
        struct xp_coder_desc coder;
        xp_folder_coder(&f, &coder);
        in->mode = coder.mode;
        in->eps = coder.eps;
        in->eps_ref = coder.eps_ref;
        in->codec = coder.mode == XP_MODE_RAW ? NULL : r->codec;
        return;
    }
    in->mode = lossy ? XP_MODE_BOUNDED : (xp_mode)r->mode;
    in->eps = !lossy ? 0 : ch == XP_CHANNEL_DISPATCH ? r->eps : ch == XP_CHANNEL_COMBINE ? r->eps_combine : r->eps_grad;
    in->eps_ref = d->eps_ref;
    in->dither = (xp_dither)r->dither;
    if (r->dither == XP_DITHER_DEFAULT && (ch == XP_CHANNEL_GRAD_OUT || ch == XP_CHANNEL_GRAD_BACK))
        in->dither = XP_DITHER_ON;
    in->codec = r->mode == XP_MODE_FOLDED ? NULL : d->codec;
}

/* Tokens, or their gradients, that may go to several nodes; of a folded layer in steps that fall back. */
static int codes_once(const struct xp_moe_shape *s, enum xp_moe_channel ch)
{
    const int bounded = s->mode == XP_MODE_BOUNDED || (s->mode == XP_MODE_FOLDED && s->error_limit > 0);
    return bounded && xp_path_copies(s) && (ch == XP_CHANNEL_DISPATCH || ch == XP_CHANNEL_GRAD_OUT);
}

static xp_status open_inner(struct xp_plan *p, const xp_plan_desc *d, const struct moe_record *r, const struct xp_moe_shape *s,
                            struct xp_channel *channels)
{
    for (int i = 0; i < XP_CHANNELS; i++) {
        xp_plan_desc in;
        struct xp_plan *inner = p->moe->inner[XP_CHANNEL_DISPATCH];
        if (is_opened((enum xp_moe_channel)i, r)) {
            describe(&in, (enum xp_moe_channel)i, d, r, s);
            xp_status st = xp_plan_open_inner(&p->moe->inner[i], s->comm, &in, i == XP_CHANNEL_FOLDED, codes_once(s, (enum xp_moe_channel)i) ? s->peer_max_tokens[s->comm->rank] : 0, inner);
            if (st != XP_OK)
                return st;
            inner = p->moe->inner[i];
            inner->shape.codec_stats = &p->codec_stats;
        }
        if (inner) /* NULL: a direction that a folded plan without fall-back never uses */
            channels[i] = (struct xp_channel){.shape = &inner->shape, .ops = inner->algo, .state = inner->state};
    }
    return XP_OK;
}

void xp_moe_plan_close(struct xp_moe_plans *m)
{
    for (int i = XP_CHANNELS - 1; m && i >= 0; i--) /* the first last: others may use its connections */
        if (m->inner[i])
            xp_plan_close(m->inner[i]);
    free(m);
}

/* ---- the plan ----------------------------------------------------------------------------------------------------------- */

static void fill_shape(struct xp_moe_shape *s, struct xp_comm *c, const struct moe_record *r, size_t *maxima,
                       const struct moe_record *all)
{
    for (int i = 0; i < c->size; i++) {
        maxima[i] = all[i].max_tokens;
        maxima[c->size + i] = all[i].max_rows;
    }
    *s = (struct xp_moe_shape){.comm = c, .dtype = (xp_dtype)r->dtype, .dim = r->dim, .mode = (xp_mode)r->mode, .experts = r->experts,
                               .max_topk = r->max_topk, .sum = r->sum, .sequences = r->mode == XP_MODE_FOLDED && r->centroid == XP_CENTROID_SEQUENCES,
                               .error_limit = r->error_limit, .path = (enum xp_moe_path)r->path,
                               .peer_max_tokens = maxima, .peer_max_rows = maxima + c->size};
    s->device = xp_plan_device((uint32_t)r->memory, &s->device_number);
    s->staged = r->staged;
    s->row_bytes = r->dim * xp_dtype_size(s->dtype);
}

/* Everything of this rank; the outcome is then agreed on. */
static void build(struct xp_plan *p, const xp_plan_desc *d, const struct xp_moe_shape *s, const struct xp_channel *channels,
                  struct moe_record *mine)
{
    xp_moe_desc moe = *d->moe;
    moe.rate = mine->rate;
    struct xp_folder_desc folder = folder_desc(s->comm, d, &moe);
    folder.elsewhere = s->device && !s->staged;
    static const char *const names[] = {"flat", "hier", "leader"};
    p->shape.comm = s->comm;
    p->shape.id = mine->id;
    p->shape.dtype = s->dtype;
    p->shape.dim = s->dim;
    p->shape.row_bytes = s->row_bytes;
    p->shape.mode = s->mode;
    p->shape.device = s->device;
    p->shape.device_number = s->device_number;
    p->codec_stats.size = sizeof p->codec_stats;
    p->algo = s->staged ? &xp_moe_staged_ops : &xp_moe_ops;
    xp_status st = xp_plan_create_request(p);
    struct xp_device_before before = xp_plan_enter(p);
    if (st == XP_OK)
        st = xp_moe_create((struct xp_moe **)&p->state, s, channels, s->mode == XP_MODE_FOLDED ? &folder : NULL);
    xp_plan_leave(p, before);
    if (st != XP_OK)
        refuse(mine, st, "setting up %zu tokens and %zu rows: %s", (size_t)mine->max_tokens, (size_t)mine->max_rows, xp_status_string(st));
    snprintf(p->stats.algo, sizeof p->stats.algo, "%s", names[s->path]);
}

/* Frees what opening made, in the reverse order. */
static void undo(struct xp_plan *p)
{
    struct xp_moe_plans *inner = p->moe;
    xp_plan_release(p);
    xp_moe_plan_close(inner);
}

xp_status xp_moe_plan_open(struct xp_plan **out, struct xp_comm *c, const xp_plan_desc *d)
{
    struct moe_record mine, *all = calloc((size_t)c->size, sizeof *all);
    size_t *maxima = calloc(2 * (size_t)c->size, sizeof *maxima);
    struct xp_plan *p = calloc(1, sizeof *p);
    struct xp_channel channels[XP_CHANNELS] = {0};
    struct xp_moe_shape shape;
    if (p)
        p->moe = calloc(1, sizeof *p->moe);
    xp_status st = all && maxima && p && p->moe ? XP_OK : xp_error(c, XP_ERR_NO_MEMORY, "plan: out of memory");
    if (st == XP_OK) {
        resolve(&mine, c, d);
        mine.id = c->next_plan++;
        st = agree(c, &mine, all);
    }
    if (st == XP_OK) {
        fill_shape(&shape, c, &mine, maxima, all);
        st = open_inner(p, d, &mine, &shape, channels);
    }
    if (st == XP_OK) {
        build(p, d, &shape, channels, &mine);
        st = agree(c, &mine, all);
    }
    free(all);
    free(maxima);
    if (st != XP_OK) {
        if (p)
            undo(p);
        return st;
    }
    p->magic = XP_PLAN_MAGIC;
    p->stream = d->stream;
    c->plans++;
    xp_log(c, XP_LOG_INFO, "plan %u: MoE layer of %d experts, mode %d, algorithm %s, %s come home", mine.id, mine.experts, (int)mine.mode,
           p->stats.algo, mine.sum ? "sums" : "rows");
    *out = p;
    return XP_OK;
}

/*
 * folded_make.c - forward, before dispatch: the clusters of every expert, and the rows that stand for them
 *
 * Virtual tokens are budgeted over all experts of the rank together: what one had to make too many (an expert with a single row needs
 * one centroid, whatever the rate) the next ones save.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <string.h>

#include "collectives/folded_impl.h"
#include "hash/coded_rows.h"

/* Where outliers or sequences make clusters of their own the budget is hit by trying. */
#define ATTEMPTS 5
#define TOGETHER 16 /* rows that the first caches hold */
#define CLOSE 32 /* off by less than one in so many is near enough */

/* ---- the rows of an expert ------------------------------------------------------------------------------------------ */

/* s->member: slots by expert, in the order of the step, ascending; f->expert_start, f->expert_end: those of an expert. */
static void sort_slots(struct xp_fold *s)
{
    struct xp_folder *f = s->f;
    const size_t all = s->t.tokens * (size_t)s->t.topk;
    uint32_t *next = f->expert_end, at = 0;

    memset(next, 0, (size_t)f->experts * sizeof(uint32_t));
    for (size_t i = 0; i < all; i++)
        if (s->t.expert[i] >= 0)
            next[s->t.expert[i]]++;
    for (size_t i = 0; i < (size_t)f->experts; i++) {
        const size_t e = xp_fold_ordered(s, i);

        f->expert_start[e] = at;
        at += next[e];
        next[e] = f->expert_start[e];
    }
    for (size_t i = 0; i < all; i++) {
        s->cluster_of[i] = -1;
        s->alpha_of[i] = 0;
        if (s->t.expert[i] >= 0)
            s->member[next[s->t.expert[i]]++] = (uint32_t)i;
    }
    s->slots = at;
}

static int is_wild(float energy)
{
    return !(energy <= XP_FOLD_WILD);
}

/* Number i of `take` that lie at equal distances among n. */
static size_t sampled(size_t i, size_t take, size_t n)
{
    return (2 * i + 1) * n / (2 * take);
}

static size_t least_of(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t xp_fold_sample(struct xp_folder *f, size_t tokens)
{
    const size_t take = least_of(tokens, XP_FOLD_SAMPLE);
    size_t n = 0;

    for (size_t i = 0; i < take; i++)
        if (!is_wild(f->energy[sampled(i, take, tokens)]))
            f->token[n++] = (uint32_t)sampled(i, take, tokens);
    return n;
}

/* The mean of tame rows to f->f32[0]; of many, of those at equal distances. */
static void find_mean(struct xp_folder *f, const struct xp_rows *rows)
{
    const size_t take = least_of(rows->rows, XP_FOLD_SAMPLE);
    uint32_t start[] = { 0, 0 };

    for (size_t i = 0; i < take; i++) {
        const size_t t = sampled(i, take, rows->rows);

        f->energy[t] = f->kernels.distance(xp_row(rows, t), NULL, f->dtype, f->dim);
    }
    start[1] = (uint32_t)xp_fold_sample(f, rows->rows);
    f->kernels.centroid(rows, f->token, start, 1, f->f32[0]);
}

/* What every expert wants to know of a token is found once: its energy, which says whether it is wild, and its sketch. */
static void survey_tokens(struct xp_fold *s, const void *x)
{
    struct xp_folder *f = s->f;
    const struct xp_rows rows = { .data = x, .rows = s->t.tokens, .dim = f->dim, .dtype = f->dtype };

    find_mean(f, &rows);
    xp_hasher_set_mean(&f->hasher, f->f32[0]);
    for (size_t t = 0; t < rows.rows; t += TOGETHER) {
        const size_t n = rows.rows - t < TOGETHER ? rows.rows - t : TOGETHER;
        const struct xp_rows some = { .data = xp_row(&rows, t), .rows = n, .dim = f->dim, .dtype = f->dtype };

        for (size_t i = 0; i < n; i++)
            f->energy[t + i] = f->kernels.distance(xp_row(&some, i), NULL, f->dtype, f->dim);
        f->kernels.hash(&f->hasher, &some, f->ids + t, f->sketch + t * f->sketch_values);
    }
}

/* Slots of wild rows to f->wild; slots, tokens and sketches of the others to f->slot, f->token, f->part. Returns the number of the
 * wild. */
static size_t part_wild(struct xp_folder *f, unsigned topk, const uint32_t *slots, size_t n)
{
    const size_t bytes = f->sketch_values * sizeof(*f->sketch);
    size_t wild = 0;

    for (size_t i = 0; i < n; i++) {
        const uint32_t slot = slots[i], token = slot / topk;

        if (is_wild(f->energy[token])) {
            f->wild[wild++] = slot;
            continue;
        }
        f->slot[i - wild] = slot;
        f->token[i - wild] = token;
        memcpy(f->part + (i - wild) * f->sketch_values, f->sketch + token * f->sketch_values, bytes);
    }
    return wild;
}

/* ---- clusters to virtual tokens -------------------------------------------------------------------------------------- */

/* The next cluster has these slots; its row is in place. */
static void close_cluster(struct xp_fold *s, size_t expert, size_t slots, int wild)
{
    const size_t v = s->clusters;

    s->expert[v] = (int32_t)expert;
    s->is_wild[v] = (uint8_t)wild;
    s->start[v + 1] = s->start[v] + (uint32_t)slots;
    for (size_t i = s->start[v]; i < s->start[v + 1]; i++)
        s->cluster_of[s->member[i]] = (int32_t)v;
    s->clusters++;
}

static void add_single(struct xp_fold *s, const void *x, size_t expert, uint32_t slot, int wild)
{
    s->member[s->start[s->clusters]] = slot;
    if (!s->f->elsewhere)
        memcpy(s->rows + s->clusters * s->f->row_bytes, xp_fold_token_row(s, x, slot), s->f->row_bytes);
    close_cluster(s, expert, 1, wild);
}

/* The mean of these tame rows is the row of the next cluster. */
static void make_mean(struct xp_fold *s, const struct xp_rows *tame, const uint32_t *order, size_t n)
{
    struct xp_folder *f = s->f;
    const uint32_t start[] = { 0, (uint32_t)n };
    char *row = s->rows + s->clusters * f->row_bytes;

    if (n == 1) {
        memcpy(row, xp_row(tame, order[0]), f->row_bytes);
        return;
    }
    f->kernels.centroid(tame, order, start, 1, f->f32[0]);
    f->kernels.restore(f->f32[0], NULL, f->dim, f->dtype, row);
}

/* Moves rows whose residual, from the mean as the experts will see it, is above the bound behind the others; both keep their order.
 * Returns how many stay. */
static xp_status part_outliers(struct xp_fold *s, const struct xp_rows *tame, uint32_t *order, size_t *n)
{
    struct xp_folder *f = s->f;
    size_t stay = 0, leave = 0;
    const xp_status st = xp_fold_code(s, s->clusters, s->clusters + 1, NULL);

    f->kernels.residual(s->seen + s->clusters * f->row_bytes, f->dtype, NULL, f->dim, f->f32[1]);
    for (size_t i = 0; i < *n; i++) {
        float sums[2];

        f->kernels.residual_sums(xp_row(tame, order[i]), f->dtype, f->f32[1], f->dim, f->f32[2], sums);
        if (sums[1] > f->knobs.outlier * sums[0])
            f->ids[leave++] = order[i];
        else
            order[stay++] = order[i];
    }
    memcpy(order + stay, f->ids, leave * sizeof(*order));
    *n = stay;
    return st;
}

/* One cluster of these rows, and one for each outlier among them. */
static xp_status add_cluster(struct xp_fold *s, const struct xp_rows *tame, size_t expert, uint32_t *order, size_t n)
{
    const struct xp_folder *f = s->f;
    size_t stay = n, before;
    xp_status st = XP_OK;

    /* Without a bound nobody looks at means before all are made. */
    do {
        before = stay;
        if (!(f->knobs.outlier > 0))
            break;
        make_mean(s, tame, order, stay);
        if (stay > 1)
            st = part_outliers(s, tame, order, &stay);
    } while (st == XP_OK && stay > 0 && stay < before);
    if (stay > 0) {
        for (size_t i = 0; i < stay; i++)
            s->member[s->start[s->clusters] + i] = f->slot[order[i]];
        close_cluster(s, expert, stay, 0);
    }
    for (size_t i = stay; i < n; i++)
        add_single(s, tame->data, expert, f->slot[order[i]], 0);
    return st;
}

static xp_status add_clusters(struct xp_fold *s, const struct xp_rows *tame, size_t expert)
{
    const struct xp_clusters *c = &s->f->clusters;
    xp_status st = XP_OK;

    for (size_t k = 0; k < c->count && st == XP_OK; k++)
        st = add_cluster(s, tame, expert, c->order + c->start[k], c->start[k + 1] - c->start[k]);
    return st;
}

/* ---- hitting the budget ------------------------------------------------------------------------------------------------ */

static size_t apart(size_t a, size_t b)
{
    return a > b ? a - b : b - a;
}

static xp_status fold_with(struct xp_fold *s, const struct xp_rows *tame, size_t e, size_t ask)
{
    xp_fold_cluster(s->f, tame, ask);
    if (s->f->knobs.centroid == XP_CENTROID_SEQUENCES)
        xp_fold_part_sequences(s->f, tame->rows);
    return add_clusters(s, tame, e);
}

/* Clusters the tame rows of an expert, `goal` of them where nothing makes more of what was asked for. */
static xp_status fold_tame(struct xp_fold *s, const struct xp_rows *tame, size_t e, size_t goal)
{
    struct xp_fold_expert *expert = &s->f->expert[e];
    const int drifts = s->f->knobs.outlier > 0 || s->f->knobs.centroid == XP_CENTROID_SEQUENCES;
    const size_t mark = s->clusters;
    size_t ask = expert->extra < goal ? goal - expert->extra : 1, best = ask, made, off = SIZE_MAX;
    xp_status st;

    /* Fewer clusters have more outliers, so the goal may be out of reach: the search ends where it gets no nearer. */
    for (int attempt = 0;; attempt++) {
        st = fold_with(s, tame, e, ask);
        made = s->clusters - mark;
        if (st || apart(made, goal) >= off || attempt == ATTEMPTS)
            break;
        off = apart(made, goal);
        best = ask;
        expert->extra = made > ask ? made - ask : 0;
        if (!drifts || off * CLOSE <= goal)
            break;
        ask = made < goal ? ask + off : ask > off ? ask - off : ask * goal / made;
        ask = ask < 1 ? 1 : ask > tame->rows ? tame->rows : ask;
        if (ask == best)
            break;
        s->clusters = mark;
    }
    if (st || ask == best)
        return st;
    s->clusters = mark;
    return fold_with(s, tame, e, best);
}

/* ---- all experts ----------------------------------------------------------------------------------------------------------- */

static size_t at_least(size_t least, double wanted)
{
    return wanted > (double)least ? (size_t)lrint(wanted) : least;
}

/* Mean centroids of an expert, of tokens that have been surveyed and have cells. */
static xp_status fold_means(struct xp_fold *s, const void *x, size_t e)
{
    struct xp_folder *f = s->f;
    const size_t first = f->expert_start[e], n = f->expert_end[e] - first, before = s->clusters;
    const double share = f->knobs.rate * (double)n, left = f->knobs.rate * (double)(first + n) - (double)s->spent;
    const size_t budget = at_least(1, fmax(left, share / 2)), wild = part_wild(f, (unsigned)s->t.topk, s->member + first, n);
    const struct xp_rows tame = { .data = x, .index = f->token, .rows = n - wild, .dim = f->dim, .dtype = f->dtype };
    size_t quota;
    xp_status st = XP_OK;

    if (n == 0)
        return XP_OK;
    quota = f->expert[e].quota = xp_fold_probe_quota(f, e, tame.rows, budget);
    if (tame.rows > 0)
        st = fold_tame(s, &tame, e, budget > wild + quota ? budget - wild - quota : 1);
    for (size_t i = 0; i < wild && st == XP_OK; i++)
        add_single(s, x, e, f->wild[i], 1);
    s->spent += s->clusters - before + quota;
    return st;
}

/* The clusters of one expert whose slots have numbers of clusters inside it, by first appearance. */
static void add_led(struct xp_fold *s, const void *x, size_t e)
{
    struct xp_folder *f = s->f;
    struct xp_clusters *c = &f->clusters;
    const size_t first = f->expert_start[e], n = f->expert_end[e] - first;

    for (size_t i = 0; i < n; i++) {
        f->slot[i] = s->member[first + i];
        f->ids[i] = (uint32_t)s->cluster_of[f->slot[i]];
    }
    xp_clusters_group(c, f->ids, n);
    for (size_t k = 0; k < c->count; k++) {
        const size_t size = c->start[k + 1] - c->start[k];
        const void *leader = xp_fold_token_row(s, x, f->slot[c->order[c->start[k]]]);

        for (size_t i = 0; i < size; i++)
            s->member[s->start[s->clusters] + i] = f->slot[c->order[c->start[k] + i]];
        memcpy(s->rows + s->clusters * f->row_bytes, leader, f->row_bytes);
        close_cluster(s, e, size, size == 1 && xp_fold_is_wild(f, leader));
    }
}

/* Numbers of clusters for all slots, from which add_led makes clusters. */
static void lead(struct xp_fold *s, const void *x)
{
    struct xp_folder *f = s->f;
    size_t probes = 0;

    for (size_t e = 0; e < (size_t)f->experts; e++) {
        const size_t n = f->expert_end[e] - f->expert_start[e];

        f->expert[e].quota = xp_fold_probe_quota(f, e, n, at_least(1, f->knobs.rate * (double)n));
        probes += f->expert[e].quota;
    }
    xp_fold_lead(s, x, fmax(0, f->knobs.rate - (s->slots ? (double)probes / (double)s->slots : 0)));
}

/* Numbers the sequences of the step: f->sequence. */
static void number_sequences(struct xp_fold *s)
{
    struct xp_folder *f = s->f;

    for (size_t t = 0; t < s->t.tokens; t++)
        f->ids[t] = (uint32_t)s->t.sequence[t];
    xp_clusters_group(&f->clusters, f->ids, s->t.tokens);
    memcpy(f->sequence, f->clusters.of, s->t.tokens * sizeof(*f->sequence));
}

size_t xp_fold_measured(const struct xp_fold *s, uint32_t *slot)
{
    const size_t take = least_of(s->slots, XP_FOLD_MEASURED);
    size_t n = 0;

    for (size_t i = 0; i < take; i++) {
        const uint32_t some = s->member[sampled(i, take, s->slots)];

        if (!s->is_wild[s->cluster_of[some]])
            slot[n++] = some;
    }
    return n;
}

/* Energies for rho: of rows, and of what their centroids leave. Slots at equal distances speak for all. */
static void measure(struct xp_fold *s, const void *x)
{
    struct xp_folder *f = s->f;
    uint32_t slot[XP_FOLD_MEASURED];
    const size_t n = xp_fold_measured(s, slot);

    s->energy = s->residual_energy = 0;
    for (size_t i = 0; i < n; i++) {
        const void *row = xp_fold_token_row(s, x, slot[i]);

        s->energy += f->kernels.distance(row, NULL, f->dtype, f->dim);
        s->residual_energy += f->kernels.distance(row, s->seen + (size_t)s->cluster_of[slot[i]] * f->row_bytes, f->dtype, f->dim);
    }
}

/* ---- the rows of virtual tokens ---------------------------------------------------------------------------------------------- */

/* x NULL: rows are elsewhere. */
static xp_status begin(struct xp_fold *s, const void *x)
{
    const struct xp_fold_tokens *t = &s->t;
    struct xp_folder *f = s->f;

    s->clusters = s->probes = s->chosen = s->spent = 0;
    s->start[0] = 0;
    sort_slots(s);
    memset(f->expert_probes, 0, (size_t)f->experts * sizeof(uint32_t));
    if (f->knobs.centroid == XP_CENTROID_SEQUENCES && !t->sequence && t->tokens)
        return XP_ERR_INVALID_ARG;
    if (f->knobs.centroid == XP_CENTROID_SEQUENCES)
        number_sequences(s);
    if (f->knobs.centroid == XP_CENTROID_LEADER)
        lead(s, x);
    else
        xp_fold_find_cells(f, t->tokens);
    return XP_OK;
}

xp_status xp_fold_begin(struct xp_fold *s, const struct xp_fold_tokens *t, const void *x)
{
    s->t = *t;
    if (s->f->knobs.centroid != XP_CENTROID_LEADER)
        survey_tokens(s, x);
    if (s->store)
        xp_coded_rows_begin(s->store, &(struct xp_rows){.data = s->rows, .dim = s->f->dim, .dtype = s->f->dtype});
    return begin(s, x);
}

xp_status xp_fold_choose_next(struct xp_fold *s, const void *x)
{
    struct xp_folder *f = s->f;
    const size_t e = xp_fold_ordered(s, s->chosen++), before = s->clusters;
    xp_status st = XP_OK;

    if (f->knobs.centroid == XP_CENTROID_LEADER)
        add_led(s, x, e);
    else
        st = fold_means(s, x, e);
    f->expert_clusters[e] = (uint32_t)(s->clusters - before);
    for (size_t i = s->start[before]; i < s->start[s->clusters]; i++)
        f->member_token[i] = s->member[i] / (unsigned)s->t.topk;
    return st;
}

void xp_fold_choose_probes(struct xp_fold *s, const void *x)
{
    xp_fold_pick_probes(s, x);
    for (size_t p = 0; p < s->probes; p++)
        s->f->expert_probes[s->expert[s->clusters + p]]++;
}

static xp_status choose_all(struct xp_fold *s, const void *x)
{
    xp_status st = XP_OK;

    while (st == XP_OK && s->chosen < (size_t)s->f->experts)
        st = xp_fold_choose_next(s, x);
    if (st == XP_OK)
        xp_fold_choose_probes(s, x);
    return st;
}

xp_status xp_fold_choose(struct xp_fold *s, const struct xp_fold_tokens *t, const void *x)
{
    const xp_status st = xp_fold_begin(s, t, x);

    return st ? st : choose_all(s, x);
}

xp_status xp_fold_choose_surveyed(struct xp_fold *s, const struct xp_fold_tokens *t)
{
    xp_status st;

    s->t = *t;
    st = begin(s, NULL);
    return st ? st : choose_all(s, NULL);
}

void xp_fold_average(struct xp_fold *s, const void *x, size_t first, size_t end)
{
    struct xp_folder *f = s->f;
    const struct xp_rows rows = { .data = x, .rows = s->t.tokens, .dim = f->dim, .dtype = f->dtype };

    /* Leaders are rows, and a bound looks at each mean when it is chosen. */
    if (first < end && f->knobs.centroid != XP_CENTROID_LEADER && !(f->knobs.outlier > 0))
        f->kernels.means(&rows, f->member_token, s->start + first, end - first, f->tile, s->rows + first * f->row_bytes);
}

xp_status xp_fold_fill(struct xp_fold *s, size_t first, size_t end)
{
    return xp_fold_code(s, first, end, s->store);
}

void xp_fold_end(struct xp_fold *s, const void *x)
{
    measure(s, x);
    s->f->step++;
}

void xp_fold_end_measured(struct xp_fold *s, const uint32_t *slot, const float *distance, size_t measured)
{
    s->energy = s->residual_energy = 0;
    for (size_t i = 0; i < measured; i++) {
        s->energy += s->f->energy[slot[i] / (unsigned)s->t.topk];
        s->residual_energy += distance[i];
    }
    s->f->step++;
}

xp_status xp_fold_make(struct xp_fold *s, const struct xp_fold_tokens *t, const void *x)
{
    xp_status st = xp_fold_choose(s, t, x);

    if (st)
        return st;
    xp_fold_average(s, x, 0, s->clusters);
    st = xp_fold_fill(s, 0, xp_fold_count(s));
    if (st == XP_OK)
        xp_fold_end(s, x);
    return st;
}

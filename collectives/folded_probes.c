/*
 * folded_probes.c - probe rows: which rows travel as they are beside their centroids, and what their results teach
 *
 * For a probe x of a cluster with centroid c both E(x) and E(c) come home. Least squares over the probes of an expert,
 * |E(x) - E(c) - alpha (x - c)|^2, with sums that fade from step to step, gives its alpha; what is left of it is the error of the rows
 * that were no probes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <string.h>

#include "collectives/folded_impl.h"

#define KEEP 0.9          /* of the sums of earlier steps */
#define LEAST_PROBES 1.5  /* of a slope; sums fade, so the number is not whole */
#define ALPHA_LIMIT 2.0   /* beyond it is noise, not an expert */
#define SHARE 4           /* probes take at most one in so many virtual tokens of an expert, */
#define SELDOM 8          /* and where that is none, one in so many steps */
#define GOLDEN 0.6180339887498949 /* steps by it spread evenly over 0 .. 1 */

/* ---- choice --------------------------------------------------------------------------------------------------------- */

size_t xp_fold_probe_quota(const struct xp_folder *f, size_t expert, size_t rows, size_t budget)
{
    size_t quota = f->knobs.probes;

    if (quota == 0 || budget < 2 || rows < 3)
        return 0;
    if (quota > budget / SHARE)
        quota = budget / SHARE;
    return quota ? quota : (f->step + expert) % SELDOM == 0;
}

/* The rows of a cluster that may be probes: all of a cluster of several, but not a leader, which is its own centroid. */
static size_t candidates(const struct xp_fold *s, size_t v)
{
    const size_t n = s->start[v + 1] - s->start[v];

    if (n < 2)
        return 0;
    return s->f->knobs.centroid == XP_CENTROID_LEADER ? n - 1 : n;
}

static void add_probe(struct xp_fold *s, const void *x, size_t expert, uint32_t slot)
{
    const size_t v = s->clusters + s->probes;

    s->probe[s->probes++] = slot;
    s->expert[v] = (int32_t)expert;
    if (!s->f->elsewhere)
        memcpy(s->rows + v * s->f->row_bytes, xp_fold_token_row(s, x, slot), s->f->row_bytes);
}

/* Candidates at equal distances, cluster by cluster; where they begin moves on with every step. */
static void pick(struct xp_fold *s, const void *x, size_t first, size_t end, size_t all, size_t quota)
{
    const double whole = (double)s->f->step * GOLDEN + (double)s->expert[first] * GOLDEN * GOLDEN, phase = whole - floor(whole);
    size_t v = first, passed = 0;

    for (size_t p = 0; p < quota; p++) {
        const size_t wanted = (size_t)(((double)p + phase) * (double)all / (double)quota);

        while (v + 1 < end && passed + candidates(s, v) <= wanted)
            passed += candidates(s, v++);
        add_probe(s, x, (size_t)s->expert[first], s->member[s->start[v + 1] - candidates(s, v) + (wanted - passed)]);
    }
}

void xp_fold_pick_probes(struct xp_fold *s, const void *x)
{
    for (size_t first = 0, end; first < s->clusters; first = end) {
        const size_t slots = s->start[first];
        size_t all = 0, quota, spare;

        for (end = first; end < s->clusters && s->expert[end] == s->expert[first]; end++)
            all += candidates(s, end);
        /* Never more virtual tokens than rows. */
        spare = s->start[end] - slots - (end - first);
        quota = s->f->expert[s->expert[first]].quota;
        quota = quota < all ? quota : all;
        pick(s, x, first, end, all, quota < spare ? quota : spare);
    }
}

/* ---- what they teach --------------------------------------------------------------------------------------------------- */

static void load(const struct xp_folder *f, const char *rows, size_t v, float *out)
{
    f->kernels.residual(rows + v * f->row_bytes, f->dtype, NULL, f->dim, out);
}

static struct xp_fold_products multiply(const struct xp_fold *s, size_t probe)
{
    struct xp_folder *f = s->f;
    const size_t v = s->clusters + probe, c = (size_t)s->cluster_of[s->probe[probe]];
    struct xp_fold_products p = { 0, 0, 0, 0 };

    load(f, s->seen, v, f->f32[0]);
    load(f, s->seen, c, f->f32[1]);
    load(f, s->results, v, f->f32[2]);
    load(f, s->results, c, f->f32[3]);
    for (size_t i = 0; i < f->dim; i++) {
        const double dx = (double)f->f32[0][i] - f->f32[1][i], y = f->f32[2][i], dy = y - f->f32[3][i];

        p.yy += dy * dy;
        p.yx += dy * dx;
        p.xx += dx * dx;
        p.ee += y * y;
    }
    return p;
}

static void fade(struct xp_fold_slope *s)
{
    s->a *= KEEP;
    s->b *= KEEP;
    s->aa *= KEEP;
    s->ab *= KEEP;
    s->bb *= KEEP;
}

static void add_probe_to(struct xp_fold_slope *s, double a, double b)
{
    s->a += a;
    s->b += b;
    s->aa += a * a;
    s->ab += a * b;
    s->bb += b * b;
}

/*
 * A few probes of rows that differ widely make a slope that is worse than none. So it is drawn towards a prior by what is known of its own
 * error: sum (a - slope b)^2 / (sum b)^2, times n / (n - 1), is the square of it; one probe says nothing. A probe of large b counts
 * for many, so n is (sum b)^2 / sum b^2. (Positive-part shrinkage, after James and Stein.) Where all probes agree the slope is what they
 * say.
 */
static double drawn_slope(const struct xp_fold_slope *s, double prior)
{
    const double n = s->bb > 0 ? s->b * s->b / s->bb : 0;
    double slope, spread, off;

    if (!(n > LEAST_PROBES))
        return prior;
    slope = s->a / s->b;
    off = slope - prior;
    spread = fmax(0, s->aa - 2 * slope * s->ab + slope * slope * s->bb) / (s->b * s->b) * n / (n - 1);
    if (spread >= off * off)
        return prior;
    slope = prior + off * (1 - spread / (off * off));
    return fmin(fmax(slope, -ALPHA_LIMIT), ALPHA_LIMIT);
}

int xp_fold_is_known(const struct xp_fold *s, size_t v)
{
    return s->start[v + 1] - s->start[v] > candidates(s, v);
}

static double result_energy(const struct xp_fold *s, size_t v)
{
    const struct xp_folder *f = s->f;

    return f->elsewhere ? f->result_energy[v] : f->kernels.distance(s->results + v * f->row_bytes, NULL, f->dtype, f->dim);
}

/* Squares of the results of rows that are their own centroids, and the number of the others. */
static size_t known_results(const struct xp_fold *s, size_t first, size_t end, double *squares)
{
    size_t others = 0;

    for (size_t v = first; v < end; v++) {
        const double e = xp_fold_is_known(s, v) ? result_energy(s, v) : 0;

        others += candidates(s, v);
        if (!s->is_wild[v] && isfinite(e))
            *squares += e;
    }
    return others;
}

/* Draws the slopes of all experts that had probes, and of all together, from the products of the step. */
static void fit_alphas(struct xp_fold *s)
{
    struct xp_folder *f = s->f;
    double common;

    fade(&f->slope);
    for (size_t p = 0; p < s->probes; p++) {
        const int32_t e = s->expert[s->clusters + p];

        if (p == 0 || s->expert[s->clusters + p - 1] != e)
            fade(&f->expert[e].slope);
        if (!isfinite(f->product[p].yy + f->product[p].xx + f->product[p].ee))
            continue;
        add_probe_to(&f->expert[e].slope, f->product[p].yx, f->product[p].xx);
        add_probe_to(&f->slope, f->product[p].yx, f->product[p].xx);
    }
    common = drawn_slope(&f->slope, 0);
    for (int e = 0; e < f->experts; e++)
        f->expert[e].alpha = (float)drawn_slope(&f->expert[e].slope, common);
}

/* Adds the errors of the rows of an expert, clusters [first, end), as its probes from `probe` on tell them. Returns the next expert's
 * first probe. */
static size_t add_error(const struct xp_fold *s, size_t first, size_t end, size_t probe, double *err, double *ref)
{
    const double alpha = (double)s->f->expert[s->expert[first]].alpha;
    double left = 0, all = 0, told = 0, squares = 0;

    for (; probe < s->probes && s->expert[s->clusters + probe] == s->expert[first]; probe++) {
        const struct xp_fold_products *p = &s->f->product[probe];
        const double e = p->yy - 2 * alpha * p->yx + alpha * alpha * p->xx;

        if (!isfinite(e + p->ee))
            continue;
        left += fmax(0, e);
        all += p->ee;
        told++;
    }
    if (told > 0) {
        const double rows = (double)known_results(s, first, end, &squares);

        *err += left * rows / told;
        *ref += all * rows / told + squares;
    }
    return probe;
}

void xp_fold_learn(struct xp_fold *s)
{
    struct xp_folder *f = s->f;
    double err = 0, ref = 0;
    size_t probe = 0;

    if (s->probes == 0)
        return;
    for (size_t p = 0; p < s->probes && !f->elsewhere; p++)
        f->product[p] = multiply(s, p);
    if (f->knobs.fit)
        fit_alphas(s);
    for (size_t first = 0, end; first < s->clusters && probe < s->probes; first = end) {
        for (end = first; end < s->clusters && s->expert[end] == s->expert[first]; end++)
            ;
        probe = add_error(s, first, end, probe, &err, &ref);
    }
    if (ref > 0) {
        f->err_sum = KEEP * f->err_sum + err;
        f->ref_sum = KEEP * f->ref_sum + ref;
    }
}

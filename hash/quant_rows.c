/*
 * quant_rows.c - one row, coded in the fewest bytes that keep the promise of bounded mode
 *
 * The error of a block-rotated quantiser hardly depends on the row: it is a constant of the format times the energy of the
 * residual. So the first format to try is predicted from the row's sums. The row is rotated once for all formats (kernel rotate), and
 * what a format leaves of the integers says within a percent how far off its codes will be (kernel forecast): a format that
 * will clearly miss is passed over for a fraction of what coding takes. (One that by the prediction will do needs no forecast.) The
 * one that may do is coded, decoded and measured (kernel code), and one step in either direction corrects the rest.
 *
 * The promise is |x' - x| <= eps * ref in exact arithmetic. Here both sides are f32 sums of squares: sums of n terms of one sign,
 * each term within 3 rounding errors, added in 32 partials, are within (n / 32 + 9) * 2^-24 of the truth (relatively; less than
 * that by a factor of two at least), and the comparison leaves room for that on both sides.
 *
 * Where eps refers to the mean row, |x - mean| takes a pass of its own. The triangle inequality bounds it, and where the bound
 * settles all that is asked, the pass is left out.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/quant_rows.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Mean squared error of a format in units of the residual's energy, on Gaussian blocks of 128. */
static const float expected_error[XP_ROW_FORMATS] = {
    [XP_Q_INT2] = 0.1178f,   [XP_Q_INT25] = 0.0812f,  [XP_Q_INT3] = 0.0366f,   [XP_Q_INT35] = 0.0210f,  [XP_Q_INT4] = 0.01046f,
    [XP_Q_INT45] = 0.00568f, [XP_Q_INT5] = 0.00271f,  [XP_Q_INT55] = 0.00137f, [XP_Q_INT6] = 0.00068f,  [XP_Q_INT65] = 0.00034f,
    [XP_Q_INT7] = 0.000169f, [XP_Q_INT75] = 8.4e-5f,  [XP_Q_INT8] = 4.3e-5f,   [XP_Q_FP8] = 0.00066f,
};

/* Mean squared error of rounding to a row type, in units of the row's energy. */
static double rounding_error(xp_dtype t)
{
    return t == XP_BF16 ? 2.8e-6 : t == XP_F16 ? 4.4e-8 : 0;
}

/* A format whose prediction misses by up to this factor is tried. */
#define OPTIMISM 1.08

/* One whose prediction is below what is allowed by this factor is tried without a forecast, which mostly would say the same. */
#define CONFIDENCE 0.95

/* One whose forecast misses by up to this factor is tried: a forecast leaves fractions of integers out, and rounding to the row's type, whose
 * squared error is the given part of what is allowed, adds that and, as the two errors are independent in n values, a random
 * 2 sqrt(part / n) to the squared error, or takes it off. Six times that: no forecast may decide, for devices have none. */
static double forecast_doubt(double part, double n)
{
    return 1.005 + part + 12 * sqrt(part / n);
}

void xp_row_plan_init(struct xp_row_plan *p, const struct xp_coder *c, uint16_t formats, const float *mean)
{
    const double n = (double)c->desc.dim;

    memset(p, 0, sizeof(*p));
    p->eps2 = c->desc.eps * c->desc.eps;
    p->margin = (n / 32 + 16) * 0x1p-24;
    p->least = n * 1e-37;
    p->reference = c->desc.eps_ref == XP_EPS_REF_ROW ? NULL : mean;
    p->reference_norm = p->reference ? sqrt(c->kernels.energy(p->reference, c->desc.dim) * (1 + p->margin)) : 0;
    p->bytes[XP_Q_RAW] = c->row_bytes;
    for (unsigned f = 1; f < XP_Q_BASE; f++) {
        const size_t bytes = p->bytes[f] = xp_qrow_bytes((enum xp_qformat)f, c->desc.dim);
        unsigned at = p->count;

        if (bytes == 0 || bytes >= c->row_bytes || !(formats >> f & 1))
            continue;
        for (; at > 0 && p->bytes[p->order[at - 1]] > bytes; at--)
            p->order[at] = p->order[at - 1];
        p->order[at] = (uint8_t)f;
        p->count++;
    }
}

/* What is known of a row before it is coded. */
struct subject {
    const void *row;
    const float *base;
    double energy;    /* |x|^2 */
    double residual;  /* |x - base|^2 */
    int rotated;      /* it lies in c->rotated */

    /* The squared reference of eps: |x|^2, or the smaller of it and |x - mean|^2, but not below 2^-16 |x|^2. It is bounded by these
     * two, which are equal once it is known; allowed: the squared error that keeps the promise, margins taken off, for either. */
    double ref_least, ref_most;
    double allowed_least, allowed_most;
};

static int all_zero(const void *row, size_t bytes, xp_dtype t)
{
    const uint8_t *p = row;
    const size_t size = xp_dtype_size(t);

    for (size_t i = 0; i < bytes; i++)
        if (p[i] & (i % size == size - 1 ? 0x7f : 0xff))
            return 0;
    return 1;
}

static void fetch(const void *row, size_t bytes)
{
    for (size_t i = 0; row && i < bytes; i += 64)
        __builtin_prefetch((const char *)row + i, 0, 2);
}

/* |x - m|^2; leaves the difference at out. */
static double energy_to(struct xp_coder *c, const void *row, const float *m, float *out, double *energy)
{
    float sums[2];

    c->kernels.residual_sums(row, c->desc.dtype, m, c->desc.dim, out, sums);
    *energy = sums[0];
    return sums[1];
}

/* to_mean: |x - mean|^2, or what it is at least. */
static double reference_of(const struct subject *s, double to_mean)
{
    return fmax(fmin(s->energy, to_mean), s->energy * 0x1p-16);
}

static void set_reference(const struct xp_row_plan *p, struct subject *s, double least, double most)
{
    s->ref_least = least;
    s->ref_most = most;
    s->allowed_least = p->eps2 * least * (1 - p->margin) / (1 + p->margin);
    s->allowed_most = p->eps2 * most * (1 - p->margin) / (1 + p->margin);
}

static void know_reference(const struct xp_row_plan *p, struct subject *s, double to_mean)
{
    const double ref = reference_of(s, to_mean);

    set_reference(p, s, ref, ref);
}

/* |x - mean| >= |x| - |mean|; what is measured may be less by the margins of two sums. */
static void bound_reference(const struct xp_row_plan *p, struct subject *s)
{
    const double norm = sqrt(s->energy * (1 - p->margin)) - p->reference_norm;
    const double least = norm > 0 ? norm * norm * (1 - 2 * p->margin) : 0;

    set_reference(p, s, reference_of(s, least), s->energy);
}

static void settle(struct xp_coder *c, const struct xp_row_plan *p, struct subject *s)
{
    double energy;

    if (s->ref_least < s->ref_most)
        know_reference(p, s, energy_to(c, s->row, p->reference, c->apart, &energy));
}

/* error <= factor * the squared error that keeps the promise */
static int within(struct xp_coder *c, const struct xp_row_plan *p, struct subject *s, double error, double factor)
{
    if (error <= factor * s->allowed_least)
        return 1;
    if (!(error <= factor * s->allowed_most))
        return 0;
    settle(c, p, s);
    return error <= factor * s->allowed_least;
}

static struct xp_code_row code_row(struct xp_coder *c, const struct xp_row_plan *p, const struct subject *s, const void *next)
{
    return (struct xp_code_row){s->row, c->desc.dtype, s->base, next, c->residual, c->decoded, p->typed_base, NULL};
}

static void rotate(struct xp_coder *c, const struct xp_row_plan *p, struct subject *s, const void *next)
{
    const struct xp_code_row r = code_row(c, p, s, next);
    float sums[2];

    c->kernels.rotate(&c->quantiser, &r, &c->rotated, sums);
    s->energy = sums[0];
    s->residual = sums[1];
    s->rotated = 1;
}

/* The sums of the row, and its integers unless it is likely that they are not wanted. */
static void sum_up(struct xp_coder *c, const struct xp_row_plan *p, const void *next, struct subject *s)
{
    if (!p->base_was_enough) {
        rotate(c, p, s, next);
        return;
    }
    fetch(next, c->row_bytes);
    s->residual = energy_to(c, s->row, s->base, c->residual, &s->energy);
}

/* Fills s. Returns 0 when the row can only go raw. */
static int examine(struct xp_coder *c, const struct xp_row_plan *p, const void *next, struct subject *s)
{
    sum_up(c, p, next, s);
    if (!(s->energy <= FLT_MAX) || !(s->residual <= FLT_MAX)) /* NaN, Inf, or squares that overflow */
        return 0;
    if (!p->reference)
        know_reference(p, s, INFINITY);
    else if (p->reference == s->base)
        know_reference(p, s, s->residual);
    else
        bound_reference(p, s);
    if (s->allowed_least < p->least)
        settle(c, p, s);
    return s->allowed_least >= p->least;
}

static double predicted_error(const struct xp_coder *c, const struct subject *s, unsigned format)
{
    return expected_error[format] * s->residual + rounding_error(c->desc.dtype) * s->energy;
}

static int promising(struct xp_coder *c, const struct xp_row_plan *p, struct subject *s, unsigned format)
{
    return within(c, p, s, predicted_error(c, s, format), CONFIDENCE);
}

/* Will the format clearly miss? Rounding to the row's type mostly adds to the error, but where it is not small beside what is allowed
 * it may take the error back. (f16 has denormal numbers that count.) */
static int hopeless(struct xp_coder *c, const struct xp_row_plan *p, struct subject *s, unsigned format)
{
    const double n = (double)c->desc.dim, denormal = c->desc.dtype == XP_F16 ? n * 0x1p-48 / 12 : 0;
    const double rounding = rounding_error(c->desc.dtype) * s->energy + denormal;

    if (!within(c, p, s, 16 * rounding, 1))
        return 0;
    return !within(c, p, s, c->kernels.forecast(&c->quantiser, (enum xp_qformat)format, &c->rotated), forecast_doubt(rounding / s->allowed_least, n));
}

/* Codes, decodes and measures. Returns the squared error. */
static double try_format(struct xp_coder *c, const struct xp_row_plan *p, const struct subject *s, unsigned format, uint8_t *out)
{
    struct xp_code_row r = code_row(c, p, s, NULL);

    r.decoded = p->count == 1 ? p->decoded : NULL;
    return c->kernels.code(&c->quantiser, (enum xp_qformat)format, &c->rotated, &r, out);
}

/* The shortest format that keeps the promise, starting at the predicted one; its bytes are at out. XP_Q_RAW when there is none. */
static unsigned search(struct xp_coder *c, const struct xp_row_plan *p, struct subject *s, uint8_t *out, double *error)
{
    unsigned first = 0, i;

    *error = 0;
    if (!s->rotated)
        rotate(c, p, s, NULL);
    while (first + 1 < p->count && !within(c, p, s, predicted_error(c, s, p->order[first]), OPTIMISM))
        first++;
    for (i = first; i < p->count; i++) {
        if (i + 1 < p->count && !promising(c, p, s, p->order[i]) && hopeless(c, p, s, p->order[i]))
            continue;
        *error = try_format(c, p, s, p->order[i], out);
        if (within(c, p, s, *error, 1))
            break;
    }
    if (i == p->count)
        return XP_Q_RAW;
    /* Rows with a few large values do better than predicted. */
    for (; i == first && i > 0; first = --i) {
        const unsigned narrower = p->order[i - 1];
        const double foreseen = *error * (expected_error[narrower] / expected_error[p->order[i]]);
        if (!within(c, p, s, foreseen, 1) || (!within(c, p, s, foreseen, CONFIDENCE) && hopeless(c, p, s, narrower)))
            break;
        const double e = try_format(c, p, s, narrower, c->code);
        if (!within(c, p, s, e, 1))
            break;
        memcpy(out, c->code, p->bytes[narrower]);
        *error = e;
    }
    return p->order[i];
}

/* The base alone, rounded to the row type, may be near enough. */
static int base_is_enough(struct xp_coder *c, const struct xp_row_plan *p, struct subject *s, double *error)
{
    if (!s->base || !within(c, p, s, s->residual, 2))
        return 0;
    c->kernels.restore(s->base, NULL, c->desc.dim, c->desc.dtype, c->decoded);
    *error = c->kernels.distance(s->row, c->decoded, c->desc.dtype, c->desc.dim);
    return within(c, p, s, *error, 1);
}

static void count_error(struct xp_coder *c, const struct xp_row_plan *p, xp_codec_stats *st, struct subject *s, double error)
{
    const double row = sqrt(error / s->energy);

    st->err_mean += row;
    st->err_max = fmax(st->err_max, row);
    if (sqrt(error / s->ref_least) > st->err_ref_max) {
        settle(c, p, s);
        st->err_ref_max = fmax(st->err_ref_max, sqrt(error / s->ref_least));
    }
}

static unsigned choose(struct xp_coder *c, struct xp_row_plan *p, const void *row, const void *next, const float *base, uint8_t *out,
                       xp_codec_stats *st)
{
    struct subject s = {.row = row, .base = base};
    double error;
    unsigned format;

    if (!examine(c, p, next, &s))
        return all_zero(row, c->row_bytes, c->desc.dtype) ? XP_Q_ZERO : XP_Q_RAW;
    p->base_was_enough = base_is_enough(c, p, &s, &error);
    format = p->base_was_enough ? XP_Q_BASE : search(c, p, &s, out, &error);
    if (format != XP_Q_RAW)
        count_error(c, p, st, &s, error);
    return format;
}

size_t xp_row_encode(struct xp_coder *c, struct xp_row_plan *p, const void *row, const void *next, const float *base, uint8_t *out,
                     size_t room, uint8_t *format, xp_codec_stats *st)
{
    /* No format that is tried is longer than the row, so most rows are coded where they will lie. */
    uint8_t *spare = c->code + XP_CODE_ROOM(c->desc.dim), *to = room >= c->row_bytes ? out : spare;
    const unsigned f = choose(c, p, row, next, base, to, st);

    *format = (uint8_t)f;
    if (p->bytes[f] > room)
        return XP_ROW_NO_ROOM;
    if (f == XP_Q_RAW)
        memcpy(out, row, c->row_bytes);
    else if (to != out)
        memcpy(out, to, p->bytes[f]);
    st->rows_raw += f == XP_Q_RAW;
    /* Where there is but one format to try, its rows have been decoded while they were coded. */
    if (p->decoded && !(p->count == 1 && f == p->order[0]))
        xp_row_decode(c, p, f, out, base, p->decoded);
    return p->bytes[f];
}

void xp_row_predict(xp_dtype t, struct xp_row_prediction *p)
{
    memcpy(p->expected, expected_error, sizeof(expected_error));
    p->rounding = rounding_error(t);
    p->optimism = OPTIMISM;
}

int xp_row_format_known(unsigned format, int has_base)
{
    if (format == XP_Q_RAW || format == XP_Q_ZERO)
        return 1;
    return format == XP_Q_BASE ? has_base : xp_qrow_bytes((enum xp_qformat)format, 1) > 0;
}

void xp_row_decode(struct xp_coder *c, const struct xp_row_plan *p, unsigned format, const uint8_t *in, const float *base, void *row)
{
    switch (format) {
    case XP_Q_RAW: memcpy(row, in, c->row_bytes); break;
    case XP_Q_ZERO: memset(row, 0, c->row_bytes); break;
    case XP_Q_BASE: c->kernels.restore(base, NULL, c->desc.dim, c->desc.dtype, row); break;
    default: c->kernels.dequantise(&c->quantiser, (enum xp_qformat)format, in, base, c->desc.dtype, row); break;
    }
}

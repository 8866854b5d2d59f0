/*
 * codec_quant.c - every row in the fewest bits that keep its error within eps
 *
 * Payload (FORMAT.md, "Codec quant"): flags u32; when bit 0 is set the mean row, in the rows' type; one format byte a row; the
 * rows' bytes back to back. A row's length follows from its format, so each is found by a prefix sum.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "hash/bytes.h"
#include "hash/coded_rows.h"
#include "hash/frame.h"
#include "hash/quant_frame.h"

#define PREFIX XP_QUANT_PREFIX
#define FLAG_MEAN 1u

/* ---- the mean row -------------------------------------------------------------------------------------------- */

/*
 * Fills order with the rows that count and c->mean with their mean, as kernel centroid would. A row's energy says whether it counts;
 * it is added while it is in the cache.
 */
static uint32_t mean_rows(struct xp_coder *c, const struct xp_rows *in, uint32_t *order)
{
    const size_t most = c->desc.eps_ref == XP_EPS_REF_ROW ? XP_MEAN_ROWS_UNREFERRED : XP_MEAN_ROWS, take = in->rows < most ? in->rows : most;
    uint32_t n = 0;

    memset(c->mean, 0, in->dim * sizeof(*c->mean));
    for (size_t i = 0; i < take; i++) {
        const size_t r = (2 * i + 1) * in->rows / (2 * take), next = (2 * i + 3) * in->rows / (2 * take);
        const void *ahead = i + 1 < take ? xp_row(in, next) : NULL;
        if (c->kernels.mean_add(xp_row(in, r), in->dtype, in->dim, XP_MEAN_LARGEST, ahead, c->mean))
            order[n++] = (uint32_t)r;
    }
    for (size_t i = 0; i < in->dim && n > 0; i++)
        c->mean[i] /= (float)n;
    return n;
}

/* Puts the mean row, as the receiver will have it, in c->mean and its typed form in c->decoded. Returns the rows used, 0: none. */
static uint32_t make_mean(struct xp_coder *c, const struct xp_rows *in, uint32_t *order)
{
    const uint32_t n = in->rows >= XP_MEAN_LEAST_ROWS ? mean_rows(c, in, order) : 0;

    if (n < XP_MEAN_LEAST_ROWS)
        return 0;
    c->kernels.restore(c->mean, NULL, in->dim, in->dtype, c->decoded);
    c->kernels.residual(c->decoded, in->dtype, NULL, in->dim, c->mean);
    return n;
}

/* Bits a value that coding against the mean saves, from a few rows. */
static double mean_gain(struct xp_coder *c, const struct xp_rows *in, const uint32_t *order, uint32_t n)
{
    const uint32_t take = n < XP_MEAN_PROBES ? n : XP_MEAN_PROBES;
    double bits = 0;

    for (uint32_t i = 0; i < take; i++) {
        const void *row = xp_row(in, order[(size_t)i * n / take]);
        float sums[2]; /* of the row, and of what is left of it */
        c->kernels.residual_sums(row, in->dtype, c->mean, in->dim, c->residual, sums);
        bits += xp_mean_saves(sums[0], sums[1]);
    }
    return bits / take;
}

/* Does the mean row earn more than its own bytes? */
static int mean_pays(struct xp_coder *c, const struct xp_rows *in, const uint32_t *order, uint32_t n)
{
    return n > 0 && xp_mean_pays(mean_gain(c, in, order, n), n, (double)in->rows, xp_dtype_size(in->dtype));
}

/* What the mean row of a frame is: in c->mean, and typed in c->decoded. */
struct mean {
    uint32_t counted; /* rows that it is of; 0: none */
    int sent;         /* rows are coded against it */
};

static struct mean find_mean(struct xp_coder *c, const struct xp_rows *in)
{
    uint32_t order[XP_MEAN_ROWS];
    struct mean m = {.counted = make_mean(c, in, order)};

    m.sent = mean_pays(c, in, order, m.counted);
    return m;
}

/* The mean row of all rows of the store, found by the first frame. */
static struct mean stored_mean(struct xp_coder *c, struct xp_coded_rows *s)
{
    if (!s->known) {
        const struct mean m = find_mean(c, &s->all);

        s->known = 1;
        s->counted = m.counted;
        s->sent = m.sent;
        memcpy(s->mean, c->decoded, c->row_bytes);
    }
    memcpy(c->decoded, s->mean, c->row_bytes);
    if (s->counted)
        c->kernels.residual(s->mean, c->desc.dtype, NULL, c->desc.dim, c->mean);
    return (struct mean){s->counted, s->sent};
}

/* ---- encode ---------------------------------------------------------------------------------------------------- */

/*
 * The payload is summed as it grows. Its format bytes lie before the rows, so all are taken to be that of the first row; where one
 * is not, what was summed is of no use.
 */
static void sum_row(struct xp_coder *c, const uint8_t *payload, uint8_t *formats, size_t r, size_t rows, const uint8_t *end)
{
    if (r == 0) {
        memset(formats, formats[0], rows);
        xp_running_start(c->running, payload);
    } else if (formats[r] != formats[0]) {
        xp_running_drop(c->running);
    }
    xp_running_reach(c->running, end);
}

/* Codes a row that the store has not. */
static void add_row(struct xp_coder *c, struct xp_row_plan *p, const void *row, const void *next, const float *base, size_t number, xp_codec_stats *st)
{
    struct xp_coded_rows *s = c->store;
    const double before = st->err_mean;

    s->at[number] = s->used; /* no row is longer than itself, so there is room */
    s->used += xp_row_encode(c, p, row, next, base, s->bytes + s->used, c->row_bytes, &s->format[number], st);
    s->error[number] = (float)(st->err_mean - before);
}

/* A row of the store, which is coded if it is not there; then as xp_row_encode. */
static size_t stored_row(struct xp_coder *c, struct xp_row_plan *p, const void *row, const void *next, const float *base, size_t number, uint8_t *out,
                         size_t room, uint8_t *format, xp_codec_stats *st)
{
    struct xp_coded_rows *s = c->store;
    size_t bytes;

    if (s->at[number] == XP_NOT_CODED) {
        add_row(c, p, row, next, base, number, st);
    } else {
        st->rows_raw += s->format[number] == XP_Q_RAW;
        st->err_mean += s->error[number];
    }
    *format = s->format[number];
    bytes = p->bytes[*format];
    if (bytes > room)
        return XP_ROW_NO_ROOM;
    memcpy(out, s->bytes + s->at[number], bytes);
    return bytes;
}

/* out: in the payload, behind what precedes the rows. */
static xp_status encode_rows(struct xp_coder *c, const struct xp_rows *in, struct xp_row_plan *p, const float *base,
                             const uint8_t *payload, uint8_t *out, size_t cap, size_t *len, xp_codec_stats *st)
{
    uint8_t *formats = out;
    size_t at = in->rows;

    if (at > cap)
        return XP_ERR_UNSUPPORTED;
    for (size_t r = 0; r < in->rows; r++) {
        const void *next = r + 1 < in->rows ? xp_row(in, r + 1) : NULL;
        const size_t bytes = c->store ? stored_row(c, p, xp_row(in, r), next, base, c->number[r], out + at, cap - at, &formats[r], st)
                                      : xp_row_encode(c, p, xp_row(in, r), next, base, out + at, cap - at, &formats[r], st);
        if (bytes == XP_ROW_NO_ROOM)
            return XP_ERR_UNSUPPORTED;
        at += bytes;
        sum_row(c, payload, formats, r, in->rows, out + at);
    }
    *len = at;
    return XP_OK;
}

static xp_status quant_encode(struct xp_coder *c, const struct xp_rows *in, uint8_t *out, size_t cap, size_t *len,
                              xp_codec_stats *st)
{
    const struct mean mean = c->desc.row_wise ? (struct mean){0} : c->store ? stored_mean(c, c->store) : find_mean(c, in);
    struct xp_row_plan plan;
    size_t at = PREFIX, bytes;

    if (cap < PREFIX + (c->desc.row_wise ? 0 : c->row_bytes))
        return XP_ERR_UNSUPPORTED;
    if (mean.sent) {
        memcpy(out + at, c->decoded, c->row_bytes);
        at += c->row_bytes;
    }
    xp_put32(out, at > PREFIX ? FLAG_MEAN : 0);
    xp_row_plan_init(&plan, c, c->formats, mean.counted ? c->mean : NULL);
    plan.typed_base = mean.sent ? out + PREFIX : NULL;
    const xp_status s = encode_rows(c, in, &plan, at > PREFIX ? c->mean : NULL, out, out + at, cap - at, &bytes, st);
    if (s)
        return s;
    st->err_mean /= (double)in->rows;
    *len = at + bytes;
    return XP_OK;
}

/* A row to what its receivers will have, at p->decoded. */
static void pass_row(struct xp_coder *c, struct xp_row_plan *p, const void *row, const void *next, size_t number, uint8_t *coded)
{
    struct xp_coded_rows *s = c->store;
    xp_codec_stats st = {0};
    uint8_t format;

    if (!s)
        xp_row_encode(c, p, row, next, NULL, coded, c->row_bytes, &format, &st);
    else if (s->at[number] == XP_NOT_CODED)
        add_row(c, p, row, next, NULL, number, &st);
    else
        xp_row_decode(c, p, s->format[number], s->bytes + s->at[number], NULL, p->decoded);
}

xp_status xp_coder_round_trip(struct xp_coder *c, const struct xp_rows *in, struct xp_coded_rows *store, size_t first, uint8_t *coded, void *out)
{
    struct xp_row_plan plan;

    c->why = "rows make no round trip through this coder";
    if (in->dtype != c->desc.dtype || in->dim != c->desc.dim || c->ops != &xp_codec_quant || !c->desc.row_wise || c->desc.dither)
        return XP_ERR_INVALID_ARG;
    c->why = "";
    c->store = store;
    xp_coder_seed(c, c->desc.seed);
    xp_row_plan_init(&plan, c, c->formats, NULL);
    for (size_t r = 0; r < in->rows; r++) {
        plan.decoded = (char *)out + r * c->row_bytes;
        pass_row(c, &plan, xp_row(in, r), r + 1 < in->rows ? xp_row(in, r + 1) : NULL, first + r, coded);
    }
    c->store = NULL;
    return XP_OK;
}

/* ---- decode ---------------------------------------------------------------------------------------------------- */

static int all_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return 0;
    return 1;
}

/* Checks the format bytes; the rows' bytes follow. Returns whether they are fine. */
static int check_formats(struct xp_coder *c, const struct xp_row_plan *p, const uint8_t *formats, size_t rows, int has_base, size_t *bytes)
{
    *bytes = 0;
    for (size_t r = 0; r < rows; r++) {
        c->why = "quant: unknown row format";
        if (!xp_row_format_known(formats[r], has_base))
            return 0;
        c->why = "quant: longer than memory";
        if (__builtin_add_overflow(*bytes, p->bytes[formats[r]], bytes))
            return 0;
    }
    return 1;
}

size_t xp_quant_read_head(struct xp_coder *c, const struct xp_row_plan *p, const uint8_t *in, size_t len, size_t rows, struct xp_quant_parts *out)
{
    size_t at = PREFIX;

    c->why = "quant: bad prefix";
    if (len < PREFIX || xp_get32(in) & ~FLAG_MEAN)
        return 0;
    out->mean = NULL;
    if (xp_get32(in) & FLAG_MEAN) {
        c->why = "quant: shorter than its mean row";
        if (len - at < c->row_bytes)
            return 0;
        c->kernels.residual(in + at, c->desc.dtype, NULL, c->desc.dim, c->mean);
        c->why = "quant: the mean row is not finite";
        if (!all_finite(c->mean, c->desc.dim))
            return 0;
        out->mean = c->mean;
        at += c->row_bytes;
    }
    c->why = "quant: shorter than its row formats";
    if (len - at < rows || !check_formats(c, p, in + at, rows, out->mean != NULL, &out->length))
        return 0;
    c->why = "";
    out->formats = in + at;
    out->bytes = in + at + rows;
    return at + rows;
}

xp_status xp_quant_read(struct xp_coder *c, const struct xp_row_plan *p, const uint8_t *in, size_t len, size_t rows, struct xp_quant_parts *out)
{
    const size_t head = xp_quant_read_head(c, p, in, len, rows, out);

    if (!head)
        return XP_ERR_CORRUPT;
    return len - head == out->length ? XP_OK : xp_corrupt(c, "quant: the length does not match the row formats");
}

/* For the kernel dequantise (struct xp_quantiser). */
static int usual(const float *base, size_t n)
{
    int small = 0;

    for (size_t i = 0; i < n; i++)
        small |= base[i] != 0.0f && fabsf(base[i]) < 0x1p-100f;
    return !small;
}

static xp_status quant_decode(struct xp_coder *c, const uint8_t *in, size_t len, size_t rows, void *out)
{
    struct xp_quant_parts parts;
    struct xp_row_plan plan;

    xp_row_plan_init(&plan, c, 0, NULL);
    const xp_status s = xp_quant_read(c, &plan, in, len, rows, &parts);
    if (s)
        return s;
    c->quantiser.base_is_usual = parts.mean && usual(parts.mean, c->desc.dim);
    for (size_t r = 0; r < rows; r++) {
        const size_t at = c->place ? c->place[r] : r;

        xp_row_decode(c, &plan, parts.formats[r], parts.bytes, parts.mean, (char *)out + at * c->row_bytes);
        parts.bytes += plan.bytes[parts.formats[r]];
    }
    c->quantiser.base_is_usual = 0;
    return XP_OK;
}

const struct xp_codec_ops xp_codec_quant = {
    .size = sizeof(struct xp_codec_ops),
    .id = XP_CODEC_QUANT,
    .name = "quant",
    .about = "per row the fewest bits that meet eps (2 to 8, in halves)",
    .caps = XP_CAP_BOUNDED,
    .encode = quant_encode,
    .decode = quant_decode,
};

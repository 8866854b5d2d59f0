/*
 * codec_lsh.c - fresh centroids: rows that hash alike share a centroid, which travels with them; a row is its residual
 *
 * Sender: hash (mean row removed) -> buckets -> Lloyd rounds in the sketch -> centroids, coded in 8 bits and decoded again
 * -> residual = row - decoded centroid, in the fewest bits that keep the promise. Receiver: decoded centroid + residual.
 *
 * Payload (FORMAT.md, "Codec lsh"): number of centroids u32, zero u32; the centroids, each a row of format int8; cluster of every
 * row, packed; one format byte a row; the rows' bytes back to back, in the order of the rows.
 *
 * Centroids are decoded once per row, not kept: neither end needs memory for them, and a hostile frame cannot ask for any.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hash/bits.h"
#include "hash/bytes.h"
#include "hash/cluster.h"
#include "hash/hasher.h"
#include "hash/lsh_scratch.h"
#include "hash/quant_rows.h"

#define PREFIX 8
#define CENTROID_FORMAT XP_Q_INT8
#define ROWS_PER_CLUSTER 16 /* fewer on the average do not pay for their centroid */
#define CENTROID_BITS 8.125 /* of a value of a centroid */
#define PAIRS_NEEDED 3      /* rows of one bucket in a sample, to say anything */
#define LEAST_RHO 1e-4

/* ---- clusters ------------------------------------------------------------------------------------------------ */

/* The rows that count for a mean; returns their number, their indices are at `to`. */
static uint32_t rows_that_count(const struct xp_coder *c, const struct xp_rows *in, const uint32_t *rows, size_t n, uint32_t *to)
{
    uint32_t found = 0;

    for (size_t i = 0; i < n; i++) {
        const uint32_t r = rows ? rows[i] : (uint32_t)i;
        if (c->kernels.distance(xp_row(in, r), NULL, in->dtype, in->dim) <= XP_MEAN_LARGEST)
            to[found++] = r;
    }
    return found;
}

/* A mean with less energy is taken as it is, without a look at its rows. */
#define HARMLESS 1e20

/* Mean of those of these rows that count, or zeros when none does. Work for n words. */
static void mean_of(const struct xp_coder *c, const struct xp_rows *in, const uint32_t *rows, size_t n, uint32_t *work, float *out)
{
    uint32_t start[2] = { 0, (uint32_t)n };

    if (rows && n) {
        c->kernels.centroid(in, rows, start, 1, out);
        if (c->kernels.energy(out, in->dim) <= HARMLESS)
            return;
    }
    start[1] = rows_that_count(c, in, rows, n, work);
    memset(out, 0, XP_ROW_PAD(in->dim) * sizeof(*out));
    if (start[1])
        c->kernels.centroid(in, work, start, 1, out);
}

static void make_clusters(struct xp_coder *c, const struct xp_rows *in)
{
    struct xp_lsh_scratch *l = c->lsh;
    uint32_t *ids = c->map;

    xp_hasher_set_mean(&l->hasher, c->desc.lsh_center ? c->mean : NULL);
    c->kernels.hash(&l->hasher, in, ids, l->sketch);
    xp_clusters_group(&l->clusters, ids, in->rows);
    if (c->desc.lsh_refine > 0)
        xp_clusters_refine(&l->clusters, &c->kernels, l->sketch, l->hasher.sketch, (unsigned)c->desc.lsh_refine,
                           (in->rows + ROWS_PER_CLUSTER - 1) / ROWS_PER_CLUSTER);
}

/* ---- prediction ------------------------------------------------------------------------------------------------ */

/* Half the squared distance of two rows of one bucket is what their centroid would leave of each. Returns the sum over all
 * such pairs. */
static double within_buckets(const struct xp_coder *c, const struct xp_rows *in, const uint32_t *ids, size_t *pairs)
{
    double sum = 0;

    for (size_t a = 0; a < in->rows; a++) {
        for (size_t b = a + 1; b < in->rows; b++) {
            double d;

            if (ids[a] != ids[b])
                continue;
            d = c->kernels.distance(xp_row(in, a), xp_row(in, b), in->dtype, in->dim);
            if (isfinite(d)) {
                sum += d / 2;
                ++*pairs;
            }
        }
    }
    return sum;
}

/* Mean energy of the rows, the mean row taken off. */
static double centred_energy(const struct xp_coder *c, const struct xp_rows *in)
{
    double sum = 0;
    size_t counted = 0;

    for (size_t r = 0; r < in->rows; r++) {
        double e;

        c->kernels.residual(xp_row(in, r), in->dtype, c->mean, in->dim, c->residual);
        e = c->kernels.energy(c->residual, in->dim);
        if (isfinite(e)) {
            sum += e;
            counted++;
        }
    }
    return counted ? sum / (double)counted : 0;
}

double xp_lsh_gain(struct xp_coder *c, const struct xp_rows *sample, size_t rows)
{
    struct xp_hasher *h = &c->lsh->hasher;
    const double buckets = pow(2.0 * h->w, h->k), most = (double)rows / ROWS_PER_CLUSTER + 1;
    const double clusters = fmin(buckets, most);
    size_t pairs = 0;
    double energy, left;

    mean_of(c, sample, NULL, sample->rows, c->first, c->mean);
    xp_hasher_set_mean(h, c->desc.lsh_center ? c->mean : NULL);
    c->kernels.hash(h, sample, c->map, c->lsh->sketch);
    energy = centred_energy(c, sample);
    left = within_buckets(c, sample, c->map, &pairs);
    if (pairs < PAIRS_NEEDED || energy <= 0)
        return 0;
    left = fmax(left / (double)pairs / energy, LEAST_RHO);
    return -0.5 * log2(left) - clusters / (double)rows * CENTROID_BITS - log2(clusters) / (double)c->desc.dim;
}

/* ---- encode --------------------------------------------------------------------------------------------------- */

/* Where the parts of a payload begin. */
struct layout {
    size_t centroid_bytes, map, formats, rows; /* bytes of one; offsets */
    unsigned width;                            /* bits of a map entry */
};

static struct layout lay_out(const struct xp_coder *c, size_t clusters, size_t rows)
{
    struct layout l = { .centroid_bytes = xp_qrow_bytes(CENTROID_FORMAT, c->desc.dim), .width = xp_bit_width(clusters) };

    l.map = PREFIX + clusters * l.centroid_bytes;
    l.formats = l.map + xp_packed_bytes(rows, l.width);
    l.rows = l.formats + rows;
    return l;
}

static void encode_centroids(struct xp_coder *c, const struct xp_rows *in, uint8_t *out, size_t centroid_bytes)
{
    const struct xp_clusters *k = &c->lsh->clusters;

    for (size_t j = 0; j < k->count; j++) {
        mean_of(c, in, k->order + k->start[j], k->start[j + 1] - k->start[j], c->first, c->base);
        c->kernels.quantise(&c->quantiser, CENTROID_FORMAT, c->base, out + j * centroid_bytes);
    }
}

static void decode_centroid(struct xp_coder *c, const uint8_t *centroids, size_t centroid_bytes, uint32_t j)
{
    c->kernels.dequantise(&c->quantiser, CENTROID_FORMAT, centroids + j * centroid_bytes, NULL, XP_F32, c->base);
}

/* What the centroids leave of a row's energy, the mean row taken off. */
struct share {
    double left, all;
};

static void add_share(struct xp_coder *c, const void *row, struct share *s)
{
    float left, all;

    c->kernels.residual(row, c->desc.dtype, c->mean, c->desc.dim, c->residual);
    all = c->kernels.energy(c->residual, c->desc.dim);
    c->kernels.residual(row, c->desc.dtype, c->base, c->desc.dim, c->residual);
    left = c->kernels.energy(c->residual, c->desc.dim);
    if (isfinite(all) && isfinite(left)) {
        s->all += all;
        s->left += left;
    }
}

static xp_status encode_rows(struct xp_coder *c, const struct xp_rows *in, const struct layout *l, uint8_t *out, size_t cap,
                             size_t *len, xp_codec_stats *st)
{
    const uint32_t *of = c->lsh->clusters.of;
    struct share share = { 0, 0 };
    struct xp_row_plan plan;
    size_t at = l->rows;

    xp_row_plan_init(&plan, c, c->formats, c->mean);
    for (size_t r = 0; r < in->rows; r++) {
        size_t bytes;

        decode_centroid(c, out + PREFIX, l->centroid_bytes, of[r]);
        add_share(c, xp_row(in, r), &share);
        bytes = xp_row_encode(c, &plan, xp_row(in, r), r + 1 < in->rows ? xp_row(in, r + 1) : NULL, c->base, out + at, cap - at,
                              &out[l->formats + r], st);
        if (bytes == XP_ROW_NO_ROOM)
            return XP_ERR_UNSUPPORTED;
        at += bytes;
    }
    st->err_mean /= (double)in->rows;
    st->rho = share.all > 0 ? share.left / share.all : 0;
    *len = at;
    return XP_OK;
}

static xp_status lsh_encode(struct xp_coder *c, const struct xp_rows *in, uint8_t *out, size_t cap, size_t *len, xp_codec_stats *st)
{
    const struct xp_clusters *k = &c->lsh->clusters;
    struct layout l;

    mean_of(c, in, NULL, in->rows, c->first, c->mean);
    make_clusters(c, in);
    l = lay_out(c, k->count, in->rows);
    if (l.rows >= cap)
        return XP_ERR_UNSUPPORTED;
    xp_put32(out, (uint32_t)k->count);
    xp_put32(out + 4, 0);
    encode_centroids(c, in, out + PREFIX, l.centroid_bytes);
    xp_pack_bits(k->of, in->rows, l.width, out + l.map);
    st->clusters = k->count;
    return encode_rows(c, in, &l, out, cap, len, st);
}

/* ---- decode --------------------------------------------------------------------------------------------------- */

/* Checks everything before a row is written: sizes, cluster numbers, formats and the sum of their lengths. */
static xp_status check_payload(struct xp_coder *c, const uint8_t *in, size_t len, size_t rows, struct layout *l,
                               const struct xp_row_plan *p)
{
    struct xp_bit_reader map;
    size_t clusters, at;

    if (len < PREFIX || xp_get32(in + 4))
        return xp_corrupt(c, "lsh: bad prefix");
    clusters = xp_get32(in);
    if (clusters > rows || (!clusters && rows))
        return xp_corrupt(c, "lsh: an impossible number of centroids");
    *l = lay_out(c, clusters, rows);
    if (l->rows > len)
        return xp_corrupt(c, "lsh: shorter than its centroids and maps");
    xp_bit_reader_init(&map, in + l->map, l->formats - l->map, l->width);
    at = l->rows;
    for (size_t r = 0; r < rows; r++) {
        const unsigned format = in[l->formats + r];

        if (xp_read_bits(&map) >= clusters)
            return xp_corrupt(c, "lsh: a row of a cluster that is not there");
        if (!xp_row_format_known(format, 1))
            return xp_corrupt(c, "lsh: unknown row format");
        if (__builtin_add_overflow(at, p->bytes[format], &at))
            return xp_corrupt(c, "lsh: longer than memory");
    }
    if (!xp_bits_clean(&map))
        return xp_corrupt(c, "lsh: stray bits behind the map");
    return at == len ? XP_OK : xp_corrupt(c, "lsh: the length does not match the row formats");
}

static xp_status lsh_decode(struct xp_coder *c, const uint8_t *in, size_t len, size_t rows, void *out)
{
    struct xp_bit_reader map;
    struct xp_row_plan plan;
    struct layout l;
    const uint8_t *bytes;
    xp_status s;

    xp_row_plan_init(&plan, c, 0, NULL);
    s = check_payload(c, in, len, rows, &l, &plan);
    if (s)
        return s;
    xp_bit_reader_init(&map, in + l.map, l.formats - l.map, l.width);
    bytes = in + l.rows;
    for (size_t r = 0; r < rows; r++) {
        const unsigned format = in[l.formats + r];

        decode_centroid(c, in + PREFIX, l.centroid_bytes, xp_read_bits(&map));
        xp_row_decode(c, &plan, format, bytes, c->base, (char *)out + r * c->row_bytes);
        bytes += plan.bytes[format];
    }
    return XP_OK;
}

const struct xp_codec_ops xp_codec_lsh = {
    .size = sizeof(struct xp_codec_ops),
    .id = XP_CODEC_LSH,
    .name = "lsh",
    .about = "centroids of LSH clusters, and residuals in the fewest bits that meet eps",
    .caps = XP_CAP_BOUNDED,
    .encode = lsh_encode,
    .decode = lsh_decode,
};

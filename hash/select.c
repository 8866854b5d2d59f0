/*
 * select.c - which codec, from a sample of the rows
 *
 * At most 2 % of the rows (at least 16, at most XP_SAMPLE_MAX) are coded for trial: that gives the bytes and the time of
 * a row as they are here, on this machine. Predicted seconds of a row =
 *     bytes on the wire / link speed + encoding + decoding        (plain rows: bytes / link speed)
 * Codec lsh is not tried (a sample has too few rows of a cluster) but predicted, from the pairs of sampled rows that share a
 * bucket. The least wins; coding must win by 3 %, so that a wrong guess does not cost more than that. While the speed of the
 * link is unknown it counts as slow: only bytes decide, and the choice depends on nothing but the rows.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <time.h>

#include "hash/lsh_scratch.h"

#define MUST_WIN 0.97
#define LSH_MUST_GAIN 0.25 /* bits a value: a sample sees clusters only roughly */

/* Hashing rows for equality runs about as fast as they can be read: bytes per second, a careful guess. */
#define DEDUP_BYTES_PER_S 4e9

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t sample_size(size_t rows)
{
    size_t n = rows / 50;

    n = n < XP_SAMPLE_MIN ? XP_SAMPLE_MIN : n > XP_SAMPLE_MAX ? XP_SAMPLE_MAX : n;
    return n < rows ? n : rows;
}

/* Rows at equal distances. */
static struct xp_rows take_sample(struct xp_coder *c, const struct xp_rows *in)
{
    struct xp_rows s = *in;

    s.rows = sample_size(in->rows);
    s.index = c->sample_index;
    for (size_t i = 0; i < s.rows; i++) {
        size_t r = (2 * i + 1) * in->rows / (2 * s.rows);
        c->sample_index[i] = in->index ? in->index[r] : (uint32_t)r;
    }
    return s;
}

struct trial {
    double bytes, seconds; /* of one row: on the wire; encoding and decoding */
};

/* Codes the sample. A codec that does not pay, or cannot, costs the bytes of the row itself. */
static struct trial try_codec(struct xp_coder *c, const struct xp_codec_ops *ops, const struct xp_rows *sample, int timed)
{
    struct trial t = { (double)c->row_bytes, 0 };
    size_t len, bytes = sample->rows * c->row_bytes;
    xp_codec_stats st = { .size = sizeof(st) };
    double start = timed ? seconds() : 0;

    if (ops->encode(c, sample, c->sample, bytes, &len, &st))
        return t;
    if (ops->decode(c, c->sample, len, sample->rows, c->sample + bytes))
        return t;
    t.bytes = (double)len / (double)sample->rows;
    t.seconds = timed ? (seconds() - start) / (double)sample->rows : 0;
    return t;
}

static int choose(struct xp_coder *c, const struct xp_codec_ops *ops, int pays)
{
    c->ops = ops;
    return pays;
}

/* A sample shows no duplicates, so exact mode asks only whether looking for them is cheap beside the link. */
static int select_exact(struct xp_coder *c, double link)
{
    int cheap = !link || link < (1 - MUST_WIN) * DEDUP_BYTES_PER_S;

    return choose(c, cheap ? &xp_codec_exact : &xp_codec_raw, cheap);
}

/* Codec lsh is predicted from codec quant: fewer bits a value, about twice the time. */
static struct trial predict_lsh(struct xp_coder *c, const struct xp_rows *sample, size_t rows, struct trial quant)
{
    double gain = xp_lsh_gain(c, sample, rows);

    if (gain < LSH_MUST_GAIN)
        return (struct trial){ (double)c->row_bytes, 0 };
    quant.bytes -= gain * (double)c->desc.dim / 8;
    if (quant.bytes < 2)
        quant.bytes = 2; /* its place in the map, its format */
    quant.seconds *= 2;
    return quant;
}

static int select_bounded(struct xp_coder *c, const struct xp_rows *in, double link)
{
    const struct xp_codec_ops *best = &xp_codec_quant;
    struct xp_rows sample = take_sample(c, in);
    struct trial quant = try_codec(c, best, &sample, link > 0);
    struct trial lsh = predict_lsh(c, &sample, in->rows, quant);
    double plain = (double)c->row_bytes, coded = quant.bytes + quant.seconds * link;

    if (lsh.bytes + lsh.seconds * link < coded) {
        coded = lsh.bytes + lsh.seconds * link;
        best = &xp_codec_lsh;
    }
    return coded < MUST_WIN * plain ? choose(c, best, 1) : select_exact(c, link);
}

int xp_coder_select(struct xp_coder *c, const struct xp_rows *in, const struct xp_select_env *env)
{
    double link = env ? env->link_bytes_per_s : 0;

    if (!c->desc.choice.automatic)
        return c->ops != &xp_codec_raw;
    if (c->desc.mode == XP_MODE_RAW || !in->rows || in->dtype != c->desc.dtype || in->dim != c->desc.dim ||
        xp_coder_reserve(c, in->rows))
        return choose(c, &xp_codec_raw, 0);
    return c->desc.mode == XP_MODE_BOUNDED ? select_bounded(c, in, link) : select_exact(c, link);
}

/*
 * select.c - which codec, from a sample of the rows and from what earlier calls took
 *
 * At most 2 % of the rows (at least 16, at most XP_SAMPLE_MAX) are coded for trial: that gives the bytes and the time of a row
 * as they are here, on this machine. Time is that of the thread, so that a moment in which others have the core does not count;
 * what frames really took, in wall-clock time, says how much longer than that everything takes. Predicted seconds of a row:
 *     wire = bytes / link speed, coding = encoding + decoding, the longer of both + a part of the shorter that does not overlap
 * Codec lsh is not tried (a sample has too few rows of a cluster) but predicted, from the pairs of sampled rows that share a
 * bucket. The least wins; coding must win by 3 % over plain rows. A codec in use stays unless another is better by a margin, twice in
 * a row or by a lot. Trials of the others are renewed every few calls.
 *
 * While the speed of the link is unknown it counts as slow: only bytes decide, and the choice depends on nothing but the rows.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>
#include <time.h>

#include "hash/book_keep.h"
#include "hash/log2.h"
#include "hash/lsh_scratch.h"

#define MUST_WIN 0.97
#define LSH_MUST_GAIN 0.25 /* bits a value: a sample sees clusters only roughly */
#define APART 0.3          /* part of the shorter of sending and coding that the longer does not hide */
#define MARGIN 0.95        /* what another codec must be better by, in two calls */
#define BIG_MARGIN 0.75    /* and in one */
#define OFTEN 4            /* calls that try every codec, */
#define RENEW 8            /* then one in so many */
#define SURPRISE 1.05       /* bytes a row, of those of the trial */
#define SLOWDOWN_MOST 16.0
#define SLOWDOWN_FADES 0.98 /* a call, while nothing is coded that could show it */

/* Before a book is there, what it is expected to be beside codec quant; measured on activations. */
#define BOOK_BYTES 0.82
#define BOOK_SECONDS 3.5
#define BOOK_OWN_BYTES 0.87 /* and with a book in the frame */

/*
 * Directions make rows shorter and coding up to twice as slow. While coding hides behind sending the shorter rows win; where it no longer does,
 * directions cost much more than they ever save. Break-even is where coding with them takes as long as sending without: at a link speed in
 * proportion to the bits of a value. README.md has the measurements; this is a little below them.
 */
#define DIRECTIONS_BIT_BYTES_PER_S 6.5e6
#define DIRECTIONS_BITS(eps) (-xp_log2(eps) - 0.3) /* of a value, with a kept book */
#define OWN_ROWS 512

/* Hashing rows for equality runs about as fast as they can be read: bytes per second, a careful guess. */
#define DEDUP_BYTES_PER_S 4e9

static double thread_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
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

/* ---- trials ------------------------------------------------------------------------------------------------------------ */

/* Codes the sample. A codec that does not pay, or cannot, costs the bytes of the row itself. */
static struct xp_trial try_codec(struct xp_coder *c, const struct xp_codec_ops *ops, const struct xp_rows *sample, int timed)
{
    struct xp_trial t = { (double)c->row_bytes, 0, 1 };
    size_t len, bytes = sample->rows * c->row_bytes;
    xp_codec_stats st = { .size = sizeof(st) };
    double start = timed ? thread_seconds() : 0;

    if (ops->encode(c, sample, c->sample, bytes, &len, &st))
        return t;
    if (ops != &xp_codec_book && ops->decode(c, c->sample, len, sample->rows, c->sample + bytes))
        return t;
    t.bytes = (double)len / (double)sample->rows;
    t.seconds = timed ? (thread_seconds() - start) / (double)sample->rows : 0;
    if (ops == &xp_codec_book)
        t.seconds *= 1.6; /* what its own decoder cannot read back here: the book is on its peers' shelves */
    return t;
}

/* Noise makes times longer, never shorter, so that shorter ones count for more. */
static void renew(struct xp_trial *old, struct xp_trial t)
{
    if (!old->done) {
        *old = t;
        return;
    }
    old->bytes = t.bytes;
    old->seconds += (t.seconds - old->seconds) * (t.seconds < old->seconds ? 0.5 : 0.125);
}

static void try_and_keep(struct xp_coder *c, const struct xp_codec_ops *ops, const struct xp_rows *sample)
{
    renew(&c->select.trial[ops->id], try_codec(c, ops, sample, 1));
}

/* Codec lsh is predicted from codec quant: fewer bits a value, about twice the time. */
static struct xp_trial predict_lsh(struct xp_coder *c, const struct xp_rows *sample, size_t rows, struct xp_trial quant)
{
    double gain = xp_lsh_gain(c, sample, rows);

    if (gain < LSH_MUST_GAIN)
        return (struct xp_trial){ (double)c->row_bytes, 0, 1 };
    quant.bytes = c->select.lsh_bias * (quant.bytes - gain * (double)c->desc.dim / 8);
    if (quant.bytes < 2)
        quant.bytes = 2; /* its place in the map, its format */
    quant.seconds *= 2;
    return quant;
}

/* ---- what frames really took ------------------------------------------------------------------------------------------- */

void xp_select_meter(struct xp_coder *c, unsigned id, int decoded, size_t rows, size_t bytes, double seconds)
{
    if (id != c->ops->id)
        return;
    c->select.bytes += decoded ? 0 : (double)bytes;
    c->select.rows[decoded] += (double)rows;
    c->select.seconds[decoded] += seconds;
}

/* How much longer than the trial said: other ranks on the core, cold caches. And whether rows take more bytes than it said: they
 * have changed, and all codecs must be tried on them. */
static void learn_from_frames(struct xp_coder *c)
{
    struct xp_select *s = &c->select;
    struct xp_trial *t = &s->trial[c->ops->id];

    s->surprised = s->rows[0] >= 64 && t->done && s->bytes / s->rows[0] > SURPRISE * t->bytes;
    /* No sample is coded with lsh: only frames show what its prediction is worth. */
    if (c->ops->id == XP_CODEC_LSH && s->rows[0] >= 64 && t->done) {
        s->lsh_bias *= s->bytes / s->rows[0] / t->bytes;
        t->bytes = s->bytes / s->rows[0];
    }
    if (s->rows[0] >= 64 && s->rows[1] >= 64 && t->done && t->seconds > 0) {
        double ratio = (s->seconds[0] / s->rows[0] + s->seconds[1] / s->rows[1]) / t->seconds;

        ratio = ratio < 1 ? 1 : ratio > SLOWDOWN_MOST ? SLOWDOWN_MOST : ratio;
        s->slowdown += (ratio - s->slowdown) / (ratio > s->slowdown ? 2 : 8);
    } else if (s->rows[0] == 0) {
        s->slowdown = 1 + SLOWDOWN_FADES * (s->slowdown - 1);
    }
    s->bytes = 0;
    memset(s->rows, 0, sizeof(s->rows));
    memset(s->seconds, 0, sizeof(s->seconds));
}

/* ---- the choice -------------------------------------------------------------------------------------------------------- */

static double predict(const struct xp_coder *c, struct xp_trial t)
{
    double link = c->select.link, wire, coding;

    if (!link)
        return t.bytes;
    wire = t.bytes / link;
    coding = t.seconds * c->select.slowdown;
    return wire > coding ? wire + APART * coding : coding + APART * wire;
}

/* Packing saves a third at most, so nothing is taken for granted: coding and sending count in full. */
static double predict_pack(const struct xp_coder *c)
{
    const struct xp_trial *t = &c->select.trial[XP_CODEC_PACK];

    return c->select.link ? t->bytes / c->select.link + t->seconds * c->select.slowdown : t->bytes;
}

static int choose(struct xp_coder *c, const struct xp_codec_ops *ops, int pays)
{
    c->ops = ops;
    return pays;
}

/* Keeps the codec in use unless the other one is better twice, or by a lot. */
static const struct xp_codec_ops *steady(struct xp_coder *c, const struct xp_codec_ops *best, double time)
{
    struct xp_select *s = &c->select;
    const int plain = c->ops == &xp_codec_raw || c->ops == &xp_codec_exact;
    const double now = plain                       ? (double)c->row_bytes / s->link
                       : c->ops == &xp_codec_pack ? predict_pack(c)
                                                  : predict(c, s->trial[c->ops->id]);

    if (!s->link || s->calls <= 1 || (!plain && !s->trial[c->ops->id].done) || time < BIG_MARGIN * now || (time < MARGIN * now && s->challenger == best) ||
        (plain && (best == &xp_codec_raw || best == &xp_codec_exact)))
        return best;
    s->challenger = time < MARGIN * now ? best : NULL;
    return c->ops;
}

/* A sample shows no duplicates, so apart from packing exact mode asks only whether looking for them is cheap beside the link. */
static const struct xp_codec_ops *exact_or_raw(const struct xp_coder *c)
{
    return !c->select.link || c->select.link < (1 - MUST_WIN) * DEDUP_BYTES_PER_S ? &xp_codec_exact : &xp_codec_raw;
}

static int due(const struct xp_coder *c)
{
    return !c->select.link || c->select.calls <= OFTEN || c->select.calls % RENEW == 0 || c->select.surprised;
}

/* The better of codec ops and plain rows, given what ops is predicted to take. */
static int finish(struct xp_coder *c, const struct xp_codec_ops *ops, double time)
{
    const double plain = c->select.link ? (double)c->row_bytes / c->select.link : (double)c->row_bytes;

    if (!(time < MUST_WIN * plain)) {
        ops = exact_or_raw(c);
        time = plain;
    }
    ops = steady(c, ops, time);
    return choose(c, ops, ops != &xp_codec_raw);
}

static int select_exact(struct xp_coder *c, const struct xp_rows *in)
{
    if (c->desc.dtype == XP_BYTE)
        return choose(c, exact_or_raw(c), exact_or_raw(c) != &xp_codec_raw);
    if (due(c)) {
        struct xp_rows sample = take_sample(c, in);
        try_and_keep(c, &xp_codec_pack, &sample);
    }
    return finish(c, &xp_codec_pack, predict_pack(c));
}

/* A book in the frame pays for itself with some rows; where quant saves nothing, eps is out of reach for both. */
static int may_fit_own(const struct xp_coder *c, size_t rows)
{
    return c->desc.dim >= 64 && rows >= OWN_ROWS && c->select.trial[XP_CODEC_QUANT].bytes < 0.9 * (double)c->row_bytes;
}

/* alone: all rows make one frame, and only its bytes count. */
static int select_bounded(struct xp_coder *c, const struct xp_rows *in, int alone)
{
    struct xp_select *s = &c->select;
    const struct xp_codec_ops *best = &xp_codec_quant;
    struct xp_rows sample = take_sample(c, in);
    double time;

    if (due(c)) {
        try_and_keep(c, &xp_codec_quant, &sample);
        s->trial[XP_CODEC_LSH] = predict_lsh(c, &sample, in->rows, s->trial[XP_CODEC_QUANT]);
    }
    if (c->writer && (due(c) || s->writer != c->writer))
        try_and_keep(c, &xp_codec_book, &sample);
    s->writer = c->writer;
    time = predict(c, s->trial[XP_CODEC_QUANT]);
    if (predict(c, s->trial[XP_CODEC_LSH]) < time) {
        best = &xp_codec_lsh;
        time = predict(c, s->trial[XP_CODEC_LSH]);
    }
    if (alone && may_fit_own(c, in->rows) && BOOK_OWN_BYTES * s->trial[XP_CODEC_QUANT].bytes < time) {
        best = &xp_codec_book;
        time = BOOK_OWN_BYTES * s->trial[XP_CODEC_QUANT].bytes;
    }
    if (c->writer && predict(c, s->trial[XP_CODEC_BOOK]) < time) {
        best = &xp_codec_book;
        time = predict(c, s->trial[XP_CODEC_BOOK]);
    }
    return finish(c, best, time);
}

int xp_coder_select(struct xp_coder *c, const struct xp_rows *in, const struct xp_select_env *env)
{
    if (!c->desc.choice.automatic)
        return c->ops != &xp_codec_raw;
    if (c->desc.mode == XP_MODE_RAW || !in->rows || in->dtype != c->desc.dtype || in->dim != c->desc.dim ||
        xp_coder_reserve(c, in->rows))
        return choose(c, &xp_codec_raw, 0);
    learn_from_frames(c);
    c->select.link = env ? env->link_bytes_per_s : 0;
    c->select.calls++;
    return c->desc.mode == XP_MODE_BOUNDED ? select_bounded(c, in, !env) : select_exact(c, in);
}

/* ---- for those who keep books ------------------------------------------------------------------------------------------ */

double xp_coder_trial_bytes(const struct xp_coder *c, unsigned id)
{
    return c->select.trial[id].done ? c->select.trial[id].bytes : 0;
}

double xp_coder_try_book(struct xp_coder *c, const struct xp_rows *in, const struct xp_book_writer *w)
{
    const struct xp_book_writer *before = c->writer;
    struct xp_rows sample;
    struct xp_trial t;

    if (!c->sample || xp_coder_reserve(c, sample_size(in->rows)))
        return (double)c->row_bytes;
    sample = take_sample(c, in);
    c->writer = w;
    t = try_codec(c, &xp_codec_book, &sample, 0);
    c->writer = before;
    return t.bytes;
}

int xp_coder_directions_pay(const struct xp_coder *c, double link_bytes_per_s)
{
    const struct xp_coder_desc *d = &c->desc;

    if (d->dim < XP_BOOK_DIRECTIONS_LEAST || d->dim > XP_BOOK_DIRECTIONS_MOST)
        return 0;
    return d->choice.directions || (link_bytes_per_s > 0 && link_bytes_per_s < DIRECTIONS_BIT_BYTES_PER_S * DIRECTIONS_BITS(d->eps));
}

int xp_coder_book_may_pay(const struct xp_coder *c)
{
    const struct xp_select *s = &c->select;
    struct xp_trial quant = s->trial[XP_CODEC_QUANT], book = s->trial[XP_CODEC_BOOK];

    if (!c->desc.choice.automatic)
        return c->desc.choice.id == XP_CODEC_BOOK;
    if (!quant.done)
        return 0;
    if (!book.done)
        book = (struct xp_trial){ BOOK_BYTES * quant.bytes, BOOK_SECONDS * quant.seconds, 1 };
    return predict(c, book) < predict(c, quant);
}

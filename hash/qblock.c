/*
 * qblock.c - one block of the quantisers in C: scale, rotate, choose the step, round, pack; and back
 *
 * Everything that decides a byte is an integer, or one f32 operation with a defined rounding, so all variants agree.
 * The step: a rotated block is near Gaussian, for which min(a * rms, b * largest) with fitted a, b comes within 1-5 % of the
 * squared error of a full search. Where the ratio of largest to rms says the block is something else (a spike becomes
 * +-constant), a few steps are tried and the integer error decides.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/qblock.h"
#include "hash/bytes.h"
#include "hash/signs.h"
#include "hash/variants.h"

#include <math.h>

const struct xp_qinfo xp_qinfo[XP_QFORMATS] = {
    [XP_Q_INT2] = {4, 2, 0, 13, 0, 0, 1.0156f, 0.41f},
    [XP_Q_INT25] = {5, 5, 1, 12, 2, 52429, 0.8568f, 0.34f},
    [XP_Q_INT3] = {8, 3, 0, 12, 0, 0, 0.5977f, 0.22f},
    [XP_Q_INT35] = {11, 7, 1, 11, 3, 47663, 0.5005f, 0.165455f},
    [XP_Q_INT4] = {16, 4, 0, 11, 0, 0, 0.4224f, 0.1175f},
    [XP_Q_INT45] = {22, 9, 1, 10, 4, 47663, 0.321f, 0.088182f},
    [XP_Q_INT5] = {32, 5, 0, 10, 0, 0, 16.0f, 0.0625f},
    [XP_Q_INT55] = {45, 11, 1, 9, 5, 46604, 16.0f, 0.044444f},
    [XP_Q_INT6] = {64, 6, 0, 9, 0, 0, 16.0f, 0.03125f},
    [XP_Q_INT65] = {90, 13, 1, 8, 6, 46604, 16.0f, 0.022222f},
    [XP_Q_INT7] = {128, 7, 0, 8, 0, 0, 16.0f, 0.015625f},
    [XP_Q_INT75] = {181, 15, 1, 7, 7, 46346, 16.0f, 0.01105f},
    [XP_Q_INT8] = {256, 8, 0, 7, 0, 0, 16.0f, 0.0078125f},
    [XP_Q_FP8] = {0, 8, 0, 0, 0, 0, 0.0f, 0.0f},
};

#define FP8_LARGEST 448.0f /* of e4m3 */
#define FP8_UNIT 512.0f    /* e4m3 values are multiples of 1 / 512 */

size_t xp_qblock_bytes(enum xp_qformat f, size_t n)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    const size_t elements = q->paired ? n / 2 : n;

    return elements * (q->bits / 2) / 4 + (q->bits & 1 ? (elements + 7) / 8 : 0);
}

/* ---- codes to bytes: the lowest 8, then 4, 2 and 1 bits of all elements lie together ---------------------- */

static uint8_t *pack(const uint16_t *w, size_t n, unsigned bits, uint8_t *out)
{
    unsigned at = 0;

    for (unsigned width = 8; width >= 2; width /= 2) {
        if (!(bits & width))
            continue;
        const size_t bytes = n * width / 8;
        for (size_t i = 0; i < bytes; i++) {
            unsigned b = 0;
            for (unsigned k = 0; k < 8 / width; k++)
                b |= (w[i + k * bytes] >> at & ((1u << width) - 1)) << (k * width);
            out[i] = (uint8_t)b;
        }
        out += bytes;
        at += width;
    }
    if (bits & 1) {
        memset(out, 0, (n + 7) / 8);
        for (size_t i = 0; i < n; i++)
            out[i / 8] |= (uint8_t)((w[i] >> at & 1) << (i % 8));
        out += (n + 7) / 8;
    }
    return out;
}

static void unpack(const uint8_t *in, size_t n, unsigned bits, uint16_t *w)
{
    unsigned at = 0;

    memset(w, 0, n * sizeof(*w));
    for (unsigned width = 8; width >= 2; width /= 2) {
        if (!(bits & width))
            continue;
        const size_t bytes = n * width / 8;
        for (size_t i = 0; i < n; i++)
            w[i] |= (uint16_t)((in[i % bytes] >> (i / bytes * width) & ((1u << width) - 1)) << at);
        in += bytes;
        at += width;
    }
    if (bits & 1)
        for (size_t i = 0; i < n; i++)
            w[i] |= (uint16_t)((in[i / 8] >> (i % 8) & 1) << at);
}

/* ---- scale and rotate ---------------------------------------------------------------------------------------- */

/* Sum of |x|: value i joins partial i % 16; partials p and p + 8, then p + 4, p + 2, p + 1 are added. */
static float sum_abs(const float *x, size_t n)
{
    float lane[16] = {0};

    for (size_t i = 0; i < n; i++)
        lane[i % 16] += fabsf(x[i]);
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t p = 0; p < half; p++)
            lane[p] += lane[p + half];
    return lane[0];
}

static void rotate(int16_t *h, size_t n)
{
    unsigned log2n = 0;

    while ((size_t)1 << log2n < n)
        log2n++;
    xp_fht_i16_c(h, log2n, 1);
}

static void make_integers(const uint32_t *signs, const float *x, size_t n, int16_t *h, struct xp_qstats *s)
{
    const float l1 = sum_abs(x, n);

    *s = (struct xp_qstats){0};
    if (!(l1 >= XP_QMIN_L1 && l1 <= XP_QMAX_L1))
        return;
    s->scale = XP_QTARGET / l1;
    for (size_t i = 0; i < n; i++) {
        const int v = (int)rintf(x[i] * s->scale);
        h[i] = (int16_t)(xp_sign(signs, i) ? -v : v);
        s->energy += v * v;
    }
    rotate(h, n);
    for (size_t i = 0; i < n; i++) {
        const int v = h[i] < 0 ? -h[i] : h[i];
        s->largest = v > s->largest ? v : s->largest;
    }
}

/* ---- the step -------------------------------------------------------------------------------------------------- */

/* Rounds `step` (in units of h) to what the wire can say; per_unit = n * scale turns wire values into units of h. */
static struct xp_qstep step_round(const struct xp_qinfo *q, float step, float per_unit, float *real)
{
    struct xp_qstep r = {.wire = xp_f32_to_bf16(step / per_unit)};

    *real = xp_bf16_to_f32(r.wire) * per_unit;
    const unsigned exponent = (xp_f32_bits(*real) >> 23) - 127; /* real >= 1 */
    r.shift = (uint16_t)(exponent < q->max_shift ? exponent : q->max_shift);
    const float recip = rintf((float)(1u << (15 + r.shift)) / *real);
    r.recip = (int16_t)(recip > 32767.0f ? 32767.0f : recip);
    return r;
}

static unsigned code_of(const struct xp_qinfo *q, const struct xp_qstep *s, int h)
{
    int v = (h * s->recip + (1 << 14)) >> 15; /* VPMULHRSW: code * 2^shift */

    v += q->levels << (s->shift - 1);
    v = v > 32767 ? 32767 : v;
    v >>= s->shift;
    return (unsigned)(v < 0 ? 0 : v > q->levels - 1 ? q->levels - 1 : v);
}

static int64_t integer_error(const struct xp_qinfo *q, const struct xp_qstep *s, float real, const int16_t *h, size_t n)
{
    int64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        const int twice = 2 * (int)code_of(q, s, h[i]) - (q->levels - 1);
        const int64_t d = h[i] - (int64_t)rintf((float)twice * (0.5f * real));
        sum += d * d;
    }
    return sum;
}

static struct xp_qstep step_search(const struct xp_qinfo *q, struct xp_qstep best, float real, float per_unit, int32_t largest,
                                   const int16_t *h, size_t n)
{
    static const float fractions[] = {1.0f, 0.94f, 0.88f, 0.82f, 0.76f, 0.7f, 0.6f, 0.5f};
    const float widest = 2.0f * (float)largest / (float)(q->levels - 1);
    int64_t least = integer_error(q, &best, real, h, n);

    for (size_t k = 0; k < sizeof(fractions) / sizeof(fractions[0]); k++) {
        const struct xp_qstep s = step_round(q, widest * fractions[k], per_unit, &real);
        const int64_t e = integer_error(q, &s, real, h, n);
        if (e < least) {
            least = e;
            best = s;
        }
    }
    return best;
}

struct xp_qstep xp_qstep_choose(enum xp_qformat f, const struct xp_qstats *s, const int16_t *h, size_t n)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    const float by_rms = q->rms_steps * sqrtf((float)s->energy), by_max = q->max_steps * (float)s->largest;
    const float per_unit = (float)n * s->scale;
    const int64_t peak = (int64_t)s->largest * s->largest;
    float real;

    const struct xp_qstep step = step_round(q, by_rms < by_max ? by_rms : by_max, per_unit, &real);
    if (peak < 3 * (int64_t)s->energy || peak > (n < XP_QBLOCK ? 12 : 25) * (int64_t)s->energy)
        return step_search(q, step, real, per_unit, s->largest, h, n);
    return step;
}

/* ---- FP8 e4m3: no infinity, saturates at 448 ------------------------------------------------------------- */

static uint8_t fp8_code(float t)
{
    const uint32_t u = xp_f32_bits(t), rest = u & 0x7fffffffu;
    const uint8_t sign = (uint8_t)(u >> 24 & 0x80);

    if (rest < 0x3c800000u) /* below 2^-6: multiples of 2^-9; 8 of them are the smallest normal code */
        return (uint8_t)(sign | (unsigned)rintf(fabsf(t) * FP8_UNIT));
    const uint32_t code = ((rest + 0x7ffff + (rest >> 20 & 1)) >> 20) - (120u << 3);
    return (uint8_t)(sign | (code > 0x7e ? 0x7e : code));
}

/* In units of 2^-9. The pattern of NaN (0x7f) counts as 480. */
static int32_t fp8_units(uint8_t c)
{
    const int32_t e = c >> 3 & 15, m = c & 7;
    const int32_t v = e ? (8 + m) << (e - 1) : m;

    return c & 0x80 ? -v : v;
}

static void fp8_encode(const struct xp_qstats *s, const int16_t *h, size_t n, uint16_t *wire, uint8_t *codes)
{
    const float per_unit = (float)n * s->scale;

    *wire = xp_f32_to_bf16((float)s->largest / (FP8_LARGEST * FP8_UNIT) / per_unit);
    const float inverse = 1.0f / (xp_bf16_to_f32(*wire) * FP8_UNIT * per_unit);
    for (size_t i = 0; i < n; i++)
        codes[i] = fp8_code((float)h[i] * inverse);
}

/* ---- whole blocks -------------------------------------------------------------------------------------------- */

void xp_qblock_encode(enum xp_qformat f, const uint32_t *signs, const float *res, size_t n, uint8_t *step, uint8_t *codes)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    struct xp_qstats stats;
    int16_t h[XP_QBLOCK];
    uint16_t w[XP_QBLOCK], wire;

    make_integers(signs, res, n, h, &stats);
    if (stats.scale == 0.0f) {
        xp_put16(step, 0);
        memset(codes, 0, xp_qblock_bytes(f, n));
        return;
    }
    if (f == XP_Q_FP8) {
        fp8_encode(&stats, h, n, &wire, codes);
        xp_put16(step, wire);
        return;
    }
    const struct xp_qstep s = xp_qstep_choose(f, &stats, h, n);
    xp_put16(step, s.wire);
    for (size_t j = 0; j < n; j++)
        w[n == XP_QBLOCK ? xp_qposition(j) : j] = (uint16_t)code_of(q, &s, h[j]);
    if (q->paired)
        for (size_t i = 0; i < n / 2; i++)
            w[i] = (uint16_t)(w[i] * q->levels + w[i + n / 2]);
    pack(w, q->paired ? n / 2 : n, q->bits, codes);
}

static void fp8_decode(const uint32_t *signs, float step, const uint8_t *codes, size_t n, float *out)
{
    int32_t h[XP_QBLOCK];
    unsigned log2n = 0;

    for (size_t i = 0; i < n; i++)
        h[i] = fp8_units(codes[i]);
    while ((size_t)1 << log2n < n)
        log2n++;
    xp_fht_i32_c(h, log2n, 1);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(xp_sign(signs, i) ? -h[i] : h[i]) * step;
}

void xp_qblock_decode(enum xp_qformat f, const uint32_t *signs, const uint8_t *step, const uint8_t *codes, size_t n, float *out)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    const float value = xp_qstep_value(xp_get16(step));
    uint16_t w[XP_QBLOCK];
    int16_t h[XP_QBLOCK];

    if (f == XP_Q_FP8) {
        fp8_decode(signs, value, codes, n, out);
        return;
    }
    unpack(codes, q->paired ? n / 2 : n, q->bits, w);
    if (q->paired)
        for (size_t i = 0; i < n / 2; i++) {
            w[i + n / 2] = w[i] % q->levels;
            w[i] /= q->levels;
        }
    for (size_t j = 0; j < n; j++)
        h[j] = (int16_t)w[n == XP_QBLOCK ? xp_qposition(j) : j];
    rotate(h, n);
    /* Codes count from 0: their middle, (levels - 1) / 2 each, adds up in the first value only. */
    h[0] = (int16_t)(h[0] - (int)n * (q->levels - 1) / 2);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(xp_sign(signs, i) ? -h[i] : h[i]) * value; /* exact: 16 + 8 bits */
}

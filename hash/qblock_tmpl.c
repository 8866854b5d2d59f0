/*
 * qblock_tmpl.c - one block of the quantisers: scale, rotate, choose the step, round, pack; and back
 *
 * Included by qblock.c and x86/qblock_<isa>.c, which say by XP_VARIANT how the functions end and so which instructions the
 * compiler may use: the loops are written so that it can. The bits are the same.
 *
 * Everything that decides a byte is an integer, or one f32 operation with a defined rounding, so all variants agree.
 * The step: a rotated block is near Gaussian, for which min(a * rms, b * largest) with fitted a, b comes within 1-5 % of the
 * squared error of a full search. (From 11 levels on a does not bind: clipping a large value costs more than a wider step.) Where
 * the ratio of largest to rms says the block is something else (a spike becomes +-constant), a few steps are tried and the
 * integer error decides.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/qblock.h"
#include "hash/bytes.h"
#include "hash/signs.h"

#include <math.h>

#define FP8_LARGEST 448.0f /* of e4m3 */
#define FP8_UNIT 512.0f    /* e4m3 values are multiples of 1 / 512 */

/* ---- codes to bytes: the lowest 8, then 4, 2 and 1 bits of all elements lie together ---------------------- */

static uint8_t *pack(const uint16_t *w, size_t n, unsigned bits, uint8_t *out)
{
    unsigned at = 0;

    for (unsigned width = 8; width >= 2; width /= 2) {
        if (!(bits & width))
            continue;
        const size_t bytes = n * width / 8;
        memset(out, 0, bytes);
        for (unsigned k = 0; k < 8 / width; k++)
            for (size_t i = 0; i < bytes; i++)
                out[i] |= (uint8_t)((w[i + k * bytes] >> at & ((1u << width) - 1)) << (k * width));
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
        for (unsigned k = 0; k < 8 / width; k++)
            for (size_t i = 0; i < bytes; i++)
                w[i + k * bytes] |= (uint16_t)((in[i] >> (k * width) & ((1u << width) - 1)) << at);
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

    for (size_t p = 0; p < n && p < 16; p++)
        lane[p] = fabsf(x[p]);
    for (size_t i = 16; i < n; i += 16)
        for (size_t p = 0; p < 16; p++)
            lane[p] += fabsf(x[i + p]);
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
    XP_VARIANT(xp_fht_i16)(h, log2n, 1);
}

/* All ones where value i is to be negated, else 0. */
static void sign_masks(const uint32_t *signs, size_t n, int32_t *mask)
{
    for (size_t i = 0; i < n; i += 32)
        for (size_t k = 0; k < (n < 32 ? n : 32); k++)
            mask[i + k] = -(int32_t)(signs[i / 32] >> k & 1);
}

void XP_VARIANT(xp_qblock_rotate)(const uint32_t *signs, const float *x, size_t n, int16_t *h, struct xp_qstats *s)
{
    const float l1 = sum_abs(x, n);

    *s = (struct xp_qstats){0};
    if (!(l1 >= XP_QMIN_L1 && l1 <= XP_QMAX_L1))
        return;
    const float scale = XP_QTARGET / l1;
    int32_t mask[XP_QBLOCK], energy = 0, largest = 0;

    sign_masks(signs, n, mask);
    for (size_t i = 0; i < n; i++) {
        const int v = (int)rintf(x[i] * scale);
        h[i] = (int16_t)((v ^ mask[i]) - mask[i]);
        energy += v * v;
    }
    rotate(h, n);
    for (size_t i = 0; i < n; i++) {
        const int v = h[i] < 0 ? -h[i] : h[i];
        largest = v > largest ? v : largest;
    }
    *s = (struct xp_qstats){scale, energy, largest};
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
        const int32_t d = h[i] - (int32_t)rintf((float)twice * (0.5f * real));
        sum += (int64_t)d * d;
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

struct xp_qstep XP_VARIANT(xp_qstep_choose)(enum xp_qformat f, const struct xp_qstats *s, const int16_t *h, size_t n)
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

/* Below 2^-6 the codes are multiples of 2^-9; 8 of them are the smallest normal code. */
static uint8_t fp8_code(float t, uint32_t bits)
{
    const uint32_t rest = bits & 0x7fffffffu;
    const uint32_t normal = ((rest + 0x7ffff + (rest >> 20 & 1)) >> 20) - (120u << 3);
    const int is_small = rest < 0x3c800000u;
    const uint32_t small = (uint32_t)(int)rintf((is_small ? fabsf(t) : 0.0f) * FP8_UNIT);

    return (uint8_t)((bits >> 24 & 0x80) | (is_small ? small : normal > 0x7e ? 0x7e : normal));
}

/* In units of 2^-9. The pattern of NaN (0x7f) counts as 480. */
static int32_t fp8_units(uint8_t c)
{
    const int32_t e = c >> 3 & 15, m = c & 7;
    const int32_t v = e ? ((8 + m) << e) >> 1 : m;

    return c & 0x80 ? -v : v;
}

static void fp8_encode(const struct xp_qstats *s, const int16_t *h, size_t n, uint16_t *wire, uint8_t *codes)
{
    const float per_unit = (float)n * s->scale;

    *wire = xp_f32_to_bf16((float)s->largest / (FP8_LARGEST * FP8_UNIT) / per_unit);
    const float inverse = 1.0f / (xp_bf16_to_f32(*wire) * FP8_UNIT * per_unit);
    float t[XP_QBLOCK];
    uint32_t bits[XP_QBLOCK];

    for (size_t i = 0; i < n; i++)
        t[i] = (float)h[i] * inverse;
    memcpy(bits, t, n * sizeof(*t));
    for (size_t i = 0; i < n; i++)
        codes[i] = fp8_code(t[i], bits[i]);
}

/* ---- whole blocks -------------------------------------------------------------------------------------------- */

void XP_VARIANT(xp_qblock_code)(enum xp_qformat f, const struct xp_qstats *stats, const int16_t *h, size_t n, uint8_t *step, uint8_t *codes)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    uint16_t w[XP_QBLOCK], wire;

    if (stats->scale == 0.0f) {
        xp_put16(step, 0);
        memset(codes, 0, xp_qblock_bytes(f, n));
        return;
    }
    if (f == XP_Q_FP8) {
        fp8_encode(stats, h, n, &wire, codes);
        xp_put16(step, wire);
        return;
    }
    const struct xp_qstep s = XP_VARIANT(xp_qstep_choose)(f, stats, h, n);
    xp_put16(step, s.wire);
    if (n == XP_QBLOCK)
        for (size_t j = 0; j < n; j++)
            w[xp_qposition(j)] = (uint16_t)code_of(q, &s, h[j]);
    else
        for (size_t j = 0; j < n; j++)
            w[j] = (uint16_t)code_of(q, &s, h[j]);
    if (q->paired)
        for (size_t i = 0; i < n / 2; i++)
            w[i] = (uint16_t)(w[i] * q->levels + w[i + n / 2]);
    pack(w, q->paired ? n / 2 : n, q->bits, codes);
}

void XP_VARIANT(xp_qblock_encode)(enum xp_qformat f, const uint32_t *signs, const float *res, size_t n, uint8_t *step, uint8_t *codes)
{
    struct xp_qstats stats;
    int16_t h[XP_QBLOCK];

    XP_VARIANT(xp_qblock_rotate)(signs, res, n, h, &stats);
    XP_VARIANT(xp_qblock_code)(f, &stats, h, n, step, codes);
}

static void fp8_decode(const uint32_t *signs, float step, const uint8_t *codes, size_t n, float *out)
{
    int32_t h[XP_QBLOCK], mask[XP_QBLOCK];
    unsigned log2n = 0;

    sign_masks(signs, n, mask);
    for (size_t i = 0; i < n; i++)
        h[i] = fp8_units(codes[i]);
    while ((size_t)1 << log2n < n)
        log2n++;
    XP_VARIANT(xp_fht_i32)(h, log2n, 1);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)((h[i] ^ mask[i]) - mask[i]) * step;
}

void XP_VARIANT(xp_qblock_decode)(enum xp_qformat f, const uint32_t *signs, const uint8_t *step, const uint8_t *codes, size_t n, float *out)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    const float value = xp_qstep_value(xp_get16(step));
    int32_t mask[XP_QBLOCK];
    uint16_t w[XP_QBLOCK];
    int16_t h[XP_QBLOCK];

    if (f == XP_Q_FP8) {
        fp8_decode(signs, value, codes, n, out);
        return;
    }
    unpack(codes, q->paired ? n / 2 : n, q->bits, w);
    if (q->paired)
        for (size_t i = 0; i < n / 2; i++) {
            const uint32_t first = (uint32_t)w[i] * q->div_mul >> (16 + q->div_shift);
            w[i + n / 2] = (uint16_t)(w[i] - first * q->levels);
            w[i] = (uint16_t)first;
        }
    for (size_t j = 0; j < n; j++)
        h[j] = (int16_t)w[n == XP_QBLOCK ? xp_qposition(j) : j];
    sign_masks(signs, n, mask);
    rotate(h, n);
    /* Codes count from 0: their middle, (levels - 1) / 2 each, adds up in the first value only. */
    h[0] = (int16_t)(h[0] - (int)n * (q->levels - 1) / 2);
    for (size_t i = 0; i < n; i++)
        out[i] = (float)((h[i] ^ mask[i]) - mask[i]) * value; /* exact: 16 + 8 bits */
}

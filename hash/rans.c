/*
 * rans.c - the entropy coder in plain C, and what its variants share
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/rans.h"
#include "hash/bytes.h"
#include "hash/variants.h"

#include <string.h>

#define LOW 0x10000u /* states are at least this, except below the last steps */
#define MASK ((1u << XP_RANS_BITS) - 1)

static size_t groups_of(size_t n)
{
    return (n + XP_RANS_GROUP - 1) / XP_RANS_GROUP;
}

/* From 3 low bits on, cutting them off leaves the same distribution. */
#define TABLE(scale) &xp_rans_tables[(scale) < XP_RANS_DISTRIBUTIONS ? (scale) : (XP_RANS_DISTRIBUTIONS - 4) | ((scale) & 3)]
#define TABLES_4(scale) TABLE(scale), TABLE((scale) + 1), TABLE((scale) + 2), TABLE((scale) + 3)
#define TABLES_16(scale) TABLES_4(scale), TABLES_4((scale) + 4), TABLES_4((scale) + 8), TABLES_4((scale) + 12)

const struct xp_rans_table *const xp_rans_table_of[XP_RANS_CLASSES] = { TABLES_16(0), TABLES_16(16), TABLES_16(32), TABLES_16(48) };

/* ---- the parts of a row ------------------------------------------------------------------------------------- */

#define STATE_BYTES (XP_RANS_MAX_LANES * 36 / 8)
#define MOST_LOW_BITS 11

size_t xp_rans_bound(size_t n)
{
    return STATE_BYTES + groups_of(n) * 2 * MOST_LOW_BITS + 2 * n + 2 * n;
}

size_t xp_rans_work_bytes(size_t n)
{
    size_t groups = groups_of(n);

    return groups * XP_RANS_GROUP + 64                     /* symbols */
         + 2 * n + 64                                      /* words */
         + groups * 2 * MOST_LOW_BITS + 64 + 2 * n + 64;   /* planes, escapes */
}

struct xp_rans_work xp_rans_cut(void *work, size_t n)
{
    size_t groups = groups_of(n);
    struct xp_rans_work w;
    uint8_t *p = work;

    w.place = p;
    p += groups * XP_RANS_GROUP + 64 + 2 * n;
    w.words_end = p;
    p += 64;
    w.planes = p;
    w.escapes = p + groups * 2 * MOST_LOW_BITS + 64;
    return w;
}

/* A state of 17 + e bits travels as e in 4 bits and its 16 + e bits below the leading one. */
static size_t write_states(const uint32_t *state, unsigned lanes, uint8_t *out)
{
    const uint8_t *begin = out;
    uint64_t hold = 0;
    unsigned have = 0;

    for (unsigned i = 0; i < lanes; i++) {
        const unsigned bits = 31 - (unsigned)__builtin_clz(state[i]);

        hold |= ((uint64_t)(state[i] ^ 1u << bits) << 4 | (bits - 16)) << have;
        for (have += 4 + bits; have >= 8; have -= 8, hold >>= 8)
            *out++ = (uint8_t)hold;
    }
    if (have)
        *out++ = (uint8_t)hold;
    return (size_t)(out - begin);
}

/* What lies behind a row may be read, since it cannot be used: the row would end beyond it. */
static const uint8_t *read_states(const uint8_t *p, unsigned lanes, uint32_t *state)
{
    size_t at = 0;

    for (unsigned i = 0; i < lanes; i++) {
        const uint64_t v = xp_get64(p + at / 8) >> (at % 8);
        const unsigned bits = 16 + (v & 15);

        state[i] = 1u << bits | (uint32_t)(v >> 4 & ((1ull << bits) - 1));
        at += 4 + bits;
    }
    return p + (at + 7) / 8;
}

void xp_rans_assemble(struct xp_rans_source *s, const uint32_t *state, unsigned lanes, const struct xp_rans_work *w,
                      struct xp_rans_parts parts, const uint8_t *words)
{
    uint8_t head[STATE_BYTES + 8], *out = s->out;
    const size_t head_bytes = write_states(state, lanes, head), word_bytes = (size_t)(w->words_end - words);

    s->len = head_bytes + parts.plane_bytes + word_bytes + parts.escape_bytes;
    if (s->len > s->cap) {
        s->len = 0;
        return;
    }
    memcpy(out, head, head_bytes);
    out += head_bytes;
    memcpy(out, w->planes, parts.plane_bytes);
    out += parts.plane_bytes;
    memcpy(out, words, word_bytes);
    memcpy(out + word_bytes, w->escapes, parts.escape_bytes);
}

/* Sums of bytes: 16 groups to 16 sums, 16 times, before any of them can overflow. */
static size_t plane_bytes(const uint8_t *classes, size_t groups)
{
    size_t bits = 0, g = 0;

    while (groups - g >= XP_RANS_GROUP) {
        uint8_t sum[XP_RANS_GROUP] = { 0 };

        for (int times = 0; times < 16 && groups - g >= XP_RANS_GROUP; times++, g += XP_RANS_GROUP)
            for (int i = 0; i < XP_RANS_GROUP; i++)
                sum[i] = (uint8_t)(sum[i] + xp_rans_low_bits(classes[g + (size_t)i]));
        for (int i = 0; i < XP_RANS_GROUP; i++)
            bits += sum[i];
    }
    for (; g < groups; g++)
        bits += xp_rans_low_bits(classes[g]);
    return 2 * bits;
}

int xp_rans_open(const struct xp_rans_stream *s, size_t n, unsigned lanes, uint32_t *state, const uint8_t **planes,
                 const uint8_t **words)
{
    const size_t bytes = plane_bytes(s->classes, groups_of(n));

    *planes = read_states(s->in, lanes, state);
    if (*planes > s->in + s->len || bytes > (size_t)(s->in + s->len - *planes))
        return 0;
    *words = *planes + bytes;
    return 1;
}

void xp_rans_begin(const uint8_t *place, size_t n, unsigned lanes, uint32_t *state)
{
    const size_t steps = xp_rans_steps(n, lanes);

    for (unsigned lane = 0; lane < lanes; lane++) {
        state[lane] = 2;
        for (size_t step = steps + XP_RANS_TAIL; step-- > steps;) {
            const unsigned at = step * lanes + lane < n ? place[step * lanes + lane] : 0;
            state[lane] = state[lane] << 5 | (at & 15) << 1 | at >> 4; /* the symbol */
        }
    }
}

int xp_rans_end(const struct xp_rans_stream *s, size_t n, unsigned lanes, uint32_t *state)
{
    const size_t steps = xp_rans_steps(n, lanes);

    for (unsigned lane = 0; lane < lanes; lane++) {
        for (size_t i = steps * lanes + lane; i < (steps + XP_RANS_TAIL) * lanes; i += lanes, state[lane] >>= 5) {
            if (i < n)
                s->q[i] = (int16_t)(state[lane] & 31);
            else if (state[lane] & 31)
                return 0;
        }
        if (state[lane] != 2)
            return 0;
    }
    return 1;
}

/* ---- integers to symbols and low bits ------------------------------------------------------------------------- */

struct xp_rans_parts xp_rans_split_c(const int16_t *q, size_t n, const uint8_t *classes, const struct xp_rans_work *w)
{
    uint8_t *plane = w->planes, *escape = w->escapes;
    struct xp_rans_parts parts;

    for (size_t g = 0; g < groups_of(n); g++) {
        const struct xp_rans_table *t = xp_rans_table(classes[g]);
        unsigned low = xp_rans_low_bits(classes[g]), bits[16] = {0};
        int half = low ? 1 << (low - 1) : 0;

        for (size_t i = 16 * g; i < 16 * g + 16; i++) {
            int u = i < n ? q[i] + half : half, symbol = (u >> low) + 16;

            if (symbol < t->first || symbol > t->last) {
                xp_put16(escape, (uint16_t)q[i]);
                escape += 2;
                u = symbol = 0;
            }
            w->place[i] = (uint8_t)xp_rans_place((unsigned)symbol);
            for (unsigned b = 0; b < low; b++)
                bits[b] |= ((unsigned)u >> b & 1) << (i % 16);
        }
        for (unsigned b = 0; b < low; b++, plane += 2)
            xp_put16(plane, (uint16_t)bits[b]);
    }
    parts.plane_bytes = (size_t)(plane - w->planes);
    parts.escape_bytes = (size_t)(escape - w->escapes);
    return parts;
}

int xp_rans_join_c(const struct xp_rans_stream *s, size_t n, const uint8_t *planes, const uint8_t *escapes)
{
    const uint8_t *end = s->in + s->len;

    for (size_t g = 0; g < groups_of(n); g++) {
        const unsigned low = xp_rans_low_bits(s->classes[g]);
        const int half = low ? 1 << (low - 1) : 0;

        for (size_t i = 16 * g; i < 16 * g + 16 && i < n; i++) {
            int u = (s->q[i] - 16) * (1 << low) - half;

            if (!s->q[i]) {
                if (end - escapes < 2)
                    return 0;
                s->q[i] = (int16_t)xp_get16(escapes);
                escapes += 2;
                continue;
            }
            for (unsigned b = 0; b < low; b++)
                u += (xp_get16(planes + 2 * b) >> (i % 16) & 1) << b;
            s->q[i] = (int16_t)u;
        }
        planes += 2 * low;
    }
    memset(s->q + n, 0, (groups_of(n) * XP_RANS_GROUP - n) * sizeof(*s->q));
    return escapes == end;
}

/* ---- encoding: last symbol first ------------------------------------------------------------------------------- */

void xp_rans_encode_symbols(struct xp_rans_source *s, size_t n, unsigned lanes, const struct xp_rans_work *w, struct xp_rans_parts parts)
{
    uint8_t *words = w->words_end;
    uint32_t state[XP_RANS_MAX_LANES];

    xp_rans_begin(w->place, n, lanes, state);
    for (size_t i = xp_rans_steps(n, lanes) * lanes; i-- > 0;) {
        const uint32_t span = xp_rans_table(s->classes[i / XP_RANS_GROUP])->span[w->place[i]], f = span & 0xffff;
        uint32_t x = state[i % lanes];

        if (x >= f << 20) {
            words -= 2;
            xp_put16(words, (uint16_t)x);
            x >>= 16;
        }
        state[i % lanes] = (x / f << XP_RANS_BITS) + x % f + (span >> 16);
    }
    xp_rans_assemble(s, state, lanes, w, parts, words);
}

void xp_rans_encode_c(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes)
{
    for (size_t i = 0; i < count; i++) {
        const struct xp_rans_work w = xp_rans_cut(s[i].work, n);
        const struct xp_rans_parts parts = xp_rans_split_c(s[i].q, n, s[i].classes, &w);

        xp_rans_encode_symbols(&s[i], n, lanes, &w, parts);
    }
}

/* ---- decoding ---------------------------------------------------------------------------------------------------- */

static unsigned find(const uint32_t *even, uint32_t slot)
{
    const uint32_t key = slot << 16 | 0xffff;
    unsigned pair = key >= even[8] ? 8 : 0;

    pair += key >= even[pair + 4] ? 4 : 0;
    pair += key >= even[pair + 2] ? 2 : 0;
    pair += key >= even[pair + 1] ? 1 : 0;
    return 2 * pair + (key >= even[pair + 16]);
}

int xp_rans_decode_symbols(const struct xp_rans_stream *s, size_t n, unsigned lanes, const uint8_t **planes, const uint8_t **escapes)
{
    const uint8_t *p, *end = s->in + s->len;
    uint32_t state[XP_RANS_MAX_LANES];
    const size_t coded = xp_rans_steps(n, lanes) * lanes;

    if (!xp_rans_open(s, n, lanes, state, planes, &p))
        return 0;
    for (size_t i = 0; i < coded; i++) {
        const uint32_t *span = xp_rans_table(s->classes[i / XP_RANS_GROUP])->span;
        uint32_t x = state[i % lanes];
        const uint32_t slot = x & MASK;
        const unsigned symbol = find(span, slot);
        const uint32_t found = span[xp_rans_place(symbol)];

        x = (found & 0xffff) * (x >> XP_RANS_BITS) + slot - (found >> 16);
        if (x < LOW) {
            if (end - p < 2)
                return 0;
            x = x << 16 | xp_get16(p);
            p += 2;
        }
        state[i % lanes] = x;
        s->q[i] = (int16_t)symbol;
    }
    *escapes = p;
    return xp_rans_end(s, n, lanes, state);
}

void xp_rans_decode_c(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t *planes, *escapes;

        s[i].ok = xp_rans_decode_symbols(&s[i], n, lanes, &planes, &escapes) && xp_rans_join_c(&s[i], n, planes, escapes);
    }
}

/*
 * hasher.c - the tables of the cross-polytope hash: signs, scales, folded mean
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/hasher.h"
#include "hash/signs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* k codes that do not fit 32 bits are mixed: unequal tuples then meet with a probability of about 2^-32. */
#define MIX 0x9E3779B1u

#define LINE 64

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static unsigned log2_of(unsigned power)
{
    return (unsigned)__builtin_ctz(power);
}

unsigned xp_hash_width(size_t dim)
{
    unsigned n = XP_HASH_MIN_WIDTH;

    while (n < XP_HASH_MAX_WIDTH && n < dim)
        n *= 2;
    return n;
}

/* The largest power of two not above n / k. */
static unsigned widest_block(unsigned n, unsigned k)
{
    unsigned w = n;

    while ((size_t)w * k > n)
        w /= 2;
    return w;
}

static xp_status choose_knobs(struct xp_hasher *h, const struct xp_hasher_desc *d)
{
    if (d->dim == 0 || d->k > XP_HASH_MAX_K || d->rounds > XP_HASH_MAX_ROUNDS || d->sketch % 32)
        return XP_ERR_INVALID_ARG;
    h->dim = d->dim;
    h->n = xp_hash_width(d->dim);
    h->k = d->k ? d->k : 1;
    h->w = d->w ? d->w : widest_block(h->n, h->k);
    h->rounds = d->rounds ? d->rounds : 2;
    h->sketch = d->sketch < h->n ? d->sketch : h->n;
    if (h->w < 4 || h->w > h->n || (h->w & (h->w - 1)) || h->k * h->w > h->n)
        return XP_ERR_INVALID_ARG;
    h->combine = h->k * (log2_of(h->w) + 1) <= 32 ? 2 * h->w : MIX;
    h->target = 31744.0f / (float)h->n;
    return XP_OK;
}

static xp_status allocate(struct xp_hasher *h)
{
    const size_t padded = round_up(h->dim, 512);
    const size_t signs = xp_sign_words(h->dim) * sizeof(uint32_t);
    const size_t flips = padded * sizeof(uint16_t);
    const size_t scale = round_up((h->rounds - 1) * h->n * sizeof(int16_t), LINE);
    const size_t mean = round_up(h->n * sizeof(float), LINE);
    char *p;

    if (h->dim > SIZE_MAX / 16) /* the sums above have wrapped */
        return XP_ERR_INVALID_ARG;
    p = h->memory = aligned_alloc(LINE, signs + flips + scale + mean);
    if (!p)
        return XP_ERR_NO_MEMORY;
    memset(p, 0, signs + flips + scale + mean);
    h->fold_signs = (uint32_t *)p;
    h->fold_flips = (uint16_t *)(p + signs);
    h->round_scale = (int16_t *)(p + signs + flips);
    h->fold_mean = (float *)(p + signs + flips + scale);
    return XP_OK;
}

static void draw_signs(struct xp_hasher *h, uint64_t seed)
{
    const int16_t c = (int16_t)lrint(32768.0 / sqrt(h->n));
    uint32_t bits[XP_HASH_MAX_WIDTH / 32];

    xp_signs_fill(seed, XP_SIGNS_FOLD, h->dim, h->fold_signs);
    for (size_t i = 0; i < h->dim; i++)
        h->fold_flips[i] = (uint16_t)(xp_sign(h->fold_signs, i) << 15);
    for (unsigned r = 0; r + 1 < h->rounds; r++) {
        xp_signs_fill(seed, XP_SIGNS_ROUND + r, h->n, bits);
        for (unsigned i = 0; i < h->n; i++)
            h->round_scale[r * h->n + i] = xp_sign(bits, i) ? (int16_t)-c : c;
    }
}

xp_status xp_hasher_init(struct xp_hasher *h, const struct xp_hasher_desc *d)
{
    xp_status s;

    memset(h, 0, sizeof(*h));
    s = choose_knobs(h, d);
    if (s == XP_OK)
        s = allocate(h);
    if (s == XP_OK)
        draw_signs(h, d->seed);
    else
        memset(h, 0, sizeof(*h));
    return s;
}

void xp_hasher_fini(struct xp_hasher *h)
{
    free(h->memory);
    memset(h, 0, sizeof(*h));
}

void xp_hasher_set_mean(struct xp_hasher *h, const float *mean)
{
    memset(h->fold_mean, 0, h->n * sizeof(float));
    if (!mean)
        return;
    for (size_t i = 0; i < h->dim; i++)
        h->fold_mean[i % h->n] += xp_sign(h->fold_signs, i) ? -mean[i] : mean[i];
}

/*
 * polytope.c - cross-polytope hash of a batch of rows
 *
 * Source: Andoni, Indyk, Laarhoven, Razenshteyn, Schmidt, "Practical and Optimal LSH for Angular Distance", NIPS 2015.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/half.h"
#include "hash/polytope.h"
#include "hash/signs.h"
#include "hash/variants.h"

static void fold(const struct xp_hasher *h, const void *row, xp_dtype t, float *f)
{
    memset(f, 0, h->n * sizeof(*f));
    for (size_t i = 0; i < h->dim; i++) {
        const float x = xp_load_f32(row, t, i);
        f[i % h->n] += xp_sign(h->fold_signs, i) ? -x : x;
    }
    for (unsigned j = 0; j < h->n; j++)
        f[j] -= h->fold_mean[j];
}

static float lane_energy(const float *f, unsigned n)
{
    float partial[16] = {0};

    for (unsigned i = 0; i < n; i++)
        partial[i / 2 % 16] += f[i] * f[i];
    for (unsigned half = 8; half > 0; half /= 2)
        for (unsigned p = 0; p < half; p++)
            partial[p] += partial[p + half];
    return partial[0];
}

static void rotate(const struct xp_hasher *h, int16_t *r)
{
    const unsigned log2n = (unsigned)__builtin_ctz(h->n);

    xp_fht_i16_c(r, log2n, 1);
    for (unsigned round = 0; round + 1 < h->rounds; round++) {
        const int16_t *scale = h->round_scale + round * h->n;
        for (unsigned j = 0; j < h->n; j++)
            r[j] = (int16_t)((r[j] * scale[j] + (1 << 14)) >> 15);
        xp_fht_i16_c(r, log2n, 1);
    }
}

static uint32_t bucket_id(const struct xp_hasher *h, const int16_t *r)
{
    uint32_t id = 0;

    for (unsigned b = 0; b < h->k; b++)
        id = id * h->combine + xp_hash_block_code(r + b * h->w, h->w);
    return id;
}

/* The rotated row in r. 0: it has no direction, and r is zeros. */
static int hash_row(const struct xp_hasher *h, const void *row, xp_dtype t, int16_t *r)
{
    float f[XP_HASH_MAX_WIDTH], s;

    fold(h, row, t, f);
    s = xp_hash_scale(h, lane_energy(f, h->n));
    if (s == 0) {
        memset(r, 0, h->n * sizeof(*r));
        return 0;
    }
    for (unsigned j = 0; j < h->n; j++)
        r[j] = (int16_t)lrintf(f[j] * s);
    rotate(h, r);
    return 1;
}

void xp_hash_c(const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch)
{
    int16_t r[XP_HASH_MAX_WIDTH];

    for (size_t i = 0; i < in->rows; i++) {
        const int has_direction = hash_row(h, xp_row(in, i), in->dtype, r);

        if (ids)
            ids[i] = has_direction ? bucket_id(h, r) : XP_HASH_NONE;
        if (sketch)
            memcpy(sketch + i * h->sketch, r, h->sketch * sizeof(*r));
    }
}

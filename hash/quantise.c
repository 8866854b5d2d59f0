/*
 * quantise.c - rows to the bytes of a row format and back (C variants)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/qblock.h"
#include "hash/variants.h"

#include <string.h>

size_t xp_qrow_bytes(enum xp_qformat f, size_t dim)
{
    const size_t whole = dim / XP_QBLOCK, rest = dim % XP_QBLOCK;

    if ((unsigned)f >= XP_QFORMATS || xp_qinfo[f].bits == 0)
        return 0;
    return 2 * xp_qblocks(dim) + whole * xp_qblock_bytes(f, XP_QBLOCK) +
           (rest ? xp_qblock_bytes(f, xp_qblock_size(dim, whole * XP_QBLOCK)) : 0);
}

void xp_quantise_c(const struct xp_quantiser *q, enum xp_qformat f, const float *res, uint8_t *out)
{
    uint8_t *step = out, *codes = out + 2 * xp_qblocks(q->dim);
    float x[XP_QBLOCK];

    for (size_t first = 0; first < q->dim; first += XP_QBLOCK) {
        const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first < n ? q->dim - first : n;
        memcpy(x, res + first, have * sizeof(*x));
        memset(x + have, 0, (n - have) * sizeof(*x));
        xp_qblock_encode_c(f, q->signs + first / 32, x, n, step, codes);
        step += 2;
        codes += xp_qblock_bytes(f, n);
    }
}

void xp_dequantise_c(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, void *row)
{
    const uint8_t *step = in, *codes = in + 2 * xp_qblocks(q->dim);
    float x[XP_QBLOCK];

    for (size_t first = 0; first < q->dim; first += XP_QBLOCK) {
        const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first < n ? q->dim - first : n;
        xp_qblock_decode_c(f, q->signs + first / 32, step, codes, n, x);
        xp_restore_c(x, base ? base + first : NULL, have, t, (char *)row + first * xp_dtype_size(t));
        step += 2;
        codes += xp_qblock_bytes(f, n);
    }
}

float xp_deviation_c(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, const void *row,
                     void *scratch)
{
    xp_dequantise_c(q, f, in, base, t, scratch);
    return xp_distance_c(row, scratch, t, q->dim);
}

/* Block after block, `have` of n values in the row. */
#define EACH_BLOCK(first, b, n, dim) \
    for (size_t first = 0, b = 0, n; first < (dim) && (n = xp_qblock_size(dim, first)); first += XP_QBLOCK, b++)

void xp_rotate_c(const struct xp_quantiser *q, const struct xp_code_row *r, const struct xp_rotated *to, float sums[2])
{
    xp_residual_sums_c(r->row, r->type, r->base, q->dim, r->residual, sums);
    EACH_BLOCK(first, b, n, q->dim) {
        const size_t have = q->dim - first < n ? q->dim - first : n;
        float x[XP_QBLOCK] = {0};
        struct xp_qstats s;
        memcpy(x, r->residual + first, have * sizeof(*x));
        xp_qblock_rotate_c(q->signs + first / 32, x, n, xp_qintegers(to, b), &s);
        xp_qstats_put(to, b, s);
    }
}

double xp_forecast_c(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from)
{
    double error = 0;

    if (f == XP_Q_FP8)
        return 0;
    EACH_BLOCK(first, b, n, q->dim) {
        const struct xp_qstats s = xp_qstats_get(from, b);
        error += xp_qblock_forecast_c(f, &s, xp_qintegers(from, b), n) * xp_qshare(n, q->dim - first < n ? q->dim - first : n);
    }
    return error;
}

float xp_code_c(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r, uint8_t *out)
{
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);

    EACH_BLOCK(first, b, n, q->dim) {
        const struct xp_qstats s = xp_qstats_get(from, b);
        xp_qblock_code_c(f, &s, xp_qintegers(from, b), n, out + 2 * b, codes);
        codes += xp_qblock_bytes(f, n);
    }
    return xp_deviation_c(q, f, out, r->base, r->type, r->row, r->decoded ? r->decoded : r->scratch);
}

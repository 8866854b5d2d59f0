/*
 * quantise_avx2.c - a row of f32 to the bytes of a row format, with AVX2
 *
 * As quantise_avx512.c: 8 blocks go through each step together.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/quantise_avx2.h"
#include "hash/x86/tail_avx2.h"

#include <string.h>

XP_INLINE void group_of_blocks(const float *x, const uint32_t *signs, size_t count, enum xp_qformat f, const int levels, const int bits,
                               const int paired, uint8_t *step, uint8_t *codes)
{
    _Alignas(32) int16_t h[XP_QGROUP256 * XP_QBLOCK];
    _Alignas(32) float l1[XP_QGROUP256] = {0}, scale[XP_QGROUP256];
    _Alignas(32) int32_t energy[XP_QGROUP256], largest[XP_QGROUP256];
    const struct xp_rotated r = {h, scale, energy, largest};
    const size_t bytes = (size_t)bits * (paired ? 8 : 16);
    struct xp_qsteps256 steps;
    __m256i w[8];

    for (size_t b = 0; b < count; b++)
        l1[b] = xp_sum_abs256(x + b * XP_QBLOCK);
    xp_choose_scales256(l1, &r, 0);
    for (size_t b = 0; b < count; b++)
        xp_rotate_block256(&r, b, x + b * XP_QBLOCK, signs + b * (XP_QBLOCK / 32));
    xp_choose_steps256(&r, 0, count, f, &steps);
    for (size_t b = 0; b < count; b++) {
        const struct xp_qrounding256 k = xp_qrounding256(&steps, b, levels);
        xp_put16(step + 2 * b, (uint16_t)steps.wire[b]);
        xp_codes256(h + b * XP_QBLOCK, &k, w);
        if (scale[b] == 0.0f)
            memset(codes + b * bytes, 0, bytes);
        else
            xp_put_codes256(w, levels, bits, paired, codes + b * bytes);
    }
}

XP_INLINE void whole_blocks(const struct xp_quantiser *q, enum xp_qformat f, const int levels, const int bits, const int paired,
                            const float *res, uint8_t *out)
{
    const size_t blocks = q->dim / XP_QBLOCK, bytes = (size_t)bits * (paired ? 8 : 16);
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);

    for (size_t b = 0; b < blocks; b += XP_QGROUP256) {
        const size_t count = blocks - b < XP_QGROUP256 ? blocks - b : XP_QGROUP256;
        group_of_blocks(res + b * XP_QBLOCK, q->signs + b * (XP_QBLOCK / 32), count, f, levels, bits, paired, out + 2 * b, codes + b * bytes);
    }
}

static size_t blocks_of_format(const struct xp_quantiser *q, enum xp_qformat f, const float *res, uint8_t *out)
{
#define BLOCKS(levels, bits, paired) whole_blocks(q, f, levels, bits, paired, res, out)
    if (f == XP_Q_FP8)
        return 0;
    XP_EACH_FORMAT256(f, BLOCKS)
    return q->dim / XP_QBLOCK;
#undef BLOCKS
}

void xp_quantise_avx2(const struct xp_quantiser *q, enum xp_qformat f, const float *res, uint8_t *out)
{
    const size_t bytes = xp_qblock_bytes(f, XP_QBLOCK);
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);
    float x[XP_QBLOCK];

    /* What is left: a block that is not whole; all blocks of FP8. */
    for (size_t b = blocks_of_format(q, f, res, out), first = b * XP_QBLOCK; first < q->dim; b++, first += XP_QBLOCK) {
        const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first < n ? q->dim - first : n;
        memcpy(x, res + first, have * sizeof(*x));
        memset(x + have, 0, (n - have) * sizeof(*x));
        xp_qtail_encode_avx2(f, q->signs + first / 32, x, n, out + 2 * b, codes + b * bytes);
    }
}

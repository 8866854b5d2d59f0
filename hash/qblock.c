/*
 * qblock.c - the block formats of the quantisers, and their blocks in C
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/qblock.h"
#include "hash/variants.h"

const struct xp_qinfo xp_qinfo[XP_QFORMATS] = {
    [XP_Q_INT2] = {4, 2, 0, 13, 0, 0, 1.0156f, 0.41f},
    [XP_Q_INT25] = {5, 5, 1, 12, 2, 52429, 0.8568f, 0.34f},
    [XP_Q_INT3] = {8, 3, 0, 12, 0, 0, 0.5977f, 0.22f},
    [XP_Q_INT35] = {11, 7, 1, 11, 3, 47663, 16.0f, 0.163636f},
    [XP_Q_INT4] = {16, 4, 0, 11, 0, 0, 16.0f, 0.1175f},
    [XP_Q_INT45] = {22, 9, 1, 10, 4, 47663, 16.0f, 0.088182f},
    [XP_Q_INT5] = {32, 5, 0, 10, 0, 0, 16.0f, 0.0625f},
    [XP_Q_INT55] = {45, 11, 1, 9, 5, 46604, 16.0f, 0.044444f},
    [XP_Q_INT6] = {64, 6, 0, 9, 0, 0, 16.0f, 0.03125f},
    [XP_Q_INT65] = {90, 13, 1, 8, 6, 46604, 16.0f, 0.022222f},
    [XP_Q_INT7] = {128, 7, 0, 8, 0, 0, 16.0f, 0.015625f},
    [XP_Q_INT75] = {181, 15, 1, 7, 7, 46346, 16.0f, 0.01105f},
    [XP_Q_INT8] = {256, 8, 0, 7, 0, 0, 16.0f, 0.0078125f},
    [XP_Q_FP8] = {0, 8, 0, 0, 0, 0, 0.0f, 0.0f},
};

size_t xp_qblock_bytes(enum xp_qformat f, size_t n)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    const size_t elements = q->paired ? n / 2 : n;

    return elements * (q->bits / 2) / 4 + (q->bits & 1 ? (elements + 7) / 8 : 0);
}

#define XP_VARIANT(name) name##_c
#include "hash/qblock_tmpl.c"

/* What is left of an integer when its code is taken off, in units of 2^(cut - shift) steps. The sum wraps. */
float xp_qblock_forecast_c(enum xp_qformat f, const struct xp_qstats *stats, const int16_t *h, size_t n)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    uint32_t sum = 0;

    if (stats->scale == 0.0f)
        return 0.0f;
    const struct xp_qstep s = xp_qstep_choose_c(f, stats, h, n);
    for (size_t i = 0; i < n; i++) {
        const int v = (h[i] * s.recip + (1 << 14)) >> 15;
        const int left = v + ((q->levels - 1) << (s.shift - 1)) - (int)(code_of(q, &s, h[i]) << s.shift);
        const int cut = (int16_t)left >> xp_qcut(s.shift);
        sum += (uint32_t)(cut * cut);
    }
    return xp_qforecast(sum, s.wire, s.shift, n);
}

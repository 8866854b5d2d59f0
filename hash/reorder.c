/*
 * reorder.c - values of a row in another order, window by window (C variant)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"

#include <string.h>

static void reorder2(const char *in, const uint8_t *index, size_t n, char *restrict out)
{
    for (size_t i = 0; i < n; i++)
        memcpy(out + 2 * i, in + 2 * (size_t)index[i], 2);
}

static void reorder4(const char *in, const uint8_t *index, size_t n, char *restrict out)
{
    for (size_t i = 0; i < n; i++)
        memcpy(out + 4 * i, in + 4 * (size_t)index[i], 4);
}

void xp_reorder_c(const void *in, const uint8_t *index, size_t n, size_t size, void *out)
{
    for (size_t w = 0; w < n; w += XP_REORDER_WINDOW) {
        const size_t rest = n - w < XP_REORDER_WINDOW ? n - w : XP_REORDER_WINDOW;

        if (size == 2)
            reorder2((const char *)in + 2 * w, index + w, rest, (char *)out + 2 * w);
        else
            reorder4((const char *)in + 4 * w, index + w, rest, (char *)out + 4 * w);
    }
}

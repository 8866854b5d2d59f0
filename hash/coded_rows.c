/*
 * coded_rows.c - the memory of coded rows (coded_rows.h); codec_quant.c fills it
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/coded_rows.h"
#include "hash/pages.h"

#include <stdlib.h>

#define SLACK 64 /* kernels write full vectors */

xp_status xp_coded_rows_create(struct xp_coded_rows **out, size_t cap, size_t row_bytes)
{
    struct xp_coded_rows *s = calloc(1, sizeof(*s));
    size_t bytes;

    if (!s || __builtin_mul_overflow(cap + 1, row_bytes, &bytes) || bytes > SIZE_MAX - SLACK) {
        free(s);
        return XP_ERR_NO_MEMORY;
    }
    s->cap = cap;
    s->row_bytes = row_bytes;
    s->at = malloc((cap + 1) * sizeof(*s->at));
    s->bytes = xp_pages_alloc(bytes + SLACK);
    s->format = malloc(cap + 1);
    s->error = malloc((cap + 1) * sizeof(*s->error));
    s->mean = malloc(row_bytes);
    if (!s->at || !s->bytes || !s->format || !s->error || !s->mean) {
        xp_coded_rows_destroy(s);
        return XP_ERR_NO_MEMORY;
    }
    *out = s;
    return XP_OK;
}

void xp_coded_rows_destroy(struct xp_coded_rows *s)
{
    if (!s)
        return;
    free(s->at);
    free(s->bytes);
    free(s->format);
    free(s->error);
    free(s->mean);
    free(s);
}

void xp_coded_rows_begin(struct xp_coded_rows *s, const struct xp_rows *all)
{
    for (size_t i = 0; i < s->cap; i++)
        s->at[i] = XP_NOT_CODED;
    s->all = *all;
    s->used = 0;
    s->known = s->sent = s->seeded = 0;
    s->counted = 0;
}

/*
 * rows.h - a batch of rows, contiguous or gathered
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_ROWS_H
#define XP_HASH_ROWS_H

#include "crosspress/crosspress.h"

/* Row r of the batch is row (index ? index[r] : r) of data. Rows lie dim * xp_dtype_size(dtype) bytes apart. */
struct xp_rows {
    const void *data;
    const uint32_t *index; /* NULL: rows are taken in order */
    size_t rows, dim;
    xp_dtype dtype;
};

static inline size_t xp_row_bytes(const struct xp_rows *r)
{
    return r->dim * xp_dtype_size(r->dtype);
}

static inline const void *xp_row(const struct xp_rows *r, size_t i)
{
    return (const char *)r->data + (r->index ? r->index[i] : i) * xp_row_bytes(r);
}

#endif

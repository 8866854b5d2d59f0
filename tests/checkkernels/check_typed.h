/*
 * check_typed.h - typed rows for the comparisons and timings of checkkernels
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TESTS_CHECK_TYPED_H
#define XP_TESTS_CHECK_TYPED_H

#include "check.h"

extern const xp_dtype check_types[3];

/* A dim of real models, or any. */
size_t check_dim(struct check *c);
/* A row of this type in a guarded buffer, at any alignment the type allows. */
struct guarded check_typed_row(struct check *c, enum check_fill fill, xp_dtype t, size_t dim);
/* Which NaN a result in f32 is does not matter: all become one value. */
void check_same_nan(struct guarded *g);
void check_same_nan_typed(struct guarded *g, xp_dtype t);
/* A single result in f32, as such a buffer. */
void check_put_sum(struct guarded *g, float sum);

/* 64 MiB of bf16 rows, from memory, or as many rows of another type. */
struct check_rows {
    const struct xp_kernels *k;
    xp_dtype type;
    size_t rows, dim;
    char *data, *other;
    float *base, *f32;
    struct xp_quantiser q;
    enum xp_qformat format;
    uint8_t *codes;
    size_t code_bytes;
    uint32_t *order;
    float sum;
};

struct check_rows check_make_rows(struct check *c, const struct xp_kernels *k, xp_dtype t, size_t dim);
void check_free_rows(struct check_rows *r);

#define EACH_ROW(r, body)                                                                                                             \
    for (size_t i = 0; i < (r)->rows; i++) {                                                                                          \
        char *row = (r)->data + i * (r)->dim * xp_dtype_size((r)->type);                                                              \
        char *other = (r)->other + i * (r)->dim * xp_dtype_size((r)->type);                                                           \
        (void)row, (void)other;                                                                                                       \
        body;                                                                                                                         \
    }

#endif

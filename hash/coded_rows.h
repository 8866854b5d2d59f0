/*
 * coded_rows.h - rows as codec quant codes them, kept so that a row bound for several places is coded once
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_CODED_ROWS_H
#define XP_HASH_CODED_ROWS_H

#include "hash/codec.h"

/*
 * Rows have numbers below `cap`; the same number means the same row, until the next xp_coded_rows_begin. `all` are the rows that the
 * frames will hold: they have one mean row, of which every frame that codes against it has a copy.
 */
struct xp_coded_rows {
    size_t cap, row_bytes;
    struct xp_rows all;
    size_t *at;       /* [cap] where a row's bytes begin in */
    uint8_t *bytes;   /* [cap] rows; their end: */
    size_t used;
    uint8_t *format;  /* [cap] */
    float *error;     /* [cap] relative */
    void *mean;       /* typed */
    uint32_t counted; /* rows that the mean is of; 0: there is none */
    int known, sent;  /* the mean has been looked for; frames have it */
    uint64_t seed;    /* of all frames, where the coder dithers */
    int seeded;
};

#define XP_NOT_CODED SIZE_MAX

/* cap rows of row_bytes bytes. XP_ERR_NO_MEMORY. */
xp_status xp_coded_rows_create(struct xp_coded_rows **out, size_t cap, size_t row_bytes);
void xp_coded_rows_destroy(struct xp_coded_rows *s);
/* Forgets all rows. */
void xp_coded_rows_begin(struct xp_coded_rows *s, const struct xp_rows *all);

#endif

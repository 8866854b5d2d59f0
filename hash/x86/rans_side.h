/*
 * rans_side.h - rows of fewer than 16 states, of which 16 / lanes are coded side by side: which ones, and how they begin
 *
 * Rows side by side must use the same tables, so rows are taken together that share an array of classes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_RANS_SIDE_H
#define XP_RANS_SIDE_H

#include "hash/rans.h"

#include <string.h>

#define XP_RANS_SIDE_CHUNK 128 /* rows among which partners are looked for */

/* Up to 16 / lanes rows of one array of classes. Places without a row of their own repeat the first. */
struct xp_rans_set {
    unsigned rows, row[16];
};

/* A walk over all rows of a call, set by set. */
struct xp_rans_walk {
    const char *classes; /* of the first row; the others' lie `stride` bytes apart */
    size_t stride, count, first, next; /* the chunk at hand is [first, next) */
    unsigned left;       /* its rows not yet taken: so many, */
    struct xp_rans_left {
        const uint8_t *classes;
        unsigned row;
    } at[XP_RANS_SIDE_CHUNK]; /* in order */
};

static inline void xp_rans_next_chunk(struct xp_rans_walk *w)
{
    w->first = w->next;
    w->next = w->count - w->first < XP_RANS_SIDE_CHUNK ? w->count : w->first + XP_RANS_SIDE_CHUNK;
    for (size_t row = w->first; row < w->next; row++) {
        struct xp_rans_left *left = &w->at[w->left++];

        memcpy(&left->classes, w->classes + row * w->stride, sizeof(left->classes));
        left->row = (unsigned)row;
    }
}

static inline struct xp_rans_set xp_rans_take_set(struct xp_rans_walk *w, unsigned most)
{
    const struct xp_rans_left first = w->at[0];
    struct xp_rans_set set = { 0 };
    unsigned kept = 0;

    for (unsigned i = 0; i < w->left; i++) {
        const struct xp_rans_left row = w->at[i];

        if (set.rows < most && row.classes == first.classes)
            set.row[set.rows++] = row.row;
        else
            w->at[kept++] = row;
    }
    w->left = kept;
    for (unsigned i = set.rows; i < most; i++)
        set.row[i] = first.row;
    return set;
}

/* The next sets of one chunk, at most `most`, of so many rows at most. Returns how many: 0 at the end. */
static inline int xp_rans_take_sets_of(struct xp_rans_walk *w, unsigned rows, struct xp_rans_set *set, int most)
{
    int sets = 0;

    if (!w->left && w->next < w->count)
        xp_rans_next_chunk(w);
    while (w->left && sets < most)
        set[sets++] = xp_rans_take_set(w, rows);
    return sets;
}

static inline int xp_rans_take_sets(struct xp_rans_walk *w, unsigned lanes, struct xp_rans_set *set, int most)
{
    return xp_rans_take_sets_of(w, 16 / lanes, set, most);
}

/* What depends on the number of lanes alone, as constants of the code that is called with them. */
#define XP_RANS_EACH_LANES(lanes, call, s, set, count, n)                                                                         \
    switch (lanes) {                                                                                                              \
    case 1: call(s, set, count, n, 1); break;                                                                                     \
    case 2: call(s, set, count, n, 2); break;                                                                                     \
    case 4: call(s, set, count, n, 4); break;                                                                                     \
    default: call(s, set, count, n, 8); break;                                                                                    \
    }

/* call(s, set, sets, n, lanes) for all of the `count` sources or streams at s, up to `most` sets at a time. */
#define XP_RANS_EACH_SETS(s, count, n, lanes, most, call)                                                                         \
    do {                                                                                                                          \
        struct xp_rans_set set[most];                                                                                             \
        struct xp_rans_walk walk;                                                                                                 \
                                                                                                                                  \
        walk.classes = (const char *)&(s)->classes;                                                                               \
        walk.stride = sizeof(*(s));                                                                                               \
        walk.count = (count);                                                                                                     \
        walk.next = walk.left = 0;                                                                                                \
        for (int sets; (sets = xp_rans_take_sets(&walk, lanes, set, most)) > 0;)                                                  \
            XP_RANS_EACH_LANES(lanes, call, s, set, sets, n)                                                                      \
    } while (0)

/* What decoding a set needs before and after its steps. */
struct xp_rans_side {
    const uint8_t *p[16], *end[16], *planes[16], *classes;
    uint32_t state[16];
    unsigned bad; /* bit r: row r is none */
};

static inline void xp_rans_open_set(struct xp_rans_side *d, const struct xp_rans_stream *s, const struct xp_rans_set *set, size_t n,
                                    unsigned lanes)
{
    d->bad = 0;
    d->classes = s[set->row[0]].classes;
    for (unsigned r = 0; r < 16 / lanes; r++) {
        const struct xp_rans_stream *row = &s[set->row[r]];

        d->end[r] = row->in + row->len;
        if (!xp_rans_open(row, n, lanes, d->state + r * lanes, &d->planes[r], &d->p[r])) {
            d->bad |= 1u << r;
            d->p[r] = d->end[r];
        }
    }
}

#endif

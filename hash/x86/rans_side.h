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

#define XP_RANS_SIDE_STEPS 512 /* n < 512 * lanes for fewer than 16 lanes (xp_rans_lanes) */
#define XP_RANS_SIDE_CHUNK 64  /* rows among which partners are looked for */

/* Up to 16 / lanes rows of one array of classes. Places without a row of their own repeat the first. */
struct xp_rans_set {
    unsigned rows, row[16];
};

/* A walk over all rows of a call, set by set. */
struct xp_rans_walk {
    const char *classes; /* of the first row; the others' lie `stride` bytes apart */
    size_t stride, count, first, next; /* the chunk at hand is [first, next) */
    uint64_t pending;    /* its rows not yet taken */
};

static inline const uint8_t *xp_rans_classes_of(const struct xp_rans_walk *w, size_t row)
{
    const uint8_t *classes;

    memcpy(&classes, w->classes + row * w->stride, sizeof(classes));
    return classes;
}

static inline struct xp_rans_set xp_rans_take_set(struct xp_rans_walk *w, unsigned most)
{
    const unsigned first = (unsigned)__builtin_ctzll(w->pending);
    const uint8_t *classes = xp_rans_classes_of(w, w->first + first);
    struct xp_rans_set set = { 0 };

    for (uint64_t rest = w->pending; rest && set.rows < most; rest &= rest - 1) {
        const unsigned i = (unsigned)__builtin_ctzll(rest);

        if (xp_rans_classes_of(w, w->first + i) != classes)
            continue;
        set.row[set.rows++] = (unsigned)w->first + i;
        w->pending &= ~((uint64_t)1 << i);
    }
    for (unsigned i = set.rows; i < most; i++)
        set.row[i] = (unsigned)w->first + first;
    return set;
}

/* The next sets of one chunk, at most `most`. Returns how many: 0 at the end. */
static inline int xp_rans_take_sets(struct xp_rans_walk *w, unsigned lanes, struct xp_rans_set *set, int most)
{
    int sets = 0;

    if (!w->pending && w->next < w->count) {
        w->first = w->next;
        w->next = w->count - w->first < XP_RANS_SIDE_CHUNK ? w->count : w->first + XP_RANS_SIDE_CHUNK;
        w->pending = ~(uint64_t)0 >> (XP_RANS_SIDE_CHUNK - (w->next - w->first));
    }
    while (w->pending && sets < most)
        set[sets++] = xp_rans_take_set(w, 16 / lanes);
    return sets;
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
        struct xp_rans_walk walk = { .classes = (const char *)&(s)->classes, .stride = sizeof(*(s)), .count = (count) };           \
        struct xp_rans_set set[most];                                                                                             \
                                                                                                                                  \
        for (int sets; (sets = xp_rans_take_sets(&walk, lanes, set, most)) > 0;)                                                  \
            XP_RANS_EACH_LANES(lanes, call, s, set, sets, n)                                                                      \
    } while (0)

/* The symbols' places of a set whose rows are split, step by step, and the states that hold the last ones. w[r]: of row r. */
static inline void xp_rans_lay_out_set(const struct xp_rans_set *set, const struct xp_rans_work *w, size_t n, const unsigned lanes,
                                       uint8_t (*place)[16], uint32_t *state)
{
    for (unsigned r = 0; r < 16 / lanes; r++) {
        const uint8_t *from = w[r < set->rows ? r : 0].place;

        xp_rans_begin(from, n, lanes, state + r * lanes);
        for (size_t k = 0; k < xp_rans_steps(n, lanes); k++)
            memcpy(place[k] + r * lanes, from + k * lanes, lanes);
    }
}

/* What decoding a set needs before and after its steps. */
struct xp_rans_side {
    const uint8_t *p[16], *end[16], *planes[16], *classes;
    uint32_t state[16];
    unsigned bad; /* bit r: row r is none */
    int16_t symbol[XP_RANS_SIDE_STEPS][16];
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

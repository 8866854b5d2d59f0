/*
 * rans.h - the entropy coder: small integers whose spread is known, to bits and back
 *
 * Range asymmetric numeral systems (Duda 2009; interleaved: Giesen 2014) with static tables. A table is picked per
 * group of 16 integers by its scale class: 4 * log2(standard deviation in steps) + 12. Wide integers send their low
 * bits as they are. Every row is a stream of its own, so rows can be taken out of a frame. Bytes: FORMAT.md.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_RANS_H
#define XP_HASH_RANS_H

#include <stddef.h>
#include <stdint.h>

#define XP_RANS_GROUP 16         /* integers that share a table */
#define XP_RANS_SYMBOLS 32       /* symbol 0: escape; symbol k + 16: the integer k */
#define XP_RANS_BITS 12          /* frequencies of a table sum to 2^12 */
#define XP_RANS_BUCKETS 128       /* of slots; rans_tables.py says which they are */
#define XP_RANS_CLASSES 64       /* scale classes */
#define XP_RANS_PLAIN 20         /* classes below this send no low bits */
#define XP_RANS_UNIT_CLASS 12    /* class of a deviation of one step */
#define XP_RANS_DISTRIBUTIONS 32
#define XP_RANS_MAX_LANES 16
#define XP_RANS_MAX_Q 30000      /* integers are within +- this */
#define XP_RANS_SLACK 320        /* a stream may be read (not used) this far behind its end */
#define XP_RANS_TAIL 3           /* last steps, whose symbols begin the states */

/* The even symbols' entries come first: a vector holds them, and a binary search among them needs no second one. Vectors of 64 bytes are
 * lines of the cache: a load across two takes twice as long. */
struct xp_rans_table {
    uint32_t span[XP_RANS_SYMBOLS];   /* cumulated frequency << 16 | frequency */
    float reciprocal[XP_RANS_SYMBOLS];/* (1 - 2^-22) / frequency */
    uint16_t tree[XP_RANS_SYMBOLS];   /* where symbols 1 .. 31 begin, as a search tree: entry i has the children 2i and 2i + 1 */
    uint16_t frequency[XP_RANS_SYMBOLS], begin[XP_RANS_SYMBOLS]; /* span's halves, by symbol: what vectors of 16 bytes can be searched for */
    uint8_t bucket[XP_RANS_BUCKETS];  /* of slots: the symbol of the last one; others may have the one before */
    uint32_t packed[XP_RANS_SYMBOLS]; /* cumulated frequency << 20 | frequency, in the order of span */
    uint8_t place[2 * XP_RANS_SYMBOLS]; /* of symbols, in that order; 0 where there is none */
    uint8_t first, last;              /* symbols with a frequency: first .. last */
    float dead_zone;                  /* the quantiser's cell of zero is this much wider on both sides */
} __attribute__((aligned(64)));

extern const struct xp_rans_table xp_rans_tables[XP_RANS_DISTRIBUTIONS];

/* Low bits that integers of this class send as they are. */
static inline unsigned xp_rans_low_bits(unsigned scale)
{
    const unsigned least = XP_RANS_PLAIN - 4; /* no branch: neighbouring groups are of classes on both sides of it */

    return ((scale > least ? scale : least) - least) / 4;
}

/* By class: a group of a row of 16 states is one step, of which finding its table would be a fifth. */
extern const struct xp_rans_table *const xp_rans_table_of[XP_RANS_CLASSES];

static inline const struct xp_rans_table *xp_rans_table(unsigned scale)
{
    return xp_rans_table_of[scale];
}

/* Where a table has its entry for a symbol. */
static inline unsigned xp_rans_place(unsigned symbol)
{
    return symbol >> 1 | (symbol & 1) << 4;
}

/* States of a row of n integers: few for short rows, which could not pay for them. 1 .. XP_RANS_MAX_LANES. */
static inline unsigned xp_rans_lanes(size_t n)
{
    unsigned lanes = 1;

    while (lanes < XP_RANS_MAX_LANES && lanes * 512 <= n)
        lanes *= 2;
    return lanes;
}

/* Most bytes of a row, whatever is in it; the room that encoding needs beside its output. */
size_t xp_rans_bound(size_t n);
size_t xp_rans_work_bytes(size_t n);

/* One row to be encoded. */
struct xp_rans_source {
    const int16_t *q;       /* n integers within +-XP_RANS_MAX_Q */
    const uint8_t *classes; /* [groups] below XP_RANS_CLASSES */
    void *work;             /* xp_rans_work_bytes(n) */
    uint8_t *out;
    size_t cap;
    const void *read_next;  /* what the caller will read then, 2 bytes or more for each integer: may be fetched; NULL: nothing */
    size_t len;             /* out: the bytes written, 0 when they are more than cap */
};

/* One row to be decoded. q has room for n rounded up to a multiple of 16. */
struct xp_rans_stream {
    const uint8_t *in; /* len bytes; the XP_RANS_SLACK bytes behind them can be read, too */
    size_t len;
    const uint8_t *classes; /* [groups] below XP_RANS_CLASSES */
    int16_t *q;
    /* What the caller will read then, 4 bytes for each integer, and where it will write 2 bytes or more: may be fetched. NULL: nothing. */
    const void *read_next, *write_next;
    int ok;            /* out: 1, or 0 when the bytes are not a row (q is then any values) */
};

/* ---- shared by the variants: the begin and the end of a row ------------------------------------------------- */

/* The work area of one encoding, cut up. */
struct xp_rans_work {
    uint8_t *place;     /* [n rounded up to 16] of the symbols, in their tables */
    uint8_t *words_end; /* 16-bit words are written downwards from here */
    uint8_t *planes;    /* low bits: per group, plane by plane, 16 bits */
    uint8_t *escapes;   /* integers that escaped, 16 bits */
};
struct xp_rans_work xp_rans_cut(void *work, size_t n);

/* Lengths of the planes and escapes that splitting integers gave. */
struct xp_rans_parts {
    size_t plane_bytes, escape_bytes;
};

/* Steps before the tail: the steps that use the tables. */
static inline size_t xp_rans_steps(size_t n, unsigned lanes)
{
    size_t steps = (n + lanes - 1) / lanes;

    return steps > XP_RANS_TAIL ? steps - XP_RANS_TAIL : 0;
}

/* Integers to symbols and low bits, into w. */
struct xp_rans_parts xp_rans_split_c(const int16_t *q, size_t n, const uint8_t *classes, const struct xp_rans_work *w);

/* s->q holds symbols and becomes integers. 0 when the escapes do not end where the row does. */
int xp_rans_join_c(const struct xp_rans_stream *s, size_t n, const uint8_t *planes, const uint8_t *escapes);

/* States that hold the symbols of the tail. */
void xp_rans_begin(const uint8_t *place, size_t n, unsigned lanes, uint32_t *state);

/* Writes a row from its parts and sets s->len. words: the last one written. */
void xp_rans_assemble(struct xp_rans_source *s, const uint32_t *state, unsigned lanes, const struct xp_rans_work *w,
                      struct xp_rans_parts parts, const uint8_t *words);

/* Reads the states; *planes and *words are where the other parts begin. 0 when the row is too short. */
int xp_rans_open(const struct xp_rans_stream *s, size_t n, unsigned lanes, uint32_t *state, const uint8_t **planes,
                 const uint8_t **words);

/* Takes the symbols of the tail from the states into s->q. 0 when more is in them. */
int xp_rans_end(const struct xp_rans_stream *s, size_t n, unsigned lanes, uint32_t *state);

/* The symbols of a row whose integers are split, one after another: the row is written and s->len set. */
void xp_rans_encode_symbols(struct xp_rans_source *s, size_t n, unsigned lanes, const struct xp_rans_work *w, struct xp_rans_parts parts);

/* The reverse, into s->q, up to joining; *planes and *escapes are where those begin. 0 when the bytes are not a row. */
int xp_rans_decode_symbols(const struct xp_rans_stream *s, size_t n, unsigned lanes, const uint8_t **planes, const uint8_t **escapes);

#endif

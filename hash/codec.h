/*
 * codec.h - the codec table, and the coder: one shape, all codecs, all scratch memory
 *
 * collectives and the public codec API (lib/codec_api.c) use only what is declared here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_CODEC_H
#define XP_HASH_CODEC_H

#include "crosspress/codec.h"
#include "hash/kernels.h"

/* Codec ids are part of the wire format (FORMAT.md). */
enum xp_codec_id {
    XP_CODEC_RAW = 0,
    XP_CODEC_EXACT = 1,
    XP_CODEC_QUANT = 2, /* per row one of the formats allowed by the coder; fp8, int8 ... int2 and quant differ in that mask only */
    XP_CODEC_LSH = 3,   /* fresh centroids + quantised residuals */
    XP_CODEC_PACK = 5, /* equal rows once, exponents entropy coded: lossless */
    XP_CODEC_BOOK = 4   /* what both ends know of the rows + entropy-coded residuals */
};

enum xp_codec_caps { XP_CAP_LOSSLESS = 1, XP_CAP_BOUNDED = 2 };

struct xp_coder;

struct xp_codec_ops {
    size_t size;
    uint16_t id;
    const char *name, *about;
    unsigned caps;
    /* Writes the payload of a frame (what follows the 64-byte header). *len <= cap or XP_ERR_UNSUPPORTED ("does not pay"). */
    xp_status (*encode)(struct xp_coder *c, const struct xp_rows *in, uint8_t *out, size_t cap, size_t *len, xp_codec_stats *st);
    /* Reads a payload whose header has been checked; writes rows rows of the coder's shape at out. */
    xp_status (*decode)(struct xp_coder *c, const uint8_t *in, size_t len, size_t rows, void *out);
};

/* NULL-terminated list of all codecs (codec_registry.c). */
const struct xp_codec_ops *const *xp_codec_list(void);
const struct xp_codec_ops *xp_codec_by_id(unsigned id);

/* A codec name as the user writes it ("auto", "quant", "int4", "lsh+int4"), parsed. */
struct xp_codec_choice {
    int automatic;      /* "auto": select.c decides */
    uint16_t id;
    uint16_t formats;   /* bit f: row format f (enum xp_qformat) may be used; XP_Q_RAW always */
    int directions;     /* "book+directions": kept books have them on every link */
    char name[16];
};
xp_status xp_codec_parse(const char *name, struct xp_codec_choice *out);

/* Walks all names that xp_codec_parse accepts, for xp_info; NULL after the last. */
const char *xp_codec_name(unsigned i, const char **about);

struct xp_coder_desc {
    xp_dtype dtype;
    size_t dim, max_rows; /* max_rows 0: scratch grows on demand (tools); else fixed at creation */
    xp_mode mode;
    double eps;
    xp_eps_ref eps_ref;
    struct xp_codec_choice choice;
    enum xp_isa isa;
    uint64_t seed;
    unsigned lsh_hashes, lsh_width, lsh_rounds;
    int lsh_refine, lsh_center;
    int dither;   /* bounded: errors know nothing of the values nor of each other. Book: subtractive dither; others: signs of the frame's own */
    int row_wise; /* codec quant: what a row is decoded to does not depend on the rows that share its frame */
};

xp_status xp_coder_create(struct xp_coder **out, const struct xp_coder_desc *d);
void xp_coder_destroy(struct xp_coder *c);

/* Most bytes of a frame: rows * row bytes + 64 + 4 * rows. */
size_t xp_frame_bound(xp_dtype t, size_t dim, size_t rows);

/* One frame; falls back to codec raw by itself when the chosen codec does not pay. stats may be NULL (added up, not reset). */
xp_status xp_coder_encode(struct xp_coder *c, const struct xp_rows *in, void *frame, size_t cap, size_t *len, xp_codec_stats *stats);

/*
 * The same; row r has number number[r] in `store` (coded_rows.h), which keeps coded rows. Codecs that cannot use that code the row anew. With
 * a store, codec quant takes the mean row of store->all.
 */
struct xp_coded_rows;
xp_status xp_coder_encode_once(struct xp_coder *c, const struct xp_rows *in, struct xp_coded_rows *store, const uint32_t *number, void *frame,
                               size_t cap, size_t *len, xp_codec_stats *stats);

/*
 * Of a coder with row_wise, without dither, whose codec is quant: what the receivers of frames of these rows decode, at out, without a frame. Row r is
 * left in store as number first + r; where that is NULL nothing is kept, and `coded` has room for the bytes of a row and 64 more.
 */
xp_status xp_coder_round_trip(struct xp_coder *c, const struct xp_rows *in, struct xp_coded_rows *store, size_t first, uint8_t *coded, void *out);

/* Decodes a frame of exactly `rows` rows into contiguous rows at out. XP_ERR_CORRUPT on any disagreement. */
xp_status xp_coder_decode(struct xp_coder *c, const void *frame, size_t len, void *out, size_t rows);

/* The same; row r goes to place[r] of the rows at out. scratch: room for all rows, of which those that cannot go there at once come by. */
xp_status xp_coder_decode_to(struct xp_coder *c, const void *frame, size_t len, void *out, const uint32_t *place, size_t rows, void *scratch);

/* Why the last call on this coder failed: static text, "" when it did not. */
const char *xp_coder_why(const struct xp_coder *c);

/* The codec that the coder uses now (after xp_coder_select: the one chosen). */
const struct xp_codec_ops *xp_coder_codec(const struct xp_coder *c);

/* Kept books (book_keep.h), for codec book. The one to encode with, which every receiver must have (NULL: none; then frames carry
 * books of their own), and those that the sender of the next frame has shipped. They must stay while they are set. */
struct xp_book_writer;
struct xp_book_shelf;
void xp_coder_write_with(struct xp_coder *c, const struct xp_book_writer *w);
void xp_coder_read_with(struct xp_coder *c, const struct xp_book_shelf *s);

/* What select.c knows of the way the bytes will go. */
struct xp_select_env {
    double link_bytes_per_s; /* of the slow hop, per rank; 0 = unknown (treated as slow) */
};

/* Chooses a codec for these rows from a sample of at most 2 % of them (at least 16); fixes the coder's choice until the
 * next call. env NULL: the rows make one frame and only its bytes count. Returns 1 when coding pays, 0 when the rows should be sent plain. */
int xp_coder_select(struct xp_coder *c, const struct xp_rows *in, const struct xp_select_env *env);

/* For those who keep books. Whether one should have directions on a link of this speed (0: unknown, no); bytes a row as last tried by xp_coder_select, 0: never; bytes a row of a sample of these rows with a
 * book; whether a book is likely to pay on this link, as far as known. */
int xp_coder_directions_pay(const struct xp_coder *c, double link_bytes_per_s);
double xp_coder_trial_bytes(const struct xp_coder *c, unsigned id);
double xp_coder_try_book(struct xp_coder *c, const struct xp_rows *in, const struct xp_book_writer *w);
int xp_coder_book_may_pay(const struct xp_coder *c);

/* Duplicate rows (dedup.c): first[u] = index of the u-th distinct row in order of appearance, map[r] = u. Distinctness is
 * proven byte by byte. first and map have room for in->rows; work for 2 * next_power_of_two(2 * rows) words. Returns U. */
size_t xp_dedup(const struct xp_rows *in, uint32_t *first, uint32_t *map, uint32_t *work);
/* A hash of 64 bytes of a row: equal rows have equal ones, unlike rows seldom. */
uint64_t xp_row_sample(const void *row, size_t bytes);

#endif

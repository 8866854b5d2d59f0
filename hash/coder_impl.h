/*
 * coder_impl.h - the inside of a coder, for the codecs
 *
 * A coder holds what one shape of rows needs: the kernels of this machine, the signs of the quantiser, and scratch memory. All
 * scratch is allocated by xp_coder_reserve: at creation when desc.max_rows is given, else when a batch needs more.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CODER_IMPL_H
#define XP_CODER_IMPL_H

#include "hash/codec.h"

/* f32 scratch rows are whole blocks with room for one vector more, so that kernels may read and write full vectors. */
#define XP_ROW_PAD(dim) (((dim) + XP_QBLOCK - 1) / XP_QBLOCK * XP_QBLOCK + 16)

/* Room for a row in the longest format: a byte a value and a 2-byte step per block, blocks padded. */
#define XP_CODE_ROOM(dim) (((dim) + XP_QBLOCK - 1) / XP_QBLOCK * (XP_QBLOCK + 2) + 64)

/* Rows that select.c tries the codecs on. */
#define XP_SAMPLE_MIN 16
#define XP_SAMPLE_MAX 128

struct xp_lsh_scratch;
struct xp_running;

/* What select.c remembers from call to call. */
#define XP_CODECS 6 /* ids below */

struct xp_trial {
    double bytes, seconds; /* of one row: on the wire; encoding and decoding, time of the thread */
    int done;
};

struct xp_select {
    struct xp_trial trial[XP_CODECS];
    double link;                /* bytes per second; 0: unknown */
    double lsh_bias;            /* bytes of codec lsh's frames, over those predicted */
    double slowdown;            /* wall-clock time of coding in calls, over that of trials */
    double rows[2], seconds[2]; /* encoded, decoded with the codec in use since the last choice */
    double bytes;               /* of what was encoded */
    int surprised;              /* they were more than its trial said */
    unsigned calls;
    const struct xp_codec_ops *challenger;
    const struct xp_book_writer *writer; /* that was tried last */
};

struct xp_coder {
    struct xp_coder_desc desc; /* isa, seed and the lsh knobs have no zeros left */
    struct xp_kernels kernels;
    const struct xp_codec_ops *ops; /* the codec in use; select.c changes it */
    uint16_t formats;               /* row formats in use: bit f of enum xp_qformat */
    size_t row_bytes;
    const char *why;                /* static text: why the last call failed */

    struct xp_quantiser quantiser;  /* its signs belong to frame_seed */
    uint64_t frame_seed;            /* of the frame at hand */

    /* One row each, 64-byte aligned, XP_ROW_PAD(dim) values (f32) or row_bytes + 64 (typed). */
    float *mean;     /* the frame's mean row, of the finite rows (what eps may be relative to) */
    float *residual; /* row - base */
    float *apart;    /* row - mean, where nobody wants it */
    float *base;     /* the decoded centroid of a row */
    void *decoded;   /* what the receiver will have */
    struct xp_rotated rotated; /* row - base */
    uint8_t *code;   /* two rows in any format, XP_CODE_ROOM(dim) apart */

    /* For cap_rows rows. */
    size_t cap_rows;
    uint32_t *first, *map, *work;  /* exact: xp_dedup. lsh: rows that count for a mean, bucket ids */
    struct xp_lsh_scratch *lsh;    /* NULL unless codec lsh may be used (lsh_scratch.h) */

    uint32_t *sample_index;        /* select.c: XP_SAMPLE_MAX rows, */
    uint8_t *sample;               /* coded, and decoded again behind that */

    struct xp_pack_state *pack;    /* codec_pack.c; likewise */
    struct xp_book_state *book;    /* codec_book.c; NULL until a frame of that codec is met */
    const struct xp_book_writer *writer; /* the kept book to write with, */
    const struct xp_book_shelf *shelf;   /* and those to read with; NULL: none */

    struct xp_select select;

    struct xp_coded_rows *store;  /* where rows are kept that the next frame holds, */
    const uint32_t *number;       /* and under which numbers; NULL: nowhere */
    const uint32_t *place;        /* codec quant: where the rows go that are being decoded; NULL: one after another */
    xp_codec_stats stats;         /* of the frame being encoded, */
    struct xp_running *running;   /* and the checksum of its payload, for codecs that write it from front to back (frame.h) */
};

/* Makes room for `rows` rows. XP_ERR_NO_MEMORY; XP_ERR_INVALID_ARG beyond desc.max_rows when that is fixed. */
xp_status xp_coder_reserve(struct xp_coder *c, size_t rows);

/* What the book codec keeps in a coder (c->book); made when it is first needed. fits: it will fit books of its own. */
xp_status xp_book_state_create(struct xp_coder *c, int fits);
/* Room to encode so many rows; after create. */
xp_status xp_book_reserve(struct xp_coder *c, size_t rows);
void xp_book_state_destroy(struct xp_book_state *s);

/* The same for codec pack. */
xp_status xp_pack_reserve(struct xp_coder *c, size_t rows);
void xp_pack_state_destroy(struct xp_pack_state *s);

/* The frame at hand has this seed: makes the quantiser's signs its own. */
void xp_coder_seed(struct xp_coder *c, uint64_t seed);

/* A frame of codec `id` was encoded or decoded: what it took (select.c). */
void xp_select_meter(struct xp_coder *c, unsigned id, int decoded, size_t rows, size_t bytes, double seconds);

/* Remembers why and returns XP_ERR_CORRUPT. */
static inline xp_status xp_corrupt(struct xp_coder *c, const char *why)
{
    c->why = why;
    return XP_ERR_CORRUPT;
}

extern const struct xp_codec_ops xp_codec_raw, xp_codec_exact, xp_codec_quant, xp_codec_lsh, xp_codec_book, xp_codec_pack;

#endif

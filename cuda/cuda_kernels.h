/*
 * cuda_kernels.h - the kernels of the codecs on a GPU, as C functions that enqueue them
 *
 * Contracts: hash/kernels.h. What a function here writes is byte for byte what the C entry of the same name gives, row by row; pointers
 * are to device memory unless said otherwise. Nothing waits, allocates or copies: everything goes onto the caller's stream and can be
 * captured in a graph. Numbers that are known on the device only stay there: functions that take a count from the device are told
 * the largest it may be.
 *
 * All return 0 or a cudaError_t.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_KERNELS_H
#define XP_CUDA_KERNELS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "hash/book_rows_impl.h"
#include "hash/qblock.h"
#include "hash/quant_rows.h"
#include "hash/signs.h"

struct xp_gpu {
    void *stream;   /* cudaStream_t */
    unsigned sms;   /* multiprocessors: kernels that loop over rows are launched once over the whole device */
    size_t shared_bytes; /* shared memory that a block may ask for (cudaDevAttrMaxSharedMemoryPerBlockOptin) */
};

/* ---- rows ----
 * in: a host struct; in->data and in->index (may be NULL) are device pointers. Rows whose bytes are a multiple of 16, at an
 * address that is one, are read 16 bytes at a time; others value by value. */

/* hash (polytope.cu). h: a host struct whose tables are device pointers (xp_cuda_hasher says how they lie).
 * ids: [rows]. sketch: NULL or [rows][h->sketch], 16-byte aligned. */
int xp_cuda_hash(const struct xp_gpu *g, const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch);

/* Bytes of a hasher's tables, and *device* = *host* with its tables at `memory` on the device, 16-byte aligned, where the caller copies
 * xp_cuda_hasher_bytes(host) bytes from host->memory to. */
size_t xp_cuda_hasher_bytes(const struct xp_hasher *host);
void xp_cuda_hasher(const struct xp_hasher *host, void *memory, struct xp_hasher *device);

/* xp_clusters_group of cluster.h (cluster.cu), for up to XP_CUDA_GROUP_ROWS rows, in one cooperative launch: of [rows], start [rows + 1],
 * order [rows], count [1]. scratch: xp_cuda_group_scratch(rows) bytes whose first word is 0, and is 0 again afterwards. */
#define XP_CUDA_GROUP_ROWS 65536
size_t xp_cuda_group_scratch(size_t rows);
int xp_cuda_group(const struct xp_gpu *g, const uint32_t *ids, size_t rows, void *scratch, uint32_t *of, uint32_t *start, uint32_t *order,
                  uint32_t *count);

/* xp_clusters_refine of cluster.h (refine.cu), in one cooperative launch: of what xp_cuda_group has left (ids NULL), or of rows with these
 * ids, which the launch groups first. sketch: [rows][s], 16-byte aligned. most: max_clusters; 0: no limit. centroids: [rows][s], 16-byte aligned: the mean sketches at the end. scratch:
 * xp_cuda_refine_scratch(rows, s) bytes whose first word is 0, and is 0 again afterwards. */
size_t xp_cuda_refine_scratch(size_t rows, unsigned s);
int xp_cuda_refine(const struct xp_gpu *g, const uint32_t *ids, const int16_t *sketch, size_t rows, unsigned s, unsigned rounds, uint32_t most,
                   void *scratch, uint32_t *of, uint32_t *start, uint32_t *order, uint32_t *count, int16_t *centroids);

/* assign (assign.cu): sketch [rows][s] and centroids [count][s], 16-byte aligned. */
int xp_cuda_assign(const struct xp_gpu *g, const int16_t *sketch, size_t rows, unsigned s, const int16_t *centroids, size_t count, uint32_t *of);

/* centroid (centroid.cu). count: the number of clusters on the device, at most `most`; NULL: `most` of them. out: [most][dim]. */
int xp_cuda_centroid(const struct xp_gpu *g, const struct xp_rows *in, const uint32_t *order, const uint32_t *start, const uint32_t *count,
                     uint32_t most, float *out);

/* means of kernels.h (centroid.cu); in->index is not looked at. out: [clusters][dim] in the rows' type. */
int xp_cuda_mean_rows(const struct xp_gpu *g, const struct xp_rows *in, const uint32_t *order, const uint32_t *start, uint32_t clusters, void *out);

/* distance (distance.cu): out[r] of row r of in and row other_of[r] of other, [..][dim] of the same type; other NULL: of row r alone. */
int xp_cuda_row_distances(const struct xp_gpu *g, const struct xp_rows *in, const void *other, const uint32_t *other_of, float *out);

/* ---- quantised rows (quantise.cu, dequantise.cu) ----
 * q: a host struct whose signs are a device pointer, xp_sign_words(dim) words. */

/* What rows are coded against: rows NULL: nothing; of NULL: the one row of dim values; else row of[r] for row r, or nothing where
 * that is XP_GPU_NO_ROW. reference_of, for the encoder: the row of `rows` that eps refers to, alike; where a row has a base, that
 * one. NULL: the plan's. signs_of: q->signs are many tables, of which row r has number signs_of[r]; NULL: one for all. */
#define XP_GPU_NO_ROW 0xffffffffu
struct xp_gpu_bases {
    const float *rows;
    const uint32_t *of;
    const uint32_t *reference_of;
    const uint32_t *signs_of;
};

/*
 * The mean rows of codec quant's frames (means.cu), and which of them pay (codec_quant.c). frames: `count` of them on the device, each of
 * rows [first, first + rows) of the batch, fewer than 2^20. out: a host struct of device pointers.
 */
struct xp_gpu_frame {
    uint32_t first, rows;
};
struct xp_gpu_means {
    float *rows;            /* [count][dim], as the receiver has them; where there is none, nothing is written */
    uint8_t *typed;         /* [count] rows in the rows' type, likewise */
    uint8_t *pays;          /* [count] 1: the frame's rows are coded against its mean */
    uint32_t *base_of;      /* [rows of the batch] for xp_gpu_bases */
    uint32_t *reference_of; /* likewise; NULL: eps does not refer to the mean */
};
int xp_cuda_means(const struct xp_gpu *g, const struct xp_rows *in, const struct xp_gpu_frame *frames, size_t count, const struct xp_gpu_means *out);

/* The seeds of frames and their random signs, where frames have seeds of their own (choose_seed of coder.c; frame_signs.cu). frames: as for
 * xp_cuda_means. seed: the coder's. out: a host struct of device pointers. */
struct xp_gpu_frame_signs {
    uint64_t *sums;  /* [rows of the batch] their checksums */
    uint64_t *seeds; /* [count] */
    uint32_t *of;    /* [rows of the batch] for xp_gpu_bases */
    uint32_t *signs; /* [count][xp_sign_words(dim)], 16-byte aligned */
};
int xp_cuda_frame_signs(const struct xp_gpu *g, const struct xp_rows *in, const struct xp_gpu_frame *frames, size_t count, uint64_t seed,
                        const struct xp_gpu_frame_signs *out);
/* The signs alone, where the seeds are known. */
int xp_cuda_signs_of_seeds(const struct xp_gpu *g, const uint64_t *seeds, size_t count, size_t dim, uint32_t *signs);

/* quantise: res [rows][dim] to out, rows `stride` bytes apart, a multiple of 16 that holds xp_qrow_bytes(f, dim); what is left of
 * the last 16 bytes of a row becomes zeros. */
int xp_cuda_quantise(const struct xp_gpu *g, const struct xp_quantiser *q, enum xp_qformat f, const float *res, size_t rows, uint8_t *out, size_t stride);

/* xp_row_encode of quant_rows.h, for all rows: formats and lengths [rows], the bytes at slots + r * stride as above, a multiple of 16
 * that holds a row in its own type; errors [rows]: the squared error as measured, 0 where the row travels raw or is zero.
 * p: a host struct whose reference is a device pointer. */
int xp_cuda_row_encode(const struct xp_gpu *g, const struct xp_row_plan *p, const struct xp_quantiser *q, const struct xp_rows *in,
                       const struct xp_gpu_bases *bases, uint8_t *slots, size_t stride, uint8_t *formats, uint32_t *lengths, float *errors);

/* xp_row_decode, for all rows: row r has the bytes at in + at[r] and format formats[r], or all rows have format f (formats NULL); at NULL:
 * they lie `stride` bytes apart. Any alignment of in. Formats that xp_row_format_known does not know give zeros. */
int xp_cuda_row_decode(const struct xp_gpu *g, const struct xp_quantiser *q, const uint8_t *formats, enum xp_qformat f, const uint8_t *in,
                       const uint64_t *at, size_t stride, const struct xp_gpu_bases *bases, xp_dtype t, size_t rows, void *out);

/* ---- rows back to back (pack.cu), each in one cooperative launch ----
 * scratch: xp_cuda_pack_scratch(g) bytes whose first word is 0, and is 0 again afterwards. */
size_t xp_cuda_pack_scratch(const struct xp_gpu *g);

/* Row i of the payload is the lengths[r] bytes at slots + r * stride, r = order ? order[i] : i; it begins at payload + at[i]. at [rows + 1],
 * the last is the length of all. Slots and payload at multiples of 16; slots are read to the end of the last 16 bytes of a row. */
int xp_cuda_pack(const struct xp_gpu *g, const uint8_t *slots, size_t stride, const uint32_t *lengths, const uint32_t *order, size_t rows,
                 void *scratch, uint64_t *at, uint8_t *payload);

/* Where the rows of these formats begin in a payload: at [rows + 1]. Rows of unknown formats have no bytes. */
int xp_cuda_row_places(const struct xp_gpu *g, const uint8_t *formats, size_t dim, xp_dtype t, size_t rows, void *scratch, uint64_t *at);

/* ---- rows coded with a book (book*.cu) ---- */

#define XP_CUDA_BOOK_DIM 16384 /* longest rows */

/* A book on the device: numbers of struct xp_book, and where its tables and those of the entropy coder lie. */
struct xp_gpu_book {
    size_t dim, pad;
    unsigned groups, centroids, rank, has_mean;
    float coordinate_step;
    uint8_t coordinate_class[XP_BOOK_MAX_RANK / XP_RANS_GROUP];
    const uint8_t *channel, *place, *group_class; /* groups padded to 32 */
    const float *weight, *mean, *centroid, *direction;
    const uint32_t *spans;       /* [XP_RANS_DISTRIBUTIONS][XP_RANS_SYMBOLS] */
    const float *dead_zone;      /* [XP_RANS_DISTRIBUTIONS], as are the next two */
    const uint8_t *first, *last;
    const uint32_t *plane_bytes; /* [XP_BOOK_OFFSETS] low bits of a row of this offset */
    const float *mantissa;       /* [64] 2^(i / 64) */
};

/* Writes the tables to `image`, host memory of xp_cuda_book_bytes(b) bytes, which the caller copies to `memory` on the device, 64-byte
 * aligned; *device describes them there. XP_ERR_UNSUPPORTED: rows longer than XP_CUDA_BOOK_DIM. */
size_t xp_cuda_book_bytes(const struct xp_book *b);
xp_status xp_cuda_book(const struct xp_book *b, void *image, void *memory, struct xp_gpu_book *device);

/* xp_book_decode_rows of book_rows.h, in two launches. d: a host struct, or NULL. in: `len` bytes at any alignment, read in whole units of 16 bytes.
 * *status: 0, or what is wrong (the rows are any then): a set of XP_CUDA_BOOK_*. scratch: xp_cuda_book_scratch(g, rows) bytes whose first
 * word is 0, and is 0 again afterwards. */
enum { XP_CUDA_BOOK_SHORT = 1, XP_CUDA_BOOK_NUMBERS = 2, XP_CUDA_BOOK_LENGTHS = 4, XP_CUDA_BOOK_STREAM = 8 };
size_t xp_cuda_book_scratch(const struct xp_gpu *g, size_t rows);
int xp_cuda_book_decode(const struct xp_gpu *g, const struct xp_gpu_book *b, const struct xp_book_dither *d, const uint8_t *in, size_t len, xp_dtype t,
                        size_t rows, void *scratch, void *out, uint32_t *status);

/* xp_book_encode_rows of book_rows.h, in three launches. p, d: host structs; d may be NULL. centroid: [rows] (xp_cuda_hash and
 * xp_cuda_assign with the sketches of the book's writer); NULL for a book without. out: room for XP_BOOK_COLUMNS_HEAD + 4 + rows * 7
 * bytes and the rows; *len gets the bytes.
 * errors [rows]: the squared error as measured, 0 where the row travels raw or is zero. scratch: xp_cuda_book_encode_scratch(g, in) bytes at
 * a multiple of 16 whose first word is 0, and is 0 again afterwards; in: rows, dim and dtype are looked at. */
size_t xp_cuda_book_encode_scratch(const struct xp_gpu *g, const struct xp_rows *in);
int xp_cuda_book_encode(const struct xp_gpu *g, const struct xp_gpu_book *b, const struct xp_book_promise *p, const struct xp_book_dither *d,
                        const struct xp_rows *in, const uint32_t *centroid, void *scratch, uint8_t *out, uint64_t *len, float *errors);

/* ---- folded mode: rows from the results of their centroids, and back (folded.cu; collectives/folded_combine.c, folded_backward.c) ----
 * All rows are of this type and dim. seen, results, sums, jg: [clusters][dim], as the experts saw the centroids, what they made of them, and
 * the gradients G and J^T G. A slot is token * topk + k. */
struct xp_gpu_fold {
    size_t tokens, clusters, dim;
    unsigned topk;
    xp_dtype dtype;
    int leader;                  /* gradients of a cluster go to its first row (XP_CENTROID_LEADER) */
    const int32_t *cluster_of;   /* [tokens][topk], -1: none */
    const float *weight, *alpha; /* [tokens][topk] */
    const uint32_t *start;       /* [clusters + 1] where a cluster's slots begin in */
    const uint32_t *member;      /* [slots with an expert] */
};

/* xp_fold_combine without the probes: y[tokens][dim] = sum over slots of weight * (E(c) + alpha (x - c)). */
int xp_cuda_fold_combine(const struct xp_gpu *g, const struct xp_gpu_fold *f, const void *x, const void *seen, const void *results, void *y);

/* xp_fold_combine_backward: the sums G, and with grad_weight not NULL the gradients of the weights, which need x, seen and results. */
int xp_cuda_fold_combine_backward(const struct xp_gpu *g, const struct xp_gpu_fold *f, const void *grad_y, const void *x, const void *seen,
                                  const void *results, void *sums, float *grad_weight);

/* xp_fold_dispatch_backward: grad_x[tokens][dim]. */
int xp_cuda_fold_dispatch_backward(const struct xp_gpu *g, const struct xp_gpu_fold *f, const void *grad_y, const void *sums, const void *jg, void *grad_x);

/* Sums over the values of probes (collectives/folded_probes.c): of E(x) - E(c) with itself and with x - c; of x - c; of E(x). */
struct xp_gpu_probe {
    uint32_t row, centroid; /* virtual tokens */
};
struct xp_gpu_probe_products {
    double yy, yx, xx, ee;
};
/* seen, results: as above, of all virtual tokens. out: [probes]. */
int xp_cuda_fold_products(const struct xp_gpu *g, xp_dtype t, size_t dim, const void *seen, const void *results, const struct xp_gpu_probe *probe, size_t probes,
                          struct xp_gpu_probe_products *out);

/* ---- copies of rows (row_copies.cu) ---- */

/* copy_of[r] = the first row of its frame that row r equals byte for byte, r itself for a row that equals none before it: what xp_dedup of
 * codec.h finds, unless keys of 64 bits collide, which leaves a copy unfound. frames: `count` of them on the device, ascending and apart;
 * of rows outside of them nothing is read or written. in->index is not looked at; any type, any alignment. scratch:
 * xp_cuda_row_copies_scratch(rows) bytes, all 0 before, 8-byte aligned. */
size_t xp_cuda_row_copies_scratch(size_t rows);
int xp_cuda_row_copies(const struct xp_gpu *g, const struct xp_rows *in, const struct xp_gpu_frame *frames, size_t count, void *scratch, uint32_t *copy_of);

/* ---- rows of a MoE layer on their way (moe.cu; collectives/dispatch.c, combine.c) ---- */

/* out[i] = row in->index[i], bit for bit, bytes too; with weights weight[i] times it, rounded to the type. */
int xp_cuda_rows_gather(const struct xp_gpu *g, const struct xp_rows *in, const float *weight, void *out);

/* row_sum, for many rows: out[i] is the sum over parts, in f32 and in order, of sums over terms, weight * row; rounded once. A part
 * ends with a term that says so. in->rows of them; in->index is not looked at. */
enum { XP_GPU_TERM_LAST = 1, XP_GPU_TERM_COPY = 2 }; /* COPY, of the first term: out[i] is that row, bit for bit */
struct xp_gpu_terms {
    const uint32_t *first; /* [rows + 1] the terms of row i begin here in */
    const uint32_t *row;
    const float *weight;   /* NULL: all 1 */
    const uint8_t *how;
};
int xp_cuda_rows_sums(const struct xp_gpu *g, const struct xp_rows *in, const struct xp_gpu_terms *terms, void *out);

/* Rows as they came: row r is row r of `plain`, where formats[r] is XP_GPU_PLAIN, else what xp_cuda_row_decode makes of the bytes at bytes + at[r];
 * bases: as there, its numbers are looked at for coded rows only. */
enum { XP_GPU_PLAIN = 255 };
struct xp_gpu_coded_rows {
    const uint8_t *formats, *bytes;
    const uint64_t *at;
    struct xp_gpu_bases bases; /* of: not NULL */
    const void *plain;
};

/* The sums of xp_cuda_rows_sums, without copies among the terms, of such rows (decode_sums.cu). */
int xp_cuda_decode_sums(const struct xp_gpu *g, const struct xp_quantiser *q, const struct xp_gpu_coded_rows *rows, xp_dtype t,
                        const struct xp_gpu_terms *terms, size_t sums, void *out);

/* Such rows, `count` of them, each to all of its places in `out`, times the weight there (dequantise.cu). */
struct xp_gpu_places {
    const uint32_t *first; /* [count + 1] the places of row r begin here in */
    const uint32_t *place;
    const float *weight;   /* NULL: rows are written as they are */
};
int xp_cuda_row_spread(const struct xp_gpu *g, const struct xp_quantiser *q, const struct xp_gpu_coded_rows *rows, xp_dtype t, size_t count,
                       const struct xp_gpu_places *places, void *out);

/* dots[i] = <row in->index[i], row i of other>, as xp_row_dot of rowmath.h. */
int xp_cuda_rows_dots(const struct xp_gpu *g, const struct xp_rows *in, const void *other, float *dots);

/* ---- tables ---- */

/* xp_signs_fill of signs.h (signs.cu): xp_sign_words(n) words, 16-byte aligned, drawn by cuRAND's device function. */
int xp_cuda_signs(const struct xp_gpu *g, uint64_t seed, uint32_t stream, size_t n, uint32_t *words);

/* ---- transforms alone ---- */

/* fht_i16, fht_i32 (fht.cu); vectors 16-byte aligned where log2n >= 3. */
int xp_cuda_fht_i16(const struct xp_gpu *g, int16_t *x, unsigned log2n, size_t nrows);
int xp_cuda_fht_i32(const struct xp_gpu *g, int32_t *x, unsigned log2n, size_t nrows);

/* What device plans use of these, for a library that is built with and without them (kernel_table.c). */
struct xp_cuda_table {
    int (*means)(const struct xp_gpu *g, const struct xp_rows *in, const struct xp_gpu_frame *frames, size_t count, const struct xp_gpu_means *out);
    int (*frame_signs)(const struct xp_gpu *g, const struct xp_rows *in, const struct xp_gpu_frame *frames, size_t count, uint64_t seed,
                       const struct xp_gpu_frame_signs *out);
    int (*signs_of_seeds)(const struct xp_gpu *g, const uint64_t *seeds, size_t count, size_t dim, uint32_t *signs);
    int (*row_encode)(const struct xp_gpu *g, const struct xp_row_plan *p, const struct xp_quantiser *q, const struct xp_rows *in,
                      const struct xp_gpu_bases *bases, uint8_t *slots, size_t stride, uint8_t *formats, uint32_t *lengths, float *errors);
    int (*row_decode)(const struct xp_gpu *g, const struct xp_quantiser *q, const uint8_t *formats, enum xp_qformat f, const uint8_t *in,
                      const uint64_t *at, size_t stride, const struct xp_gpu_bases *bases, xp_dtype t, size_t rows, void *out);
    size_t (*pack_scratch)(const struct xp_gpu *g);
    int (*pack)(const struct xp_gpu *g, const uint8_t *slots, size_t stride, const uint32_t *lengths, const uint32_t *order, size_t rows, void *scratch,
                uint64_t *at, uint8_t *payload);
    size_t (*row_copies_scratch)(size_t rows);
    int (*row_copies)(const struct xp_gpu *g, const struct xp_rows *in, const struct xp_gpu_frame *frames, size_t count, void *scratch, uint32_t *copy_of);
    int (*rows_gather)(const struct xp_gpu *g, const struct xp_rows *in, const float *weight, void *out);
    int (*rows_sums)(const struct xp_gpu *g, const struct xp_rows *in, const struct xp_gpu_terms *terms, void *out);
    int (*row_spread)(const struct xp_gpu *g, const struct xp_quantiser *q, const struct xp_gpu_coded_rows *rows, xp_dtype t, size_t count,
                      const struct xp_gpu_places *places, void *out);
    int (*decode_sums)(const struct xp_gpu *g, const struct xp_quantiser *q, const struct xp_gpu_coded_rows *rows, xp_dtype t,
                       const struct xp_gpu_terms *terms, size_t sums, void *out);
    int (*rows_dots)(const struct xp_gpu *g, const struct xp_rows *in, const void *other, float *dots);
    /* folded layers */
    size_t (*hasher_bytes)(const struct xp_hasher *host);
    void (*hasher)(const struct xp_hasher *host, void *memory, struct xp_hasher *device);
    int (*hash)(const struct xp_gpu *g, const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch);
    int (*centroid)(const struct xp_gpu *g, const struct xp_rows *in, const uint32_t *order, const uint32_t *start, const uint32_t *count, uint32_t most,
                    float *out);
    int (*mean_rows)(const struct xp_gpu *g, const struct xp_rows *in, const uint32_t *order, const uint32_t *start, uint32_t clusters, void *out);
    int (*row_distances)(const struct xp_gpu *g, const struct xp_rows *in, const void *other, const uint32_t *other_of, float *out);
    int (*fold_combine)(const struct xp_gpu *g, const struct xp_gpu_fold *f, const void *x, const void *seen, const void *results, void *y);
    int (*fold_combine_backward)(const struct xp_gpu *g, const struct xp_gpu_fold *f, const void *grad_y, const void *x, const void *seen, const void *results,
                                 void *sums, float *grad_weight);
    int (*fold_dispatch_backward)(const struct xp_gpu *g, const struct xp_gpu_fold *f, const void *grad_y, const void *sums, const void *jg, void *grad_x);
    int (*fold_products)(const struct xp_gpu *g, xp_dtype t, size_t dim, const void *seen, const void *results, const struct xp_gpu_probe *probe, size_t probes,
                         struct xp_gpu_probe_products *out);
};
extern const struct xp_cuda_table xp_cuda_table;

#ifdef __cplusplus
}
#endif

#endif

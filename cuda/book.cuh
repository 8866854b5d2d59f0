/*
 * book.cuh - what coder and decoder of book rows share: classes, steps, the numbers of a row, how rows share a warp
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_BOOK_CUH
#define XP_CUDA_BOOK_CUH

#include "cuda/philox.cuh"
#include "cuda/row.cuh"

#include "hash/bits.h"

/* What a row's step says of rows without one; steps are within XP_BOOK_LARGEST_STEP. */
constexpr int XP_BOOK_NO_STEP = INT32_MIN;
constexpr uint32_t XP_BOOK_KIND_BAD = 2; /* beside XP_BOOK_KIND_RAW and _ZERO: a row that the columns say nothing of */

/* The numbers of a row in the columns, from their least values. */
struct alignas(16) xp_book_numbers {
    int step;
    uint32_t offset;   /* offset + XP_BOOK_LARGEST_OFFSET, or the kind of a row without a step */
    uint32_t centroid, length;
};

/* Book rows as bytes on the device. */
struct xp_book_source {
    const uint8_t *in;
    uint64_t len;
    size_t rows, row_bytes;
    uint32_t *status;
};

/* Enqueues what reads the columns: *numbers and *at, [rows] in scratch, say what the rows are and where they begin (book_places.cu). */
int xp_cuda_book_places(const struct xp_gpu *g, const struct xp_gpu_book *b, const xp_book_source &from, void *scratch, const xp_book_numbers **numbers,
                        const uint64_t **at);

/* Scratch of coding rows, cut up; the same for all launches of one call. */
struct xp_book_scratch {
    unsigned *counter;
    void *found;        /* of packing */
    double *above;      /* [runs] where the rows of a run begin their search */
    uint32_t *leader;   /* [runs] the row that found it, or the end of the run */
    xp_book_numbers *numbers;
    uint8_t *slots;     /* [rows][stride] coded rows */
    size_t stride, bytes;
};
xp_book_scratch xp_book_scratch_at(const struct xp_gpu *g, const struct xp_rows *in, void *scratch);

/* Enqueues the last part of coding: numbers and slots to columns and rows (book_pack.cu). */
int xp_cuda_book_pack(const struct xp_gpu *g, const struct xp_gpu_book *b, const xp_book_scratch &x, size_t rows, uint8_t *out, uint64_t *len);

/* Where the columns of these widths begin, behind their head. Returns where the rows do. */
static __device__ __forceinline__ uint64_t xp_book_place_columns(const unsigned (&width)[4], size_t rows, uint64_t (&column)[4])
{
    uint64_t at = XP_BOOK_COLUMNS_HEAD;

#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        column[i] = at;
        at += (rows * width[i] + 7) / 8;
    }
    return at;
}

static __device__ __forceinline__ unsigned xp_dev_get16(const uint8_t *p)
{
    return p[0] | (unsigned)p[1] << 8;
}

/* The class of a group of values in a row of this offset. */
static __host__ __device__ __forceinline__ unsigned xp_book_class(unsigned group_class, int offset)
{
    const int sum = (int)group_class + offset;

    return sum < 0 ? 0 : sum >= XP_RANS_CLASSES ? XP_RANS_CLASSES - 1 : (unsigned)sum;
}

/* Whether rows are dithered is known when kernels are compiled: their type T says it. */
template <class T> struct xp_plain : T {
    static constexpr bool dithered = false;
};
template <class T> struct xp_dithered : T {
    static constexpr bool dithered = true;
};

/* The class of group g of a row, coordinates first, as the entropy coder has it. offset: from 0. */
template <class T> static __device__ __forceinline__ unsigned xp_book_class_of(const xp_gpu_book &b, unsigned g, uint32_t offset)
{
    const unsigned first = b.rank / XP_RANS_GROUP;

    if (g < first)
        return b.coordinate_class[g];
    const unsigned scale = g - first < b.groups ? xp_book_class(b.group_class[g - first], (int)offset - XP_BOOK_LARGEST_OFFSET) : 0;
    return T::dithered ? xp_book_dithered_class(scale) : scale;
}

/* The dither of a group of values (hash/dither.c): a byte each, */
static __device__ __forceinline__ uint4 xp_dither_block(uint64_t key, uint64_t row, unsigned group)
{
    const uint2 words = {(unsigned)key, (unsigned)(key >> 32)};

    return curand_Philox4x32_10(make_uint4(group, (unsigned)row, (unsigned)(row >> 32), 1), words);
}

/* and what it stands for. */
static __device__ __forceinline__ float xp_dither_of(unsigned byte)
{
    return __fsub_rn(__fmul_rn((float)byte, 0x1p-8f), 255.0f / 512);
}

static __device__ __forceinline__ unsigned xp_dev_low_bits(unsigned scale)
{
    return scale < XP_RANS_PLAIN ? 0 : (scale - XP_RANS_PLAIN) / 4 + 1;
}

static __device__ __forceinline__ unsigned xp_dev_table_number(unsigned scale)
{
    return scale < XP_RANS_DISTRIBUTIONS ? scale : (XP_RANS_DISTRIBUTIONS - 4) | (scale & 3);
}

/* The size of step number j. */
static __device__ __forceinline__ float xp_dev_step_size(const xp_gpu_book &b, int j)
{
    const int fine = j & (XP_BOOK_STEPS_PER_OCTAVE - 1);

    return __fmul_rn(b.mantissa[fine], __uint_as_float((unsigned)((j - fine) / XP_BOOK_STEPS_PER_OCTAVE + 127) << 23));
}

/* Integers of a row. */
static __host__ __device__ __forceinline__ unsigned xp_book_integers(const xp_gpu_book &b)
{
    return b.rank + (unsigned)b.dim;
}

/* Lanes that a row takes in a warp: one for each of its states, at least 8; the other rows of a warp have the others. */
static __host__ __device__ __forceinline__ unsigned xp_book_width(unsigned states)
{
    return states <= 8 ? 8 : 16;
}

#endif

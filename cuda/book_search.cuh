/*
 * book_search.cuh - a row in book order in the shared memory of a warp, and the largest step that keeps its promise (hash/book_search.c)
 *
 * Sums are taken in the order of kernels.h: 32 partials are the lanes; where there are 16, a lane also adds what the lane 16 behind it has made.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_BOOK_SEARCH_CUH
#define XP_CUDA_BOOK_SEARCH_CUH

#include "cuda/book.cuh"

#include "hash/log2.h"

#include <cfloat>

namespace
{

/* What all rows of a launch have in common. */
struct Job {
    xp_gpu_book b;
    xp_dev_rows in;
    const uint32_t *centroid;
    double eps, rounding; /* rounding: squared error of the type, in units of the energy */
    int to_mean;
    bool wide;
    unsigned row_room, rest_room; /* shared memory of a row in its type, of as many floats */
    unsigned dither_room;         /* of a row's dither, a byte a value; 0: there is none */
    uint64_t key;                 /* of the dither */
    unsigned each_warp;
    double *above;                /* [runs] where the rows of a run begin their search */
    uint32_t *leader;             /* [runs] the row that found it, else the end of the run */
};

/* Shared memory of a block in front of that of its warps. */
struct Tables {
    float dead_zone[XP_RANS_DISTRIBUTIONS];
    uint8_t first[XP_RANS_DISTRIBUTIONS], last[XP_RANS_DISTRIBUTIONS];
    uint32_t span[XP_RANS_DISTRIBUTIONS * XP_RANS_SYMBOLS];
};

template <class T> struct Subject {
    typedef typename T::word word;

    const Job *job;
    const Tables *tables;
    unsigned lane, dim, padded;   /* padded: dim in whole groups */
    word *typed, *window;         /* the row in book order */
    float *rest, *own_base;       /* what is left to code */
    unsigned char *dither;
    const float *base;
    int coordinate;               /* lane j: along direction j */
    bool zero;                    /* all bytes are */
    double energy, ref, allowed, error, level;
    int step;
    unsigned offset;              /* from 0 */
};

/* ---- sums ---- */

template <unsigned PARTIALS> static __device__ __forceinline__ float fold(float partial)
{
#pragma unroll
    for (unsigned half = PARTIALS / 2; half > 0; half /= 2)
        partial = __fadd_rn(partial, __shfl_down_sync(XP_FULL_WARP, partial, half));
    return __shfl_sync(XP_FULL_WARP, partial, 0);
}

/* Row sum of term(0) .. term(n - 1). */
template <class F> static __device__ __forceinline__ float row_sum(unsigned n, unsigned lane, F &&term)
{
    float partial = 0;

#pragma unroll 4
    for (unsigned i = lane; i < n; i += 32)
        partial = __fadd_rn(partial, term(i));
    return fold<32>(partial);
}

/* 16-lane sum of term(0) .. term(n - 1), n in whole groups. */
template <class F> static __device__ __forceinline__ float group_sum(unsigned n, unsigned lane, F &&term)
{
    float partial = 0;

#pragma unroll 4
    for (unsigned i = lane; i < n + lane; i += 32) {
        const float v = i < n ? term(i) : 0.0f, other = __shfl_down_sync(XP_FULL_WARP, v, 16);
        partial = __fadd_rn(__fadd_rn(partial, v), other);
    }
    return fold<16>(partial);
}

/* ---- the row and what is left of it ---- */

template <class T>
static __device__ __forceinline__ void load_window(const Job &j, const unsigned char *row, unsigned w, unsigned count, unsigned lane, typename T::word *window)
{
    constexpr unsigned PER = xp_per_load<T>;

    if (j.wide)
        for (unsigned i = lane * PER; i < count; i += 32 * PER)
            *reinterpret_cast<uint4 *>(window + i) = *reinterpret_cast<const uint4 *>(row + (w + i) * sizeof(typename T::word));
    else
        for (unsigned i = lane; i < count; i += 32)
            window[i] = reinterpret_cast<const typename T::word *>(row)[w + i];
}

/* The dither of row r, those who read it wait. */
template <class T> static __device__ __forceinline__ void take_dither(const Subject<T> &s, size_t r)
{
    for (unsigned group = s.lane; T::dithered && group < s.padded / XP_RANS_GROUP; group += 32) {
        const uint4 block = xp_dither_block(s.job->key, r, group);
        *reinterpret_cast<uint4 *>(s.dither + group * XP_RANS_GROUP) = block;
    }
}

/* Brings row r in book order to s.typed, and its dither; its energy. */
template <class T> static __device__ __forceinline__ void take_row(Subject<T> &s, size_t r)
{
    const Job &j = *s.job;
    const unsigned char *row = j.in.data + (j.in.index ? (size_t)j.in.index[r] : r) * j.in.row_bytes;
    float partial = 0;
    unsigned bits = 0;

    for (unsigned w = 0; w < s.dim; w += XP_REORDER_WINDOW) {
        const unsigned count = min((unsigned)XP_REORDER_WINDOW, s.dim - w);

        __syncwarp(); /* the window before, and the row before, have been used */
        if (w == 0)
            take_dither(s, r);
        load_window<T>(j, row, w, count, s.lane, s.window);
        __syncwarp();
        for (unsigned i = s.lane; i < count; i += 32) {
            const float v = T::load(s.window[i]);
            bits |= s.window[i];
            partial = __fadd_rn(partial, __fmul_rn(v, v));
            s.typed[w + i] = s.window[j.b.channel[w + i]];
        }
    }
    s.energy = fold<32>(partial);
    s.zero = !__any_sync(XP_FULL_WARP, bits != 0);
    __syncwarp();
}

/* rest = row - base, zeros behind it; returns its energy. */
template <class T> static __device__ __forceinline__ float subtract(const Subject<T> &s, const float *base)
{
    const float energy = row_sum(s.dim, s.lane, [&](unsigned i) {
        const float v = __fsub_rn(T::load(s.typed[i]), base[i]);
        s.rest[i] = v;
        return __fmul_rn(v, v);
    });

    if (s.dim + s.lane < s.padded)
        s.rest[s.dim + s.lane] = 0;
    __syncwarp();
    return energy;
}

/* The row's coordinates along the directions, in the lanes; and the base that they make. */
template <class T> static __device__ __forceinline__ void take_coordinates(Subject<T> &s)
{
    const xp_gpu_book &b = s.job->b;

    s.coordinate = 0;
    for (unsigned d = 0; d < b.rank; d++) {
        const float *direction = b.direction + d * b.pad;
        const float dot = group_sum(s.padded, s.lane, [&](unsigned i) { return __fmul_rn(s.rest[i], direction[i]); });
        const float a = fminf(fmaxf(__fdiv_rn(dot, b.coordinate_step), -(float)XP_RANS_MAX_Q), (float)XP_RANS_MAX_Q);
        s.coordinate = s.lane == d ? __float2int_rn(a) : s.coordinate;
    }
    for (unsigned first = 0; first < s.padded; first += 32) {
        const unsigned i = min(first + s.lane, s.padded - 1);
        float v = s.base[i];

        for (unsigned d = 0; d < b.rank; d++) {
            const int c = __shfl_sync(XP_FULL_WARP, s.coordinate, d);
            if (c)
                v = __fadd_rn(v, __fmul_rn(__fmul_rn((float)c, b.coordinate_step), b.direction[d * b.pad + i]));
        }
        if (first + s.lane < s.padded)
            s.own_base[i] = v;
    }
    __syncwarp();
    s.base = s.own_base;
}

/* Energies, coordinates, rest. Returns the energy of the rest, negative when the row goes raw. */
template <class T> static __device__ __forceinline__ double examine(Subject<T> &s, uint32_t centroid)
{
    const Job &j = *s.job;
    const xp_gpu_book &b = j.b;
    const double margin = ((double)s.dim / 16 + 16) * 0x1p-24;
    const bool to_mean = j.to_mean && b.has_mean;
    double rest = 0;

    if (!(s.energy <= (double)FLT_MAX))
        return -1;
    s.base = b.mean;
    if (to_mean || !b.centroids)
        rest = subtract(s, b.mean);
    s.ref = to_mean ? fmax(fmin(s.energy, rest), s.energy * 0x1p-16) : s.energy;
    s.allowed = j.eps * j.eps * s.ref * (1 - margin) / (1 + margin);
    if (!(s.allowed >= (double)s.dim * 1e-37))
        return -1;
    if (b.centroids) {
        s.base = b.centroid + centroid * b.pad;
        rest = subtract(s, s.base);
    }
    if (b.rank) {
        take_coordinates(s);
        rest = subtract(s, s.base);
    }
    const float spread = group_sum(s.padded, s.lane, [&](unsigned i) {
        const float v = __fmul_rn(s.rest[i], b.weight[i / XP_RANS_GROUP]);
        return __fmul_rn(v, v);
    });
    if (!(rest <= 1e36 && spread <= 1e36f))
        return -1;
    s.level = 32 * xp_log2(fmax((double)spread / (double)s.dim, 1e-37));
    return fmax(rest, 1e-37);
}

/* ---- steps ---- */

template <class T> static __device__ __forceinline__ void set_step(Subject<T> &s, int step)
{
    const double offset = floor((s.level - step) / (XP_BOOK_STEPS_PER_OCTAVE / 4) + 0.5) + XP_RANS_UNIT_CLASS;

    s.step = step;
    s.offset = (unsigned)((int)fmin(fmax(offset, (double)-XP_BOOK_LARGEST_OFFSET), (double)XP_BOOK_LARGEST_OFFSET) + XP_BOOK_LARGEST_OFFSET);
}

static __device__ __forceinline__ int bounded(double step)
{
    return (int)fmin(fmax(step, (double)-XP_BOOK_LARGEST_STEP), (double)XP_BOOK_LARGEST_STEP);
}

/* The class of the group that value i is in. */
template <class T> static __device__ __forceinline__ unsigned class_at(const Subject<T> &s, unsigned i)
{
    return xp_book_class(s.job->b.group_class[i / XP_RANS_GROUP], (int)s.offset - XP_BOOK_LARGEST_OFFSET);
}

/* A value in steps. */
template <class T> static __device__ __forceinline__ float scaled(const Subject<T> &s, unsigned i, float inverse)
{
    const float v = __fmul_rn(s.rest[i], inverse);

    return T::dithered ? __fadd_rn(v, xp_dither_of(s.dither[i])) : v;
}

static __device__ __forceinline__ float magnitude(float x)
{
    return x < 0 ? -x : x;
}

/* |integer| of a value of this magnitude in steps. Dither wants all cells alike. */
template <class T> static __device__ __forceinline__ int cell(const Subject<T> &s, unsigned i, float a)
{
    const float v = __fadd_rn(a, T::dithered ? 0.5f : __fsub_rn(0.5f, s.tables->dead_zone[xp_dev_table_number(class_at(s, i))]));

    return (int)(v < (float)XP_RANS_MAX_Q ? v : (float)XP_RANS_MAX_Q);
}

template <class T> static __device__ __forceinline__ int integer_at(const Subject<T> &s, unsigned i, float inverse)
{
    const float x = scaled(s, i, inverse);
    const int v = cell(s, i, magnitude(x));

    return x < 0 ? -v : v;
}

/* What an integer is taken back to, in steps. */
template <class T> static __device__ __forceinline__ float value_of(const Subject<T> &s, unsigned i, int q)
{
    return T::dithered ? __fsub_rn((float)q, xp_dither_of(s.dither[i])) : (float)q;
}

template <class T> static __device__ __forceinline__ float error_in_steps(const Subject<T> &s, float inverse)
{
    return group_sum(s.padded, s.lane, [&](unsigned i) {
        const float a = magnitude(scaled(s, i, inverse)), e = __fsub_rn(a, (float)cell(s, i, a));
        return __fmul_rn(e, e);
    });
}

/* The step by which the error, before rounding to the type, is about what is allowed. *above: where to begin; how far from there it was,
 * where *searched becomes true. */
template <class T> static __device__ int estimate_step(Subject<T> &s, double rest, double *above, bool *searched)
{
    const double room = fmax(s.allowed - s.energy * s.job->rounding, 0.2 * s.allowed);
    const double fine = 32 * xp_log2(room * 12 / (double)s.dim);
    int step = bounded(floor(fine + *above));

    *searched = rest > room || T::dithered;
    if (!*searched)
        return bounded(floor(fine) + XP_BOOK_NOTHING);
    for (int i = 0; i < 5; i++) {
        set_step(s, step);
        const double size = xp_dev_step_size(s.job->b, step);
        const double error = size * size * error_in_steps(s, (float)(1 / size));
        const double change = floor(32 * xp_log2(room / error));
        step = bounded(step + fmin(fmax(change, -256.0), 128.0));
        if (fabs(change) <= XP_BOOK_SMALL_CHANGE)
            break;
    }
    *above = fmin(fmax(step - fine, 0.0), 512.0);
    return step;
}

/* Quantises, decodes and measures. */
template <class T> static __device__ void try_step(Subject<T> &s, int step)
{
    set_step(s, step);
    const float size = xp_dev_step_size(s.job->b, step), inverse = __fdiv_rn(1.0f, size);

    s.error = row_sum(s.dim, s.lane, [&](unsigned i) {
        const float restored = T::load(T::store(__fadd_rn(__fmul_rn(value_of(s, i, integer_at(s, i, inverse)), size), s.base[i])));
        const float d = __fsub_rn(T::load(s.typed[i]), restored);
        return __fmul_rn(d, d);
    });
}

template <class T> static __device__ __forceinline__ double slack(const Subject<T> &s)
{
    return 32 * xp_log2(s.allowed / s.error);
}

/* The errors of short rows jump from step to step. */
template <class T> static __device__ __forceinline__ void try_larger_steps(Subject<T> &s)
{
    for (int i = 1; i <= XP_BOOK_LARGER_STEPS && slack(s) > 0.6; i++) {
        const int best = s.step;
        const unsigned offset = s.offset;
        const double error = s.error;

        try_step(s, best + 1);
        if (s.error <= s.allowed)
            continue;
        s.step = best;
        s.offset = offset;
        s.error = error;
        return;
    }
}

template <class T> static __device__ __forceinline__ bool find_step(Subject<T> &s, double rest, int step)
{
    for (int i = 0; i < XP_BOOK_STEP_TRIES; i++) {
        try_step(s, step);
        if (s.error <= s.allowed) {
            if (s.dim < XP_BOOK_LONG_ROW && (rest > s.allowed || T::dithered) && s.step < XP_BOOK_LARGEST_STEP - XP_BOOK_LARGER_STEPS)
                try_larger_steps(s);
            return true;
        }
        step = bounded(step - fmax((double)XP_BOOK_STEPS_BACK(i), fmin(floor(-slack(s)), 256.0)));
    }
    return false;
}

} // namespace

#endif

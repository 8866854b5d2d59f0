/*
 * columns.cuh - what a warp has of a row: 512 bytes, 16 in each lane
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_COLUMNS_CUH
#define XP_CUDA_COLUMNS_CUH

#include "cuda/row.cuh"

/* What a lane loads of a row: 16 bytes in a row, or as many values at a distance of 32. */
template <class T, bool WIDE> struct xp_columns {
    typedef typename T::word word;
    static constexpr unsigned PER = xp_per_load<T>;

    uint4 wide;
    word narrow[PER];

    /* first: the tile's first value. Zeros behind the end: adding them changes nothing, the sums are never -0. */
    __device__ __forceinline__ void load(const unsigned char *row, size_t first, size_t dim, unsigned lane, bool wanted)
    {
        if constexpr (WIDE) {
            const size_t i = first + lane * PER;
            wide = wanted && i < dim ? *reinterpret_cast<const uint4 *>(row + i * sizeof(word)) : make_uint4(0, 0, 0, 0);
        } else {
#pragma unroll
            for (unsigned k = 0; k < PER; k++) {
                const size_t i = first + k * 32 + lane;
                narrow[k] = wanted && i < dim ? reinterpret_cast<const word *>(row)[i] : (word)0;
            }
        }
    }

    __device__ __forceinline__ float value(unsigned k) const { return WIDE ? xp_value_of<T>(wide, k) : T::load(narrow[k]); }

    /* The same places of another row, bit for bit. */
    __device__ __forceinline__ void store_as_loaded(unsigned char *row, size_t first, size_t dim, unsigned lane) const
    {
        if constexpr (WIDE) {
            const size_t i = first + lane * PER;
            if (i < dim)
                xp_store16(row + i * sizeof(word), wide);
        } else {
#pragma unroll
            for (unsigned k = 0; k < PER; k++) {
                const size_t i = first + k * 32 + lane;
                if (i < dim)
                    reinterpret_cast<word *>(row)[i] = narrow[k];
            }
        }
    }

    /* The same values of a row that is written. */
    static __device__ __forceinline__ void store(unsigned char *row, size_t first, size_t dim, unsigned lane, const float (&v)[PER])
    {
        if constexpr (WIDE) {
            const size_t i = first + lane * PER;
            unsigned w[4] = {};
#pragma unroll
            for (unsigned k = 0; k < PER; k++)
                w[k * sizeof(word) / 4] |= (unsigned)T::store(v[k]) << (8 * (k * sizeof(word) % 4));
            if (i < dim)
                xp_store16(row + i * sizeof(word), make_uint4(w[0], w[1], w[2], w[3]));
        } else {
#pragma unroll
            for (unsigned k = 0; k < PER; k++) {
                const size_t i = first + k * 32 + lane;
                if (i < dim)
                    reinterpret_cast<word *>(row)[i] = T::store(v[k]);
            }
        }
    }
};

#endif

/*
 * philox.cuh - blocks of cuRAND's Philox sequence, by its device function
 *
 * The emulator takes the function from cuRAND's header too where there is one, else hash/signs.c's.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_PHILOX_CUH
#define XP_CUDA_PHILOX_CUH

#include "cuda/port.cuh"

#ifdef __CUDACC__
#define QUALIFIERS static __forceinline__ __device__
#include <curand_philox4x32_x.h> /* curand_kernel.h puts megabytes of tables of other generators into every object */
#elif __has_include(<curand_philox4x32_x.h>) && __has_include(<nv/target>)
#define QUALIFIERS static inline
#include <curand_philox4x32_x.h>
#else
static inline uint4 curand_Philox4x32_10(uint4 counter, uint2 key)
{
    const uint32_t c[4] = {counter.x, counter.y, counter.z, counter.w}, k[2] = {key.x, key.y};
    uint32_t out[4];

    xp_philox(c, k, out);
    return make_uint4(out[0], out[1], out[2], out[3]);
}
#endif

/* Words 4 b .. 4 b + 3 of CURAND_RNG_PSEUDO_PHILOX4_32_10 (hash/signs.c): blocks go round robin to 65536 subsequences. */
static __device__ __forceinline__ uint4 xp_curand_block(uint64_t seed, uint64_t b)
{
    const uint64_t step = b / 65536;
    const uint2 key = {(unsigned)seed, (unsigned)(seed >> 32)};

    return curand_Philox4x32_10(make_uint4((unsigned)step, (unsigned)(step >> 32), (unsigned)(b % 65536), 0), key);
}

#endif

/*
 * copy.cuh - bytes to a place at any address, 16 at a time on both sides
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_COPY_CUH
#define XP_CUDA_COPY_CUH

#include "cuda/port.cuh"

constexpr uint32_t XP_COPY_PIECE = 2048; /* bytes that a warp copies at a time */

/* Of a warp, in shared memory. */
struct xp_copy_room {
    alignas(16) unsigned char bytes[XP_COPY_PIECE + 16]; /* xp_bytes_at reads a word further */
};

/* 16 bytes of shared memory at any address, whose words are read whole. */
static __device__ __forceinline__ uint4 xp_bytes_at(const unsigned char *from)
{
    const uint32_t *w = reinterpret_cast<const uint32_t *>(from - (uintptr_t)from % 4);
    const unsigned select = 0x3210 + 0x1111 * (unsigned)((uintptr_t)from % 4);

    if ((uintptr_t)from % 4 == 0)
        return make_uint4(w[0], w[1], w[2], w[3]);
    return make_uint4(__byte_perm(w[0], w[1], select), __byte_perm(w[1], w[2], select), __byte_perm(w[2], w[3], select), __byte_perm(w[3], w[4], select));
}

/* What is copied is read to the end of its last 16 bytes; nothing is written outside its place. */
static __device__ __forceinline__ void xp_copy_piece(unsigned char *room, const unsigned char *from, unsigned char *to, uint32_t bytes, unsigned lane)
{
    const uint32_t head = min(bytes, (uint32_t)(0 - (uintptr_t)to) % 16), middle = (bytes - head) / 16 * 16;

    __syncwarp(); /* the piece before has been read */
    for (uint32_t i = lane * 16; i < bytes; i += 32 * 16)
        *reinterpret_cast<uint4 *>(room + i) = *reinterpret_cast<const uint4 *>(from + i);
    __syncwarp();
    if (lane < head)
        to[lane] = room[lane];
    for (uint32_t i = lane * 16; i < middle; i += 32 * 16)
        xp_store16(to + head + i, xp_bytes_at(room + head + i));
    if (head + middle + lane < bytes)
        to[head + middle + lane] = room[head + middle + lane];
}

/* A warp copies bytes from a multiple of 16 to anywhere. */
static __device__ __forceinline__ void xp_copy_bytes(xp_copy_room &room, const unsigned char *from, unsigned char *to, uint32_t bytes, unsigned lane)
{
    for (uint32_t i = 0; i < bytes; i += XP_COPY_PIECE)
        xp_copy_piece(room.bytes, from + i, to + i, min(XP_COPY_PIECE, bytes - i), lane);
}

#endif

/*
 * emu_device.h - CUDA's device language for g++: what kernels see instead of cuda_runtime.h (cuda/port.cuh includes it)
 *
 * Only what the kernels use. Operations that lanes or threads do together go to emu_warp.cpp and emu_sched.cpp; atomics are told
 * to the checker as such. Call sites come from __builtin_LINE as default arguments.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUEMU_EMU_DEVICE_H
#define XP_CUEMU_EMU_DEVICE_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define CUEMU_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

/* Rewritten whenever another fibre goes on. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuemu
{

enum Op { SYNCWARP, SHUFFLE, BALLOT, MATCH_ANY, ADD, MIN_U, MAX_U, MIN_S, MAX_S, AND, OR, XOR };
enum { SHUFFLE_INDEX, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR };

uint64_t warp_op(Op op, unsigned mask, uint64_t value, unsigned arg, unsigned kind, const char *file, int line);
int barrier(int predicate, const char *file, int line); /* returns for how many threads the predicate held */
void fence();
void give_way();          /* in a loop that waits for another thread */
void at_atomic();         /* gives way now and then */
void touch(void *p, size_t n, bool write, bool atomic, void *pc);
void *shared_memory(const void *key, size_t bytes);
void *dynamic_shared_memory();

struct Shape {
    dim3 grid, block;
    size_t dynamic_shared;
    bool cooperative;
};
/* call(args) is run once for each thread. Takes ownership of args through destroy. */
int launch(const char *name, const Shape &shape, void *stream, void (*call)(void *), void *args, size_t args_size, void (*destroy)(void *));

template <class... P, class... A>
int launch_kernel(const char *name, const Shape &shape, void *stream, void (*kernel)(P...), A &&...args)
{
    struct Pack {
        void (*kernel)(P...);
        std::tuple<std::decay_t<P>...> args;
    };
    Pack *pack = new Pack{kernel, {static_cast<P>(args)...}};
    return launch(
        name, shape, stream, [](void *p) { std::apply(static_cast<Pack *>(p)->kernel, static_cast<Pack *>(p)->args); }, pack, sizeof(Pack),
        [](void *p) { delete static_cast<Pack *>(p); });
}

template <class T> uint64_t bits_of(T v)
{
    static_assert(sizeof(T) <= 8, "warp operations take up to 8 bytes");
    uint64_t r = 0;
    memcpy(&r, &v, sizeof(v));
    return r;
}
template <class T> T of_bits(uint64_t v)
{
    T r;
    memcpy(&r, &v, sizeof(r));
    return r;
}

} // namespace cuemu

/* ---- barriers, fences ---- */
static inline void __syncthreads(CUEMU_SITE) { cuemu::barrier(0, file, line); }
static inline int __syncthreads_count(int p, CUEMU_SITE) { return cuemu::barrier(p, file, line); }
static inline int __syncthreads_or(int p, CUEMU_SITE) { return cuemu::barrier(p, file, line) != 0; }
static inline void __syncwarp(unsigned mask = 0xffffffffu, CUEMU_SITE) { cuemu::warp_op(cuemu::SYNCWARP, mask, 0, 0, 0, file, line); }
static inline void __threadfence() { cuemu::fence(); }

/* ---- exchange between lanes ---- */
#define CUEMU_SHUFFLE(name, kind)                                                                                       \
    template <class T> static inline T name(unsigned mask, T v, unsigned arg, CUEMU_SITE)                                \
    {                                                                                                                   \
        return cuemu::of_bits<T>(cuemu::warp_op(cuemu::SHUFFLE, mask, cuemu::bits_of(v), arg, cuemu::kind, file, line)); \
    }
CUEMU_SHUFFLE(__shfl_sync, SHUFFLE_INDEX)
CUEMU_SHUFFLE(__shfl_up_sync, SHUFFLE_UP)
CUEMU_SHUFFLE(__shfl_down_sync, SHUFFLE_DOWN)
CUEMU_SHUFFLE(__shfl_xor_sync, SHUFFLE_XOR)

#define CUEMU_WARP(name, result, type, op) \
    static inline result name(unsigned mask, type v, CUEMU_SITE) { return (result)cuemu::warp_op(cuemu::op, mask, (uint32_t)v, 0, 0, file, line); }
CUEMU_WARP(__reduce_add_sync, unsigned, unsigned, ADD)
CUEMU_WARP(__reduce_add_sync, int, int, ADD)
CUEMU_WARP(__reduce_min_sync, unsigned, unsigned, MIN_U)
CUEMU_WARP(__reduce_max_sync, unsigned, unsigned, MAX_U)
CUEMU_WARP(__reduce_min_sync, int, int, MIN_S)
CUEMU_WARP(__reduce_max_sync, int, int, MAX_S)
CUEMU_WARP(__reduce_and_sync, unsigned, unsigned, AND)
CUEMU_WARP(__reduce_or_sync, unsigned, unsigned, OR)
CUEMU_WARP(__reduce_xor_sync, unsigned, unsigned, XOR)
CUEMU_WARP(__match_any_sync, unsigned, unsigned, MATCH_ANY)
static inline unsigned __ballot_sync(unsigned mask, int p, CUEMU_SITE) { return (unsigned)cuemu::warp_op(cuemu::BALLOT, mask, p != 0, 0, 0, file, line); }
static inline int __any_sync(unsigned mask, int p, CUEMU_SITE) { return cuemu::warp_op(cuemu::BALLOT, mask, p != 0, 0, 0, file, line) != 0; }

/* ---- atomics: relaxed, as CUDA's; known to the checker as atomic ---- */
#define CUEMU_ATOMIC(name, expression)                                                                     \
    template <class T> __attribute__((noinline, no_sanitize_thread)) T name(T *p, std::common_type_t<T> v) \
    {                                                                                                      \
        cuemu::at_atomic();                                                                                \
        cuemu::touch(p, sizeof(*p), true, true, __builtin_return_address(0));                              \
        const T old = *p;                                                                                  \
        *p = (expression);                                                                                 \
        return old;                                                                                        \
    }
CUEMU_ATOMIC(atomicAdd, (T)(old + v))
CUEMU_ATOMIC(atomicMin, v < old ? v : old)
CUEMU_ATOMIC(atomicMax, v > old ? v : old)
CUEMU_ATOMIC(atomicExch, v)
CUEMU_ATOMIC(atomicOr, (T)(old | v))
template <class T>
__attribute__((noinline, no_sanitize_thread)) T atomicCAS(T *p, std::common_type_t<T> expected, std::common_type_t<T> v)
{
    cuemu::at_atomic();
    cuemu::touch(p, sizeof(*p), true, true, __builtin_return_address(0));
    const T old = *p;
    if (old == expected)
        *p = v;
    return old;
}

__attribute__((noinline, no_sanitize_thread)) static inline unsigned xp_load_acquire(const unsigned *p)
{
    cuemu::give_way();
    cuemu::touch(const_cast<unsigned *>(p), sizeof(*p), false, true, __builtin_return_address(0));
    const unsigned v = *p;
    cuemu::fence();
    return v;
}

/* ---- bits, conversions, arithmetic with a defined rounding ---- */
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++)
        r |= (unsigned)(both >> (8 * (s >> (4 * i) & 7)) & 0xff) << (8 * i);
    return r;
}
static inline unsigned __float_as_uint(float f) { return cuemu::of_bits<unsigned>(cuemu::bits_of(f)); }
static inline float __uint_as_float(unsigned u) { return cuemu::of_bits<float>(u); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline int __float2int_rn(float a) { return (int)lrintf(a); }
template <class T> static inline T min(T a, T b) { return a < b ? a : b; }
template <class T> static inline T max(T a, T b) { return a > b ? a : b; }

#endif

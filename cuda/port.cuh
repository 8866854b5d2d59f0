/*
 * port.cuh - the one header that knows whether nvcc or the emulator compiles a kernel
 *
 * Rules for .cu files: shared memory only through XP_SHARED and XP_DYNAMIC_SHARED, launches only through xp_launch, no inline PTX, no
 * approximate arithmetic; every f32 operation whose bits matter is written as __fadd_rn and so on (nothing is contracted anyway,
 * -fmad=false, but the reader shall see it). Kernels name the blocks that a multiprocessor must hold (__launch_bounds__): without it
 * ptxas aims for more than fit and spills.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_PORT_CUH
#define XP_CUDA_PORT_CUH

#include "cuda/cuda_kernels.h"

#define XP_FULL_WARP 0xffffffffu

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define XP_SHARED(T, name) __shared__ T name
#define XP_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

/* cuda_runtime.h leaves these to libcu++. */
static __device__ __forceinline__ unsigned xp_load_acquire(const unsigned *p)
{
    unsigned v;

    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

/* Which NaN comes out is not what hash/half.h says; everything else is. */
static __device__ __forceinline__ float xp_dev_f16_to_f32(uint16_t v) { return __half2float(__ushort_as_half(v)); }
static __device__ __forceinline__ uint16_t xp_dev_f32_to_f16(float f) { return __half_as_ushort(__float2half_rn(f)); }
static __device__ __forceinline__ uint16_t xp_dev_f32_to_bf16(float f) { return __bfloat16_as_ushort(__float2bfloat16_rn(f)); }

static __device__ __forceinline__ uint64_t xp_mul_high(uint64_t a, uint64_t b) { return __umul64hi(a, b); }

/* The compiler may split a plain 16-byte store. */
static __device__ __forceinline__ void xp_store16(void *p, const uint4 &v) { __stwb(static_cast<uint4 *>(p), v); }

struct xp_shape {
    dim3 grid, block;
    size_t dynamic_shared;
    bool cooperative;
};

/* Returns a cudaError_t. */
template <class... P, class... A>
static int xp_launch(const char *name, const xp_shape &s, void *stream, void (*kernel)(P...), A &&...args)
{
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute cooperative = {};
    cudaError_t e = cudaSuccess;

    cooperative.id = cudaLaunchAttributeCooperative;
    cooperative.val.cooperative = s.cooperative;
    c.gridDim = s.grid;
    c.blockDim = s.block;
    c.dynamicSmemBytes = s.dynamic_shared;
    c.stream = (cudaStream_t)stream;
    c.attrs = &cooperative;
    c.numAttrs = 1;
    if (s.dynamic_shared > 48u << 10) /* what every kernel may have without asking */
        e = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)s.dynamic_shared);
    return (int)(e ? e : cudaLaunchKernelEx(&c, kernel, static_cast<P>(args)...));
}

#else

#include "emu_device.h"
#include "hash/half.h"

static inline uint64_t xp_mul_high(uint64_t a, uint64_t b) { return (uint64_t)((unsigned __int128)a * b >> 64); }
static inline void xp_store16(void *p, const uint4 &v) { *static_cast<uint4 *>(p) = v; }
static inline float xp_dev_f16_to_f32(uint16_t v) { return xp_f16_to_f32(v); }
static inline uint16_t xp_dev_f32_to_f16(float f) { return xp_f32_to_f16(f); }
static inline uint16_t xp_dev_f32_to_bf16(float f) { return xp_f32_to_bf16(f); }

#define XP_SHARED(T, name)             \
    static const char xp_key_##name = 0; \
    T &name = *static_cast<T *>(cuemu::shared_memory(&xp_key_##name, sizeof(T)))
#define XP_DYNAMIC_SHARED(name) unsigned char *name = static_cast<unsigned char *>(cuemu::dynamic_shared_memory())

typedef cuemu::Shape xp_shape;
#define xp_launch cuemu::launch_kernel

#endif

/* Rows, blocks, bytes rounded up. */
static __host__ __device__ inline size_t xp_ceil_div(size_t n, size_t unit)
{
    return (n + unit - 1) / unit;
}

#endif

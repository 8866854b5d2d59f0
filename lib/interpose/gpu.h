/*
 * gpu.h - the CUDA functions of this process, found at run time
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_IP_GPU_H
#define XP_IP_GPU_H

#include "lib/interpose/cuda_abi.h"

#define XP_GPU_FUNCTIONS(F) \
    F(cudaGetDevice) F(cudaSetDevice) F(cudaMalloc) F(cudaFree) F(cudaHostAlloc) F(cudaFreeHost) F(cudaMemcpyAsync) \
    F(cudaStreamCreateWithFlags) F(cudaStreamDestroy) F(cudaStreamSynchronize) F(cudaStreamWaitEvent) F(cudaStreamIsCapturing) \
    F(cudaEventCreateWithFlags) F(cudaEventDestroy) F(cudaEventRecord) F(cudaEventQuery) F(cudaEventSynchronize) F(cudaEventElapsedTime)

struct xp_gpu {
#define F(name) __typeof__(&name) name;
    XP_GPU_FUNCTIONS(F)
#undef F
    /* may be NULL */
    __typeof__(&cudaThreadExchangeStreamCaptureMode) cudaThreadExchangeStreamCaptureMode;
    __typeof__(&cudaHostGetDevicePointer) cudaHostGetDevicePointer;
    __typeof__(&cudaGetLastError) cudaGetLastError;
    __typeof__(&cuStreamWaitValue32) cuStreamWaitValue32; /* NULL: the calling thread waits instead of the stream */
};

/* 1: what the event marks is over, 0: not yet, -1: an error. For the program's thread: "not yet" does not stay its last error. */
int xp_gpu_is_over(const struct xp_gpu *g, cudaEvent_t event);

/* While another stream is captured, this thread may ask the device all the same. Returns what xp_gpu_restore wants back. */
int xp_gpu_relax(const struct xp_gpu *g);
void xp_gpu_restore(const struct xp_gpu *g, int mode);

/* The functions, or NULL when this process has no CUDA runtime (looked for again, at most once a second). */
const struct xp_gpu *xp_gpu(void);

#endif

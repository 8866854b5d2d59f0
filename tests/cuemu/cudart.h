/*
 * cudart.h - more of CUDA's runtime interface than lib/interpose/cuda_abi.h has: what the double answers and the test programs call
 *
 * Names and numbers are CUDA's (12 and 13); results are ints. Not to be mixed with NVIDIA's header in one file.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUEMU_CUDART_H
#define XP_CUEMU_CUDART_H

#include "lib/interpose/cuda_abi.h"

typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;
typedef void (*cudaHostFn_t)(void *arg);
typedef void (*cudaStreamCallback_t)(cudaStream_t stream, int status, void *arg);

enum { xp_cudaMemcpyHostToHost, xp_cudaMemcpyHostToDevice, xp_cudaMemcpyDeviceToHost, xp_cudaMemcpyDeviceToDevice };
enum { xp_cudaStreamCaptureModeGlobal, xp_cudaStreamCaptureModeThreadLocal };
enum { xp_cudaStreamCaptureStatusNone, xp_cudaStreamCaptureStatusActive, xp_cudaStreamCaptureStatusInvalidated };
enum { xp_cudaMemoryTypeUnregistered, xp_cudaMemoryTypeHost, xp_cudaMemoryTypeDevice, xp_cudaMemoryTypeManaged };

/* 13 has eight reserved words behind these, which the double leaves alone. */
struct cudaPointerAttributes {
    int type;
    int device;
    void *devicePointer;
    void *hostPointer;
};

int cudaDriverGetVersion(int *version);
int cudaRuntimeGetVersion(int *version);
int cudaPeekAtLastError(void);
const char *cudaGetErrorName(int error);
int cudaDeviceGetPCIBusId(char *text, int size, int device);
int cudaDeviceCanAccessPeer(int *can, int device, int peer);
int cudaDeviceEnablePeerAccess(int peer, unsigned flags);
int cudaDeviceSynchronize(void);
int cudaMemGetInfo(size_t *available, size_t *total);

int cudaMallocAsync(void **ptr, size_t size, cudaStream_t stream);
int cudaFreeAsync(void *ptr, cudaStream_t stream);
int cudaMallocManaged(void **ptr, size_t size, unsigned flags);
int cudaMallocHost(void **ptr, size_t size);
int cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *ptr);
int cudaMemcpy(void *dst, const void *src, size_t size, int kind);
int cudaMemcpyPeerAsync(void *dst, int dst_device, const void *src, int src_device, size_t size, cudaStream_t stream);
int cudaMemset(void *ptr, int value, size_t size);

int cudaStreamCreate(cudaStream_t *stream);
int cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority);
int cudaStreamGetFlags(cudaStream_t stream, unsigned *flags);
int cudaStreamGetDevice(cudaStream_t stream, int *device);
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest);
int cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *arg);
int cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t fn, void *arg, unsigned flags);
int cudaEventCreate(cudaEvent_t *event);
int cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags);
int cudaEventSynchronize(cudaEvent_t event);
int cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end);

int cudaStreamBeginCapture(cudaStream_t stream, int mode);
int cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
/* As in 13; the double does not give out dependencies and edges. */
int cudaStreamGetCaptureInfo(cudaStream_t stream, int *status, unsigned long long *id, cudaGraph_t *graph,
                             const void **dependencies, const void **edges, size_t *ndependencies);
int cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
int cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
int cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
int cudaGraphDestroy(cudaGraph_t graph);
int cudaGraphExecDestroy(cudaGraphExec_t exec);

/* The driver's stream memory operations, in the double's libcuda.so.1. */
int cuStreamWriteValue32(cudaStream_t stream, uint64_t address, uint32_t value, unsigned flags);

#endif

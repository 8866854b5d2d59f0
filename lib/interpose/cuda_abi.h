/*
 * cuda_abi.h - the part of CUDA's public binary interface that the interposer and device plans call
 *
 * The interposer finds runtime functions (cuda...) in the libcudart of the process and the stream memory operation (cu...) in libcuda;
 * the library is linked with a runtime of its own (device_cuda.c). Numbers are CUDA's, the same in versions 11 to 13.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_ABI_H
#define XP_CUDA_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;

enum { xp_cudaSuccess = 0, xp_cudaErrorNotReady = 600 };
enum { xp_cudaMemcpyDefault = 4 };
enum { xp_cudaEventBlockingSync = 1, xp_cudaEventDisableTiming = 2 };
enum { xp_cudaStreamNonBlocking = 1 };
enum { xp_cudaHostAllocPortable = 1, xp_cudaHostAllocMapped = 2 };
enum { xp_cudaHostRegisterPortable = 1 };
enum { xp_cudaDevAttrMultiProcessorCount = 16, xp_cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
enum { xp_cudaStreamCaptureModeRelaxed = 2 };
enum { xp_CU_STREAM_WAIT_VALUE_GEQ = 0 };

/* Results are ints: 0 is success, 600 "not ready". A driver address is an integer of 64 bits. */
const char *cudaGetErrorString(int error);
int cudaGetDeviceCount(int *count);
int cudaDeviceGetAttribute(int *value, int attribute, int device);
int cudaGetDevice(int *device);
int cudaSetDevice(int device);
int cudaGetLastError(void);
int cudaMalloc(void **ptr, size_t size);
int cudaFree(void *ptr);
int cudaHostAlloc(void **ptr, size_t size, unsigned flags);
int cudaFreeHost(void *ptr);
int cudaHostRegister(void *ptr, size_t size, unsigned flags);
int cudaHostUnregister(void *ptr);
int cudaHostGetDevicePointer(void **device_ptr, void *host_ptr, unsigned flags);
int cudaMemcpyAsync(void *dst, const void *src, size_t size, int kind, cudaStream_t stream);
int cudaMemsetAsync(void *ptr, int value, size_t size, cudaStream_t stream);
int cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
int cudaStreamDestroy(cudaStream_t stream);
int cudaStreamSynchronize(cudaStream_t stream);
int cudaStreamQuery(cudaStream_t stream);
int cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
int cudaStreamIsCapturing(cudaStream_t stream, int *status); /* 0 = not capturing */
int cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
int cudaEventDestroy(cudaEvent_t event);
int cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
int cudaEventQuery(cudaEvent_t event);
int cudaEventSynchronize(cudaEvent_t event);
int cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end);
int cudaThreadExchangeStreamCaptureMode(int *mode);

/* In the driver's library the name ends in _v2 since CUDA 11.7; both are looked for. */
int cuStreamWaitValue32(cudaStream_t stream, uint64_t address, uint32_t value, unsigned flags);

#ifdef __cplusplus
}
#endif
#endif

/*
 * driver.c - libcuda.so.1 of the CUDA double: the few driver calls that have no twin in the runtime
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/cudart.h"
#include "tests/cuemu/runtime.h"

#define API __attribute__((visibility("default")))

API int cuInit(unsigned flags);
API int cuDriverGetVersion(int *version);
API int cuStreamWaitValue32_v2(cudaStream_t stream, uint64_t address, uint32_t value, unsigned flags);
API int cuStreamWriteValue32_v2(cudaStream_t stream, uint64_t address, uint32_t value, unsigned flags);

API int cuInit(unsigned flags)
{
    int n;

    return flags ? 1 : cudaGetDeviceCount(&n);
}

API int cuDriverGetVersion(int *version)
{
    return cudaDriverGetVersion(version);
}

API int cuStreamWaitValue32(cudaStream_t stream, uint64_t address, uint32_t value, unsigned flags)
{
    return xp_cuemu_wait_value32(stream, address, value, flags);
}

API int cuStreamWaitValue32_v2(cudaStream_t stream, uint64_t address, uint32_t value, unsigned flags)
{
    return xp_cuemu_wait_value32(stream, address, value, flags);
}

API int cuStreamWriteValue32(cudaStream_t stream, uint64_t address, uint32_t value, unsigned flags)
{
    return xp_cuemu_write_value32(stream, address, value, flags);
}

API int cuStreamWriteValue32_v2(cudaStream_t stream, uint64_t address, uint32_t value, unsigned flags)
{
    return xp_cuemu_write_value32(stream, address, value, flags);
}

/*
 * no_driver.c - a program built with the CUDA kernels loads where there is no driver, and a launch is an error, not a crash
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/cuda_kernels.h"

#include <cuda_runtime_api.h>
#include <stdio.h>

int main(void)
{
    const struct xp_gpu g = {.sms = 1};
    int16_t unused[8] = {0};
    int devices = 0;

    if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) {
        puts("there is a device");
        return 77;
    }
    const int e = xp_cuda_fht_i16(&g, unused, 3, 1);
    printf("launch without a driver: %s\n", cudaGetErrorString((cudaError_t)e));
    return e == 0;
}

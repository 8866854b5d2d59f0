/*
 * planted_gpu.c - the kernels of planted.cu on a GPU: something for compute-sanitizer to find before it is believed
 *
 * usage: planted_gpu none|overrun|barrier      none: the right forms of all
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "device.h"
#include "planted.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

static int launch(const struct xp_gpu *g, enum planted_bug bug, int wrong)
{
    static const unsigned zeros[128];
    unsigned *a = device_upload(NULL, 192 * 4), *b = device_upload(zeros, 64 * 4), *c = device_upload(zeros, 128 * 4);
    int error = planted_launch(bug, wrong, g->stream, a, b, c);

    error = error ? error : (int)cudaStreamSynchronize(g->stream);
    device_free(a);
    device_free(b);
    device_free(c);
    if (error)
        printf("kernel %d: %s\n", (int)bug, cudaGetErrorString((cudaError_t)error));
    return error;
}

int main(int argc, char **argv)
{
    const char *what = argc == 2 ? argv[1] : "";
    struct xp_gpu g;
    int failed = 0;

    if (device_open(&g)) {
        puts("no device");
        return 77;
    }
    if (!strcmp(what, "overrun"))
        return launch(&g, PLANTED_OVERRUN, 1) != 0;
    if (!strcmp(what, "barrier"))
        return launch(&g, PLANTED_NO_BARRIER, 1) != 0;
    if (strcmp(what, "none")) {
        fprintf(stderr, "usage: planted_gpu none|overrun|barrier\n");
        return 2;
    }
    for (int bug = 0; bug < PLANTED_FILL; bug++)
        failed += launch(&g, (enum planted_bug)bug, 0) != 0;
    return failed > 0;
}

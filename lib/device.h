/*
 * device.h - what device plans need of CUDA: memory, streams, events, copies, in one table
 *
 * The library is linked with a CUDA runtime of its own, statically (device_cuda.c), or without any (device_none.c). Streams, events and
 * pointers are the driver's, so it does not matter whose runtime the program uses. Functions return 0 or a cudaError_t; they work on the
 * current device of the calling thread.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_DEVICE_H
#define XP_DEVICE_H

#include <stddef.h>

struct xp_cuda_table; /* cuda/cuda_kernels.h */
extern const struct xp_cuda_table xp_cuda_table;

#define XP_DEVICE_NO_MEMORY 2          /* of any kind */
#define XP_DEVICE_NOT_READY 600        /* event_query: not yet */
#define XP_DEVICE_CAPTURE_IMPLICIT 906 /* stream_capturing: the default stream, while one is captured that it waits for */
#define XP_DEVICE_RELAXED 2            /* captures: they are none of this thread's business */

struct xp_device {
    const char *(*text)(int error);
    int (*count)(int *devices);
    int (*get)(int *device);
    int (*set)(int device);
    int (*captures)(int *mode); /* exchanges what captures of streams forbid to the calling thread */
    int (*attribute)(int *value, int attribute, int device);
    int (*alloc)(void **memory, size_t bytes);
    int (*free)(void *memory);
    int (*pin)(void *memory, size_t bytes); /* pages of the host, so that copies run beside everything else */
    int (*unpin)(void *memory);
    int (*copy)(void *to, const void *from, size_t bytes, void *stream); /* from and to anywhere */
    int (*zero)(void *memory, size_t bytes, void *stream);
    int (*stream_create)(void **stream);
    int (*stream_destroy)(void *stream);
    int (*stream_synchronize)(void *stream);
    int (*stream_capturing)(void *stream, int *capturing);
    int (*stream_wait)(void *stream, void *event);
    int (*event_create)(void **event);
    int (*event_destroy)(void *event);
    int (*event_record)(void *event, void *stream);
    int (*event_query)(void *event);
    const struct xp_cuda_table *kernels;
};

/* The table, or NULL and a sentence that says why there is none: not in this build, no driver, no device. Looked for on the first call. */
const struct xp_device *xp_device_find(char *why, size_t size);

/*
 * One allocation in parts, of device memory or of pinned pages. A pool without memory only counts, so what takes the parts is
 * written once and run twice: before the pool is filled, and again.
 */
struct xp_pool {
    const struct xp_device *device;
    int pinned;
    char *base;
    size_t size, used;
};
void *xp_pool_take(struct xp_pool *p, size_t bytes);
/* Allocates what has been counted, and begins again at its start. 0 or a cudaError_t. */
int xp_pool_fill(struct xp_pool *p);
void xp_pool_free(struct xp_pool *p);

#endif

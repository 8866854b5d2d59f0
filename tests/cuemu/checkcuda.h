/*
 * checkcuda.h - every CUDA kernel against the C entry of the table, on whatever device.h stands for
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUEMU_CHECKCUDA_H
#define XP_CUEMU_CHECKCUDA_H

#include "device.h"
#include "tests/checkkernels/check.h"

/* One round of comparisons; run once for each schedule, with other random shapes and rows each time. */
struct cuda_case {
    const char *name;
    void (*compare)(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain);
    /* Prints one line with GB/s and the ratio to a copy of as many bytes; NULL: none. */
    void (*bench)(struct check *c, const struct xp_gpu *g);
};
extern const struct cuda_case cuda_hash_cases[], cuda_rows_cases[], cuda_quant_cases[], cuda_frames_cases[], cuda_book_cases[],
    cuda_fold_cases[], cuda_copies_cases[], cuda_moe_cases[], cuda_sums_cases[], cuda_bytes_cases[];

/* Compares what the device has with what the C entry gave. floats: bytes are f32, and any NaN equals any other. */
void check_device(struct check *c, const void *expected, const void *device, size_t bytes, int floats, const char *what, ...)
    __attribute__((format(printf, 6, 7)));

/* The same for bytes that the host has. */
void check_same(struct check *c, const void *expected, const void *got, size_t bytes, const char *what, ...) __attribute__((format(printf, 5, 6)));

/* The result of a launch. */
void check_launched(struct check *c, int error, const char *what);

/* The device, or one of a single multiprocessor with little shared memory: few warps, so that each has many rows. */
struct xp_gpu check_gpu(struct check *c, const struct xp_gpu *g);

/* A dim that matters to kernels: 1, 3, 127, 129, 768, 4096, 7168 and their neighbours, or any small one. */
size_t check_dim(struct check *c);

/* Rows of this type, filled row by row with values of many kinds; free() them. */
void *check_rows(struct check *c, xp_dtype t, size_t rows, size_t dim);

/* `times` runs, the fastest; prints kernel, shape, us, GB/s of `bytes`, and the ratio to copying them (half read, half written). */
void cuda_bench_line(struct check *c, const struct xp_gpu *g, const char *shape, size_t bytes, void (*run)(void *arg), void *arg);

#endif

/*
 * npy.h - 2-D arrays in numpy's .npy format: rows of f16 (<f2), f32 (<f4), or bf16 stored as <u2;
 * routings of tokens; weights of experts
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_NPY_H
#define XP_NPY_H

#include <stdio.h>

#include "crosspress/crosspress.h"

struct xp_npy {
    xp_dtype dtype;
    size_t rows, dim; /* rows may be 0 */
    void *data;       /* rows * dim values; from malloc, NULL when there are none */
};

/* Reads a whole file. The file must be exactly as long as its header says. Returns 0, or -1 with one line in err. */
int xp_npy_read(struct xp_npy *a, const char *path, char *err, size_t err_size);

/* The same from memory (the file's bytes); the path is only named in errors. */
int xp_npy_parse(struct xp_npy *a, const void *bytes, size_t len, const char *path, char *err, size_t err_size);

void xp_npy_free(struct xp_npy *a);

/* Expert numbers (<i4, <i8) or gate logits (<f4) of tokens: a 2-D array of 32-bit values. */
struct xp_npy_routing {
    int whole; /* values are int32_t, else float */
    size_t rows, columns;
    void *data;
};

/* Reads a whole file; numbers of <i8 must fit 32 bits. Returns 0, or -1 with one line in err. data is from malloc. */
int xp_npy_read_routing(struct xp_npy_routing *a, const char *path, char *err, size_t err_size);

/* Weights of a network: 1 to 3 dimensions of <f2 or <f4. */
struct xp_npy_weights {
    xp_dtype dtype;
    unsigned dims;
    size_t shape[3];
    void *data;
};

/* Reads a whole file. Returns 0, or -1 with one line in err. data is from malloc. */
int xp_npy_read_weights(struct xp_npy_weights *w, const char *path, char *err, size_t err_size);

/* The most bytes that xp_npy_header writes. */
#define XP_NPY_HEADER_MAX 256

/* Writes the header of such a file; returns its length. The values follow right behind. */
size_t xp_npy_header(char *out, xp_dtype dtype, size_t rows, size_t dim);

#endif

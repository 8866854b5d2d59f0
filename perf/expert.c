/*
 * expert.c - the experts of a benchmark's layer: the identity, or a real feed-forward network
 *
 * Every output is summed over its inputs in ascending order, whatever the block of rows is, so that the same row gives the same
 * bits wherever it is computed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "perf/expert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/tools/npy.h"
#include "perf/rows.h"

#define BLOCK 8 /* rows that share one pass over the weights */

static int refuse(char *err, size_t size, const char *path, const char *text)
{
    snprintf(err, size, "%s: %s", path, text);
    return -1;
}

/* [rows][columns] -> [columns][rows] */
static void transpose(const float *in, size_t rows, size_t columns, float *out)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++)
            out[c * rows + r] = in[r * columns + c];
}

/* The file as floats; NULL with one line in err unless it has these dimensions (0: any). */
static float *load(const char *path, unsigned dims, const size_t *shape, size_t *found, char *err, size_t err_size)
{
    struct xp_npy_weights w;
    float *out = NULL;
    size_t n = 1;

    if (xp_npy_read_weights(&w, path, err, err_size) != 0)
        return NULL;
    for (unsigned i = 0; i < w.dims; i++) {
        n *= w.shape[i];
        found[i] = w.shape[i];
        if (w.dims == dims && shape[i] != 0 && shape[i] != w.shape[i])
            dims = 0;
    }
    if (w.dims != dims)
        refuse(err, err_size, path, "its shape does not fit the rows and experts");
    else if ((out = malloc(n * sizeof(*out))) == NULL)
        refuse(err, err_size, path, "out of memory");
    for (size_t i = 0; out != NULL && i < n; i++)
        out[i] = (float)rows_value(w.dtype, w.data, i);
    free(w.data);
    return out;
}

/* gelu_tanh(x W1[e]) W2[e] */
static int open_many(struct expert *e, char *const *path, char *err, size_t err_size)
{
    size_t want[3] = {(size_t)e->networks, e->dim, 0}, found[3] = {0};

    e->w1 = load(path[0], 3, want, found, err, err_size);
    if (e->w1 == NULL)
        return -1;
    e->hidden = found[2];
    want[1] = e->hidden;
    want[2] = e->dim;
    e->w2 = load(path[1], 3, want, found, err, err_size);
    e->tanh_gelu = 1;
    return e->w2 != NULL ? 0 : -1;
}

/* W2 gelu(W1 x + b1) + b2 */
static int open_one(struct expert *e, char *const *path, char *err, size_t err_size)
{
    size_t want[3] = {0, e->dim, 0}, found[3] = {0};
    float *w1 = load(path[0], 2, want, found, err, err_size), *w2;

    e->networks = 1;
    if (w1 == NULL)
        return -1;
    e->hidden = want[1] = found[0];
    want[0] = e->dim;
    w2 = load(path[1], 2, want, found, err, err_size);
    want[0] = e->hidden;
    if (w2 != NULL)
        e->b1 = load(path[2], 1, want, found, err, err_size);
    want[0] = e->dim;
    if (e->b1 != NULL)
        e->b2 = load(path[3], 1, want, found, err, err_size);
    e->w1 = malloc(e->dim * e->hidden * sizeof(float));
    e->w2 = malloc(e->dim * e->hidden * sizeof(float));
    if (e->b2 != NULL && e->w1 != NULL && e->w2 != NULL) {
        transpose(w1, e->hidden, e->dim, e->w1);
        transpose(w2, e->dim, e->hidden, e->w2);
    } else if (e->b2 != NULL) {
        free(e->b2);
        e->b2 = NULL;
        refuse(err, err_size, path[0], "out of memory");
    }
    free(w1);
    free(w2);
    return e->b2 != NULL ? 0 : -1;
}

int expert_open(struct expert *e, const char *spec, int experts, xp_dtype dtype, size_t dim, char *err, size_t err_size)
{
    char text[4096], *path[5] = {0}, *rest = text;
    const char *slash;
    int n = 0, bad;

    *e = (struct expert){.dtype = dtype, .dim = dim, .networks = experts, .name = "identity"};
    if (spec == NULL || strcmp(spec, "identity") == 0)
        return 0;
    if ((size_t)snprintf(text, sizeof(text), "%s", spec) >= sizeof(text))
        return refuse(err, err_size, "--expert", "too long");
    while (n < 5 && (path[n] = strsep(&rest, ",")) != NULL)
        n++;
    if (n != 2 && n != 4)
        return refuse(err, err_size, "--expert", "takes identity, W1.npy,W2.npy or W1.npy,W2.npy,b1.npy,b2.npy");
    bad = n == 2 ? open_many(e, path, err, err_size) : open_one(e, path, err, err_size);
    if (!bad && (e->work = malloc(BLOCK * (dim + e->hidden) * sizeof(float))) == NULL)
        bad = refuse(err, err_size, path[0], "out of memory");
    slash = strrchr(path[0], '/');
    snprintf(e->name, sizeof(e->name), "%s", slash != NULL ? slash + 1 : path[0]);
    if (bad)
        expert_close(e);
    return bad;
}

void expert_close(struct expert *e)
{
    free(e->w1);
    free(e->w2);
    free(e->b1);
    free(e->b2);
    free(e->work);
    *e = (struct expert){.dim = 0};
}

int expert_is_identity(const struct expert *e)
{
    return e->hidden == 0;
}

const char *expert_name(const struct expert *e)
{
    return e->name;
}

/* out[n][width] = bias + in[n][depth] * w[depth][width] */
static void multiply(const float *restrict in, size_t n, size_t depth, const float *restrict w, size_t width, const float *restrict bias,
                     float *restrict out)
{
    for (size_t r = 0; r < n; r++) {
        if (bias != NULL)
            memcpy(out + r * width, bias, width * sizeof(float));
        else
            memset(out + r * width, 0, width * sizeof(float));
    }
    for (size_t i = 0; i < depth; i++) {
        const float *restrict row = w + i * width;

        for (size_t r = 0; r < n; r++) {
            const float x = in[r * depth + i];
            float *restrict to = out + r * width;

            for (size_t c = 0; c < width; c++)
                to[c] += x * row[c];
        }
    }
}

static void gelu(float *v, size_t n, int tanh_form)
{
    for (size_t i = 0; i < n; i++) {
        const float x = v[i];

        v[i] = tanh_form ? 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x))) : 0.5f * x * (1.0f + erff(0.7071067812f * x));
    }
}

static void run_block(const struct expert *e, int id, const char *in, size_t n, char *out)
{
    const size_t network = e->networks == 1 ? 0 : (size_t)id, weights = e->dim * e->hidden, row_bytes = e->dim * xp_dtype_size(e->dtype);
    float *x = e->work, *h = x + BLOCK * e->dim;

    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < e->dim; i++)
            x[r * e->dim + i] = (float)rows_value(e->dtype, in + r * row_bytes, i);
    multiply(x, n, e->dim, e->w1 + network * weights, e->hidden, e->b1, h);
    gelu(h, n * e->hidden, e->tanh_gelu);
    multiply(h, n, e->hidden, e->w2 + network * weights, e->dim, e->b2, x);
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < e->dim; i++)
            rows_put(e->dtype, out + r * row_bytes, i, x[r * e->dim + i]);
}

void expert_run(const struct expert *e, int id, const void *in, size_t rows, void *out)
{
    const size_t row_bytes = e->dim * xp_dtype_size(e->dtype);

    if (expert_is_identity(e)) {
        memcpy(out, in, rows * row_bytes);
        return;
    }
    for (size_t r = 0; r < rows; r += BLOCK)
        run_block(e, id, (const char *)in + r * row_bytes, rows - r < BLOCK ? rows - r : BLOCK, (char *)out + r * row_bytes);
}

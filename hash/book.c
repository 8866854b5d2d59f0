/*
 * book.c - a book's memory, its order of channels, and its bytes (FORMAT.md, "Book")
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/book.h"
#include "hash/bits.h"
#include "hash/bytes.h"
#include "hash/half.h"
#include "hash/variants.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory --------------------------------------------------------------------------------------------------- */

static size_t lines(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

xp_status xp_book_init(struct xp_book *b, size_t dim, unsigned max_centroids, unsigned max_rank)
{
    const size_t groups = (dim + 15) / 16, pad = groups * 16 + 16;
    const size_t floats = (1 + (size_t)max_centroids + max_rank) * pad;
    uint8_t *p;

    memset(b, 0, sizeof(*b));
    if (!dim || dim > 1u << 20 || max_centroids > XP_BOOK_MAX_CENTROIDS || max_rank > XP_BOOK_MAX_RANK)
        return XP_ERR_INVALID_ARG;
    /* calloc: a shelf's room for centroids is not touched before a book comes. */
    b->memory = calloc(1, lines(4 * floats) + 2 * lines(dim + 32) + lines(dim) + lines(groups) + lines(4 * groups) + 64);
    if (!b->memory)
        return XP_ERR_NO_MEMORY;
    p = (uint8_t *)(((uintptr_t)b->memory + 63) & ~(uintptr_t)63);
    b->dim = dim;
    b->pad = pad;
    b->groups = groups;
    b->max_centroids = max_centroids;
    b->max_rank = max_rank;
    b->mean = (float *)(void *)p;
    b->centroid = b->mean + pad;
    b->direction = b->centroid + max_centroids * pad;
    p += lines(4 * floats);
    b->channel = p;
    p += lines(dim + 32);
    b->place = p;
    p += lines(dim + 32);
    b->weight = (float *)(void *)p;
    p += lines(4 * groups);
    b->channel_class = p;
    b->group_class = p + lines(dim);
    xp_book_clear(b);
    return XP_OK;
}

void xp_book_fini(struct xp_book *b)
{
    free(b->memory);
    memset(b, 0, sizeof(*b));
}

/* ---- order ---------------------------------------------------------------------------------------------------- */

/* 2^((2 k + 1) / 8): where one quarter of an octave becomes the next. */
static const float eighths[4] = {1.0905077f, 1.2968396f, 1.5422108f, 1.8340080f};
static const float quarters[4] = {1.0f, 1.1892071f, 1.4142135f, 1.6817929f};

int xp_quarter_log2(float v)
{
    const uint32_t bits = xp_f32_bits(v);
    const float mantissa = xp_f32_from_bits((bits & 0x7fffff) | 0x3f800000);
    int k = 4 * ((int)(bits >> 23 & 255) - 127);

    for (int i = 0; i < 4; i++)
        k += mantissa >= eighths[i];
    return k;
}

float xp_quarter_exp2(int k)
{
    return ldexpf(quarters[k & 3], k >> 2);
}

/* Sorts one window of n channels by class, equal ones by number. */
static void sort_window(const uint8_t *class, size_t n, uint8_t *channel, uint8_t *place)
{
    unsigned start[XP_BOOK_MAX_CLASS + 2] = {0};

    for (size_t i = 0; i < n; i++)
        start[class[i] + 1]++;
    for (unsigned k = 0; k <= XP_BOOK_MAX_CLASS; k++)
        start[k + 1] += start[k];
    for (size_t i = 0; i < n; i++) {
        place[i] = (uint8_t)start[class[i]]++;
        channel[place[i]] = (uint8_t)i;
    }
}

void xp_book_sort(struct xp_book *b)
{
    for (size_t w = 0; w < b->dim; w += XP_REORDER_WINDOW)
        sort_window(b->channel_class + w, b->dim - w < XP_REORDER_WINDOW ? b->dim - w : XP_REORDER_WINDOW, b->channel + w,
                    b->place + w);
    for (size_t g = 0; g < b->groups; g++) {
        const size_t n = b->dim - 16 * g < 16 ? b->dim - 16 * g : 16;
        const uint8_t *class = b->channel_class + 16 * g / XP_REORDER_WINDOW * XP_REORDER_WINDOW;
        unsigned sum = 0;

        for (size_t i = 0; i < n; i++)
            sum += class[b->channel[16 * g + i]];
        b->group_class[g] = (uint8_t)((2 * sum + n) / (2 * n));
        b->weight[g] = xp_quarter_exp2(-(int)b->group_class[g]);
    }
}

void xp_book_order(const struct xp_book *b, const float *by_channel, float *out)
{
    xp_reorder_c(by_channel, b->channel, b->dim, sizeof(float), out);
    memset(out + b->dim, 0, (b->pad - b->dim) * sizeof(*out));
}

void xp_book_clear(struct xp_book *b)
{
    b->version = 0;
    b->centroids = b->rank = 0;
    b->has_mean = b->has_spread = 0;
    b->coordinate_step = 0;
    memset(b->coordinate_class, 0, sizeof(b->coordinate_class));
    memset(b->mean, 0, b->pad * sizeof(*b->mean));
    memset(b->channel_class, 0, b->dim);
    xp_book_sort(b);
}

/* ---- bytes ---------------------------------------------------------------------------------------------------- */

#define HEAD 10
#define HAS_MEAN 1
#define HAS_SPREAD 2

static unsigned class_width(const struct xp_book *b)
{
    unsigned most = 0;

    for (size_t i = 0; i < b->dim; i++)
        most = b->channel_class[i] > most ? b->channel_class[i] : most;
    return xp_bit_width(most + 1);
}

static size_t body_bytes(size_t dim, unsigned width, unsigned flags, unsigned centroids, unsigned rank)
{
    return HEAD + (rank ? 4 + rank / XP_RANS_GROUP : 0) + (flags & HAS_SPREAD ? (dim * width + 7) / 8 : 0) +
           (flags & HAS_MEAN ? 2 * dim : 0) + ((size_t)rank + centroids) * (4 + dim);
}

static unsigned flags_of(const struct xp_book *b)
{
    return (b->has_mean ? HAS_MEAN : 0) | (b->has_spread ? HAS_SPREAD : 0);
}

size_t xp_book_bytes(const struct xp_book *b)
{
    return body_bytes(b->dim, class_width(b), flags_of(b), b->centroids, b->rank);
}

/* A vector in 8 bits a value: what the book keeps is what a reader gets. */
static void write_vector(const float *v, const float *base, size_t dim, uint8_t *out)
{
    float largest = 0, scale;

    for (size_t i = 0; i < dim; i++)
        largest = fmaxf(largest, fabsf(v[i] - (base ? base[i] : 0)));
    scale = largest / 127;
    xp_put32(out, xp_f32_bits(scale));
    for (size_t i = 0; i < dim; i++)
        out[4 + i] = (uint8_t)(int8_t)(scale > 0 ? rintf((v[i] - (base ? base[i] : 0)) / scale) : 0);
}

static int read_vector(float *v, const float *base, size_t dim, const uint8_t *in)
{
    const float scale = xp_f32_from_bits(xp_get32(in));

    if (!(scale >= 0 && scale < 1e30f))
        return 0;
    for (size_t i = 0; i < dim; i++)
        v[i] = (float)(int8_t)in[4 + i] * scale + (base ? base[i] : 0);
    return 1;
}

size_t xp_book_write_head(const struct xp_book *b, uint8_t *out)
{
    const unsigned width = class_width(b);
    uint8_t *const begin = out;

    xp_put32(out, b->version);
    xp_put16(out + 4, (uint16_t)b->centroids);
    out[6] = (uint8_t)b->rank;
    out[7] = (uint8_t)flags_of(b);
    out[8] = (uint8_t)width;
    out[9] = 0;
    out += HEAD;
    if (b->rank) {
        xp_put32(out, xp_f32_bits(b->coordinate_step));
        memcpy(out + 4, b->coordinate_class, b->rank / XP_RANS_GROUP);
        out += 4 + b->rank / XP_RANS_GROUP;
    }
    if (b->has_spread) {
        struct xp_bit_writer w = xp_bit_writer_init(out, width);

        for (size_t i = 0; i < b->dim; i++)
            xp_write_bits(&w, b->channel_class[i]);
        out = xp_bit_writer_end(&w);
    }
    if (b->has_mean)
        for (size_t i = 0; i < b->dim; i++, out += 2)
            xp_put16(out, xp_f32_to_bf16(b->mean[i]));
    return (size_t)(out - begin);
}

size_t xp_book_write_vector(const struct xp_book *b, unsigned i, uint8_t *out)
{
    if (i < b->rank)
        write_vector(b->direction + i * b->pad, NULL, b->dim, out);
    else
        write_vector(b->centroid + (i - b->rank) * b->pad, b->mean, b->dim, out);
    return 4 + b->dim;
}

void xp_book_write(const struct xp_book *b, uint8_t *out)
{
    out += xp_book_write_head(b, out);
    for (unsigned i = 0; i < b->rank + b->centroids; i++)
        out += xp_book_write_vector(b, i, out);
}

static xp_status corrupt(struct xp_book *b, const char **why, const char *text)
{
    xp_book_clear(b);
    *why = text;
    return XP_ERR_CORRUPT;
}

static const uint8_t *read_coordinates(struct xp_book *b, const uint8_t *in)
{
    if (!b->rank)
        return in;
    b->coordinate_step = xp_f32_from_bits(xp_get32(in));
    if (!(b->coordinate_step > 0 && b->coordinate_step < 1e30f))
        return NULL;
    for (unsigned i = 0; i < b->rank / XP_RANS_GROUP; i++) {
        b->coordinate_class[i] = in[4 + i];
        if (in[4 + i] >= XP_RANS_CLASSES)
            return NULL;
    }
    return in + 4 + b->rank / XP_RANS_GROUP;
}

static const uint8_t *read_mean(struct xp_book *b, const uint8_t *in)
{
    if (!b->has_mean)
        return in;
    for (size_t i = 0; i < b->dim; i++, in += 2) {
        b->mean[i] = xp_bf16_to_f32(xp_get16(in));
        if (!(fabsf(b->mean[i]) < 1e30f))
            return NULL;
    }
    return in;
}

xp_status xp_book_read(struct xp_book *b, const uint8_t *in, size_t len, size_t *used, const char **why)
{
    const uint8_t *const begin = in;
    unsigned width;

    xp_book_clear(b);
    if (len < HEAD)
        return corrupt(b, why, "book: too short");
    width = in[8];
    if (in[7] & ~(HAS_MEAN | HAS_SPREAD) || width > 6 || (width && !(in[7] & HAS_SPREAD)) || in[9])
        return corrupt(b, why, "book: bad head");
    if (xp_get16(in + 4) > b->max_centroids || in[6] > b->max_rank || in[6] % XP_RANS_GROUP)
        return corrupt(b, why, "book: larger than the room for it");
    if (len < body_bytes(b->dim, width, in[7], xp_get16(in + 4), in[6]))
        return corrupt(b, why, "book: too short");
    b->version = xp_get32(in);
    b->centroids = xp_get16(in + 4);
    b->rank = in[6];
    b->has_mean = in[7] & HAS_MEAN;
    b->has_spread = (in[7] & HAS_SPREAD) != 0;
    in = read_coordinates(b, in + HEAD);
    if (!in)
        return corrupt(b, why, "book: bad coordinates");
    if (b->has_spread) {
        struct xp_bit_reader r;

        xp_bit_reader_init(&r, in, xp_packed_bytes(b->dim, width), width);
        for (size_t i = 0; i < b->dim; i++)
            b->channel_class[i] = (uint8_t)xp_read_bits(&r);
        if (!xp_bits_clean(&r))
            return corrupt(b, why, "book: bad spread");
        in += xp_packed_bytes(b->dim, width);
    }
    xp_book_sort(b);
    in = read_mean(b, in);
    if (!in)
        return corrupt(b, why, "book: bad mean row");
    for (unsigned j = 0; j < b->rank + b->centroids; j++, in += 4 + b->dim) {
        float *v = j < b->rank ? b->direction + j * b->pad : b->centroid + (j - b->rank) * b->pad;

        if (!read_vector(v, j < b->rank ? NULL : b->mean, b->dim, in))
            return corrupt(b, why, "book: bad vector");
    }
    *used = (size_t)(in - begin);
    return XP_OK;
}

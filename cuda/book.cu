/*
 * book.cu - a book's tables, and those of the entropy coder, as the device has them
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/book.cuh"

#include <cstring>

namespace
{

constexpr size_t LINE = 64;

/* Where the tables lie in the image, in this order; bytes. */
struct Layout {
    size_t spans, dead_zone, first, last, plane_bytes, mantissa, weight, group_class, channel, place, mean, centroid, direction, end;
};

size_t lines(size_t bytes)
{
    return xp_ceil_div(bytes, LINE) * LINE;
}

Layout layout_of(const struct xp_book *b)
{
    Layout l = {};

    l.dead_zone = l.spans + sizeof(uint32_t) * XP_RANS_DISTRIBUTIONS * XP_RANS_SYMBOLS;
    l.first = l.dead_zone + sizeof(float) * XP_RANS_DISTRIBUTIONS;
    l.last = l.first + XP_RANS_DISTRIBUTIONS;
    l.plane_bytes = l.last + XP_RANS_DISTRIBUTIONS;
    l.mantissa = l.plane_bytes + lines(sizeof(uint32_t) * XP_BOOK_OFFSETS);
    l.weight = l.mantissa + lines(sizeof(float) * XP_BOOK_STEPS_PER_OCTAVE);
    l.group_class = l.weight + lines(sizeof(float) * b->groups);
    l.channel = l.group_class + lines(b->groups);
    l.place = l.channel + lines(b->dim + 32);
    l.mean = l.place + lines(b->dim + 32);
    l.centroid = l.mean + lines(sizeof(float) * b->pad);
    l.direction = l.centroid + lines(sizeof(float) * b->pad * b->centroids);
    l.end = l.direction + lines(sizeof(float) * b->pad * b->rank);
    return l;
}

uint32_t plane_bytes(const struct xp_book *b, int offset)
{
    uint32_t bytes = 0;

    for (unsigned g = 0; g < b->rank / XP_RANS_GROUP; g++)
        bytes += 2 * xp_rans_low_bits(b->coordinate_class[g]);
    for (size_t g = 0; g < b->groups; g++)
        bytes += 2 * xp_rans_low_bits(xp_book_class(b->group_class[g], offset));
    return bytes;
}

} // namespace

extern "C" size_t xp_cuda_book_bytes(const struct xp_book *b)
{
    return layout_of(b).end;
}

extern "C" xp_status xp_cuda_book(const struct xp_book *b, void *image, void *memory, struct xp_gpu_book *device)
{
    const Layout l = layout_of(b);
    unsigned char *p = static_cast<unsigned char *>(image), *m = static_cast<unsigned char *>(memory);

    if (b->dim > XP_CUDA_BOOK_DIM)
        return XP_ERR_UNSUPPORTED;
    memset(image, 0, l.end);
    for (unsigned t = 0; t < XP_RANS_DISTRIBUTIONS; t++) {
        memcpy(p + l.spans + t * sizeof(xp_rans_tables[t].span), xp_rans_tables[t].span, sizeof(xp_rans_tables[t].span));
        reinterpret_cast<float *>(p + l.dead_zone)[t] = xp_rans_tables[t].dead_zone;
        p[l.first + t] = xp_rans_tables[t].first;
        p[l.last + t] = xp_rans_tables[t].last;
    }
    for (int o = 0; o < XP_BOOK_OFFSETS; o++)
        reinterpret_cast<uint32_t *>(p + l.plane_bytes)[o] = plane_bytes(b, o - XP_BOOK_LARGEST_OFFSET);
    xp_book_fill_mantissas(reinterpret_cast<float *>(p + l.mantissa));
    memcpy(p + l.weight, b->weight, sizeof(float) * b->groups);
    memcpy(p + l.group_class, b->group_class, b->groups);
    memcpy(p + l.channel, b->channel, b->dim);
    memcpy(p + l.place, b->place, b->dim);
    memcpy(p + l.mean, b->mean, sizeof(float) * b->pad);
    memcpy(p + l.centroid, b->centroid, sizeof(float) * b->pad * b->centroids);
    memcpy(p + l.direction, b->direction, sizeof(float) * b->pad * b->rank);

    *device = {};
    device->dim = b->dim;
    device->pad = b->pad;
    device->groups = (unsigned)b->groups;
    device->centroids = b->centroids;
    device->rank = b->rank;
    device->has_mean = b->has_mean != 0;
    device->coordinate_step = b->coordinate_step;
    memcpy(device->coordinate_class, b->coordinate_class, sizeof(b->coordinate_class));
    device->spans = reinterpret_cast<const uint32_t *>(m + l.spans);
    device->dead_zone = reinterpret_cast<const float *>(m + l.dead_zone);
    device->first = m + l.first;
    device->last = m + l.last;
    device->plane_bytes = reinterpret_cast<const uint32_t *>(m + l.plane_bytes);
    device->mantissa = reinterpret_cast<const float *>(m + l.mantissa);
    device->weight = reinterpret_cast<const float *>(m + l.weight);
    device->group_class = m + l.group_class;
    device->channel = m + l.channel;
    device->place = m + l.place;
    device->mean = reinterpret_cast<const float *>(m + l.mean);
    device->centroid = reinterpret_cast<const float *>(m + l.centroid);
    device->direction = reinterpret_cast<const float *>(m + l.direction);
    return XP_OK;
}

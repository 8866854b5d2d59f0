/*
 * bits.h - small unsigned numbers of one width, packed: value i occupies bits i * width ... of the byte string,
 * lowest bit first; the bits behind the last value are zero
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_BITS_H
#define XP_BITS_H

#include <stddef.h>
#include <stdint.h>

/* Bits that hold 0 .. count - 1 (0 for at most one value). */
static inline unsigned xp_bit_width(size_t count)
{
    unsigned width = 0;

    while (width < 32 && (size_t)1 << width < count)
        width++;
    return width;
}

static inline size_t xp_packed_bytes(size_t n, unsigned width)
{
    return (n * width + 7) / 8;
}

static inline void xp_pack_bits(const uint32_t *v, size_t n, unsigned width, uint8_t *out)
{
    uint64_t hold = 0;
    unsigned have = 0;

    for (size_t i = 0; i < n; i++) {
        hold |= (uint64_t)v[i] << have;
        for (have += width; have >= 8; have -= 8, hold >>= 8)
            *out++ = (uint8_t)hold;
    }
    if (have)
        *out = (uint8_t)hold;
}

/* The same, value by value. */
struct xp_bit_writer {
    uint8_t *at;
    uint64_t hold;
    unsigned have, width;
};

static inline struct xp_bit_writer xp_bit_writer_init(uint8_t *out, unsigned width)
{
    return (struct xp_bit_writer){ out, 0, 0, width };
}

static inline void xp_write_bits(struct xp_bit_writer *b, uint32_t v)
{
    b->hold |= (uint64_t)v << b->have;
    for (b->have += b->width; b->have >= 8; b->have -= 8, b->hold >>= 8)
        *b->at++ = (uint8_t)b->hold;
}

/* Returns the end of the string. */
static inline uint8_t *xp_bit_writer_end(struct xp_bit_writer *b)
{
    if (b->have)
        *b->at++ = (uint8_t)b->hold;
    return b->at;
}

struct xp_bit_reader {
    const uint8_t *at, *end;
    uint64_t hold;
    unsigned have, width;
};

static inline void xp_bit_reader_init(struct xp_bit_reader *b, const uint8_t *in, size_t bytes, unsigned width)
{
    *b = (struct xp_bit_reader){ in, in + bytes, 0, 0, width };
}

/* The caller has checked that the string holds the value. */
static inline uint32_t xp_read_bits(struct xp_bit_reader *b)
{
    uint32_t v;

    while (b->have < b->width) {
        b->hold |= (uint64_t)(b->at < b->end ? *b->at++ : 0) << b->have;
        b->have += 8;
    }
    v = (uint32_t)(b->hold & (((uint64_t)1 << b->width) - 1));
    b->hold >>= b->width;
    b->have -= b->width;
    return v;
}

/* All read, and the bits left over are zero. */
static inline int xp_bits_clean(const struct xp_bit_reader *b)
{
    return b->at == b->end && !b->hold;
}

#endif

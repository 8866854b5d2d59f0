/*
 * book_decode.c - fuzz target: a kept book of anybody's making is put on a shelf, then frames that need it are decoded
 *
 * Input: one control byte, two bytes with the length of the book, the book, a payload of codec book. Control bit 0: checksums are made
 * right, so that mutations reach the book. Bits 1 and 2: instruction set. Bits 3 and 4: one of three types and lengths of rows.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hash/book_keep.h"
#include "hash/bytes.h"
#include "hash/codec.h"
#include "hash/frame.h"
#include "tests/fuzz/fuzz.h"
#include "tests/harness/random.h"
#include "tests/harness/values.h"

#define ROWS 40
#define CENTROIDS 8

static const struct {
    xp_dtype dtype;
    size_t dim;
} shapes[3] = { { XP_BF16, 37 }, { XP_F32, 64 }, { XP_F16, 300 } };

static struct xp_coder *make_coder(unsigned shape, enum xp_isa isa)
{
    struct xp_coder_desc d = { .dtype = shapes[shape].dtype, .dim = shapes[shape].dim, .mode = XP_MODE_BOUNDED, .eps = 0.1, .isa = isa };
    struct xp_coder *c;

    fuzz_require(!xp_codec_parse("book", &d.choice) && !xp_coder_create(&c, &d), "set up");
    return c;
}

static size_t make_frame(unsigned shape, const uint8_t *payload, size_t len, uint8_t *frame)
{
    const struct xp_frame_header h = { .version = XP_FRAME_VERSION, .codec = XP_CODEC_BOOK, .dtype = (uint8_t)shapes[shape].dtype,
                                       .dim = (uint32_t)shapes[shape].dim, .rows = ROWS, .seed = 1, .payload_bytes = len,
                                       .checksum = xp_checksum(payload, len) };

    xp_frame_write(frame, &h);
    memcpy(frame + XP_FRAME_HEADER, payload, len);
    return XP_FRAME_HEADER + len;
}

static void decode(unsigned shape, enum xp_isa isa, const struct xp_book_shelf *shelf, const uint8_t *payload, size_t len)
{
    const size_t bytes = ROWS * shapes[shape].dim * xp_dtype_size(shapes[shape].dtype);
    uint8_t *frame = malloc(XP_FRAME_HEADER + len), *out = malloc(bytes), *again = malloc(bytes);
    struct xp_coder *c = make_coder(shape, isa);
    const size_t frame_len = make_frame(shape, payload, len, frame);
    xp_status s, t;

    memset(out, 0xa5, bytes);
    memset(again, 0x5a, bytes);
    xp_coder_read_with(c, shelf);
    s = xp_coder_decode(c, frame, frame_len, out, ROWS);
    fuzz_require(s == XP_OK || (s == XP_ERR_CORRUPT && xp_coder_why(c)[0]), "status %d", (int)s);
    t = xp_coder_decode(c, frame, frame_len, again, ROWS);
    fuzz_require(s == t && (s || !memcmp(out, again, bytes)), "decoding twice differs");
    xp_coder_destroy(c);
    free(frame);
    free(out);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const unsigned control = size ? data[0] : 0, shape = control >> 3 & 3;
    const size_t len = size < 3 ? 0 : xp_get16(data + 1);
    struct xp_book_shelf shelf;
    const char *why;
    uint8_t *book;

    if (size < 3 || shape > 2 || len > size - 3)
        return 0;
    book = malloc(len + 1);
    memcpy(book, data + 3, len);
    if (control & 1 && len > XP_BOOK_CHECK)
        xp_put64(book + len - XP_BOOK_CHECK, xp_checksum(book, len - XP_BOOK_CHECK));
    fuzz_require(!xp_book_shelf_init(&shelf, shapes[shape].dim, CENTROIDS), "set up");
    if (xp_book_shelf_put(&shelf, book, len, &why) == XP_OK)
        decode(shape, (enum xp_isa)((control >> 1 & 3) % 3), &shelf, data + 3 + len, size - 3 - len);
    else
        fuzz_require(why[0] != 0, "an error without a text");
    xp_book_shelf_fini(&shelf);
    free(book);
    return 0;
}

/* Rows around a few centres, a book of them, and a frame of the same rows. */
size_t fuzz_seed(unsigned i, uint8_t *out, size_t room)
{
    const unsigned shape = i % 3, directions = i / 3 % 2 ? 16 : 0;
    const size_t dim = shapes[shape < 3 ? shape : 0].dim, row = dim * xp_dtype_size(shapes[shape].dtype);
    const struct xp_book_fit_desc d = { .dtype = shapes[shape].dtype, .dim = dim, .rows = 128, .centroids = CENTROIDS, .rank = directions,
                                        .seed = 5 };
    struct random rng = random_seeded(i);
    struct xp_rows in = { .rows = 128, .dim = dim, .dtype = shapes[shape].dtype };
    uint8_t *rows = malloc(128 * row), *frame = malloc(128 * row + 4096);
    const struct xp_book_writer *w;
    struct xp_book_fitter *f;
    struct xp_kernels k;
    struct xp_coder *c = make_coder(shape, XP_ISA_C);
    size_t len = 0, used = 0;

    if (i < 6) {
        for (size_t r = 0; r < 128; r++)
            for (size_t n = 0; n < dim; n++)
                value_put(rows, in.dtype, r * dim + n, 3 * sin((double)(r % 5 * 31 + n)) + 0.2 * random_normal(&rng));
        in.data = rows;
        xp_kernels_init(&k, XP_ISA_C);
        fuzz_require(!xp_book_fitter_create(&f, &k, &d), "set up");
        xp_book_fitter_add(f, &in, 128);
        fuzz_require(!xp_book_fitter_begin(f, 1, 0), "set up");
        while (xp_book_fitter_step(f) == XP_IN_PROGRESS)
            ;
        xp_book_fitter_decide(f, 1);
        w = xp_book_fitter_current(f);
        in.rows = ROWS;
        xp_coder_write_with(c, w);
        fuzz_require(!xp_coder_encode(c, &in, frame, 128 * row + 4096, &len, NULL), "seed");
        used = 3 + w->len + len - XP_FRAME_HEADER;
        fuzz_require(used <= room && w->len < 65536, "a seed of %zu bytes", used);
        out[0] = (uint8_t)(1 | i % 3 << 1 | shape << 3);
        xp_put16(out + 1, (uint16_t)w->len);
        memcpy(out + 3, w->bytes, w->len);
        memcpy(out + 3 + w->len, frame + XP_FRAME_HEADER, len - XP_FRAME_HEADER);
        xp_book_fitter_destroy(f);
    }
    xp_coder_destroy(c);
    free(rows);
    free(frame);
    return used;
}

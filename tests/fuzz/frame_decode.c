/*
 * frame_decode.c - fuzz target: a frame of anybody's making is decoded
 *
 * Input: one control byte, then a frame. Control bit 0: the checksums are made right, so that mutations reach the codecs. Bit 1: one row
 * less is expected than the frame says. Bits 2 and 3: instruction set.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <string.h>

#include "hash/bytes.h"
#include "hash/codec.h"
#include "hash/frame.h"
#include "tests/fuzz/fuzz.h"
#include "tests/harness/random.h"
#include "tests/harness/values.h"

#define MOST_BYTES ((size_t)1 << 20) /* of decoded rows */
#define GUARD 64

static void make_checksums_right(uint8_t *frame, size_t len)
{
    if (len < XP_FRAME_HEADER)
        return;
    memcpy(frame, "XPF1\1", 5);
    memset(frame + 12, 0, 4);
    memset(frame + 48, 0, 8);
    xp_put64(frame + 24, len - XP_FRAME_HEADER);
    xp_put64(frame + 40, xp_checksum(frame + XP_FRAME_HEADER, len - XP_FRAME_HEADER));
    xp_put64(frame + 56, xp_checksum(frame, 56));
}

static void decode(const uint8_t *frame, size_t len, const struct xp_frame_header *h, size_t rows, enum xp_isa isa)
{
    struct xp_coder_desc d = { .dtype = (xp_dtype)h->dtype, .dim = h->dim, .mode = XP_MODE_EXACT, .isa = isa };
    size_t bytes = rows * h->dim * xp_dtype_size(d.dtype);
    uint8_t *out = malloc(bytes + GUARD), *again = malloc(bytes + 1);
    struct xp_coder *c;
    xp_status s, t;

    fuzz_require(out && again && !xp_codec_parse("raw", &d.choice) && !xp_coder_create(&c, &d), "set up");
    memset(out, 0xa5, bytes + GUARD);
    s = xp_coder_decode(c, frame, len, out, rows);
    fuzz_require(s == XP_OK || s == XP_ERR_CORRUPT, "status %d", (int)s);
    fuzz_require(s == XP_OK || xp_coder_why(c)[0], "an error without a text");
    fuzz_require(s != XP_OK || rows == h->rows, "%zu rows out of a frame of %llu", rows, (unsigned long long)h->rows);
    for (size_t i = 0; i < GUARD; i++)
        fuzz_require(out[bytes + i] == 0xa5, "written behind the rows");
    memset(again, 0x5a, bytes);
    t = xp_coder_decode(c, frame, len, again, rows);
    fuzz_require(s == t && (s || !memcmp(out, again, bytes)), "decoding twice differs: some rows are not written");
    xp_coder_destroy(c);
    free(out);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct xp_frame_header h;
    uint8_t control, *frame;
    size_t len;

    if (size < 1)
        return 0;
    control = data[0];
    len = size - 1;
    frame = malloc(len + 1);
    memcpy(frame, data + 1, len);
    if (control & 1)
        make_checksums_right(frame, len);
    if (xp_frame_read(frame, len, 0, &h, NULL) == XP_OK && h.rows <= MOST_BYTES / (h.dim * xp_dtype_size((xp_dtype)h.dtype)))
        decode(frame, len, &h, h.rows - (h.rows && control & 2), (enum xp_isa)((control >> 2) % 3));
    free(frame);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room)
{
    enum { CODECS = 9 };
    static const char *const codecs[CODECS] = { "raw", "exact", "quant", "lsh", "fp8", "int2", "lsh+int4", "book", "pack" };
    static const size_t shapes[][2] = { { 9, 5 }, { 40, 33 }, { 3, 300 }, { 0, 7 } };
    unsigned codec = i % CODECS, type = i / CODECS % 3, shape = i / CODECS / 3;
    struct xp_coder_desc d = { .mode = XP_MODE_BOUNDED, .eps = 0.2 };
    struct random rng = random_seeded(i);
    struct xp_coder *c;
    struct xp_rows in;
    uint8_t *rows;
    size_t len = 0;

    if (shape == sizeof(shapes) / sizeof(shapes[0]))
        return 0;
    d.dtype = (xp_dtype)(XP_BF16 + type);
    d.dim = shapes[shape][1];
    in = (struct xp_rows){ .rows = shapes[shape][0], .dim = d.dim, .dtype = d.dtype };
    rows = malloc(in.rows * xp_row_bytes(&in) + 1);
    for (size_t k = 0; k < in.rows * in.dim; k++)
        value_put(rows, in.dtype, k, sin((double)(k % (2 * in.dim))) + 0.01 * random_normal(&rng));
    in.data = rows;
    fuzz_require(!xp_codec_parse(codecs[codec], &d.choice) && !xp_coder_create(&c, &d), "set up");
    fuzz_require(!xp_coder_encode(c, &in, out + 1, room - 1, &len, NULL), "seed");
    out[0] = (uint8_t)(1 | i << 2);
    xp_coder_destroy(c);
    free(rows);
    return len + 1;
}

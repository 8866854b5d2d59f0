/*
 * round_trip.c - fuzz target: rows of any bits, any shape, any codec, there and back within the promise
 *
 * Input: 8 bytes of parameters, then the rows; missing bytes are zeros.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <string.h>

#include "hash/codec.h"
#include "tests/fuzz/fuzz.h"
#include "tests/harness/random.h"
#include "tests/harness/values.h"

#define PARAMETERS 8

static struct xp_coder *make(const uint8_t *p, struct xp_coder_desc *d, enum xp_isa isa)
{
    static const double eps[] = { 1e-6, 0.001, 0.01, 0.03, 0.1, 0.3, 0.7, 0.999 };
    struct xp_coder *c = NULL;
    const char *name;
    unsigned names = 0;

    while (xp_codec_name(names, NULL))
        names++;
    name = xp_codec_name(p[0] % names, NULL);
    memset(d, 0, sizeof(*d));
    d->dtype = (xp_dtype)(XP_BF16 + p[1] % 3);
    d->dim = 1 + (size_t)(p[2] | p[3] << 8) % 400;
    d->mode = XP_MODE_BOUNDED;
    d->eps = eps[p[4] % 8];
    d->eps_ref = p[4] & 8 ? XP_EPS_REF_MIN : XP_EPS_REF_ROW;
    d->isa = isa;
    d->seed = p[5];
    d->lsh_refine = p[6] % 4 - 1;
    d->lsh_center = p[6] & 4 ? -1 : 1;
    d->lsh_width = p[6] & 8 ? 8 : 0;
    if (!xp_codec_parse(name, &d->choice))
        fuzz_require(!xp_coder_create(&c, d), "codec %s, dim %zu", name, d->dim);
    return c;
}

static void compare(const struct xp_coder_desc *d, const uint8_t *x, const uint8_t *y)
{
    double norm = value_norm(x, d->dtype, d->dim);

    if (!isfinite(norm))
        fuzz_require(!memcmp(x, y, d->dim * xp_dtype_size(d->dtype)), "a row with NaN or Inf changed");
    else
        fuzz_require(value_distance(x, y, d->dtype, d->dim) <= d->eps * norm, "%s eps %g: error %g of %g", d->choice.name, d->eps,
                     value_distance(x, y, d->dtype, d->dim), norm);
}

static void there_and_back(const struct xp_coder_desc *d, struct xp_coder *c, struct xp_coder *other, const uint8_t *rows, size_t n)
{
    struct xp_rows in = { .data = rows, .rows = n, .dim = d->dim, .dtype = d->dtype };
    size_t bytes = xp_row_bytes(&in), cap = xp_frame_bound(d->dtype, d->dim, n), len, same;
    uint8_t *frame = malloc(cap), *again = malloc(cap), *back = malloc(n * bytes + 1);
    xp_codec_stats st = { .size = sizeof(st) };

    xp_coder_select(c, &in, NULL);
    xp_coder_select(other, &in, NULL);
    fuzz_require(!xp_coder_encode(c, &in, frame, cap, &len, &st) && len <= cap, "encode: %s", xp_coder_why(c));
    fuzz_require(!xp_coder_encode(other, &in, again, cap, &same, NULL), "encode again");
    fuzz_require(len == same && !memcmp(frame, again, len), "plain C gives other bytes (codec %s)", st.codec);
    fuzz_require(!xp_coder_decode(other, frame, len, back, n), "decode: %s", xp_coder_why(other));
    fuzz_require(st.err_max <= 1 && st.err_ref_max <= d->eps && st.rows_raw <= n, "figures");
    for (size_t r = 0; r < n; r++)
        compare(d, rows + r * bytes, back + r * bytes);
    free(frame);
    free(again);
    free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct xp_coder_desc d;
    struct xp_coder *c, *other;
    uint8_t p[PARAMETERS] = { 0 }, *rows;
    size_t n, room;

    memcpy(p, data, size < PARAMETERS ? size : PARAMETERS);
    c = make(p, &d, XP_ISA_BEST);
    if (!c)
        return 0;
    other = make(p, &d, XP_ISA_C);
    room = size > PARAMETERS ? size - PARAMETERS : 0;
    n = p[7] % 96;
    rows = calloc(n * d.dim * 4 + 1, 1);
    if (n * d.dim * xp_dtype_size(d.dtype) < room)
        room = n * d.dim * xp_dtype_size(d.dtype);
    memcpy(rows, data + PARAMETERS, room);
    there_and_back(&d, c, other, rows, n);
    xp_coder_destroy(c);
    xp_coder_destroy(other);
    free(rows);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room)
{
    struct random rng = random_seeded(i);
    size_t dim = (size_t[]){ 3, 40, 150, 257 }[i % 4], n = 16, size;
    xp_dtype t = (xp_dtype)(XP_BF16 + i / 4 % 3);

    if (i >= 48)
        return 0;
    for (size_t k = 0; k < PARAMETERS; k++)
        out[k] = (uint8_t)random_bits(&rng);
    out[0] = (uint8_t)i;
    out[1] = (uint8_t)(t - XP_BF16);
    out[2] = (uint8_t)((dim - 1) & 0xff);
    out[3] = (uint8_t)((dim - 1) >> 8);
    out[7] = (uint8_t)n;
    size = PARAMETERS + n * dim * xp_dtype_size(t);
    fuzz_require(size <= room, "room");
    for (size_t k = 0; k < n * dim; k++) /* aligned for nothing: values are put byte by byte */
        value_put(out + PARAMETERS, t, k, random_normal(&rng) + (double)(i % 3) * sin((double)(k % dim)));
    return size;
}

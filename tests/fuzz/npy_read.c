/*
 * npy_read.c - fuzz target: bytes that claim to be a .npy or a .xpf file
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "lib/tools/npy.h"
#include "lib/tools/xpf.h"
#include "tests/fuzz/fuzz.h"

static void read_npy(const uint8_t *data, size_t size)
{
    char err[200] = "", header[XP_NPY_HEADER_MAX];
    struct xp_npy a, b;
    size_t bytes, n;
    uint8_t *copy;

    if (xp_npy_parse(&a, data, size, "input", err, sizeof(err))) {
        fuzz_require(!strncmp(err, "input: ", 7) && !strchr(err, '\n'), "error text '%s'", err);
        return;
    }
    bytes = a.rows * a.dim * xp_dtype_size(a.dtype);
    fuzz_require(bytes <= size && (!bytes || !memcmp(a.data, data + size - bytes, bytes)), "values");
    n = xp_npy_header(header, a.dtype, a.rows, a.dim);
    fuzz_require(n <= sizeof(header) && n % 64 == 0, "header of %zu bytes", n);
    copy = malloc(n + bytes);
    memcpy(copy, header, n);
    if (bytes)
        memcpy(copy + n, a.data, bytes);
    fuzz_require(!xp_npy_parse(&b, copy, n + bytes, "copy", err, sizeof(err)), "%s", err);
    fuzz_require(a.dtype == b.dtype && a.rows == b.rows && a.dim == b.dim && (!bytes || !memcmp(a.data, b.data, bytes)), "copy");
    xp_npy_free(&a);
    xp_npy_free(&b);
    free(copy);
}

static void read_xpf(const uint8_t *data, size_t size)
{
    const uint8_t *frame;
    const char *why = NULL;
    struct xp_xpf x;
    size_t len, rows, seen = 0;
    xp_status s = xp_xpf_open(&x, data, size, &why);

    if (s) {
        fuzz_require(s == XP_ERR_CORRUPT && why, "no reason");
        return;
    }
    while ((s = xp_xpf_next(&x, &frame, &len, &rows, &why)) == XP_IN_PROGRESS) {
        fuzz_require(frame >= data && len <= size && frame + len <= data + size && rows > 0, "a frame outside the file");
        seen += rows;
    }
    fuzz_require(s == XP_OK || (s == XP_ERR_CORRUPT && why), "status %d", (int)s);
    fuzz_require(s || seen == x.rows, "rows");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_npy(data, size);
    read_xpf(data, size);
    return 0;
}

static size_t npy_seed(unsigned i, uint8_t *out)
{
    static const char *const heads[] = {
        "{'descr': '<u2', 'fortran_order': False, 'shape': (3, 4), }", "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }",
        "{\"shape\":(12,1),\"descr\":\"<f2\",\"fortran_order\":False}",   "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 6), }",
        "{'descr': '<u2', 'fortran_order': False, 'shape': (0, 64), }",  "{'descr': '<i8', 'fortran_order': False, 'shape': (), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }", "{'descr': '<u2', 'fortran_order': False, 'shape': (1, 2, 6), }",
    };
    size_t n = strlen(heads[i]), v2 = i & 1 ? 2 : 0;

    memcpy(out, "\x93NUMPY\1\0", 8);
    out[6] = v2 ? 2 : 1;
    memset(out + 8, 0, 4);
    out[8] = (uint8_t)n;
    memcpy(out + 10 + v2, heads[i], n);
    memset(out + 10 + v2 + n, 7, 24);
    return 10 + v2 + n + (i == 4 ? 0 : 24);
}

/* Two raw frames of f32 rows of two values. */
static size_t xpf_seed(uint8_t *out)
{
    struct xp_frame_header h = { .version = XP_FRAME_VERSION, .dtype = XP_F32, .dim = 2, .rows = 3, .payload_bytes = 24 };
    struct xp_xpf x;
    uint8_t *at = out + XP_XPF_HEADER;

    xp_xpf_begin(&x, XP_F32, 2, 6, out);
    for (int k = 0; k < 2; k++) {
        memset(at + XP_FRAME_HEADER, k + 1, 24);
        h.checksum = xp_checksum(at + XP_FRAME_HEADER, 24);
        xp_frame_write(at, &h);
        xp_xpf_add(&x, at, 3);
        at += XP_FRAME_HEADER + 24;
    }
    xp_xpf_end(&x, at);
    return (size_t)(at + XP_XPF_TRAILER - out);
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room)
{
    fuzz_require(room >= 4096, "room");
    return i < 8 ? npy_seed(i, out) : i == 8 ? xpf_seed(out) : 0;
}

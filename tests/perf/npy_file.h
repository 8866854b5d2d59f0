/*
 * npy_file.h - .npy files of 32-bit values for the tests of the benchmarks
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_NPY_FILE_H
#define XP_NPY_FILE_H

#include <criterion/criterion.h>
#include <stdio.h>

/* descr as numpy writes it ("<f4"), shape as well ("2, 3" or "5,"); n values. */
static inline void npy_file(const char *path, const char *descr, const char *shape, const void *values, size_t n)
{
    char header[128];
    int len = snprintf(header, sizeof(header), "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }\n", descr, shape);
    FILE *f = fopen(path, "wb");

    cr_assert_not_null(f);
    fwrite("\x93NUMPY\1\0", 1, 8, f);
    fputc(len & 255, f);
    fputc(len >> 8, f);
    fwrite(header, 1, (size_t)len, f);
    fwrite(values, 4, n, f);
    fclose(f);
}

#endif

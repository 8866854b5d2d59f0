/*
 * test_pages.c - memory for many rows
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "hash/pages.h"

Test(pages, any_size_is_aligned_and_may_be_written)
{
    static const size_t sizes[] = {0, 1, 63, 64, 4096, ((size_t)2 << 20) - 1, (size_t)2 << 20, ((size_t)5 << 20) + 7};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *p = xp_pages_alloc(sizes[i]);
        cr_assert(p && (uintptr_t)p % 64 == 0, "%zu bytes", sizes[i]);
        memset(p, 1, sizes[i]);
        free(p);
    }
}

Test(pages, too_much_is_refused)
{
    cr_assert_null(xp_pages_alloc(SIZE_MAX));
    cr_assert_null(xp_pages_alloc(SIZE_MAX - ((size_t)1 << 20)));
}

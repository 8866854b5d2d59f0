/*
 * pages.h - memory for many rows
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_PAGES_H
#define XP_HASH_PAGES_H

#include <stddef.h>

/*
 * Like malloc, aligned to 64 bytes, in large pages where the system gives them: rows are read here and there, and by columns, which takes more small
 * pages than the processor knows at once. NULL also where bytes is too large to be rounded up. Free it with free.
 */
void *xp_pages_alloc(size_t bytes);

#endif

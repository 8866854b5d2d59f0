/*
 * infile.c - the whole of an input file
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/tools/infile.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* One byte more than the file is long, so that its end is seen without growing; a pipe has no length. */
static size_t first_guess(FILE *f)
{
    struct stat st;

    if (!fstat(fileno(f), &st) && S_ISREG(st.st_mode) && st.st_size > 0)
        return (size_t)st.st_size + 1;
    return 1 << 16;
}

static void *slurp(FILE *f, size_t *len)
{
    size_t cap = first_guess(f), n = 0, got;
    char *p = malloc(cap), *q;

    while (p && (got = fread(p + n, 1, cap - n, f)) > 0) {
        n += got;
        if (n < cap)
            continue;
        q = cap > SIZE_MAX / 2 ? NULL : realloc(p, cap *= 2);
        if (!q)
            free(p);
        p = q;
    }
    *len = n;
    return p;
}

void *xp_infile_read(const char *path, size_t *len, char *err, size_t err_size)
{
    FILE *f = fopen(path, "rb");
    void *bytes;

    if (!f) {
        snprintf(err, err_size, "%s: %s", path, strerror(errno));
        return NULL;
    }
    bytes = slurp(f, len);
    if (!bytes)
        snprintf(err, err_size, "%s: no memory for the file", path);
    if (bytes && ferror(f)) {
        snprintf(err, err_size, "%s: cannot be read: %s", path, strerror(errno));
        free(bytes);
        bytes = NULL;
    }
    fclose(f);
    return bytes;
}

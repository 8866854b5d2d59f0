/*
 * npy.c - numpy's .npy format, strictly: what is not exactly a 2-D array of a known type is refused with a reason
 *
 * Layout: "\x93NUMPY", version, length of the header text, the header text (a Python dict), the values.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/tools/npy.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "lib/tools/infile.h"

static const char magic[] = "\x93NUMPY";
#define MAGIC_LEN 6

/* What the header text says. */
struct dict {
    char descr[16];
    int have_descr, have_order, have_shape, fortran;
    size_t shape[3];
    unsigned dims; /* 4: four or more */
};

static int fail(char *err, size_t err_size, const char *path, const char *fmt, ...)
{
    int n = snprintf(err, err_size, "%s: ", path);
    va_list args;

    if (n >= 0 && (size_t)n < err_size) {
        va_start(args, fmt);
        vsnprintf(err + n, err_size - (size_t)n, fmt, args);
        va_end(args);
    }
    return -1;
}

/* ---- the header text: {'descr': '<u2', 'fortran_order': False, 'shape': (3, 7), } -------------------------------- */

struct text {
    const char *at, *end;
};

static void skip_blanks(struct text *t)
{
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\n'))
        t->at++;
}

static int accept(struct text *t, char c)
{
    skip_blanks(t);
    if (t->at == t->end || *t->at != c)
        return 0;
    t->at++;
    return 1;
}

static int accept_word(struct text *t, const char *word)
{
    size_t n = strlen(word);

    skip_blanks(t);
    if ((size_t)(t->end - t->at) < n || memcmp(t->at, word, n))
        return 0;
    t->at += n;
    return 1;
}

static int read_string(struct text *t, char *out, size_t size)
{
    size_t n = 0;
    char quote;

    skip_blanks(t);
    if (t->at == t->end || (*t->at != '\'' && *t->at != '"'))
        return 0;
    for (quote = *t->at++; t->at < t->end && *t->at != quote; t->at++) {
        if (*t->at < ' ' || *t->at > '~') /* the text may end up on a terminal */
            return 0;
        if (n + 1 < size)
            out[n++] = *t->at;
    }
    out[n] = '\0';
    return accept(t, quote);
}

static int read_number(struct text *t, size_t *out)
{
    size_t v = 0;

    skip_blanks(t);
    if (t->at == t->end || *t->at < '0' || *t->at > '9')
        return 0;
    for (; t->at < t->end && *t->at >= '0' && *t->at <= '9'; t->at++)
        if (__builtin_mul_overflow(v, (size_t)10, &v) || __builtin_add_overflow(v, (size_t)(*t->at - '0'), &v))
            return 0;
    *out = v;
    return 1;
}

static int read_shape(struct text *t, struct dict *d)
{
    size_t n;

    if (!accept(t, '('))
        return 0;
    d->dims = 0;
    while (!accept(t, ')')) {
        if (!read_number(t, &n))
            return 0;
        if (d->dims < 3)
            d->shape[d->dims] = n;
        d->dims += d->dims < 4;
        if (!accept(t, ',')) {
            if (!accept(t, ')'))
                return 0;
            break;
        }
    }
    d->have_shape = 1;
    return 1;
}

static int read_entry(struct text *t, struct dict *d)
{
    char key[32];

    if (!read_string(t, key, sizeof(key)) || !accept(t, ':'))
        return 0;
    if (!strcmp(key, "descr")) {
        d->have_descr = 1;
        skip_blanks(t);
        if (t->at < t->end && *t->at == '[') { /* a structured type: named as such by the caller */
            memcpy(d->descr, "structured", 11);
            while (t->at < t->end && *t->at != ']')
                t->at++;
            return accept(t, ']');
        }
        return read_string(t, d->descr, sizeof(d->descr));
    }
    if (!strcmp(key, "fortran_order")) {
        d->have_order = 1;
        d->fortran = accept_word(t, "True");
        return d->fortran || accept_word(t, "False");
    }
    return !strcmp(key, "shape") && read_shape(t, d);
}

static int read_dict(struct text t, struct dict *d)
{
    memset(d, 0, sizeof(*d));
    if (!accept(&t, '{'))
        return 0;
    while (!accept(&t, '}')) {
        if (!read_entry(&t, d))
            return 0;
        if (!accept(&t, ',')) {
            if (!accept(&t, '}'))
                return 0;
            break;
        }
    }
    skip_blanks(&t);
    return t.at == t.end && d->have_descr && d->have_order && d->have_shape;
}

/* ---- read --------------------------------------------------------------------------------------------------- */

static xp_dtype type_of(const char *descr)
{
    if (!strcmp(descr, "<u2"))
        return XP_BF16;
    if (!strcmp(descr, "<f2"))
        return XP_F16;
    return strcmp(descr, "<f4") ? (xp_dtype)0 : XP_F32;
}

/* Finds the header text and the values behind it. */
static int split(const unsigned char *p, size_t len, struct text *header, size_t *values)
{
    size_t n, at;

    if (len < MAGIC_LEN + 4 || memcmp(p, magic, MAGIC_LEN) || p[6] < 1 || p[6] > 3 || p[7])
        return -1;
    at = p[6] == 1 ? 10 : 12;
    if (len < at)
        return -1;
    n = (size_t)p[8] | (size_t)p[9] << 8;
    if (p[6] > 1)
        n |= (size_t)p[10] << 16 | (size_t)p[11] << 24;
    if (n > len - at)
        return -1;
    *header = (struct text){ (const char *)p + at, (const char *)p + at + n };
    *values = at + n;
    return 0;
}

/* An array in C order as its file describes it; rows and columns of a 2-D one. */
struct array {
    char descr[16];
    size_t rows, columns, len;
    const char *values;
};

static int parse_any(struct dict *d, struct array *a, const void *bytes, size_t len, const char *path, char *err, size_t err_size)
{
    struct text header;
    size_t at;

    if (split(bytes, len, &header, &at))
        return fail(err, err_size, path, "not a .npy file");
    if (!read_dict(header, d))
        return fail(err, err_size, path, "the .npy header cannot be read");
    *a = (struct array){ .rows = d->shape[0], .columns = d->shape[1], .len = len - at, .values = (const char *)bytes + at };
    memcpy(a->descr, d->descr, sizeof(a->descr));
    return 0;
}

static int parse(struct array *a, const void *bytes, size_t len, const char *path, char *err, size_t err_size)
{
    struct dict d;

    if (parse_any(&d, a, bytes, len, path, err, err_size))
        return -1;
    if (d.dims != 2)
        return fail(err, err_size, path, d.dims > 2 ? "an array of more than two dimensions; rows need a 2-D array" :
                    "an array of %u dimensions; rows need a 2-D array", d.dims);
    if (d.fortran && d.shape[0] > 1 && d.shape[1] > 1)
        return fail(err, err_size, path, "Fortran order; rows need C order (numpy.ascontiguousarray)");
    if (!a->columns || a->columns > 1u << 20)
        return fail(err, err_size, path, "rows of %zu values; 1 to %u are possible", a->columns, 1u << 20);
    return 0;
}

/* Checks that the values are as many as the shape says; *bytes gets their size. */
static int measure(const struct array *a, size_t value, size_t *bytes, const char *path, char *err, size_t err_size)
{
    if (__builtin_mul_overflow(a->rows, a->columns * value, bytes))
        return fail(err, err_size, path, "impossible shape (%zu, %zu)", a->rows, a->columns);
    if (a->len != *bytes)
        return fail(err, err_size, path, "%zu bytes of values; shape (%zu, %zu) of %s needs %zu", a->len, a->rows, a->columns,
                    a->descr, *bytes);
    return 0;
}

int xp_npy_parse(struct xp_npy *a, const void *bytes, size_t len, const char *path, char *err, size_t err_size)
{
    struct array file;
    size_t want;

    if (parse(&file, bytes, len, path, err, err_size))
        return -1;
    *a = (struct xp_npy){ .dtype = type_of(file.descr), .rows = file.rows, .dim = file.columns };
    if (!a->dtype)
        return fail(err, err_size, path, "values of type '%s'; possible are <f2, <f4, and <u2 holding bf16", file.descr);
    if (measure(&file, xp_dtype_size(a->dtype), &want, path, err, err_size))
        return -1;
    if (!want)
        return 0;
    a->data = malloc(want);
    if (!a->data)
        return fail(err, err_size, path, "no memory for %zu bytes of rows", want);
    memcpy(a->data, file.values, want);
    return 0;
}

int xp_npy_read(struct xp_npy *a, const char *path, char *err, size_t err_size)
{
    size_t len;
    void *bytes = xp_infile_read(path, &len, err, err_size);
    int failed;

    if (!bytes)
        return -1;
    failed = xp_npy_parse(a, bytes, len, path, err, err_size);
    free(bytes);
    return failed;
}

/* Copies whole numbers of 4 or 8 bytes; -1 when one does not fit. */
static int copy_whole(int32_t *out, const char *values, size_t n, size_t value)
{
    for (size_t i = 0; i < n; i++) {
        int64_t v;

        if (value == sizeof(v)) {
            memcpy(&v, values + i * value, sizeof(v));
            if (v < INT32_MIN || v > INT32_MAX)
                return -1;
            out[i] = (int32_t)v;
        } else {
            memcpy(&out[i], values + i * value, value);
        }
    }
    return 0;
}

static int parse_routing(struct xp_npy_routing *a, const void *bytes, size_t len, const char *path, char *err, size_t err_size)
{
    struct array file;
    size_t want, value;

    if (parse(&file, bytes, len, path, err, err_size))
        return -1;
    value = !strcmp(file.descr, "<i8") ? 8 : 4;
    *a = (struct xp_npy_routing){ .whole = file.descr[1] == 'i', .rows = file.rows, .columns = file.columns };
    if (strcmp(file.descr, "<i4") && strcmp(file.descr, "<i8") && strcmp(file.descr, "<f4"))
        return fail(err, err_size, path, "values of type '%s'; possible are <i4 and <i8 (expert numbers), <f4 (gate logits)", file.descr);
    if (measure(&file, value, &want, path, err, err_size))
        return -1;
    a->data = malloc(want / value * 4 + 1);
    if (!a->data)
        return fail(err, err_size, path, "no memory for %zu bytes of routing", want);
    if (copy_whole(a->data, file.values, want / value, value) != 0) {
        free(a->data);
        return fail(err, err_size, path, "an expert number beyond 32 bits");
    }
    return 0;
}

static int parse_weights(struct xp_npy_weights *w, const void *bytes, size_t len, const char *path, char *err, size_t err_size)
{
    size_t values = 1, want;
    struct array file;
    struct dict d;

    if (parse_any(&d, &file, bytes, len, path, err, err_size))
        return -1;
    *w = (struct xp_npy_weights){ .dtype = type_of(file.descr), .dims = d.dims };
    if (d.dims < 1 || d.dims > 3 || d.fortran || (w->dtype != XP_F16 && w->dtype != XP_F32))
        return fail(err, err_size, path, "not weights: 1 to 3 dimensions of <f2 or <f4 in C order");
    for (unsigned i = 0; i < d.dims; i++) {
        w->shape[i] = d.shape[i];
        if (!d.shape[i] || __builtin_mul_overflow(values, d.shape[i], &values))
            return fail(err, err_size, path, "weights of an impossible shape");
    }
    if (__builtin_mul_overflow(values, xp_dtype_size(w->dtype), &want) || want != file.len)
        return fail(err, err_size, path, "%zu bytes of values do not fit their shape", file.len);
    w->data = malloc(want);
    if (!w->data)
        return fail(err, err_size, path, "no memory for %zu bytes of weights", want);
    memcpy(w->data, file.values, want);
    return 0;
}

int xp_npy_read_weights(struct xp_npy_weights *w, const char *path, char *err, size_t err_size)
{
    size_t len;
    void *bytes = xp_infile_read(path, &len, err, err_size);
    int failed;

    if (!bytes)
        return -1;
    failed = parse_weights(w, bytes, len, path, err, err_size);
    free(bytes);
    return failed;
}

int xp_npy_read_routing(struct xp_npy_routing *a, const char *path, char *err, size_t err_size)
{
    size_t len;
    void *bytes = xp_infile_read(path, &len, err, err_size);
    int failed;

    if (!bytes)
        return -1;
    failed = parse_routing(a, bytes, len, path, err, err_size);
    free(bytes);
    return failed;
}

void xp_npy_free(struct xp_npy *a)
{
    free(a->data);
    a->data = NULL;
}

/* ---- write -------------------------------------------------------------------------------------------------- */

size_t xp_npy_header(char *out, xp_dtype dtype, size_t rows, size_t dim)
{
    const char *descr = dtype == XP_BF16 ? "<u2" : dtype == XP_F16 ? "<f2" : "<f4";
    int n = snprintf(out + 10, XP_NPY_HEADER_MAX - 10, "{'descr': '%s', 'fortran_order': False, 'shape': (%zu, %zu), }", descr,
                     rows, dim);
    size_t len = (10 + (size_t)n + 1 + 63) / 64 * 64; /* numpy pads with blanks to 64 bytes and ends with a newline */

    memcpy(out, magic, MAGIC_LEN);
    out[6] = 1;
    out[7] = 0;
    out[8] = (char)((len - 10) & 0xff);
    out[9] = (char)((len - 10) >> 8);
    memset(out + 10 + n, ' ', len - 10 - (size_t)n);
    out[len - 1] = '\n';
    return len;
}

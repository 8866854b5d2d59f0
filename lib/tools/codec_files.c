/*
 * codec_files.c - xp_codec encode and decode: .npy to .xpf and back, a frame at a time
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "lib/tools/infile.h"
#include "lib/tools/outfile.h"
#include "lib/tools/xp_codec.h"
#include "lib/tools/xpf.h"

/* What a run found out, for people and for --json. */
struct figures {
    const char *command, *mode, *input;
    xp_codec_stats stats; /* all frames together */
    uint64_t rows, dim, raw_bytes, wire_bytes;
    xp_dtype dtype;
    double eps;
};

/* Puts a text into err; returns -1. */
static int say(char *err, size_t err_size, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(err, err_size, fmt, args);
    va_end(args);
    return -1;
}

static const char *type_name(xp_dtype t)
{
    return t == XP_BF16 ? "bf16" : t == XP_F16 ? "f16" : "f32";
}

static double ratio(const struct figures *f)
{
    return f->raw_bytes ? (double)f->wire_bytes / (double)f->raw_bytes : 1;
}

static void print_figures(const struct figures *f)
{
    const xp_codec_stats *s = &f->stats;

    printf("%" PRIu64 " rows of %" PRIu64 " %s, %" PRIu64 " bytes as %" PRIu64 ", wire ratio %.4f, codec %s\n", f->rows, f->dim,
           type_name(f->dtype), f->raw_bytes, f->wire_bytes, ratio(f), s->codec[0] ? s->codec : "none");
    if (!strcmp(f->mode, "bounded"))
        printf("row error mean %.5f, worst %.5f of the norm, %.5f of the reference; %" PRIu64 " rows raw\n", s->err_mean,
               s->err_max, s->err_ref_max, s->rows_raw);
}

static int write_json(const struct figures *f, const char *path)
{
    const xp_codec_stats *s = &f->stats;
    struct xp_outfile o;
    char err[512];

    if (!path)
        return 0;
    if (xp_outfile_open(&o, path, err, sizeof(err)))
        return tool_fail("%s", err);
    fprintf(o.f, "{\"command\": \"%s\", \"input\": ", f->command);
    tool_json_string(o.f, f->input);
    fprintf(o.f, ", \"rows\": %" PRIu64 ", \"dim\": %" PRIu64 ", \"dtype\": \"%s\", \"mode\": \"%s\", \"eps\": %g, \"codec\": \"%s\"",
            f->rows, f->dim, type_name(f->dtype), f->mode, f->eps, s->codec);
    fprintf(o.f, ", \"raw_bytes\": %" PRIu64 ", \"wire_bytes\": %" PRIu64 ", \"wire_ratio\": %.6f", f->raw_bytes, f->wire_bytes, ratio(f));
    fprintf(o.f, ", \"rel_err_mean\": %.8g, \"rel_err_max\": %.8g, \"ref_err_max\": %.8g", s->err_mean, s->err_max, s->err_ref_max);
    fprintf(o.f, ", \"rows_raw\": %" PRIu64 ", \"rows_unique\": %" PRIu64 ", \"clusters\": %" PRIu64 ", \"rho\": %.6g}\n", s->rows_raw,
            s->rows_unique, s->clusters, s->rho);
    return xp_outfile_finish(&o, err, sizeof(err)) ? tool_fail("%s", err) : 0;
}

/* ---- encode ------------------------------------------------------------------------------------------------- */

/* Adds one frame's figures to those of the file. */
static void add(xp_codec_stats *sum, const xp_codec_stats *st)
{
    double n = (double)(sum->rows + st->rows);

    if (n > 0) {
        sum->err_mean = (sum->err_mean * (double)sum->rows + st->err_mean * (double)st->rows) / n;
        sum->rho = (sum->rho * (double)sum->rows + st->rho * (double)st->rows) / n;
    }
    sum->err_max = st->err_max > sum->err_max ? st->err_max : sum->err_max;
    sum->err_ref_max = st->err_ref_max > sum->err_ref_max ? st->err_ref_max : sum->err_ref_max;
    sum->rows += st->rows;
    sum->rows_raw += st->rows_raw;
    sum->rows_unique += st->rows_unique;
    sum->clusters += st->clusters;
    memcpy(sum->codec, st->codec, sizeof(sum->codec));
}

static int encode_rows(xp_codec *codec, const struct xp_npy *a, struct xp_outfile *out, struct figures *f, char *err, size_t err_size)
{
    size_t chunk = xp_xpf_chunk(a->dtype, a->dim), row_bytes = a->dim * xp_dtype_size(a->dtype), len;
    size_t most = a->rows < chunk ? a->rows : chunk, cap = xp_codec_bound(codec, most);
    uint8_t edge[XP_XPF_HEADER], *frame = malloc(cap);
    struct xp_xpf x;
    int failed;

    if (!frame)
        return say(err, err_size, "no memory for a frame of %zu bytes", cap);
    xp_xpf_begin(&x, a->dtype, a->dim, a->rows, edge);
    failed = xp_outfile_write(out, edge, XP_XPF_HEADER, err, err_size);
    f->wire_bytes = XP_XPF_HEADER + XP_XPF_TRAILER;
    for (size_t r = 0; r < a->rows && !failed; r += most) {
        size_t n = a->rows - r < most ? a->rows - r : most;
        xp_codec_stats st = { .size = sizeof(st) };

        tool_progress("encode", r, a->rows);
        if (xp_encode(codec, (const char *)a->data + r * row_bytes, n, frame, cap, &len, &st)) {
            failed = say(err, err_size, "%s", xp_last_error());
            break;
        }
        xp_xpf_add(&x, frame, n);
        add(&f->stats, &st);
        f->wire_bytes += len;
        failed = xp_outfile_write(out, frame, len, err, err_size);
    }
    xp_xpf_end(&x, edge);
    if (!failed)
        failed = xp_outfile_write(out, edge, XP_XPF_TRAILER, err, err_size);
    free(frame);
    tool_progress("encode", a->rows, a->rows);
    return failed;
}

static int encode_file(const struct tool_options *o, const struct xp_npy *a, struct figures *f)
{
    struct xp_outfile out;
    xp_codec *codec;
    xp_codec_desc d;
    char err[512];
    int failed;

    tool_describe(o, a, &d);
    if (xp_codec_create(&codec, &d))
        return tool_fail("%s", xp_last_error());
    failed = xp_outfile_open(&out, o->files[1], err, sizeof(err));
    if (!failed) {
        failed = encode_rows(codec, a, &out, f, err, sizeof(err));
        if (failed)
            xp_outfile_abandon(&out);
        else
            failed = xp_outfile_finish(&out, err, sizeof(err));
    }
    xp_codec_destroy(codec);
    return failed ? tool_fail("%s", err) : 0;
}

static const char *mode_name(xp_mode m)
{
    return m == XP_MODE_BOUNDED ? "bounded" : m == XP_MODE_RAW ? "raw" : "exact";
}

int tool_encode(const struct tool_options *o)
{
    struct figures f = { .command = "encode", .input = o->files[0], .mode = mode_name(o->mode), .eps = o->eps };
    struct xp_npy a;
    char err[512];
    int rc;

    if (xp_npy_read(&a, o->files[0], err, sizeof(err)))
        return tool_fail("%s", err);
    f.rows = a.rows;
    f.dim = a.dim;
    f.dtype = a.dtype;
    f.raw_bytes = a.rows * a.dim * xp_dtype_size(a.dtype);
    rc = encode_file(o, &a, &f);
    xp_npy_free(&a);
    if (rc)
        return rc;
    print_figures(&f);
    return write_json(&f, o->json);
}

/* ---- decode ------------------------------------------------------------------------------------------------- */

static int decode_frames(xp_codec *codec, struct xp_xpf *x, struct xp_outfile *out, struct figures *f, char *err, size_t err_size)
{
    size_t row_bytes = x->dim * xp_dtype_size(x->dtype), len, rows, room = 0, got;
    const uint8_t *frame;
    void *buffer = NULL, *more;
    const char *why = NULL;
    xp_status s;
    int failed = 0;

    while ((s = xp_xpf_next(x, &frame, &len, &rows, &why)) == XP_IN_PROGRESS && !failed) {
        xp_frame_info info = { .size = sizeof(info) };

        tool_progress("decode", x->rows_seen, x->rows);
        if (rows > room) { /* at most XP_XPF chunk rows: x has checked that */
            more = realloc(buffer, rows * row_bytes);
            if (!more) {
                failed = say(err, err_size, "%s: no memory for %zu rows", f->input, rows);
                break;
            }
            buffer = more;
            room = rows;
        }
        if (xp_decode(codec, frame, len, buffer, rows, &got) || xp_frame_inspect(frame, len, &info))
            failed = say(err, err_size, "%s: %s", f->input, xp_last_error());
        else
            failed = xp_outfile_write(out, buffer, rows * row_bytes, err, err_size);
        memcpy(f->stats.codec, info.codec, sizeof(info.codec));
    }
    if (!failed && s)
        failed = say(err, err_size, "%s: %s", f->input, why);
    free(buffer);
    return failed ? -1 : 0;
}

static int decode_file(const struct tool_options *o, struct xp_xpf *x, struct figures *f)
{
    char header[XP_NPY_HEADER_MAX], err[512];
    struct xp_outfile out;
    xp_codec *codec;
    xp_codec_desc d;
    int failed;

    xp_codec_desc_init(&d);
    d.dtype = x->dtype;
    d.dim = x->dim;
    d.isa = o->params.isa;
    if (xp_codec_create(&codec, &d))
        return tool_fail("%s", xp_last_error());
    failed = xp_outfile_open(&out, o->files[1], err, sizeof(err));
    if (!failed) {
        failed = xp_outfile_write(&out, header, xp_npy_header(header, x->dtype, x->rows, x->dim), err, sizeof(err)) ||
                 decode_frames(codec, x, &out, f, err, sizeof(err));
        if (failed)
            xp_outfile_abandon(&out);
        else
            failed = xp_outfile_finish(&out, err, sizeof(err));
    }
    xp_codec_destroy(codec);
    return failed ? tool_fail("%s", err) : 0;
}

int tool_decode(const struct tool_options *o)
{
    struct figures f = { .command = "decode", .input = o->files[0], .mode = "decoded" };
    char err[512];
    const char *why;
    struct xp_xpf x;
    void *bytes = xp_infile_read(o->files[0], &f.wire_bytes, err, sizeof(err));
    int rc;

    if (!bytes)
        return tool_fail("%s", err);
    if (xp_xpf_open(&x, bytes, f.wire_bytes, &why)) {
        free(bytes);
        return tool_fail("%s: %s", o->files[0], why);
    }
    f.rows = x.rows;
    f.dim = x.dim;
    f.dtype = x.dtype;
    f.raw_bytes = x.rows * x.dim * xp_dtype_size(x.dtype);
    rc = x.dtype == XP_BYTE ? tool_fail("%s: opaque bytes; a .npy file holds bf16, f16 or f32", f.input) : decode_file(o, &x, &f);
    free(bytes);
    if (rc)
        return rc;
    print_figures(&f);
    return write_json(&f, o->json);
}

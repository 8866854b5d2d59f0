/*
 * codec_api.c - the public codec interface (crosspress/codec.h) over the coder
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crosspress/codec.h"
#include "hash/codec.h"
#include "hash/frame.h"
#include "lib/comm.h"

struct xp_codec {
    struct xp_coder *coder;
    xp_dtype dtype;
    size_t dim;
    int automatic;
};

void xp_codec_desc_init(xp_codec_desc *d)
{
    memset(d, 0, sizeof(*d));
    d->size = sizeof(*d);
    d->mode = XP_MODE_EXACT;
    d->eps_ref = XP_EPS_REF_MIN;
}

/* ---- create ------------------------------------------------------------------------------------------------- */

/* Everything wrong with a description that can be said without building anything. */
static xp_status check_shape(const xp_codec_desc *d)
{
    if (d->size != sizeof(*d))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "codec: size of the description not set (xp_codec_desc_init)");
    if (!xp_dtype_size(d->dtype))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "codec: type %d is not one of bf16, f16, f32, byte", (int)d->dtype);
    if (!d->dim || d->dim > XP_FRAME_MAX_DIM)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "codec: rows of %zu values; 1 to %u are possible", d->dim, XP_FRAME_MAX_DIM);
    return XP_OK;
}

static xp_status check_mode(const xp_codec_desc *d, const struct xp_codec_choice *choice)
{
    const struct xp_codec_ops *ops = xp_codec_by_id(choice->id);

    if (d->mode < XP_MODE_DEFAULT || d->mode > XP_MODE_BOUNDED)
        return xp_error(NULL, XP_ERR_UNSUPPORTED, "codec: mode %d is not raw, exact or bounded", (int)d->mode);
    if (d->eps_ref < XP_EPS_REF_DEFAULT || d->eps_ref > XP_EPS_REF_ROW)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "codec: eps_ref %d is not min or row", (int)d->eps_ref);
    if (d->dither < XP_DITHER_DEFAULT || d->dither > XP_DITHER_ON)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "codec: dither %d is not default, off or on", (int)d->dither);
    if (d->mode != XP_MODE_BOUNDED && !(ops->caps & XP_CAP_LOSSLESS))
        return xp_error(NULL, XP_ERR_UNSUPPORTED, "codec: %s is lossy; it needs mode bounded and an eps", choice->name);
    if (d->mode == XP_MODE_BOUNDED && d->dtype == XP_BYTE)
        return xp_error(NULL, XP_ERR_UNSUPPORTED, "codec: opaque bytes are never coded with loss; use mode exact");
    if (d->mode == XP_MODE_BOUNDED && !(isfinite(d->eps) && d->eps > 0 && d->eps < 1))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "codec: eps %g is not between 0 and 1", d->eps);
    return XP_OK;
}

static xp_status parse_names(const xp_codec_desc *d, struct xp_codec_choice *choice, enum xp_isa *isa)
{
    const char *name = d->codec ? d->codec : "auto";
    xp_status s = xp_codec_parse(name, choice);
    int found = xp_isa_parse(d->isa);

    if (s == XP_ERR_UNSUPPORTED)
        return xp_error(NULL, s, "codec: %s is not in this version of the library", name);
    if (s)
        return xp_error(NULL, XP_ERR_UNSUPPORTED, "codec: unknown codec '%s' (xp_info lists them)", name);
    if (found < 0)
        return xp_error(NULL, XP_ERR_UNSUPPORTED, found == -2 ? "codec: this CPU has no %s" : "codec: unknown isa '%s'", d->isa);
    *isa = (enum xp_isa)found;
    return XP_OK;
}

static void describe(struct xp_coder_desc *cd, const xp_codec_desc *d)
{
    cd->dtype = d->dtype;
    cd->dim = d->dim;
    cd->mode = d->mode ? d->mode : XP_MODE_EXACT;
    cd->eps = d->eps;
    cd->eps_ref = d->eps_ref;
    cd->dither = cd->mode == XP_MODE_BOUNDED && d->dither == XP_DITHER_ON;
    cd->seed = d->seed;
    cd->lsh_hashes = d->lsh_hashes;
    cd->lsh_width = d->lsh_width;
    cd->lsh_rounds = d->lsh_rounds;
    cd->lsh_refine = d->lsh_refine;
    cd->lsh_center = d->lsh_center;
}

xp_status xp_codec_create(xp_codec **out, const xp_codec_desc *d)
{
    struct xp_coder_desc cd = { 0 };
    xp_codec *c;
    xp_status s;

    if (!out || !d)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "codec: NULL argument");
    s = check_shape(d);
    if (!s)
        s = parse_names(d, &cd.choice, &cd.isa);
    if (!s)
        s = check_mode(d, &cd.choice);
    if (s)
        return s;
    describe(&cd, d);
    c = calloc(1, sizeof(*c));
    if (!c)
        return xp_error(NULL, XP_ERR_NO_MEMORY, "codec: out of memory");
    c->dtype = d->dtype;
    c->dim = d->dim;
    c->automatic = cd.choice.automatic;
    s = xp_coder_create(&c->coder, &cd);
    if (s) {
        free(c);
        return xp_error(NULL, s, s == XP_ERR_NO_MEMORY ? "codec: out of memory for rows of %zu values" :
                        "codec: rows of %zu values cannot be coded with these lsh settings", d->dim);
    }
    *out = c;
    return XP_OK;
}

void xp_codec_destroy(xp_codec *c)
{
    if (!c)
        return;
    xp_coder_destroy(c->coder);
    free(c);
}

size_t xp_codec_bound(const xp_codec *c, size_t rows)
{
    return xp_frame_bound(c->dtype, c->dim, rows);
}

/* ---- encode, decode ----------------------------------------------------------------------------------------- */

static xp_status encode_frame(xp_codec *c, const struct xp_rows *in, void *frame, size_t cap, size_t *len, xp_codec_stats *st)
{
    xp_status s;

    /* Without a link speed the choice depends on the rows alone, so that equal rows give equal frames. */
    if (c->automatic)
        xp_coder_select(c->coder, in, NULL);
    s = xp_coder_encode(c->coder, in, frame, cap, len, st);
    return s ? xp_error(NULL, s, "encode: %s", xp_coder_why(c->coder)) : XP_OK;
}

xp_status xp_encode(xp_codec *c, const void *rows, size_t nrows, void *frame, size_t cap, size_t *len, xp_codec_stats *stats)
{
    struct xp_rows in = { .data = rows, .rows = nrows };
    xp_codec_stats st = { .size = sizeof(st) };
    size_t written;
    xp_status s;

    if (!c || !frame || !len || (!rows && nrows))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "encode: NULL argument");
    if (stats && (stats->size < sizeof(stats->size) || stats->size > sizeof(st)))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "encode: size of the stats not set");
    if (nrows > SIZE_MAX / 4 / (c->dim * xp_dtype_size(c->dtype) + 4) || cap < xp_codec_bound(c, nrows))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "encode: room of %zu bytes; %zu rows may need more (xp_codec_bound)", cap, nrows);
    in.dim = c->dim;
    in.dtype = c->dtype;
    s = encode_frame(c, &in, frame, cap, &written, &st);
    if (s)
        return s;
    *len = written;
    if (stats) {
        st.size = stats->size;
        memcpy(stats, &st, st.size);
    }
    return XP_OK;
}

static const char *codec_name(unsigned id)
{
    const struct xp_codec_ops *ops = xp_codec_by_id(id);

    return ops ? ops->name : "unknown";
}

xp_status xp_frame_inspect(const void *frame, size_t len, xp_frame_info *info)
{
    struct xp_frame_header h;
    const char *why;
    xp_status s;

    if (!frame || !info || info->size != sizeof(*info))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "inspect: NULL argument, or size not set");
    s = xp_frame_read(frame, len, 0, &h, &why);
    if (s)
        return xp_error(NULL, s, "frame: %s", why);
    info->dtype = (xp_dtype)h.dtype;
    info->dim = h.dim;
    info->rows = h.rows;
    memset(info->codec, 0, sizeof(info->codec));
    strncpy(info->codec, codec_name(h.codec), sizeof(info->codec) - 1);
    return XP_OK;
}

xp_status xp_decode(xp_codec *c, const void *frame, size_t len, void *rows, size_t max_rows, size_t *nrows)
{
    struct xp_frame_header h;
    const char *why;
    xp_status s;

    if (!c || !frame || !nrows || (!rows && max_rows))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "decode: NULL argument");
    s = xp_frame_read(frame, len, 0, &h, &why);
    if (s)
        return xp_error(NULL, s, "frame: %s", why);
    if (h.dtype != c->dtype || h.dim != c->dim)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "decode: the frame holds rows of type %u, %" PRIu32 " values; the codec's are type %d, %zu values",
                        h.dtype, h.dim, (int)c->dtype, c->dim);
    if (h.rows > max_rows)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "decode: the frame holds %" PRIu64 " rows, room is for %zu", h.rows, max_rows);
    s = xp_coder_decode(c->coder, frame, len, rows, h.rows);
    if (s)
        return xp_error(NULL, s, "frame: %s", xp_coder_why(c->coder));
    *nrows = h.rows;
    return XP_OK;
}

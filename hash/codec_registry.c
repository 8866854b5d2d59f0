/*
 * codec_registry.c - the codec table, and the names by which users ask for codecs
 *
 * A codec (what is in a frame) is not a name (what a user asks for): fp8, int8 ... int2 and quant are one codec with
 * different sets of row formats, and so are lsh and lsh+int4.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "hash/coder_impl.h"

#define BIT(f) (1u << (f))
#define ESCAPES (BIT(XP_Q_RAW) | BIT(XP_Q_ZERO)) /* exact formats: always allowed */
#define INTS XP_Q_ALL_INTS

static const struct xp_codec_ops *const codecs[] = { &xp_codec_raw, &xp_codec_exact, &xp_codec_quant, &xp_codec_lsh, &xp_codec_book, &xp_codec_pack, NULL };

static const struct {
    const char *name;
    uint16_t id;
    uint16_t formats;
    const char *about;
} names[] = {
    { "auto", XP_CODEC_RAW, ESCAPES | INTS, "chosen from a sample of the rows" },
    { "raw", XP_CODEC_RAW, BIT(XP_Q_RAW), "the rows as they are" },
    { "exact", XP_CODEC_EXACT, BIT(XP_Q_RAW), "lossless: equal rows once" },
    { "pack", XP_CODEC_PACK, BIT(XP_Q_RAW), "lossless: equal rows once, exponents entropy coded" },
    { "quant", XP_CODEC_QUANT, ESCAPES | INTS, "per row the fewest bits that meet eps (int2 ... int8)" },
    { "fp8", XP_CODEC_QUANT, ESCAPES | BIT(XP_Q_FP8), "8-bit floats (e4m3), one scale per 128 values" },
    { "int8", XP_CODEC_QUANT, ESCAPES | BIT(XP_Q_INT8), "8-bit integers, one step per 128 values" },
    { "int6", XP_CODEC_QUANT, ESCAPES | BIT(XP_Q_INT6), "6-bit integers" },
    { "int5", XP_CODEC_QUANT, ESCAPES | BIT(XP_Q_INT5), "5-bit integers" },
    { "int4", XP_CODEC_QUANT, ESCAPES | BIT(XP_Q_INT4), "4-bit integers" },
    { "int3", XP_CODEC_QUANT, ESCAPES | BIT(XP_Q_INT3), "3-bit integers" },
    { "int2", XP_CODEC_QUANT, ESCAPES | BIT(XP_Q_INT2), "2-bit integers" },
    { "lsh", XP_CODEC_LSH, ESCAPES | INTS, "centroids of LSH clusters + residuals, as quant" },
    { "lsh+fp8", XP_CODEC_LSH, ESCAPES | BIT(XP_Q_FP8), "centroids + fp8 residuals" },
    { "lsh+int8", XP_CODEC_LSH, ESCAPES | BIT(XP_Q_INT8), "centroids + 8-bit residuals" },
    { "lsh+int6", XP_CODEC_LSH, ESCAPES | BIT(XP_Q_INT6), "centroids + 6-bit residuals" },
    { "lsh+int5", XP_CODEC_LSH, ESCAPES | BIT(XP_Q_INT5), "centroids + 5-bit residuals" },
    { "lsh+int4", XP_CODEC_LSH, ESCAPES | BIT(XP_Q_INT4), "centroids + 4-bit residuals" },
    { "lsh+int3", XP_CODEC_LSH, ESCAPES | BIT(XP_Q_INT3), "centroids + 3-bit residuals" },
    { "lsh+int2", XP_CODEC_LSH, ESCAPES | BIT(XP_Q_INT2), "centroids + 2-bit residuals" },
    { "book", XP_CODEC_BOOK, ESCAPES, "mean, directions, spread per channel; entropy-coded residuals" },
    { "book+directions", XP_CODEC_BOOK, ESCAPES, "book; one that both ends keep has directions on fast links, too: fewest bytes, most work" },
};

const struct xp_codec_ops *const *xp_codec_list(void)
{
    return codecs;
}

const struct xp_codec_ops *xp_codec_by_id(unsigned id)
{
    for (const struct xp_codec_ops *const *o = codecs; *o; o++)
        if ((*o)->id == id)
            return *o;
    return NULL;
}

const char *xp_codec_name(unsigned i, const char **about)
{
    if (i >= sizeof(names) / sizeof(names[0]))
        return NULL;
    if (about)
        *about = names[i].about;
    return names[i].name;
}

xp_status xp_codec_parse(const char *name, struct xp_codec_choice *out)
{
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i].name, name))
            continue;
        if (!xp_codec_by_id(names[i].id))
            return XP_ERR_UNSUPPORTED; /* a known name without a codec behind it */
        memset(out, 0, sizeof(*out));
        out->automatic = !strcmp(name, "auto");
        out->id = names[i].id;
        out->formats = names[i].formats;
        out->directions = !strcmp(name, "book+directions");
        memcpy(out->name, name, strlen(name) + 1);
        return XP_OK;
    }
    return XP_ERR_INVALID_ARG;
}

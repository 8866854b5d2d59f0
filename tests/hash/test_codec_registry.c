/*
 * test_codec_registry.c - the codec table and the names users ask by
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <string.h>

#include "hash/codec.h"

Test(registry, every_entry_is_complete_and_found_by_its_id)
{
    const struct xp_codec_ops *const *list = xp_codec_list();
    int n = 0;

    for (; *list; list++, n++) {
        cr_assert_eq((*list)->size, sizeof(struct xp_codec_ops));
        cr_assert((*list)->name && (*list)->about && (*list)->encode && (*list)->decode);
        cr_assert((*list)->caps == XP_CAP_LOSSLESS || (*list)->caps == XP_CAP_BOUNDED);
        cr_assert_eq(xp_codec_by_id((*list)->id), *list);
    }
    cr_assert_geq(n, 5, "raw, exact, quant, lsh and book are there");
    cr_assert_null(xp_codec_by_id(999));
}

Test(registry, every_listed_name_parses_to_itself)
{
    struct xp_codec_choice c;
    const char *name, *about;

    for (unsigned i = 0; (name = xp_codec_name(i, &about)); i++) {
        cr_assert(about && about[0], "%s", name);
        cr_assert_lt(strlen(name), sizeof(c.name));
        cr_assert_eq(xp_codec_parse(name, &c), XP_OK, "%s", name);
        cr_assert_str_eq(c.name, name);
        cr_assert_eq(c.automatic, !strcmp(name, "auto"));
        cr_assert(c.formats & 1 << XP_Q_RAW, "%s can send a row raw", name);
        cr_assert_not_null(xp_codec_by_id(c.id));
    }
}

Test(registry, names_give_the_codec_and_the_row_formats)
{
    static const struct {
        const char *name;
        unsigned id, format;
    } known[] = { { "fp8", XP_CODEC_QUANT, XP_Q_FP8 },      { "int8", XP_CODEC_QUANT, XP_Q_INT8 }, { "int6", XP_CODEC_QUANT, XP_Q_INT6 },
                  { "int5", XP_CODEC_QUANT, XP_Q_INT5 },    { "int4", XP_CODEC_QUANT, XP_Q_INT4 }, { "int3", XP_CODEC_QUANT, XP_Q_INT3 },
                  { "int2", XP_CODEC_QUANT, XP_Q_INT2 },    { "lsh+fp8", XP_CODEC_LSH, XP_Q_FP8 }, { "lsh+int8", XP_CODEC_LSH, XP_Q_INT8 },
                  { "lsh+int4", XP_CODEC_LSH, XP_Q_INT4 },  { "lsh+int2", XP_CODEC_LSH, XP_Q_INT2 } };
    unsigned always = 1u << XP_Q_RAW | 1u << XP_Q_ZERO;
    struct xp_codec_choice c;

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        cr_assert_eq(xp_codec_parse(known[i].name, &c), XP_OK);
        cr_assert_eq(c.id, known[i].id, "%s", known[i].name);
        cr_assert_eq(c.formats, always | 1u << known[i].format, "%s", known[i].name);
    }
    cr_assert_eq(xp_codec_parse("quant", &c), XP_OK);
    cr_assert_eq(c.formats & 1u << XP_Q_INT2, 1u << XP_Q_INT2);
    cr_assert_eq(c.formats & 1u << XP_Q_INT8, 1u << XP_Q_INT8);
}

Test(registry, other_names_are_refused)
{
    static const char *const wrong[] = { "", "int7", "int", "INT4", "int4 ", "lsh+", "lsh+quant", "lsh+int7", "auto ", "zstd" };
    struct xp_codec_choice c;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        cr_assert_eq(xp_codec_parse(wrong[i], &c), XP_ERR_INVALID_ARG, "'%s'", wrong[i]);
}

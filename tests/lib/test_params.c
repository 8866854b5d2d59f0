/*
 * test_params.c - the settings: defaults, strict parsing, unknown names
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/params.h"

static char err[256];

/* Every test is a process of its own; the settings of whoever runs it are taken away. */
static void clean_environment(void)
{
    for (const struct xp_param_info *t = xp_params_table(); t->name; t++) {
        char name[64];
        snprintf(name, sizeof(name), "CROSSPRESS_%s", t->name);
        unsetenv(name);
    }
    err[0] = '\0';
}

TestSuite(params, .init = clean_environment);

static xp_status read_with(struct xp_params *p, const char *name, const char *value)
{
    xp_status s;

    setenv(name, value, 1);
    s = xp_params_read(p, NULL, NULL, err, sizeof(err));
    unsetenv(name);
    return s;
}

Test(params, defaults)
{
    struct xp_params p;

    cr_assert_eq(xp_params_read(&p, NULL, NULL, err, sizeof(err)), XP_OK, "%s", err);
    cr_assert_eq(p.mode, XP_MODE_EXACT);
    cr_assert_float_eq(p.eps, 0.03, 1e-12);
    cr_assert_eq(p.eps_ref, XP_EPS_REF_MIN);
    cr_assert_str_eq(p.codec, "auto");
    cr_assert_str_eq(p.transport, "auto");
    cr_assert_float_eq(p.timeout, 300, 1e-9);
    cr_assert_float_eq(p.heartbeat, 1, 1e-9);
    cr_assert_eq(p.chunk, 256u << 10);
    cr_assert_eq(p.log, XP_LOG_NONE);
}

Test(params, every_setting_is_read)
{
    struct xp_params p;

    cr_assert_eq(read_with(&p, "CROSSPRESS_MODE", "raw"), XP_OK);
    cr_assert_eq(p.mode, XP_MODE_RAW);
    cr_assert_eq(read_with(&p, "CROSSPRESS_MODE", "bounded:0.125"), XP_OK);
    cr_assert_eq(p.mode, XP_MODE_BOUNDED);
    cr_assert_float_eq(p.eps, 0.125, 1e-12);
    cr_assert_eq(read_with(&p, "CROSSPRESS_EPS", ".5"), XP_OK);
    cr_assert_float_eq(p.eps, 0.5, 1e-12);
    cr_assert_eq(read_with(&p, "CROSSPRESS_EPS_REF", "row"), XP_OK);
    cr_assert_eq(p.eps_ref, XP_EPS_REF_ROW);
    cr_assert_eq(read_with(&p, "CROSSPRESS_CODEC", "lsh+int4"), XP_OK);
    cr_assert_str_eq(p.codec, "lsh+int4");
    cr_assert_eq(read_with(&p, "CROSSPRESS_ALGO", "hier"), XP_OK);
    cr_assert_str_eq(p.algo, "hier");
    cr_assert_eq(read_with(&p, "CROSSPRESS_ISA", "avx2"), XP_OK);
    cr_assert_str_eq(p.isa, "avx2");
    cr_assert_eq(read_with(&p, "CROSSPRESS_TRANSPORT", "tcp"), XP_OK);
    cr_assert_str_eq(p.transport, "tcp");
    cr_assert_eq(read_with(&p, "CROSSPRESS_ROW", "bf16:4096"), XP_OK);
    cr_assert_str_eq(p.row, "bf16:4096");
    cr_assert_eq(read_with(&p, "CROSSPRESS_TIMEOUT", "2.5"), XP_OK);
    cr_assert_float_eq(p.timeout, 2.5, 1e-9);
    cr_assert_eq(read_with(&p, "CROSSPRESS_SECRET", "0123456789abcdef"), XP_OK);
    cr_assert_str_eq(p.secret, "0123456789abcdef");
    cr_assert_eq(read_with(&p, "CROSSPRESS_ROOT", "[::1]:4711"), XP_OK);
    cr_assert_str_eq(p.root, "[::1]:4711");
    cr_assert_eq(read_with(&p, "CROSSPRESS_NODE", "rack 3"), XP_OK);
    cr_assert_str_eq(p.node, "rack 3");
    cr_assert_eq(read_with(&p, "CROSSPRESS_INTERFACE", "eth0"), XP_OK);
    cr_assert_str_eq(p.interface_, "eth0");
    cr_assert_eq(read_with(&p, "CROSSPRESS_LOG", "debug"), XP_OK);
    cr_assert_eq(p.log, XP_LOG_DEBUG);
    cr_assert_eq(read_with(&p, "CROSSPRESS_STATS", "1"), XP_OK);
    cr_assert_eq(p.stats, 1);
    cr_assert_eq(read_with(&p, "CROSSPRESS_CHUNK", "2M"), XP_OK);
    cr_assert_eq(p.chunk, 2u << 20);
    cr_assert_eq(read_with(&p, "CROSSPRESS_HEARTBEAT", "0.1"), XP_OK);
    cr_assert_float_eq(p.heartbeat, 0.1, 1e-9);
    cr_assert_eq(read_with(&p, "CROSSPRESS_RATE", "0.25"), XP_OK);
    cr_assert_float_eq(p.rate, 0.25, 1e-9);
}

Test(params, rubbish_is_refused_by_name_and_value)
{
    static const char *const bad[][2] = {
        {"MODE", "Raw"}, {"MODE", "bounded:"}, {"MODE", "bounded:1"}, {"MODE", "bounded:-0.1"}, {"MODE", "exact "},
        {"MODE", "raw|exact"}, {"MODE", "folded"},
        {"EPS", "0"}, {"EPS", "1"}, {"EPS", "nan"}, {"EPS", "0.1x"}, {"EPS", " 0.1"}, {"EPS", "0x1p-3"}, {"EPS", "1e-400"},
        {"EPS", "+0.1"}, {"EPS", "."}, {"EPS_REF", "max"}, {"RATE", "1.5"}, {"ALGO", "ring"}, {"ISA", "sse"},
        {"TRANSPORT", "nccl"}, {"TRANSPORT", "shm,tcp"},
        {"ROW", "bf16"}, {"ROW", "bf16:"}, {"ROW", "bf16:0"}, {"ROW", "bf16:-4"}, {"ROW", "int8:4"}, {"ROW", "bf16:2000000"},
        {"ROW", "bf16:4.5"}, {"TIMEOUT", "0"}, {"TIMEOUT", "-1"}, {"TIMEOUT", "inf"}, {"TIMEOUT", "5 s"},
        {"SECRET", "short"}, {"ROOT", "host"}, {"ROOT", "host:"}, {"ROOT", ":1"}, {"ROOT", "host:0"}, {"ROOT", "host:65536"},
        {"LOG", "all"}, {"LOG", "2"}, {"STATS", "yes"}, {"CHUNK", "1"}, {"CHUNK", "2G"}, {"CHUNK", "1e6"}, {"CHUNK", "-4096"},
        {"CHUNK", "99999999999999999999"}, {"HEARTBEAT", "0"}, {"HEARTBEAT", "61"}, {"GROUPS", "all"}, {"GROUPS", "complete,"},
        {"MIN_SIZE", "0"}, {"MIN_SIZE", "-1"}, {"MIN_SIZE", "1G"}, {"CODEC", "0123456789012345678901234567890123"},
        {"NODE", "line\nbreak"},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct xp_params p = {.chunk = 77};
        char name[64];

        snprintf(name, sizeof(name), "CROSSPRESS_%s", bad[i][0]);
        cr_assert_eq(read_with(&p, name, bad[i][1]), XP_ERR_INVALID_ARG, "%s=%s was taken", name, bad[i][1]);
        cr_assert(strstr(err, name), "the text \"%s\" does not name %s", err, name);
        if (strcmp(bad[i][0], "SECRET") == 0)
            cr_assert(!strstr(err, bad[i][1]), "the text shows the secret: %s", err);
        else
            cr_assert(strstr(err, bad[i][1]), "the text \"%s\" does not show the value", err);
        cr_assert_eq(p.chunk, 77, "an output was written although %s=%s failed", name, bad[i][1]);
    }
}

Test(params, empty_means_unset)
{
    struct xp_params p;

    cr_assert_eq(read_with(&p, "CROSSPRESS_TIMEOUT", ""), XP_OK, "%s", err);
    cr_assert_float_eq(p.timeout, 300, 1e-9);
}

Test(params, eps_of_the_mode_wins)
{
    struct xp_params p;

    setenv("CROSSPRESS_EPS", "0.5", 1);
    cr_assert_eq(read_with(&p, "CROSSPRESS_MODE", "bounded:0.1"), XP_OK);
    cr_assert_float_eq(p.eps, 0.1, 1e-12);
}

Test(params, the_point_is_a_point_in_every_locale)
{
    static const char *const commas[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"};
    struct xp_params p;
    int found = 0;

    for (size_t i = 0; i < 4 && !found; i++)
        found = setlocale(LC_ALL, commas[i]) != NULL;
    if (!found)
        cr_skip_test("no locale with a decimal comma is installed");
    cr_assert_eq(read_with(&p, "CROSSPRESS_EPS", "0.25"), XP_OK, "%s", err);
    cr_assert_float_eq(p.eps, 0.25, 1e-12);
    cr_assert_eq(read_with(&p, "CROSSPRESS_EPS", "0,25"), XP_ERR_INVALID_ARG);
}

struct warnings {
    int n;
    char text[8][256];
};

static void collect(void *user, const char *text)
{
    struct warnings *w = user;

    snprintf(w->text[w->n++ % 8], sizeof(w->text[0]), "%s", text);
}

Test(params, unknown_names_are_warned_about_with_the_nearest)
{
    static const char *const pairs[][2] = {{"CROSSPRESS_TIMOUT", "CROSSPRESS_TIMEOUT"}, {"CROSSPRESS_CODECS", "CROSSPRESS_CODEC"},
                                           {"CROSSPRESS_TRANPSORT", "CROSSPRESS_TRANSPORT"}, {"CROSSPRESS_HARTBEAT", "CROSSPRESS_HEARTBEAT"},
                                           {"CROSSPRESS_eps", "CROSSPRESS_"}};

    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        struct warnings w = {0};
        struct xp_params p;

        setenv(pairs[i][0], "3", 1);
        cr_assert_eq(xp_params_read(&p, collect, &w, err, sizeof(err)), XP_OK);
        unsetenv(pairs[i][0]);
        cr_assert_eq(w.n, 1, "%d warnings for %s", w.n, pairs[i][0]);
        cr_assert(strstr(w.text[0], pairs[i][0]) && strstr(strstr(w.text[0], "nearest"), pairs[i][1]), "%s", w.text[0]);
    }
}

Test(params, a_long_unknown_name_is_cut)
{
    char name[600] = "CROSSPRESS_";
    struct warnings w = {0};
    struct xp_params p;

    memset(name + strlen(name), 'X', sizeof(name) - strlen(name) - 1);
    name[sizeof(name) - 1] = '\0';
    setenv(name, "1", 1);
    cr_assert_eq(xp_params_read(&p, collect, &w, err, sizeof(err)), XP_OK);
    cr_assert_eq(w.n, 1);
}

Test(params, known_names_are_not_warned_about)
{
    static const char *const internal[] = {"CROSSPRESS_RANK", "CROSSPRESS_SIZE", "CROSSPRESS_LISTEN_FD", "CROSSPRESS_MODE"};
    struct warnings w = {0};
    struct xp_params p;

    for (size_t i = 0; i < 4; i++)
        setenv(internal[i], i == 3 ? "raw" : "1", 1);
    cr_assert_eq(xp_params_read(&p, collect, &w, err, sizeof(err)), XP_OK);
    cr_assert_eq(w.n, 0, "%s", w.text[0]);
}

Test(params, show_gives_value_and_source_of_every_setting)
{
    struct xp_params p;

    setenv("CROSSPRESS_CHUNK", "64K", 1);
    setenv("CROSSPRESS_SECRET", "do not print me please", 1);
    cr_assert_eq(xp_params_read(&p, NULL, NULL, err, sizeof(err)), XP_OK);
    for (const struct xp_param_info *t = xp_params_table(); t->name; t++) {
        char value[128];
        const char *source;
        int set = strcmp(t->name, "CHUNK") == 0 || strcmp(t->name, "SECRET") == 0;

        xp_params_show(&p, t->name, value, sizeof(value), &source);
        cr_assert_str_eq(source, set ? "environment" : "default", "%s", t->name);
        if (strcmp(t->name, "CHUNK") == 0)
            cr_assert_str_eq(value, "65536");
        else if (set)
            cr_assert_str_eq(value, "(hidden)");
        else
            cr_assert_str_eq(value, t->def, "%s", t->name);
    }
}

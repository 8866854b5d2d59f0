/*
 * xp_codec.c - rows of .npy files to .xpf files and back, and what codecs make of them: the command line
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/tools/xp_codec.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char usage[] =
    "usage: xp_codec encode [--mode exact|bounded|raw] [--eps E] [--dither on|off] [--codec NAME] [--json F] IN.npy OUT.xpf\n"
    "       xp_codec decode [--json F] IN.xpf OUT.npy\n"
    "       xp_codec stats  [--eps E] [--k K] [--width W] [--rounds R] [--center 0|1] [--json F] [--plot F.png] IN.npy\n"
    "  IN.npy     rows: 2-D, C order, <f2, <f4, or <u2 holding bf16; the type is kept\n"
    "  --mode     exact (default): bit for bit. bounded: every row within --eps of its reference (CROSSPRESS_EPS_REF)\n"
    "  --eps      largest relative L2 error of a row, between 0 and 1\n"
    "  --codec    auto, raw, exact, quant, fp8, int8 ... int2, lsh, lsh+int4 ... (xp_info lists them)\n"
    "  --k --width --rounds --center   the hash: concatenated hashes, argmax width, rotations, mean row removed\n"
    "  --json     also writes the figures as one JSON object\n"
    "  --plot     also draws them, error over bytes (needs Python with matplotlib)\n"
    "  CROSSPRESS_MODE, EPS, EPS_REF, CODEC and ISA are honoured; options win over them.\n";

/* ---- for all commands --------------------------------------------------------------------------------------- */

static int progress_shown;

int tool_fail(const char *fmt, ...)
{
    va_list args;

    if (progress_shown)
        fputc('\n', stderr);
    progress_shown = 0;
    fputs("xp_codec: ", stderr);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    return 1;
}

void tool_progress(const char *what, uint64_t done, uint64_t all)
{
    static double last;
    struct timespec t;
    double now;

    if (!isatty(STDERR_FILENO))
        return;
    clock_gettime(CLOCK_MONOTONIC, &t);
    now = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    if (!last)
        last = now;
    if (done == all && progress_shown) {
        fprintf(stderr, "\r%s: %llu rows \n", what, (unsigned long long)all);
        progress_shown = 0;
    } else if (done < all && now - last > 0.3) {
        fprintf(stderr, "\r%s: %llu of %llu rows ", what, (unsigned long long)done, (unsigned long long)all);
        last = now;
        progress_shown = 1;
    }
}

void tool_json_string(FILE *f, const char *text)
{
    fputc('"', f);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            fprintf(f, "\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            fprintf(f, "\\u%04x", *text);
        else
            fputc(*text, f);
    }
    fputc('"', f);
}

void tool_describe(const struct tool_options *o, const struct xp_npy *a, xp_codec_desc *d)
{
    xp_codec_desc_init(d);
    d->dtype = a->dtype;
    d->dim = a->dim;
    d->mode = o->mode;
    d->eps = o->eps;
    d->eps_ref = o->params.eps_ref;
    d->dither = o->dither;
    d->codec = o->codec;
    d->isa = o->params.isa;
    d->lsh_hashes = o->k;
    d->lsh_width = o->width;
    d->lsh_rounds = o->rounds;
    d->lsh_center = o->center;
}

/* ---- options ------------------------------------------------------------------------------------------------ */

static int parse_eps(const char *text, double *eps)
{
    char *end;

    *eps = strtod(text, &end);
    return end != text && !*end && isfinite(*eps) && *eps > 0 && *eps < 1 ? 0 : -1;
}

static int parse_count(const char *text, unsigned max, unsigned *v)
{
    char *end;
    unsigned long n;

    errno = 0;
    n = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || n > max)
        return -1;
    *v = (unsigned)n;
    return 0;
}

static int parse_mode(const char *text, xp_mode *mode)
{
    static const struct {
        const char *name;
        xp_mode mode;
    } modes[] = { { "raw", XP_MODE_RAW }, { "exact", XP_MODE_EXACT }, { "bounded", XP_MODE_BOUNDED } };

    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
        if (!strcmp(text, modes[i].name)) {
            *mode = modes[i].mode;
            return 0;
        }
    return -1;
}

/* Which options a command takes, as bits. */
enum { O_MODE = 1, O_EPS = 2, O_CODEC = 4, O_JSON = 8, O_K = 16, O_WIDTH = 32, O_ROUNDS = 64, O_CENTER = 128, O_PLOT = 256, O_DITHER = 512 };

static const struct {
    const char *name;
    unsigned bit;
    const char *wants;
} options[] = {
    { "--mode", O_MODE, "raw, exact or bounded" },
    { "--eps", O_EPS, "a number between 0 and 1" },
    { "--dither", O_DITHER, "on or off" },
    { "--codec", O_CODEC, "a codec name" },
    { "--json", O_JSON, "a file name" },
    { "--k", O_K, "a number of hashes, 1 to 8" },
    { "--width", O_WIDTH, "an argmax width, a power of two from 4" },
    { "--rounds", O_ROUNDS, "a number of rotations, 1 to 3" },
    { "--center", O_CENTER, "0 or 1" },
    { "--plot", O_PLOT, "a file name" },
};

static const struct command {
    const char *name;
    unsigned options;
    int files;
    int (*run)(const struct tool_options *o);
} commands[] = {
    { "encode", O_MODE | O_EPS | O_DITHER | O_CODEC | O_JSON, 2, tool_encode },
    { "decode", O_JSON, 2, tool_decode },
    { "stats", O_EPS | O_JSON | O_K | O_WIDTH | O_ROUNDS | O_CENTER | O_PLOT, 1, tool_stats },
};

static int set_option(struct tool_options *o, unsigned bit, const char *value)
{
    unsigned v = 0;
    int bad = 0;

    switch (bit) {
    case O_MODE: return parse_mode(value, &o->mode);
    case O_EPS: return parse_eps(value, &o->eps);
    case O_DITHER: o->dither = strcmp(value, "on") ? XP_DITHER_OFF : XP_DITHER_ON; return strcmp(value, "on") && strcmp(value, "off");
    case O_CODEC: o->codec = value; return 0;
    case O_JSON: o->json = value; return 0;
    case O_PLOT: o->plot = value; return 0;
    case O_K: return parse_count(value, 8, &o->k) || !o->k;
    case O_WIDTH: return parse_count(value, 512, &o->width) || o->width < 4 || (o->width & (o->width - 1));
    case O_ROUNDS: return parse_count(value, 3, &o->rounds) || !o->rounds;
    case O_CENTER: bad = parse_count(value, 1, &v); o->center = v ? 1 : -1; return bad;
    }
    return -1;
}

/* Returns 0, or the exit code after one line. */
static int parse_arguments(struct tool_options *o, const struct command *cmd, char **argv)
{
    size_t count = sizeof(options) / sizeof(options[0]);
    int files = 0;

    for (; *argv; argv++) {
        size_t i = 0;

        if (strncmp(*argv, "--", 2)) {
            if (files == cmd->files)
                return tool_fail("%s: one file too many: '%s'", cmd->name, *argv), 2;
            o->files[files++] = *argv;
            continue;
        }
        while (i < count && (strcmp(*argv, options[i].name) || !(cmd->options & options[i].bit)))
            i++;
        if (i == count)
            return tool_fail("%s: unknown option '%s' (xp_codec --help)", cmd->name, *argv), 2;
        if (!argv[1])
            return tool_fail("%s: %s needs %s", cmd->name, *argv, options[i].wants), 2;
        argv++;
        if (set_option(o, options[i].bit, *argv))
            return tool_fail("%s: %s '%s' is not %s", cmd->name, options[i].name, *argv, options[i].wants), 2;
    }
    if (files < cmd->files)
        return tool_fail("%s: %s (xp_codec --help)", cmd->name, cmd->files == 1 ? "a file is needed" : "an input and an output file are needed"), 2;
    return 0;
}

static void warn(void *user, const char *text)
{
    (void)user;
    fprintf(stderr, "xp_codec: warning: %s\n", text);
}

int main(int argc, char **argv)
{
    struct tool_options o = { 0 };
    char err[512];
    int rc;

    if (argc < 2)
        return tool_fail("a command is needed: encode, decode or stats (xp_codec --help)"), 2;
    for (int i = 1; i < argc && i < 3; i++) /* in place of the command, or right behind it */
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return fputs(usage, stdout) < 0;
    if (!strcmp(argv[1], "--version"))
        return printf("xp_codec %s\n", xp_version()) < 0;
    if (xp_params_read(&o.params, warn, NULL, err, sizeof(err)))
        return tool_fail("%s", err), 2;
    o.mode = o.params.mode;
    o.eps = o.params.eps;
    o.codec = o.params.codec;
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(argv[1], commands[i].name))
            continue;
        rc = parse_arguments(&o, &commands[i], argv + 2);
        return rc ? rc : commands[i].run(&o);
    }
    return tool_fail("unknown command '%s'; encode, decode and stats are known", argv[1]), 2;
}

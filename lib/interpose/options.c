/*
 * options.c - the settings as the interposer uses them, and its lines on stderr
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/options.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/interpose/real.h"

static struct xp_options options;
static pthread_once_t once = PTHREAD_ONCE_INIT;

void xp_say(xp_log_level level, const char *fmt, ...)
{
    static const char *const levels[] = {"", "error: ", "warning: ", "", ""};
    char text[700];
    va_list args;

    if ((int)level > options.params.log)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    fprintf(stderr, "crosspress-nccl[%d] %s%s\n", (int)getpid(), levels[level], text);
}

static uint64_t hash_text(uint64_t h, const void *p, size_t n)
{
    for (const unsigned char *b = p; n; b++, n--)
        h = (h ^ *b) * 0x100000001b3u; /* FNV-1a */
    return h;
}

static void read_row(struct xp_options *o)
{
    const char *text = o->params.row, *colon = strchr(text, ':');
    o->row_type = -1;
    if (!colon)
        return;
    o->row_dim = strtoull(colon + 1, NULL, 10);
    if (strncmp(text, "bf16", 4) == 0)
        o->row_type = ncclBfloat16, o->row_dtype = XP_BF16;
    else if (strncmp(text, "f16", 3) == 0)
        o->row_type = ncclFloat16, o->row_dtype = XP_F16;
    else if (strncmp(text, "f32", 3) == 0)
        o->row_type = ncclFloat32, o->row_dtype = XP_F32;
    else
        o->row_type = ncclUint8, o->row_dtype = XP_BYTE, o->row_is_bytes = 1;
    o->row_bytes = o->row_dim * xp_nccl_type_size(o->row_type);
}

static void read_mode(struct xp_options *o)
{
    const char *bad;
    int bounded = o->params.mode == XP_MODE_BOUNDED;

    o->mode = bounded ? XP_RULE_BOUNDED : o->params.mode == XP_MODE_RAW ? XP_RULE_OFF : XP_RULE_EXACT;
    if (xp_rules_parse(&o->rules, o->params.rules, &bad) != 0)
        snprintf(o->off, sizeof o->off, "CROSSPRESS_RULES does not parse at \"%.40s\"", bad);
    if (o->mode == XP_RULE_OFF && o->rules.n == 0 && !o->off[0])
        snprintf(o->off, sizeof o->off, "CROSSPRESS_MODE is raw");
    if (bounded && (o->row_type < 0 || o->row_is_bytes))
        xp_say(XP_LOG_WARN, "bounded mode needs CROSSPRESS_ROW with a type and a length, such as bf16:4096: what is diverted stays exact");
}

/* Values that both ends of a message decide by. */
static uint64_t hash_options(const struct xp_options *o)
{
    uint64_t h = 0xcbf29ce484222325u;
    h = hash_text(h, &o->params.mode, sizeof o->params.mode);
    h = hash_text(h, &o->params.eps, sizeof o->params.eps);
    h = hash_text(h, o->params.row, strlen(o->params.row));
    h = hash_text(h, &o->params.min_size, sizeof o->params.min_size);
    h = hash_text(h, o->params.groups, strlen(o->params.groups));
    return hash_text(h, o->params.rules, strlen(o->params.rules));
}

static void warn_unknown(void *user, const char *text)
{
    (void)user;
    xp_say(XP_LOG_WARN, "%s", text);
}

static void read_once(void)
{
    static const char *const words[] = {"off", "auto", "complete", "sparse"};
    struct xp_options *o = &options;
    char err[256];

    if (xp_params_read(&o->params, NULL, NULL, err, sizeof err) != XP_OK) {
        o->params.log = XP_LOG_ERROR; /* a setting that does not parse is said even where no log was asked for */
        snprintf(o->off, sizeof o->off, "%.159s", err);
        xp_say(XP_LOG_ERROR, "%s; every call goes straight through", err);
        return;
    }
    if (o->params.log >= XP_LOG_WARN) { /* again, now that the level is known */
        struct xp_params again;
        xp_params_read(&again, warn_unknown, NULL, err, sizeof err);
    }
    for (int i = 0; i < 4; i++)
        if (strcmp(o->params.groups, words[i]) == 0)
            o->groups = (enum xp_groups)i;
    read_row(o);
    read_mode(o);
    o->hash = hash_options(o);
}

const struct xp_options *xp_options(void)
{
    pthread_once(&once, read_once);
    return &options;
}

/*
 * rules.c - which mode serves a message, by number of ranks, NCCL data type and size
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/rules.h"

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lib/interpose/nccl_abi.h"

static const char *const types[ncclNumTypes] = {"i8", "u8", "i32", "u32", "i64", "u64", "f16", "f32", "f64", "bf16", "f8e4m3", "f8e5m2"};

static int starts(const char **p, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(*p, word, n) != 0)
        return 0;
    *p += n;
    return 1;
}

static int number(const char **p, size_t *out)
{
    size_t v = 0;
    if (**p < '0' || **p > '9')
        return 0;
    for (; **p >= '0' && **p <= '9'; (*p)++) {
        if (v > SIZE_MAX / 16)
            return 0;
        v = 10 * v + (size_t)(**p - '0');
    }
    *out = v;
    return 1;
}

static int parse_ranks(const char **p, struct xp_rule *r)
{
    size_t low, high;
    r->low = 0;
    r->high = INT_MAX;
    if (starts(p, "*"))
        return 1;
    if (!number(p, &low))
        return 0;
    high = low;
    if (starts(p, "-") && !number(p, &high))
        return 0;
    if (low > high || high > INT_MAX)
        return 0;
    r->low = (int)low;
    r->high = (int)high;
    return 1;
}

static int parse_type(const char **p, struct xp_rule *r)
{
    size_t len = strcspn(*p, "/=");
    r->type = -1;
    if (starts(p, "*"))
        return 1;
    for (int t = 0; t < ncclNumTypes; t++)
        if (strlen(types[t]) == len && strncmp(*p, types[t], len) == 0) {
            r->type = t;
            *p += len;
            return 1;
        }
    return 0;
}

static int parse_size(const char **p, struct xp_rule *r)
{
    r->bytes = 0;
    if (!starts(p, "/"))
        return 1;
    if (!number(p, &r->bytes) || r->bytes > (size_t)1 << 40)
        return 0;
    if (starts(p, "K"))
        r->bytes <<= 10;
    else if (starts(p, "M"))
        r->bytes <<= 20;
    return 1;
}

static int parse_mode(const char **p, struct xp_rule *r)
{
    static const char *const modes[] = {"off", "exact", "bounded"};
    for (int m = 0; m < 3; m++)
        if (starts(p, modes[m])) {
            r->mode = (enum xp_rule_mode)m;
            return 1;
        }
    return 0;
}

int xp_rules_parse(struct xp_rules *r, const char *text, const char **bad)
{
    const char *p = text;
    r->n = 0;
    while (*p) {
        struct xp_rule *rule = &r->rule[r->n];
        *bad = p;
        if (r->n == XP_RULES_MAX || !parse_ranks(&p, rule) || !starts(&p, "/") || !parse_type(&p, rule) || !parse_size(&p, rule) ||
            !starts(&p, "=") || !parse_mode(&p, rule) || (*p && !starts(&p, ",")) || (*p == '\0' && p[-1] == ','))
            return -1;
        r->n++;
    }
    return 0;
}

static int fits(const struct xp_rule *x, int ranks, int type)
{
    return ranks >= x->low && ranks <= x->high && (x->type < 0 || x->type == type);
}

enum xp_rule_mode xp_rules_find(const struct xp_rules *r, int ranks, int type, size_t bytes, enum xp_rule_mode otherwise)
{
    for (int i = 0; i < r->n; i++) {
        const struct xp_rule *x = &r->rule[i];
        if (fits(x, ranks, type) && bytes >= x->bytes)
            return x->mode;
    }
    return otherwise;
}

int xp_rules_allow(const struct xp_rules *r, int ranks, int type, enum xp_rule_mode otherwise)
{
    for (int i = 0; i < r->n; i++) {
        const struct xp_rule *x = &r->rule[i];
        if (!fits(x, ranks, type))
            continue;
        if (x->mode != XP_RULE_OFF)
            return 1;
        if (x->bytes == 0) /* it leaves nothing to those after it */
            return 0;
    }
    return otherwise != XP_RULE_OFF;
}

/*
 * test_rules.c - the setting RULES
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <string.h>

#include "lib/interpose/nccl_abi.h"
#include "lib/interpose/rules.h"

static struct xp_rules r;

static int parse(const char *text)
{
    const char *bad = NULL;
    return xp_rules_parse(&r, text, &bad);
}

Test(rules, first_that_fits)
{
    cr_assert_eq(parse("8/bf16/1M=bounded,2-16/*=exact,*/i64=off"), 0);
    cr_assert_eq(r.n, 3);
    cr_assert_eq(xp_rules_find(&r, 8, ncclBfloat16, 1 << 20, XP_RULE_OFF), XP_RULE_BOUNDED);
    cr_assert_eq(xp_rules_find(&r, 8, ncclBfloat16, (1 << 20) - 1, XP_RULE_OFF), XP_RULE_EXACT);
    cr_assert_eq(xp_rules_find(&r, 16, ncclInt64, 1, XP_RULE_BOUNDED), XP_RULE_EXACT);
    cr_assert_eq(xp_rules_find(&r, 17, ncclInt64, 1, XP_RULE_BOUNDED), XP_RULE_OFF);
    cr_assert_eq(xp_rules_find(&r, 17, ncclFloat32, 1, XP_RULE_BOUNDED), XP_RULE_BOUNDED);
}

Test(rules, empty_is_none)
{
    cr_assert_eq(parse(""), 0);
    cr_assert_eq(r.n, 0);
    cr_assert_eq(xp_rules_find(&r, 4, ncclInt8, 9, XP_RULE_EXACT), XP_RULE_EXACT);
}

Test(rules, what_does_not_parse)
{
    static const char *const bad[] = {"8", "8/bf16", "8/bf17=exact", "8/bf16=lossy", "8-4/bf16=off", "/bf16=off", "*/bf16=off,", "*/bf16=off;",
                                      "*/bf16/x=off", "-1/bf16=off", "99999999999/bf16=off", "*/=off", "*/bf16/1G=off", "*/bf16 =off"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_eq(parse(bad[i]), -1, "%s", bad[i]);
}

Test(rules, more_than_room)
{
    char text[XP_RULES_MAX * 8 + 16] = "";
    for (int i = 0; i < XP_RULES_MAX; i++)
        strcat(text, i ? ",*/*=off" : "*/*=off");
    cr_assert_eq(parse(text), 0);
    strcat(text, ",*/*=off");
    cr_assert_eq(parse(text), -1);
}

Test(rules, whether_any_size_is_allowed)
{
    cr_assert_eq(parse("8/bf16/1M=exact,*/bf16=off,*/i64/4K=off"), 0);
    cr_assert(xp_rules_allow(&r, 8, ncclBfloat16, XP_RULE_EXACT)); /* from 1 MiB on */
    cr_assert_not(xp_rules_allow(&r, 4, ncclBfloat16, XP_RULE_EXACT));
    cr_assert(xp_rules_allow(&r, 4, ncclInt64, XP_RULE_EXACT)); /* below 4 KiB */
    cr_assert_not(xp_rules_allow(&r, 4, ncclInt64, XP_RULE_OFF));
}

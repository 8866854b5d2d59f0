/*
 * rules.h - which mode serves a message, by number of ranks, NCCL data type and size
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_RULES_H
#define XP_RULES_H

#include <stddef.h>

#define XP_RULES_MAX 16

enum xp_rule_mode { XP_RULE_OFF, XP_RULE_EXACT, XP_RULE_BOUNDED };

struct xp_rules {
    int n;
    struct xp_rule {
        int low, high;    /* ranks of the communicator */
        int type;         /* NCCL data type, or -1 for any */
        size_t bytes;     /* messages of at least this size */
        enum xp_rule_mode mode;
    } rule[XP_RULES_MAX];
};

/* Reads "RANKS/TYPE[/SIZE]=MODE,...". RANKS: *, 8 or 8-64; TYPE: *, bf16, f16, f32, f64, i8, u8, ...; SIZE: bytes[K|M].
 * Returns 0, or -1 and *bad points at what does not parse. Empty text: no rules. */
int xp_rules_parse(struct xp_rules *r, const char *text, const char **bad);

/* The mode of the first rule that fits, or `otherwise`. */
enum xp_rule_mode xp_rules_find(const struct xp_rules *r, int ranks, int type, size_t bytes, enum xp_rule_mode otherwise);

/* Whether messages of some size have another mode than XP_RULE_OFF. */
int xp_rules_allow(const struct xp_rules *r, int ranks, int type, enum xp_rule_mode otherwise);

#endif

/*
 * test_pattern.c - which calls of a group are an all-to-all
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "lib/interpose/pattern.h"

/* Communicators are told apart by address; a view belongs to each. */
struct xp_side {
    struct xp_comm_view view;
};

static struct xp_comm_view view_of(const struct xp_side *s)
{
    return s->view;
}

#define CALLS 512
static struct xp_call calls[CALLS];
static size_t ncalls;
static struct xp_found found[8];

static struct xp_side make_side(int rank, int size, enum xp_groups groups)
{
    return (struct xp_side){{rank, size, groups}};
}

static void add(struct xp_side *side, enum xp_call_kind kind, int type, int peer, size_t count)
{
    calls[ncalls++] = (struct xp_call){.kind = kind, .type = type, .peer = peer, .count = count, .side = side};
}

/* What torch posts for an uneven split: for every rank a send and a receive, empty ones included. */
static void add_full(struct xp_side *side, int type)
{
    for (int p = 0; p < side->view.size; p++) {
        add(side, XP_CALL_SEND, type, p, (size_t)p % 3 * 64);
        add(side, XP_CALL_RECV, type, p, (size_t)p % 2 * 64);
    }
}

static size_t find(void)
{
    return xp_pattern_find(calls, ncalls, view_of, found, 8);
}

static size_t count_of(int op)
{
    size_t n = 0;
    for (size_t i = 0; i < ncalls; i++)
        n += calls[i].op == op;
    return n;
}

static void start(void)
{
    ncalls = 0;
    memset(calls, 0, sizeof calls);
    memset(found, 0, sizeof found);
}
TestSuite(pattern, .init = start);

Test(pattern, collective_call_is_one_in_every_setting)
{
    for (enum xp_groups g = XP_GROUPS_OFF; g <= XP_GROUPS_SPARSE; g++) {
        struct xp_side s = make_side(1, 4, g);
        start();
        add(&s, XP_CALL_ALLTOALL, ncclBfloat16, 0, 4096);
        cr_assert_eq(find(), 1);
        cr_assert_eq(found[0].side, &s);
        cr_assert(found[0].collective);
        cr_assert_eq(calls[0].op, 0);
    }
}

Test(pattern, full_set_with_empty_messages)
{
    struct xp_side s = make_side(2, 5, XP_GROUPS_COMPLETE);
    add_full(&s, ncclFloat16);
    cr_assert_eq(find(), 1);
    cr_assert_not(found[0].collective);
    cr_assert_eq(found[0].type, ncclFloat16);
    cr_assert_eq(count_of(0), 10);
}

Test(pattern, full_set_needs_the_setting)
{
    struct xp_side s = make_side(2, 5, XP_GROUPS_OFF);
    add_full(&s, ncclFloat16);
    cr_assert_eq(find(), 0);
    cr_assert_eq(count_of(-1), 10);
}

Test(pattern, order_of_calls_does_not_matter)
{
    struct xp_side s = make_side(0, 8, XP_GROUPS_COMPLETE);
    unsigned seed = (unsigned)rand();
    cr_log_info("seed %u", seed);
    srand(seed);
    add_full(&s, ncclInt8);
    for (size_t i = ncalls - 1; i > 0; i--) {
        size_t j = (size_t)rand() % (i + 1);
        struct xp_call t = calls[i];
        calls[i] = calls[j];
        calls[j] = t;
    }
    cr_assert_eq(find(), 1);
    cr_assert_eq(count_of(0), 16);
}

Test(pattern, one_missing_call_leaves_all_to_nccl)
{
    struct xp_side s = make_side(0, 4, XP_GROUPS_COMPLETE);
    for (size_t missing = 0; missing < 8; missing++) {
        start();
        add_full(&s, ncclInt8);
        calls[missing] = calls[--ncalls];
        cr_assert_eq(find(), 0, "without call %zu", missing);
        cr_assert_eq(count_of(-1), 7);
    }
}

Test(pattern, ring_and_pairs_are_none)
{
    struct xp_side s = make_side(1, 4, XP_GROUPS_COMPLETE);
    add(&s, XP_CALL_SEND, ncclFloat32, 2, 1 << 20);
    add(&s, XP_CALL_RECV, ncclFloat32, 0, 1 << 20);
    cr_assert_eq(find(), 0);
    start(); /* two ranks that swap: nothing says that this is all of it, for a rank's message to itself is missing */
    s = make_side(0, 2, XP_GROUPS_COMPLETE);
    add(&s, XP_CALL_SEND, ncclFloat32, 1, 1 << 20);
    add(&s, XP_CALL_RECV, ncclFloat32, 1, 1 << 20);
    cr_assert_eq(find(), 0);
}

Test(pattern, sparse_set_only_when_promised)
{
    struct xp_side s = make_side(1, 4, XP_GROUPS_SPARSE);
    add(&s, XP_CALL_SEND, ncclInt8, 0, 100);
    add(&s, XP_CALL_RECV, ncclInt8, 3, 100);
    cr_assert_eq(find(), 1);
    s.view.groups = XP_GROUPS_COMPLETE;
    cr_assert_eq(find(), 0);
}

Test(pattern, sparse_set_with_itself_alone_is_none)
{
    struct xp_side s = make_side(1, 4, XP_GROUPS_SPARSE);
    add(&s, XP_CALL_SEND, ncclInt8, 1, 100);
    add(&s, XP_CALL_RECV, ncclInt8, 1, 100);
    cr_assert_eq(find(), 0);
    add(&s, XP_CALL_SEND, ncclInt8, 0, 100);
    cr_assert_eq(find(), 1);
    ncalls = 1; /* a send to itself without the receive is NCCL's to refuse */
    add(&s, XP_CALL_SEND, ncclInt8, 0, 100);
    cr_assert_eq(find(), 0);
}

Test(pattern, several_rounds_in_one_group_are_one_exchange)
{
    struct xp_side s = make_side(0, 3, XP_GROUPS_COMPLETE);
    for (int round = 0; round < 4; round++)
        add_full(&s, ncclBfloat16);
    cr_assert_eq(find(), 1);
    cr_assert_eq(count_of(0), 24);
}

Test(pattern, types_are_separate_and_in_order)
{
    struct xp_side s = make_side(0, 3, XP_GROUPS_COMPLETE);
    add_full(&s, ncclBfloat16);
    add_full(&s, ncclFloat32);
    add(&s, XP_CALL_ALLTOALL, ncclInt64, 0, 8);
    cr_assert_eq(find(), 3);
    cr_assert(found[0].collective); /* collective calls first, then sets by type: alike on all ranks */
    cr_assert_eq(found[1].type, ncclFloat32);
    cr_assert_eq(found[2].type, ncclBfloat16);
    cr_assert_eq(count_of(1), 6);
    cr_assert_eq(calls[0].op, 2);
}

Test(pattern, communicators_are_separate)
{
    struct xp_side a = make_side(0, 4, XP_GROUPS_COMPLETE), b = make_side(0, 2, XP_GROUPS_COMPLETE);
    for (int p = 0; p < 4; p++) {
        add(&a, XP_CALL_SEND, ncclInt8, p, 1);
        if (p < 2)
            add(&b, XP_CALL_SEND, ncclInt8, p, 1);
        add(&a, XP_CALL_RECV, ncclInt8, p, 1);
    }
    cr_assert_eq(find(), 1);
    cr_assert_eq(found[0].side, &a);
    cr_assert_eq(count_of(0), 8);
    cr_assert_eq(count_of(-1), 2);
}

Test(pattern, calls_without_a_side_are_forwarded)
{
    struct xp_side s = make_side(0, 2, XP_GROUPS_COMPLETE);
    add(NULL, XP_CALL_ALLTOALL, ncclInt8, 0, 1);
    add(&s, XP_CALL_ALLTOALL, 77, 0, 1); /* a data type of a later NCCL */
    add(&s, XP_CALL_SEND, ncclInt8, 5, 1);
    cr_assert_eq(find(), 0);
    cr_assert_eq(count_of(-1), 3);
}

Test(pattern, more_exchanges_than_room_are_forwarded)
{
    struct xp_side s = make_side(0, 2, XP_GROUPS_COMPLETE);
    for (int i = 0; i < 12; i++)
        add(&s, XP_CALL_ALLTOALL, ncclInt8, 0, 1);
    cr_assert_eq(find(), 8);
    cr_assert_eq(calls[7].op, 7);
    cr_assert_eq(calls[8].op, -1);
}

Test(pattern, sizes_of_types)
{
    cr_assert_eq(xp_nccl_type_size(ncclInt8), 1);
    cr_assert_eq(xp_nccl_type_size(ncclBfloat16), 2);
    cr_assert_eq(xp_nccl_type_size(ncclFloat32), 4);
    cr_assert_eq(xp_nccl_type_size(ncclUint64), 8);
    cr_assert_eq(xp_nccl_type_size(ncclFloat8e5m2), 1);
    cr_assert_eq(xp_nccl_type_size(ncclNumTypes), 0);
    cr_assert_eq(xp_nccl_type_size(-1), 0);
}

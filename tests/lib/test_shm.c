/*
 * test_shm.c - the memory of the shared memory transport: layout, names, what happens when it does not fit, the ring
 *
 * What the transport owes as such is in tests/stress/transport_cases.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/transport/shm_ring.h"
#include "tests/harness/random.h"

static void no_log(void *comm, xp_log_level level, const char *fmt, ...)
{
    (void)comm;
    (void)level;
    (void)fmt;
}

static struct xp_transport_env env_of(int rank, int size)
{
    static const int one_node[256];

    return (struct xp_transport_env){rank, size, one_node, size, 0xabcdef0012345678ull + (uint64_t)getpid(), NULL, 0, no_log, NULL};
}

Test(shm, eight_ranks_fit_into_the_shared_memory_of_a_container)
{
    struct xp_shm_layout l;

    xp_shm_layout(&l, 8);
    cr_assert_lt(8 * l.bytes, (size_t)64 << 20, "%zu bytes a rank", l.bytes);
    cr_assert_geq(l.ring_size[XP_LANE_CTRL], 2 * XP_CTRL_MAX);
    xp_shm_layout(&l, 32);
    cr_assert_lt(32 * l.bytes, (size_t)64 << 20, "%zu bytes a rank", l.bytes);
}

Test(shm, parts_of_a_segment_do_not_overlap)
{
    for (int peers = 1; peers <= 130; peers++) {
        struct xp_shm_segment s;

        xp_shm_layout(&s.layout, peers);
        s.base = NULL;
        cr_assert_leq((size_t)xp_shm_doorbell(&s) + (size_t)(2 * peers + 63) / 64 * 8, s.layout.pairs_at);
        cr_assert_leq((size_t)(xp_shm_pair(&s, peers - 1) + 1), s.layout.rings_at);
        cr_assert_leq((size_t)xp_shm_ring_data(&s, peers - 1, XP_LANE_BULK) + s.layout.ring_size[1], s.layout.bytes);
        cr_assert_eq(s.layout.pairs_at % XP_SHM_APART, 0);
        for (int lane = 0; lane < 2; lane++)
            cr_assert_eq(s.layout.ring_size[lane] & (s.layout.ring_size[lane] - 1), 0, "a power of two");
    }
}

static int names_left(const char *part)
{
    DIR *d = opendir("/dev/shm");
    struct dirent *e;
    int n = 0;

    cr_assert_not_null(d);
    while ((e = readdir(d)) != NULL)
        n += strstr(e->d_name, part) != NULL;
    closedir(d);
    return n;
}

static void part_of_name(char *part, size_t size, const struct xp_transport_env *e)
{
    snprintf(part, size, "crosspress-%016llx", (unsigned long long)e->job);
}

Test(shm, names_are_secret_private_and_gone_after_settled)
{
    struct xp_transport *t[2];
    char address[2][XP_ADDRESS_MAX], err[256], part[64], path[300];
    size_t len[2];
    struct stat st;

    for (int r = 0; r < 2; r++) {
        struct xp_transport_env e = env_of(r, 2);

        part_of_name(part, sizeof(part), &e);
        cr_assert_eq(xp_transport_shm.open(&t[r], &e, address[r], &len[r], err, sizeof(err)), XP_OK, "%s", err);
    }
    cr_assert_eq(names_left(part), 2);
    struct xp_shm_address *a = (struct xp_shm_address *)address[0];
    snprintf(path, sizeof(path), "/dev/shm%s", a->name);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    cr_assert_str_neq(a->name, ((struct xp_shm_address *)address[1])->name);
    for (int r = 0; r < 2; r++)
        cr_assert_eq(xp_transport_shm.connect(t[r], 1 - r, address[1 - r], len[1 - r], err, sizeof(err)), XP_OK, "%s", err);
    xp_transport_shm.settled(t[0]);
    cr_assert_eq(names_left(part), 0, "one rank is enough: the others may not live to do it");
    xp_transport_shm.settled(t[1]);
    xp_transport_shm.close(t[0]);
    xp_transport_shm.close(t[1]);
}

Test(shm, names_are_gone_when_a_rank_closes_before_settled)
{
    struct xp_transport_env e = env_of(0, 4);
    struct xp_transport *t;
    char address[XP_ADDRESS_MAX], err[256], part[64];
    size_t len;

    part_of_name(part, sizeof(part), &e);
    cr_assert_eq(xp_transport_shm.open(&t, &e, address, &len, err, sizeof(err)), XP_OK);
    xp_transport_shm.close(t);
    cr_assert_eq(names_left(part), 0);
}

/* What a killed rank left behind goes with the next open, once it is old; what a living one owns stays. */
Test(shm, names_of_killed_ranks_are_swept_away)
{
    struct xp_transport_env e = env_of(0, 2);
    struct xp_transport *living, *next;
    char address[XP_ADDRESS_MAX], err[256], dead[300], alive[300];
    size_t len;
    struct timespec old[2] = {{1000000000, 0}, {1000000000, 0}};

    snprintf(dead, sizeof(dead), "/dev/shm/crosspress-0000000000000000-%016llx", (unsigned long long)xp_shm_random());
    int fd = open(dead, O_RDWR | O_CREAT | O_EXCL, 0600);
    cr_assert_geq(fd, 0);
    cr_assert_eq(xp_transport_shm.open(&living, &e, address, &len, err, sizeof(err)), XP_OK, "%s", err);
    snprintf(alive, sizeof(alive), "/dev/shm%.63s", ((struct xp_shm_address *)address)->name);
    cr_assert_eq(access(dead, F_OK), 0, "too young to be judged");
    cr_assert_eq(futimens(fd, old), 0);
    cr_assert_eq(utimensat(AT_FDCWD, alive, old, 0), 0);
    cr_assert_eq(xp_transport_shm.open(&next, &e, address, &len, err, sizeof(err)), XP_OK, "%s", err);
    cr_assert_neq(access(dead, F_OK), 0);
    cr_assert_eq(access(alive, F_OK), 0);
    close(fd);
    xp_transport_shm.close(next);
    xp_transport_shm.close(living);
    cr_assert_neq(access(alive, F_OK), 0);
}

Test(shm, addresses_that_are_none_are_refused)
{
    struct xp_transport_env e = env_of(0, 2);
    struct xp_transport *t;
    char address[XP_ADDRESS_MAX], err[256] = "";
    size_t len;

    cr_assert_eq(xp_transport_shm.open(&t, &e, address, &len, err, sizeof(err)), XP_OK);
    cr_assert_eq(xp_transport_shm.connect(t, 1, address, len - 1, err, sizeof(err)), XP_ERR_MISMATCH);
    cr_assert_not_null(strstr(err, "rank 1"));
    struct xp_shm_address a;
    memcpy(&a, address, sizeof(a));
    memcpy(a.name, "/crosspress-nobody", 19);
    cr_assert_eq(xp_transport_shm.connect(t, 1, &a, sizeof(a), err, sizeof(err)), XP_ERR_SYSTEM);
    a.bytes += 4096;
    cr_assert_eq(xp_transport_shm.connect(t, 1, &a, sizeof(a), err, sizeof(err)), XP_ERR_MISMATCH);
    a.magic++;
    cr_assert_eq(xp_transport_shm.connect(t, 1, &a, sizeof(a), err, sizeof(err)), XP_ERR_MISMATCH);
    cr_assert_eq(xp_transport_shm.connect(t, 0, address, len, err, sizeof(err)), XP_ERR_INVALID_ARG, "itself");
    cr_assert_eq(xp_transport_shm.connect(t, 2, address, len, err, sizeof(err)), XP_ERR_INVALID_ARG);
    xp_transport_shm.close(t);
}

/* A /dev/shm of 256 KiB: an error that says how much is missing, not a SIGBUS later. */
Test(shm, what_does_not_fit_is_an_error)
{
    struct xp_transport_env e = env_of(0, 8);
    struct xp_transport *t = NULL;
    char address[XP_ADDRESS_MAX], err[256] = "";
    size_t len;

    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=256k") != 0)
        cr_skip_test("mount namespaces are not permitted here");
    cr_assert_eq(xp_transport_shm.open(&t, &e, address, &len, err, sizeof(err)), XP_ERR_NO_MEMORY);
    cr_assert_not_null(strstr(err, "MiB"), "%s", err);
    cr_assert_not_null(strstr(err, "/dev/shm"), "%s", err);
    cr_assert_eq(names_left("crosspress"), 0);
}

/* ------------------------------------------------------------------ the ring */

static _Alignas(128) struct xp_shm_ring ring;
static _Alignas(64) unsigned char data[4096];

Test(shm, the_ring_keeps_order_bytes_and_bounds)
{
    struct random rnd = random_start("the_ring_keeps_order_bytes_and_bounds");
    struct xp_shm_writer w = {&ring, data, sizeof(data), 0, 0};
    struct xp_shm_reader r = {&ring, data, sizeof(data), 0, 0};
    unsigned char out[4096], in[4096];
    uint64_t written = 0, read = 0;

    for (int step = 0; step < 200000; step++) {
        size_t want = random_below(&rnd, 1500), room = xp_shm_ring_room(&w, want);
        struct xp_shm_fragment f = {XP_SHM_FIRST, (uint32_t)want, written, want, 0, 0};

        cr_assert_leq(room, sizeof(data) - 64);
        if (random_below(&rnd, 2) && room > 0 && room >= want) {
            memset(out, (int)written, want);
            xp_shm_ring_put(&w, &f, out);
            written++;
        } else if (xp_shm_ring_peek(&r, &f)) {
            cr_assert(xp_shm_ring_sane(&r, &f));
            cr_assert_eq(f.tag, read);
            in[f.bytes] = 0x5a;
            xp_shm_ring_take(&r, f.bytes, in);
            for (size_t i = 0; i < f.bytes; i++)
                cr_assert_eq(in[i], (unsigned char)read);
            cr_assert_eq(in[f.bytes], 0x5a);
            read++;
        }
    }
    cr_assert_gt(read, 1000);
}

Test(shm, heads_that_cannot_be_true_are_seen)
{
    struct xp_shm_reader r = {&ring, data, sizeof(data), 256, 0};
    struct xp_shm_fragment good = {XP_SHM_FIRST, 100, 1, 100, 0, 0}, f;

    cr_assert(xp_shm_ring_sane(&r, &good));
    f = good, f.kind = 9;
    cr_assert_not(xp_shm_ring_sane(&r, &f));
    f = good, f.bytes = 193;
    cr_assert_not(xp_shm_ring_sane(&r, &f), "more than there is");
    f = good, f.bytes = 0xfffffff0u, f.len = 1ull << 40;
    cr_assert_not(xp_shm_ring_sane(&r, &f));
    f = good, f.len = 99;
    cr_assert_not(xp_shm_ring_sane(&r, &f), "more than the message");
    f = good, f.kind = XP_SHM_PULL, f.slot = XP_SHM_SLOTS;
    cr_assert_not(xp_shm_ring_sane(&r, &f));
    r.head = 1u << 20;
    cr_assert_not(xp_shm_ring_sane(&r, &good), "an index from nowhere");
}

/* A peer that writes rubbish into the ring is failed; this rank stands. */
Test(shm, a_peer_that_writes_rubbish_is_failed)
{
    struct xp_transport *t[2];
    char address[2][XP_ADDRESS_MAX], err[256], word[8];
    size_t len[2];
    struct xp_op op, later;

    for (int r = 0; r < 2; r++) {
        struct xp_transport_env e = env_of(r, 2);

        cr_assert_eq(xp_transport_shm.open(&t[r], &e, address[r], &len[r], err, sizeof(err)), XP_OK, "%s", err);
    }
    for (int r = 0; r < 2; r++)
        cr_assert_eq(xp_transport_shm.connect(t[r], 1 - r, address[1 - r], len[1 - r], err, sizeof(err)), XP_OK, "%s", err);
    struct xp_shm_segment inbox;
    cr_assert_eq(xp_shm_segment_attach(&inbox, 2, (struct xp_shm_address *)address[0], err, sizeof(err)), XP_OK, "%s", err);
    memset(xp_shm_ring_data(&inbox, 1, XP_LANE_CTRL), 0xee, 4096);
    atomic_store(&xp_shm_pair(&inbox, 1)->lane[XP_LANE_CTRL].head, 4096);
    atomic_store(xp_shm_doorbell(&inbox), 1ull << 2);
    xp_transport_shm.recv(t[0], 1, XP_LANE_BULK, 1, word, sizeof(word), &op);
    xp_transport_shm.progress(t[0]);
    cr_assert_eq(op.status, XP_ERR_CORRUPT);
    cr_assert_eq(xp_transport_shm.recv(t[0], 1, XP_LANE_BULK, 1, word, sizeof(word), &later), XP_ERR_REMOTE);
    xp_shm_segment_detach(&inbox);
    xp_transport_shm.close(t[0]);
    xp_transport_shm.close(t[1]);
}

/*
 * shm_segment.c - the shared memory between ranks of a node: layout and life
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/transport/shm_segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define SEGMENT_MAGIC 0x31676573687378ull /* "xshseg1" */
#define PREFIX "crosspress-"
#define STALE_SECONDS 60                   /* a name younger than that is left alone: its owner may not have locked it yet */
#define NODE_BUDGET ((size_t)48 << 20)     /* of /dev/shm, for all ranks of a node: containers often have 64 MiB */

struct head {
    uint64_t magic, bytes;
};

/* Mappings of this process. Threads of one process must see one address: what orders their accesses (atomics) is tied to it,
 * for the hardware by the memory, for tools that check it by the address. */
struct mapping {
    struct mapping *next;
    unsigned char *base;
    size_t bytes;
    int users;
    char name[64];
};

static pthread_mutex_t mappings_lock = PTHREAD_MUTEX_INITIALIZER;
static struct mapping *mappings;

uint64_t xp_shm_random(void)
{
    uint64_t r;

    if (getrandom(&r, sizeof r, GRND_NONBLOCK) != (ssize_t)sizeof r) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        r = ((uint64_t)t.tv_nsec << 32) ^ (uint64_t)t.tv_sec ^ ((uint64_t)getpid() << 48) ^ (uintptr_t)&r;
    }
    return r;
}

uint64_t xp_shm_process(void)
{
    static uint64_t id;
    static pid_t of; /* a forked child needs its own */

    pthread_mutex_lock(&mappings_lock);
    if (of != getpid()) {
        of = getpid();
        id = xp_shm_random();
    }
    uint64_t r = id;
    pthread_mutex_unlock(&mappings_lock);
    return r;
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

void xp_shm_layout(struct xp_shm_layout *l, int peers)
{
    size_t pairs = (size_t)peers * (size_t)(peers > 1 ? peers - 1 : 1);
    size_t bulk = (size_t)256 << 10;

    while (bulk > (16 << 10) && pairs * bulk > NODE_BUDGET)
        bulk /= 2;
    l->peers = peers;
    l->ring_size[XP_LANE_CTRL] = bulk >= (64 << 10) ? 16 << 10 : 8 << 10;
    l->ring_size[XP_LANE_BULK] = bulk;
    size_t doorbells = round_up((size_t)(2 * peers + 63) / 64 * 8, XP_SHM_APART);
    l->pairs_at = XP_SHM_APART + doorbells;
    l->rings_at = round_up(l->pairs_at + (size_t)peers * sizeof(struct xp_shm_pair), 4096);
    l->bytes = l->rings_at + (size_t)peers * (l->ring_size[0] + l->ring_size[1]);
}

static xp_status remember(struct xp_shm_segment *s)
{
    struct mapping *m = calloc(1, sizeof *m);

    if (m == NULL)
        return XP_ERR_NO_MEMORY;
    m->base = s->base;
    m->bytes = s->layout.bytes;
    m->users = 1;
    memcpy(m->name, s->name, sizeof m->name);
    pthread_mutex_lock(&mappings_lock);
    m->next = mappings;
    mappings = m;
    pthread_mutex_unlock(&mappings_lock);
    return XP_OK;
}

/* The mapping of that name with one more user, or NULL. */
static unsigned char *share(const char *name)
{
    unsigned char *base = NULL;

    pthread_mutex_lock(&mappings_lock);
    for (struct mapping *m = mappings; m != NULL; m = m->next) {
        if (strcmp(m->name, name) == 0) {
            m->users++;
            base = m->base;
            break;
        }
    }
    pthread_mutex_unlock(&mappings_lock);
    return base;
}

static xp_status map(struct xp_shm_segment *s, int fd, char *err, size_t err_size)
{
    void *p = mmap(NULL, s->layout.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED) {
        snprintf(err, err_size, "shm: mmap of %zu bytes: %s", s->layout.bytes, strerror(errno));
        return errno == ENOMEM ? XP_ERR_NO_MEMORY : XP_ERR_SYSTEM;
    }
    s->base = p;
    if (remember(s) != XP_OK) {
        munmap(p, s->layout.bytes);
        s->base = NULL;
        snprintf(err, err_size, "shm: out of memory");
        return XP_ERR_NO_MEMORY;
    }
    return XP_OK;
}

/* Pages are reserved now: touching one that /dev/shm has no room for would be a SIGBUS later. */
static xp_status reserve(int fd, const struct xp_shm_layout *l, char *err, size_t err_size)
{
    int e = posix_fallocate(fd, 0, (off_t)l->bytes);

    if (e == 0)
        return XP_OK;
    struct statvfs v;
    double left = fstatvfs(fd, &v) == 0 ? (double)v.f_bavail * (double)v.f_frsize / 1048576 : 0;
    snprintf(err, err_size,
             "shm: %.1f MiB of shared memory for this rank (%.1f for the %d ranks of this node) do not fit: %s; /dev/shm has %.1f MiB left",
             (double)l->bytes / 1048576, (double)l->bytes * l->peers / 1048576, l->peers, strerror(e), left);
    return e == ENOSPC ? XP_ERR_NO_MEMORY : XP_ERR_SYSTEM;
}

/*
 * A rank that is killed before settled() leaves its name, and the memory, behind. Owners hold a lock on their file for as long as
 * it has a name, and the kernel drops the lock of the dead: what can be locked is nobody's.
 */
static void remove_stale(const char *file)
{
    char name[280];
    struct stat st;

    snprintf(name, sizeof name, "/%s", file);
    int fd = shm_open(name, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && time(NULL) - st.st_mtime > STALE_SECONDS && flock(fd, LOCK_EX | LOCK_NB) == 0)
        shm_unlink(name);
    close(fd);
}

static void sweep(void)
{
    DIR *d = opendir("/dev/shm");
    struct dirent *e;

    while (d != NULL && (e = readdir(d)) != NULL) {
        if (strncmp(e->d_name, PREFIX, sizeof PREFIX - 1) == 0)
            remove_stale(e->d_name);
    }
    if (d != NULL)
        closedir(d);
}

xp_status xp_shm_segment_create(struct xp_shm_segment *s, int peers, uint64_t job, char *err, size_t err_size)
{
    memset(s, 0, sizeof *s);
    s->lock = -1;
    sweep();
    xp_shm_layout(&s->layout, peers);
    snprintf(s->name, sizeof s->name, "/" PREFIX "%016llx-%016llx", (unsigned long long)job, (unsigned long long)xp_shm_random());
    int fd = shm_open(s->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        snprintf(err, err_size, "shm: shm_open(%s): %s", s->name, strerror(errno));
        return XP_ERR_SYSTEM;
    }
    flock(fd, LOCK_EX | LOCK_NB); /* refused: then nobody sweeps it away, which is as good */
    xp_status st = reserve(fd, &s->layout, err, err_size);
    if (st == XP_OK)
        st = map(s, fd, err, err_size);
    if (st != XP_OK) {
        shm_unlink(s->name);
        close(fd);
        return st;
    }
    s->lock = fd;
    struct head *h = (struct head *)s->base;
    h->magic = SEGMENT_MAGIC;
    h->bytes = s->layout.bytes;
    return XP_OK;
}

static xp_status open_named(struct xp_shm_segment *s, char *err, size_t err_size)
{
    struct stat st;
    int fd = shm_open(s->name, O_RDWR | O_CLOEXEC, 0);

    if (fd < 0) {
        snprintf(err, err_size, "shm: shm_open(%s) of a peer: %s", s->name, strerror(errno));
        return XP_ERR_SYSTEM;
    }
    xp_status r = XP_ERR_MISMATCH;
    if (fstat(fd, &st) != 0 || st.st_uid != geteuid() || (size_t)st.st_size != s->layout.bytes)
        snprintf(err, err_size, "shm: segment %s of a peer is not what it should be (owner %u, %lld bytes, expected %zu)", s->name,
                 (unsigned)st.st_uid, (long long)st.st_size, s->layout.bytes);
    else
        r = map(s, fd, err, err_size);
    close(fd);
    return r;
}

xp_status xp_shm_segment_attach(struct xp_shm_segment *s, int peers, const struct xp_shm_address *a, char *err, size_t err_size)
{
    memset(s, 0, sizeof *s);
    s->lock = -1;
    xp_shm_layout(&s->layout, peers);
    memcpy(s->name, a->name, sizeof s->name - 1);
    if (a->bytes != s->layout.bytes) {
        snprintf(err, err_size, "shm: a peer laid out %llu bytes, this rank %zu", (unsigned long long)a->bytes, s->layout.bytes);
        return XP_ERR_MISMATCH;
    }
    s->base = share(s->name);
    if (s->base != NULL)
        return XP_OK;
    xp_status r = open_named(s, err, err_size);
    if (r == XP_OK && ((struct head *)s->base)->magic != SEGMENT_MAGIC) {
        snprintf(err, err_size, "shm: segment %s of a peer holds something else", s->name);
        xp_shm_segment_detach(s);
        return XP_ERR_MISMATCH;
    }
    return r;
}

void xp_shm_segment_unlink(struct xp_shm_segment *s)
{
    shm_unlink(s->name);
    if (s->lock >= 0)
        close(s->lock);
    s->lock = -1;
}

void xp_shm_segment_detach(struct xp_shm_segment *s)
{
    if (s->base == NULL)
        return;
    if (s->lock >= 0)
        close(s->lock);
    s->lock = -1;
    pthread_mutex_lock(&mappings_lock);
    for (struct mapping **at = &mappings; *at != NULL; at = &(*at)->next) {
        struct mapping *m = *at;

        if (m->base != s->base)
            continue;
        if (--m->users == 0) {
            *at = m->next;
            munmap(m->base, m->bytes);
            free(m);
        }
        break;
    }
    pthread_mutex_unlock(&mappings_lock);
    s->base = NULL;
}

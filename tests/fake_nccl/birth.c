/*
 * birth.c - how a communicator of the NCCL double comes up
 *
 * Children of a communicator (split, shrink, grow) first tell each other who joins, over the control sockets of the parent. Then
 * every rank listens at a name made of the communicator's nonce and its rank, calls the lower ranks and answers the higher ones.
 * Each step does what is possible at once, so that one thread can bring up several ranks in a group.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/cudart.h"
#include "tests/fake_nccl/fake_nccl.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define COMM_MAGIC 0x6e636f6du
#define BUFFER (1 << 20)

enum family { INIT, SPLIT, SHRINK, GROW };

/* What the ranks of a parent tell each other. */
struct told {
    int32_t family, child, color, key;
    uint64_t nonce;
    struct place place;
};

struct birth {
    enum family family;
    enum { TELL, HEAR, LISTEN, ASK, LINK } at;
    struct ncclComm *parent, *comm;
    struct ncclComm **out; /* of a child: written when it is complete */
    struct told mine, *all;
    size_t *heard;
    int linked, grown;
    bool *called, blocking;
    double since;
    int listener, asked; /* sockets, TCP only: where this rank listens; to the root */
    struct place root, *places;
    size_t answered;
};

/* sent in front on every connection */
struct hello {
    uint32_t magic;
    int32_t rank, n, data;
};

/* ---- memory of communicators: the address that was freed last is used first, so that a stale handle meets a new communicator */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct ncclComm *freed;

struct ncclComm *fake_comm_alloc(int rank, int n, bool blocking)
{
    struct ncclComm *comm;

    pthread_mutex_lock(&lock);
    comm = freed;
    if (comm)
        freed = comm->next_free;
    pthread_mutex_unlock(&lock);
    if (comm)
        memset(comm, 0, sizeof *comm);
    else
        comm = calloc(1, sizeof *comm);
    if (!comm)
        return NULL;
    comm->magic = COMM_MAGIC;
    comm->rank = rank;
    comm->n = n;
    comm->blocking = blocking;
    comm->listener = -1;
    comm->links = calloc((size_t)n, sizeof *comm->links);
    comm->seq = calloc(4 * (size_t)n, sizeof *comm->seq);
    cudaGetDevice(&comm->device);
    for (int i = 0; comm->links && i < n; i++)
        comm->links[i].control = comm->links[i].data = -1;
    comm->state = ncclInProgress;
    return comm;
}

void fake_comm_free(struct ncclComm *comm)
{
    if (comm->listener >= 0)
        close(comm->listener);
    free(comm->links);
    free(comm->seq);
    comm->links = NULL;
    comm->seq = NULL;
    comm->magic = 0;
    pthread_mutex_lock(&lock);
    comm->next_free = freed;
    freed = comm;
    pthread_mutex_unlock(&lock);
}

/* ---- begin */

static struct birth *new_birth(enum family family, struct ncclComm *parent, bool blocking)
{
    struct birth *b = calloc(1, sizeof *b);

    if (!b)
        return NULL;
    b->family = family;
    b->parent = parent;
    b->blocking = blocking;
    b->since = fake_seconds();
    b->listener = b->asked = -1;
    if (parent) {
        b->all = calloc((size_t)parent->n, sizeof *b->all);
        b->heard = calloc((size_t)parent->n, sizeof *b->heard);
        b->mine = (struct told){.family = (int)family, .child = (int)parent->children++};
    }
    return b;
}

struct birth *fake_birth_new(struct ncclComm *comm, uint64_t nonce, struct place root)
{
    struct birth *b = new_birth(INIT, NULL, comm->blocking);

    if (b) {
        b->comm = comm;
        b->root = root;
        comm->nonce = nonce;
        b->at = LISTEN;
    }
    return b;
}

struct birth *fake_birth_split(struct ncclComm *parent, struct ncclComm **out, int color, int key, bool blocking)
{
    struct birth *b = new_birth(SPLIT, parent, blocking);

    if (b) {
        b->out = out;
        b->mine.color = color;
        b->mine.key = key;
    }
    return b;
}

/* Those who stay do not talk to the excluded: these may be dead. */
struct birth *fake_birth_shrink(struct ncclComm *parent, struct ncclComm **out, const int *exclude, int n, bool blocking)
{
    struct birth *b = new_birth(SHRINK, parent, blocking);

    if (b) {
        b->out = out;
        for (int i = 0; i < n; i++)
            b->all[exclude[i]].color = -1;
    }
    return b;
}

/* nonce: NULL on ranks that were not given the id. */
struct birth *fake_birth_grow(struct ncclComm *parent, struct ncclComm **out, int n, const uint64_t *nonce, bool blocking)
{
    struct birth *b = new_birth(GROW, parent, blocking);

    if (b) {
        b->out = out;
        b->grown = n;
        b->mine.nonce = nonce ? *nonce : 0;
    }
    return b;
}

/* ---- children: who joins */

static bool talks_to(const struct birth *b, int i)
{
    return i != b->parent->rank && !(b->family == SHRINK && b->all[i].color < 0);
}

static ncclResult_t tell(struct birth *b)
{
    if (fake_tcp()) {
        if (b->family == GROW)
            return fake_error(ncclInvalidUsage, "ncclCommGrow: not over TCP");
        b->listener = fake_tcp_listen(2 * b->parent->n, &b->mine.place);
        if (b->listener < 0)
            return fake_error(ncclSystemError, "rank %d: no listening socket", b->parent->rank);
    }
    for (int i = 0; i < b->parent->n; i++)
        if (talks_to(b, i) && send(b->parent->links[i].control, &b->mine, sizeof b->mine, MSG_NOSIGNAL) != sizeof b->mine)
            return fake_error(ncclRemoteError, "rank %d: rank %d does not take part", b->parent->rank, i);
    b->all[b->parent->rank] = b->mine;
    b->at = HEAR;
    return ncclInProgress;
}

static int by_key(const struct birth *b, int rank)
{
    int before = 0;

    for (int i = 0; i < b->parent->n; i++)
        before += b->all[i].color == b->all[rank].color &&
                  (b->all[i].key < b->all[rank].key || (b->all[i].key == b->all[rank].key && i < rank));
    return before;
}

static uint64_t mix(uint64_t x, uint64_t y)
{
    x = (x ^ y) * 0x9e3779b97f4a7c15u;
    return x ^ x >> 29;
}

/* Everybody has spoken: the child's place among its siblings. */
static ncclResult_t conceive(struct birth *b)
{
    int rank = b->parent->rank, n = 0;
    uint64_t nonce = mix(mix(b->parent->nonce, (uint64_t)b->mine.child + 1), (uint64_t)b->mine.color + 1);

    if (b->family == SPLIT && b->mine.color == NCCL_SPLIT_NOCOLOR)
        return ncclSuccess;
    for (int i = 0; i < b->parent->n; i++)
        n += b->all[i].color == b->mine.color;
    if (b->family == GROW) {
        n = b->grown;
        for (int i = 0; i < b->parent->n; i++)
            nonce = b->all[i].nonce ? b->all[i].nonce : nonce;
    }
    b->comm = fake_comm_alloc(b->family == GROW ? rank : by_key(b, rank), n, b->blocking);
    if (!b->comm)
        return ncclSystemError;
    b->comm->device = b->parent->device;
    b->comm->nonce = nonce;
    b->places = calloc((size_t)n, sizeof *b->places);
    for (int i = 0; i < b->parent->n && b->places && b->family != GROW; i++)
        if (b->all[i].color == b->mine.color)
            b->places[by_key(b, i)] = b->all[i].place;
    b->at = LISTEN;
    return ncclInProgress;
}

static ncclResult_t hear_all(struct birth *b)
{
    bool all = true;

    for (int i = 0; i < b->parent->n; i++) {
        if (!talks_to(b, i) || b->heard[i] == sizeof b->mine)
            continue;
        ssize_t n = recv(b->parent->links[i].control, (char *)&b->all[i] + b->heard[i], sizeof b->mine - b->heard[i],
                         MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return fake_error(ncclRemoteError, "rank %d: rank %d is gone", b->parent->rank, i);
        b->heard[i] += n > 0 ? (size_t)n : 0;
        if (b->heard[i] < sizeof b->mine)
            all = false;
        else if (b->all[i].family != b->mine.family || b->all[i].child != b->mine.child)
            return fake_error(ncclInvalidUsage, "rank %d: rank %d makes another child of this communicator", b->parent->rank, i);
    }
    return all ? conceive(b) : ncclInProgress;
}

/* ---- links */

static socklen_t address(struct sockaddr_un *a, uint64_t nonce, int rank)
{
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    int n = snprintf(a->sun_path + 1, sizeof a->sun_path - 1, "fake-nccl-%016llx-%d", (unsigned long long)nonce, rank);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

/* Over TCP a child listens already, and has the list of places; others ask the root for it. */
static ncclResult_t start_listening_tcp(struct birth *b)
{
    struct ncclComm *comm = b->comm;
    struct place own;

    b->at = LINK;
    comm->listener = b->listener >= 0 ? b->listener : fake_tcp_listen(2 * comm->n, &own);
    if (comm->listener < 0)
        return fake_error(ncclSystemError, "rank %d: no listening socket", comm->rank);
    fcntl(comm->listener, F_SETFL, O_NONBLOCK);
    b->listener = -1;
    if (b->family != INIT)
        return ncclInProgress;
    b->places = calloc((size_t)comm->n, sizeof *b->places);
    b->asked = fake_root_ask(b->root, comm->rank, comm->n, own);
    b->at = ASK;
    return b->asked < 0 || !b->places ? fake_error(ncclSystemError, "rank %d: the root does not answer", comm->rank) : ncclInProgress;
}

static ncclResult_t hear_root(struct birth *b)
{
    size_t all = (size_t)b->comm->n * sizeof *b->places;
    ssize_t n = recv(b->asked, (char *)b->places + b->answered, all - b->answered, MSG_DONTWAIT);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        return fake_error(ncclRemoteError, "rank %d: the root is gone", b->comm->rank);
    b->answered += n > 0 ? (size_t)n : 0;
    if (b->answered == all)
        b->at = LINK;
    return ncclInProgress;
}

static ncclResult_t start_listening(struct birth *b)
{
    struct ncclComm *comm = b->comm;
    struct sockaddr_un a;
    socklen_t length = address(&a, comm->nonce, comm->rank);

    b->called = calloc(2 * (size_t)comm->n, sizeof *b->called);
    if (fake_tcp())
        return start_listening_tcp(b);
    comm->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (comm->listener < 0 || bind(comm->listener, (struct sockaddr *)&a, length) != 0)
        return fake_error(errno == EADDRINUSE ? ncclInvalidUsage : ncclSystemError, "rank %d of %d: %s", comm->rank, comm->n,
                          errno == EADDRINUSE ? "there are two of it" : strerror(errno));
    if (listen(comm->listener, 2 * comm->n) != 0)
        return fake_error(ncclSystemError, "listen: %s", strerror(errno));
    b->at = LINK;
    return ncclInProgress;
}

static void adopt(struct birth *b, int peer, bool data, int fd)
{
    int size = BUFFER, on = 1;

    if (fake_tcp())
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* the kernel sizes its buffers itself */
    else
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (data)
        b->comm->links[peer].data = fd;
    else
        b->comm->links[peer].control = fd;
    b->linked++;
}

static int call_unix(const struct ncclComm *comm, int peer)
{
    struct sockaddr_un a;
    socklen_t length = address(&a, comm->nonce, peer);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, length) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void call(struct birth *b, int peer, bool data)
{
    struct ncclComm *comm = b->comm;
    struct hello hello = {COMM_MAGIC, comm->rank, comm->n, data};
    int fd = fake_tcp() ? fake_tcp_connect(b->places[peer]) : call_unix(comm, peer);

    if (fd < 0 || send(fd, &hello, sizeof hello, MSG_NOSIGNAL) != sizeof hello) {
        if (fd >= 0)
            close(fd);
        return;
    }
    b->called[2 * peer + data] = true;
    adopt(b, peer, data, fd);
}

static ncclResult_t answer(struct birth *b)
{
    struct ncclComm *comm = b->comm;
    struct hello hello;
    int fd;

    while ((fd = accept4(comm->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        if (recv(fd, &hello, sizeof hello, MSG_WAITALL) != sizeof hello || hello.magic != COMM_MAGIC) {
            close(fd);
            continue;
        }
        if (hello.n != comm->n || hello.rank <= comm->rank || hello.rank >= comm->n) {
            close(fd);
            return fake_error(ncclInvalidUsage, "rank %d of %d meets rank %d of %d", comm->rank, comm->n, hello.rank, hello.n);
        }
        adopt(b, hello.rank, hello.data != 0, fd);
    }
    return ncclInProgress;
}

static ncclResult_t link_up(struct birth *b)
{
    struct ncclComm *comm = b->comm;
    ncclResult_t result = answer(b);

    for (int peer = 0; peer < comm->rank; peer++)
        for (int data = 0; data < 2; data++)
            if (!b->called[2 * peer + data])
                call(b, peer, data != 0);
    if (result != ncclInProgress || b->linked < 2 * (comm->n - 1))
        return result;
    close(comm->listener);
    comm->listener = -1;
    return ncclSuccess;
}

ncclResult_t fake_birth_step(struct birth *b)
{
    struct ncclComm *watched = b->family == INIT ? b->comm : b->parent;

    if (watched->aborted)
        return ncclInternalError;
    if (fake_seconds() - b->since > (double)fake_setting("birth", 60))
        return fake_error(ncclSystemError, "rank %d: not all ranks have come within the time limit", watched->rank);
    switch (b->at) {
    case TELL: return tell(b);
    case HEAR: return hear_all(b);
    case LISTEN: return start_listening(b);
    case ASK: return hear_root(b);
    default: return link_up(b);
    }
}

struct ncclComm *fake_birth_comm(struct birth *b)
{
    return b->family == INIT ? b->comm : b->parent;
}

/* Takes the birth away. A child that failed is freed; a communicator of its own keeps the error. */
void fake_birth_end(struct birth *b, ncclResult_t result)
{
    if (b->comm && !result && !(b->family == INIT && fake_is_background()))
        b->comm->state = ncclSuccess;
    if (b->family == INIT && result) {
        fake_set_error(b->comm, result);
    } else if (b->family != INIT && b->comm && result) {
        fake_wires_close(b->comm, false);
        fake_comm_free(b->comm);
        b->comm = NULL;
    }
    if (b->out)
        __atomic_store_n(b->out, b->comm, __ATOMIC_RELEASE);
    if (b->listener >= 0)
        close(b->listener);
    if (b->asked >= 0)
        close(b->asked);
    free(b->places);
    free(b->all);
    free(b->heard);
    free(b->called);
    free(b);
}

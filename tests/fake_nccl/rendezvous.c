/*
 * rendezvous.c - ranks on different hosts: where each listens, and the root that tells them of one another
 *
 * On one machine a unix socket's name follows from the communicator and the rank, and nobody has to tell. With FAKE_NCCL_TCP=IFNAME
 * ranks listen at ports of that interface. The process that made the unique id has a thread which takes the places of all ranks of
 * a communicator and sends the list to each; the id says where that thread listens. Meant for links between namespaces of a test:
 * nothing is authenticated.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/fake_nccl/fake_nccl.h"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What a rank tells the root. */
struct asks {
    int32_t rank, n;
    struct place place;
};

const char *fake_tcp(void)
{
    const char *name = getenv("FAKE_NCCL_TCP");

    return name && *name ? name : NULL;
}

static uint32_t own_address(void)
{
    struct ifaddrs *all, *i;
    uint32_t ip = 0;

    if (!fake_tcp() || getifaddrs(&all) != 0)
        return 0;
    for (i = all; i && !ip; i = i->ifa_next)
        if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET && strcmp(i->ifa_name, fake_tcp()) == 0)
            ip = ((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr.s_addr;
    freeifaddrs(all);
    return ip;
}

/* A listening socket at a free port of the interface, or -1. */
int fake_tcp_listen(int backlog, struct place *place)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = own_address()};
    socklen_t length = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || !a.sin_addr.s_addr || bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, backlog) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &length) != 0) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    *place = (struct place){a.sin_addr.s_addr, a.sin_port};
    return fd;
}

int fake_tcp_connect(struct place place)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = (in_port_t)place.port, .sin_addr.s_addr = place.ip};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        return -1;
    }
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

/* ---- the root */

static void answer_all(int *fds, const struct place *places, int n)
{
    for (int i = 0; i < n; i++) {
        if (fds[i] < 0)
            continue;
        if (send(fds[i], places, (size_t)n * sizeof *places, MSG_NOSIGNAL) < 0)
            fake_log("the root cannot answer rank %d", i);
        close(fds[i]);
    }
}

/* One communicator for each id, as in NCCL. */
static void *root_main(void *arg)
{
    int listener = (int)(intptr_t)arg, n = 0, have = 0, fd;
    struct place *places = NULL;
    int *fds = NULL;
    struct asks asks;

    while ((!n || have < n) && (fd = accept(listener, NULL, NULL)) >= 0) {
        if (recv(fd, &asks, sizeof asks, MSG_WAITALL) != sizeof asks || asks.n < 1 || asks.rank < 0 || asks.rank >= asks.n ||
            (n && asks.n != n)) {
            close(fd);
            continue;
        }
        if (!n) {
            n = asks.n;
            places = calloc((size_t)n, sizeof *places);
            fds = malloc((size_t)n * sizeof *fds);
            if (!places || !fds)
                break;
            memset(fds, -1, (size_t)n * sizeof *fds);
        }
        places[asks.rank] = asks.place;
        fds[asks.rank] = fd;
        have++;
    }
    if (places && fds)
        answer_all(fds, places, n);
    free(places);
    free(fds);
    close(listener);
    return NULL;
}

ncclResult_t fake_root_start(struct place *place)
{
    int listener = fake_tcp_listen(128, place);
    pthread_t thread;

    if (listener < 0)
        return fake_error(ncclSystemError, "no listening socket on interface %s", fake_tcp());
    if (pthread_create(&thread, NULL, root_main, (void *)(intptr_t)listener) != 0) {
        close(listener);
        return ncclSystemError;
    }
    pthread_detach(thread);
    return ncclSuccess;
}

/* The answer, n places, comes on the socket that is returned. */
int fake_root_ask(struct place root, int rank, int n, struct place own)
{
    struct asks asks = {rank, n, own};
    int fd = fake_tcp_connect(root);

    if (fd >= 0 && send(fd, &asks, sizeof asks, MSG_NOSIGNAL) != sizeof asks) {
        close(fd);
        return -1;
    }
    return fd;
}

/*
 * socket.c - TCP sockets with deadlines, and what this host calls its interfaces
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <math.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/comm.h"
#include "lib/socket.h"

#define BACKLOG 512

/* -------------------------------------------------------------------------------------------- addresses */

static int address_take(const struct sockaddr *sa, struct xp_address *out)
{
    memset(out, 0, sizeof(*out));
    if (sa && sa->sa_family == AF_INET)
        out->len = sizeof(out->u.v4);
    else if (sa && sa->sa_family == AF_INET6)
        out->len = sizeof(out->u.v6);
    else
        return 0;
    memcpy(&out->u, sa, out->len);
    return 1;
}

int xp_address_resolve(const char *host, int port, struct xp_address *out, int most)
{
    struct addrinfo hints, *list, *a;
    char service[16];
    int n = 0;

    memset(&hints, 0, sizeof(hints));
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_family = AF_UNSPEC;
    snprintf(service, sizeof(service), "%d", port);
    if (getaddrinfo(host, service, &hints, &list) != 0)
        return 0;
    for (a = list; a && n < most; a = a->ai_next)
        n += address_take(a->ai_addr, &out[n]);
    freeaddrinfo(list);
    return n;
}

void xp_address_loopback(struct xp_address *out, int port)
{
    memset(out, 0, sizeof(*out));
    out->len = sizeof(out->u.v4);
    out->u.v4.sin_family = AF_INET;
    out->u.v4.sin_port = htons((uint16_t)port);
    out->u.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
}

int xp_address_of_interface(const char *name, struct xp_address *out)
{
    struct ifaddrs *list, *i;
    int found = 0;

    if (getifaddrs(&list) != 0)
        return 0;
    for (int family = 0; family < 2 && !found; family++) { /* IPv4 first */
        for (i = list; i && !found; i = i->ifa_next) {
            if (!i->ifa_addr || i->ifa_addr->sa_family != (family == 0 ? AF_INET : AF_INET6))
                continue;
            if (name ? strcmp(name, i->ifa_name) == 0 : (i->ifa_flags & IFF_UP) && !(i->ifa_flags & IFF_LOOPBACK))
                found = address_take(i->ifa_addr, out);
        }
    }
    freeifaddrs(list);
    return found;
}

int xp_address_facing(const struct xp_address *to, struct xp_address *out)
{
    struct xp_address probe = *to;
    struct sockaddr_storage own;
    socklen_t len = sizeof(own);
    int found = 0;
    int fd = socket(to->u.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return 0;
    xp_address_set_port(&probe, 9); /* nothing is sent: connecting a datagram socket only asks for the route */
    if (connect(fd, &probe.u.any, probe.len) == 0 && getsockname(fd, (struct sockaddr *)&own, &len) == 0)
        found = address_take((struct sockaddr *)&own, out);
    close(fd);
    return found;
}

void xp_address_set_port(struct xp_address *a, int port)
{
    if (a->u.any.sa_family == AF_INET)
        a->u.v4.sin_port = htons((uint16_t)port);
    else
        a->u.v6.sin6_port = htons((uint16_t)port);
}

const char *xp_address_text(const struct xp_address *a, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "?";

    if (a->len == 0) {
        snprintf(text, size, "nowhere");
    } else if (a->u.any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &a->u.v4.sin_addr, host, sizeof(host));
        snprintf(text, size, "%s:%d", host, ntohs(a->u.v4.sin_port));
    } else {
        inet_ntop(AF_INET6, &a->u.v6.sin6_addr, host, sizeof(host));
        snprintf(text, size, "[%s]:%d", host, ntohs(a->u.v6.sin6_port));
    }
    return text;
}

static int same_host_part(const struct xp_address *a, const struct xp_address *b)
{
    if (a->u.any.sa_family != b->u.any.sa_family)
        return 0;
    if (a->u.any.sa_family == AF_INET)
        return a->u.v4.sin_addr.s_addr == b->u.v4.sin_addr.s_addr;
    return memcmp(&a->u.v6.sin6_addr, &b->u.v6.sin6_addr, sizeof(a->u.v6.sin6_addr)) == 0;
}

int xp_interface_of_socket(int fd, char *name, size_t size)
{
    struct sockaddr_storage own;
    socklen_t len = sizeof(own);
    struct xp_address mine, theirs;
    struct ifaddrs *list, *i;
    int found = 0;

    if (getsockname(fd, (struct sockaddr *)&own, &len) != 0 || !address_take((struct sockaddr *)&own, &mine) ||
        getifaddrs(&list) != 0)
        return 0;
    for (i = list; i && !found; i = i->ifa_next) {
        if (address_take(i->ifa_addr, &theirs) && same_host_part(&mine, &theirs)) {
            snprintf(name, size, "%s", i->ifa_name);
            found = 1;
        }
    }
    freeifaddrs(list);
    return found;
}

/* ---------------------------------------------------------------------------------------------- sockets */

static int new_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    return fd < 0 ? -errno : fd;
}

static int close_with(int fd, int code)
{
    close(fd);
    return code;
}

int xp_socket_listen(struct xp_address *a)
{
    struct sockaddr_storage own;
    socklen_t len = sizeof(own);
    int one = 1;
    int fd = new_socket(a->u.any.sa_family);

    if (fd < 0)
        return fd;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, &a->u.any, a->len) != 0 || listen(fd, BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&own, &len) != 0)
        return close_with(fd, -errno);
    address_take((struct sockaddr *)&own, a);
    return fd;
}

int xp_socket_connect(const struct xp_address *a, double deadline)
{
    int error = 0;
    socklen_t len = sizeof(error);
    int fd = new_socket(a->u.any.sa_family);
    int n;

    if (fd < 0)
        return fd;
    if (connect(fd, &a->u.any, a->len) == 0)
        return fd;
    if (errno != EINPROGRESS)
        return close_with(fd, -errno);
    n = xp_socket_wait(fd, POLLOUT, deadline);
    if (n <= 0)
        return close_with(fd, n == 0 ? -ETIMEDOUT : n);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        error = errno;
    return error == 0 ? fd : close_with(fd, -error);
}

int xp_socket_accept(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

void xp_socket_tune(int fd, double silent_s)
{
    int one = 1;
    int probe = silent_s > 10 ? (int)ceil(silent_s / 10) : 1;
    int idle = 4 * probe, count = 6;
    unsigned ms = (unsigned)(1000 * silent_s);

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &probe, sizeof(probe));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms)); /* also ends writes that are never acknowledged */
}

int xp_socket_wait(int fd, short events, double deadline)
{
    for (;;) {
        struct pollfd p = {fd, events, 0};
        double left = deadline - xp_now();
        int ms = left <= 0 ? 0 : left > 3600 ? 3600000 : (int)ceil(1000 * left);
        int n = poll(&p, 1, ms);

        if (n > 0 || (n == 0 && left <= 0))
            return n;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

int xp_socket_read(int fd, void *buf, size_t len, double deadline)
{
    uint8_t *p = buf;

    while (len > 0) {
        ssize_t n = recv(fd, p, len, 0);

        if (n > 0) {
            p += n;
            len -= (size_t)n;
        } else if (n == 0) {
            return -ECONNRESET;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            int w = xp_socket_wait(fd, POLLIN, deadline);
            if (w <= 0)
                return w == 0 ? -ETIMEDOUT : w;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int xp_socket_write(int fd, const void *buf, size_t len, double deadline)
{
    const uint8_t *p = buf;

    while (len > 0) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

        if (n >= 0) {
            p += n;
            len -= (size_t)n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            int w = xp_socket_wait(fd, POLLOUT, deadline);
            if (w <= 0)
                return w == 0 ? -ETIMEDOUT : w;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

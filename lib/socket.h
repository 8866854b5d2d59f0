/*
 * socket.h - TCP sockets with deadlines, and what this host calls its interfaces
 *
 * Every socket is non-blocking and close-on-exec; nothing raises SIGPIPE.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_SOCKET_H
#define XP_SOCKET_H

#include <stddef.h>
#include <stdint.h>
#include <netinet/in.h>
#include <sys/socket.h>

/* An address that fits into a record: IPv4 or IPv6. */
struct xp_address {
    uint32_t len; /* 0: none */
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } u;
};

/* Addresses of a host (a name or a number) with that port. Returns how many were found, at most `most`. */
int xp_address_resolve(const char *host, int port, struct xp_address *out, int most);
void xp_address_loopback(struct xp_address *out, int port);
/* The first address of an interface, or for NULL of the first interface that is up and not loopback. 0: none. */
int xp_address_of_interface(const char *name, struct xp_address *out);
/* This host's address on the route to another. 0: no route. */
int xp_address_facing(const struct xp_address *to, struct xp_address *out);
void xp_address_set_port(struct xp_address *a, int port);
/* "10.0.0.1:4711". Returns text. */
const char *xp_address_text(const struct xp_address *a, char *text, size_t size);
/* Name of the interface that holds the socket's own address. 0: unknown. */
int xp_interface_of_socket(int fd, char *name, size_t size);

/* Listens on one address; on success *a is the address bound (with its port). Returns the socket or -errno. */
int xp_socket_listen(struct xp_address *a);
/* Connects within the deadline (xp_now). Returns the socket or -errno. */
int xp_socket_connect(const struct xp_address *a, double deadline);
/* Accepts one connection. Returns the socket or -errno. */
int xp_socket_accept(int listener);
/* Small messages at once; the kernel gives up on a peer that is silent for about silent_s. */
void xp_socket_tune(int fd, double silent_s);

/* All of it before the deadline: 0, or -errno (-ECONNRESET at the end of the stream, -ETIMEDOUT). */
int xp_socket_read(int fd, void *buf, size_t len, double deadline);
int xp_socket_write(int fd, const void *buf, size_t len, double deadline);
/* Waits for events of poll(2) on one socket. Returns poll's result, or -errno. */
int xp_socket_wait(int fd, short events, double deadline);

#endif

/*
 * host.h - which machine this process runs on, as far as sharing memory and loopback go
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HOST_H
#define XP_HOST_H

#include <stddef.h>
#include <stdint.h>

struct xp_host {
    char boot[40];       /* boot id of the kernel, or the host name where there is none */
    uint64_t netns;      /* inode of the network namespace: containers and test hosts share a kernel but no loopback */
    char name[64];
};

void xp_host_read(struct xp_host *h);

#endif

/*
 * host.c - which machine this process runs on
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/host.h"

void xp_host_read(struct xp_host *h)
{
    struct stat st;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, h->boot, sizeof(h->boot) - 1) : -1;

    if (fd >= 0)
        close(fd);
    memset(h->name, 0, sizeof(h->name));
    if (gethostname(h->name, sizeof(h->name) - 1) != 0)
        snprintf(h->name, sizeof(h->name), "localhost");
    if (n > 0) {
        memset(h->boot + n, 0, sizeof(h->boot) - (size_t)n);
        h->boot[strcspn(h->boot, "\n")] = '\0';
    } else {
        snprintf(h->boot, sizeof(h->boot), "%.39s", h->name);
    }
    h->netns = stat("/proc/self/ns/net", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

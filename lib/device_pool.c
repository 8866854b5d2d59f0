/*
 * device_pool.c - device memory and pinned pages, allocated once and given out in parts
 *
 * Pinned memory is ordinary memory that CUDA is told of: other processes can still read it, as shared memory transports do.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>
#include <sys/mman.h>

#include "lib/device.h"

#define PART_ALIGNMENT ((size_t)256)

void *xp_pool_take(struct xp_pool *p, size_t bytes)
{
    char *part = p->base ? p->base + p->used : NULL;

    p->used += (bytes + PART_ALIGNMENT - 1) / PART_ALIGNMENT * PART_ALIGNMENT;
    return part;
}

static int pin_pages(struct xp_pool *p, size_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int e;

    if (pages == MAP_FAILED)
        return XP_DEVICE_NO_MEMORY;
    madvise(pages, bytes, MADV_HUGEPAGE);
    e = p->device->pin(pages, bytes);
    if (e)
        munmap(pages, bytes);
    else
        p->base = pages;
    return e;
}

int xp_pool_fill(struct xp_pool *p)
{
    const size_t bytes = p->used;
    int e = 0;

    p->used = 0;
    if (bytes == 0)
        return 0;
    e = p->pinned ? pin_pages(p, bytes) : p->device->alloc((void **)&p->base, bytes);
    if (!e)
        p->size = bytes;
    return e;
}

void xp_pool_free(struct xp_pool *p)
{
    if (p->base && p->pinned) {
        p->device->unpin(p->base);
        munmap(p->base, p->size);
    } else if (p->base) {
        p->device->free(p->base);
    }
    p->base = NULL;
    p->size = p->used = 0;
}

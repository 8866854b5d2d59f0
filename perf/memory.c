/*
 * memory.c - where the rows of a benchmark lie (memory.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "perf/memory.h"

#include <stdio.h>
#include <stdlib.h>

#include "lib/device.h"

static int failed(const struct memory *m, int e, const char *what, char *err, size_t err_size)
{
    if (e)
        snprintf(err, err_size, "%s: CUDA: %s", what, m->device->text(e));
    return e ? -1 : 0;
}

int memory_open(struct memory *m, xp_memory kind, int local, int ranks, char *err, size_t err_size)
{
    char why[160];
    int devices = 0, e;

    *m = (struct memory){0};
    if (kind == XP_MEMORY_HOST)
        return 0;
    m->device = xp_device_find(why, sizeof(why));
    if (m->device == NULL) {
        snprintf(err, err_size, "--memory device: %s", why);
        return -1;
    }
    e = m->device->count(&devices);
    m->shared = ranks > devices;
    if (!e)
        e = m->device->set(local % devices);
    if (!e)
        e = m->device->stream_create(&m->stream);
    return failed(m, e, "--memory device", err, err_size);
}

void memory_close(struct memory *m)
{
    if (m->stream != NULL)
        m->device->stream_destroy(m->stream);
    m->stream = NULL;
}

int memory_take(const struct memory *m, struct place *p, size_t bytes)
{
    void *rows = NULL;

    *p = (struct place){.host = malloc(bytes + 64), .bytes = bytes};
    if (p->host == NULL)
        return -1;
    if (m->device == NULL)
        rows = p->host;
    else if (m->device->alloc(&rows, bytes + 64) != 0)
        return -1;
    p->rows = rows;
    return 0;
}

void memory_free(const struct memory *m, struct place *p)
{
    if (m->device != NULL && p->rows != NULL)
        m->device->free(p->rows);
    free(p->host);
    *p = (struct place){0};
}

int memory_wait(const struct memory *m, char *err, size_t err_size)
{
    return m->device == NULL ? 0 : failed(m, m->device->stream_synchronize(m->stream), "waiting for the GPU", err, err_size);
}

static int copy(const struct memory *m, void *to, const void *from, size_t bytes, char *err, size_t err_size)
{
    if (m->device == NULL)
        return 0;
    if (failed(m, m->device->copy(to, from, bytes, m->stream), "copying rows", err, err_size) != 0)
        return -1;
    return memory_wait(m, err, err_size);
}

int memory_put(const struct memory *m, const struct place *p, char *err, size_t err_size)
{
    return copy(m, p->rows, p->host, p->bytes, err, err_size);
}

int memory_get(const struct memory *m, const struct place *p, char *err, size_t err_size)
{
    return copy(m, p->host, p->rows, p->bytes, err, err_size);
}

void memory_of_plan(const struct memory *m, xp_plan_desc *d)
{
    d->memory = m->device != NULL ? XP_MEMORY_DEVICE : XP_MEMORY_HOST;
    d->stream = m->stream;
}

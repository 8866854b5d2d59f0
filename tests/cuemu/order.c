/*
 * order.c - which operations the program ordered before which, and whether two that touch the same bytes are
 *
 * Of every allocation the last accesses are kept with the place of their operation (stream slot, tick). An access conflicts with an
 * earlier one of the same bytes if one of them writes and the clock of the later operation does not cover the earlier one. The
 * verdict does not depend on the order in which the two happened to run.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/sim.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_RECORDS 2048 /* of one allocation; the oldest go first */

struct record {
    uintptr_t from, to;
    uint32_t slot, tick;
    bool write;
    const char *name;
};

struct region {
    uintptr_t from, to;
    struct record *records;
    unsigned n, room;
    struct region *next;
};

static struct region *regions;
static unsigned violations;

void xp_sim_join(struct clock *into, const struct clock *from)
{
    for (int i = 0; i < MAX_STREAMS; i++)
        if (into->tick[i] < from->tick[i])
            into->tick[i] = from->tick[i];
}

void xp_cuemu_violation(const char *format, ...)
{
    const char *mode = getenv("CUEMU_ON_VIOLATION");
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    __atomic_add_fetch(&violations, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "cuemu: %s (pid %d, CUEMU_SEED=%llu)\n", text, (int)getpid(), (unsigned long long)xp_cuemu_seed());
    fflush(stderr);
    if (!mode || strcmp(mode, "count") != 0)
        _exit(XP_CUEMU_EXIT_VIOLATION);
}

unsigned xp_cuemu_violations(void)
{
    return __atomic_load_n(&violations, __ATOMIC_RELAXED);
}

void xp_sim_memory_born(void *base, size_t bytes)
{
    struct region *r = calloc(1, sizeof *r);

    if (!r)
        return; /* accesses to it stay unchecked */
    r->from = (uintptr_t)base;
    r->to = r->from + bytes;
    r->next = regions;
    regions = r;
}

void xp_sim_memory_gone(void *base)
{
    for (struct region **at = &regions; *at; at = &(*at)->next)
        if ((*at)->from == (uintptr_t)base) {
            struct region *r = *at;
            *at = r->next;
            free(r->records);
            free(r);
            return;
        }
}

static struct region *region_of(uintptr_t p)
{
    for (struct region *r = regions; r; r = r->next)
        if (p >= r->from && p < r->to)
            return r;
    return NULL;
}

static void conflict(const struct node *by, const struct record *now, const struct record *was)
{
    xp_cuemu_violation("%s (stream %u) %s %zu bytes at %p that %s (stream %u) %s, and nothing orders the two", now->name,
                       by->stream->slot, now->write ? "writes" : "reads", (size_t)(now->to - now->from), (void *)now->from,
                       was->name, was->slot, was->write ? "writes" : "reads");
}

/* True if the new record makes the old one needless: who is ordered after the new one is ordered after the old one as well. */
static bool covers(const struct record *now, const struct record *was)
{
    return was->from >= now->from && was->to <= now->to && (now->write || (!was->write && was->slot == now->slot));
}

static void check(struct region *region, const struct node *by, const struct record *now)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < region->n; i++) {
        struct record was = region->records[i];
        bool overlap = was.from < now->to && now->from < was.to;
        bool same = was.slot == now->slot && was.tick == now->tick;
        if (overlap && !same && (was.write || now->write) && by->clock.tick[was.slot] < was.tick)
            conflict(by, now, &was);
        if (!(overlap && covers(now, &was)))
            region->records[kept++] = was;
    }
    region->n = kept;
}

static void keep(struct region *region, const struct record *now)
{
    if (region->n == MAX_RECORDS) {
        memmove(region->records, region->records + 1, (MAX_RECORDS - 1) * sizeof *region->records);
        region->n--;
    }
    if (region->n == region->room) {
        unsigned room = region->room ? 2 * region->room : 8;
        struct record *more = realloc(region->records, room * sizeof *more);
        if (!more)
            return;
        region->records = more;
        region->room = room;
    }
    region->records[region->n++] = *now;
}

void xp_sim_access(struct node *by, const void *p, size_t bytes, bool write)
{
    struct record now = {.from = (uintptr_t)p, .to = (uintptr_t)p + bytes, .write = write};
    struct region *region = bytes ? region_of(now.from) : NULL;

    if (!by || !region)
        return;
    now.name = by->op.name;
    now.slot = by->stream->slot;
    now.tick = by->clock.tick[now.slot];
    if (now.to > region->to)
        xp_cuemu_violation("%s %s %zu bytes at %p, %zu beyond the end of the allocation", now.name, write ? "writes" : "reads",
                           bytes, p, (size_t)(now.to - region->to));
    check(region, by, &now);
    keep(region, &now);
}

/*
 * device_emu.cpp - checkcuda's device is the emulator
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "device.h"
#include "emu.h"

#include <cstdio>

int device_open(struct xp_gpu *g)
{
    g->stream = nullptr;
    g->sms = 2;
    g->shared_bytes = 160 << 10;
    return 0;
}

const char *device_name(void)
{
    return "emulator";
}

int device_is_emulated(void)
{
    return 1;
}

void *device_upload(const void *host, size_t bytes)
{
    void *p = cuemu::device_alloc(bytes);

    if (host)
        cuemu::upload(p, host, bytes);
    return p;
}

void device_download(void *host, const void *device, size_t bytes)
{
    cuemu::download(host, device, bytes);
}

void device_free(void *p)
{
    cuemu::device_free(p);
}

void device_schedule(unsigned number, uint64_t seed)
{
    cuemu::set_schedule(number == 0 ? cuemu::Order::forward : number == 1 ? cuemu::Order::reverse : cuemu::Order::random, seed);
    cuemu::set_resident_blocks(number < 2 ? 2 : 1 + (unsigned)(seed % 4));
}

size_t device_findings(void)
{
    const size_t n = cuemu::findings().size();

    for (size_t i = 0; i < n && i < 10; i++)
        printf("# %s: %s\n", cuemu::kind_name(cuemu::findings()[i].kind), cuemu::findings()[i].text.c_str());
    cuemu::clear_findings();
    return n;
}

void device_count_begin(void)
{
    cuemu::clear_counts();
}

struct device_count device_count(const char *kernel)
{
    const cuemu::Count c = cuemu::count_of(kernel);

    return {c.launches, c.read, c.written, c.read_once, c.written_once};
}

double device_time(const struct xp_gpu *, void (*run)(void *), void *arg)
{
    run(arg);
    return 0;
}

void device_copy(const struct xp_gpu *, void *to, const void *from, size_t bytes)
{
    cuemu::upload(to, from, bytes);
}

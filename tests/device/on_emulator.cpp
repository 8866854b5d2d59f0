/*
 * on_emulator.cpp - the kernels of device plans run in the emulator, which says what is wrong with them
 *
 * SPDX-License-Identifier: Apache-2.0
 */
extern "C" {
#include "tests/device/device_rank.h"
}
#include "tests/cuemu/emu.h"

#include <cstdio>

extern "C" void emulator_open(unsigned seed)
{
    cuemu::follow_runtime();
    cuemu::set_schedule(cuemu::Order::random, seed);
}

extern "C" int emulator_findings(void)
{
    const size_t n = cuemu::findings().size();

    for (size_t i = 0; i < n && i < 5; i++)
        std::fprintf(stderr, "# %s: %s\n", cuemu::kind_name(cuemu::findings()[i].kind), cuemu::findings()[i].text.c_str());
    return (int)n;
}

extern "C" size_t emulator_bytes(const char *kernel)
{
    const cuemu::Count c = cuemu::count_of(kernel);

    return c.read + c.written;
}

extern "C" void emulator_clear_counts(void)
{
    cuemu::clear_counts();
}

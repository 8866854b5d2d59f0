/*
 * always_emulated.cpp - a program whose kernels run in the emulator, on the double's memory, without knowing it
 *
 * SPDX-License-Identifier: Apache-2.0
 */
extern "C" {
#include "tests/device/device_rank.h"
}

#include <cstdlib>

__attribute__((constructor)) static void follow(void)
{
    emulator_open(1);
}

/* Findings are printed, and failures. */
__attribute__((destructor)) static void judge(void)
{
    if (emulator_findings() > 0)
        std::abort();
}

/*
 * emu.h - the kernel emulator as tests see it: launches, device memory, findings, counters
 *
 * Kernels are compiled by g++ from the very .cu files, with -fsanitize=thread; every thread of a launch is a fibre of this process.
 * The compiler's calls before each memory access arrive in emu_check.cpp instead of a sanitizer's library.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUEMU_EMU_H
#define XP_CUEMU_EMU_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cuemu
{

/* ---- schedules: which of the fibres that could run does ---- */
enum class Order { forward, reverse, random };
void set_schedule(Order order, uint64_t seed);

/* Blocks of a launch that are alive at the same time; all of them in cooperative launches. Default 4. */
void set_resident_blocks(unsigned n);

/* ---- device memory: exact bounds; what nothing wrote is known to be unwritten ---- */
void *device_alloc(size_t bytes);
void device_free(void *p);
void upload(void *device, const void *host, size_t bytes);
/* Reports bytes that nothing wrote. */
void download(void *host, const void *device, size_t bytes);
void device_fill(void *device, int byte, size_t bytes);

/* Memory of the runtime double (cudaMalloc) is memory of kernels too, from now on. */
void follow_runtime();

/* ---- what was found ---- */
enum class Kind { race, bounds, uninitialised, mask, divergence, deadlock, launch };
const char *kind_name(Kind k);
struct Finding {
    Kind kind;
    std::string text;
};
const std::vector<Finding> &findings();
void clear_findings();

/* ---- what was counted: bytes of device memory that the threads of a kernel read and wrote ----
 * once: of 32-byte sectors, each counted once in a launch: what must come from memory where all that a launch touches stays in the
 * second-level cache while the launch runs; a sector that is read after it was written does not count as read. */
struct Count {
    unsigned long launches, read, written, read_once, written_once;
};
Count count_of(const char *kernel); /* since clear_counts; kernel NULL: all */
void clear_counts();

} // namespace cuemu

#endif

/*
 * device.h - the device that checkcuda's kernels run on: the emulator (device_emu.cpp) or a GPU (device_gpu.c)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUEMU_DEVICE_H
#define XP_CUEMU_DEVICE_H

#include "cuda/cuda_kernels.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* 0, or 77 where there is no device. sms: of the device. */
int device_open(struct xp_gpu *g);
const char *device_name(void);
int device_is_emulated(void);

/* Device memory; ends the program where there is none left. upload of NULL: room only. */
void *device_upload(const void *host, size_t bytes);
void device_download(void *host, const void *device, size_t bytes); /* waits for all that was enqueued */
void device_free(void *p);

/* Schedules of the emulator, numbered: 0 in order, 1 reverse, from 2 on random with this seed. Nothing on a GPU. */
void device_schedule(unsigned number, uint64_t seed);

/* Prints what was found since the last call as TAP comments; returns how much it was. On a GPU: errors of the runtime. */
size_t device_findings(void);

/* Launches of this kernel since the last call of device_count_begin, and the bytes of device memory that it read and wrote (emulator);
 * once: each 32-byte sector once a launch. */
struct device_count {
    unsigned long launches, read, written, read_once, written_once;
};
void device_count_begin(void);
struct device_count device_count(const char *kernel);

/* Seconds of one call of run, on a GPU; 0 in the emulator. */
double device_time(const struct xp_gpu *g, void (*run)(void *arg), void *arg);
/* Copies on the device, asynchronously. */
void device_copy(const struct xp_gpu *g, void *to, const void *from, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif

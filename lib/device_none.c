/*
 * device_none.c - the device table of a build without CUDA
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>

#include "lib/device.h"

const struct xp_device *xp_device_find(char *why, size_t size)
{
    snprintf(why, size, "this build of the library has no CUDA");
    return NULL;
}

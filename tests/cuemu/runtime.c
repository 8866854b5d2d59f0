/*
 * runtime.c - the CUDA runtime double: errors and devices
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/runtime.h"
#include "tests/cuemu/cudart.h"
#include "tests/cuemu/sim.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))
#define VERSION 13000

static __thread int last_error;
static __thread int device;

/* ---- errors */

static const struct {
    int code;
    const char *name, *text;
} errors[] = {
    {OK, "cudaSuccess", "no error"},
    {INVALID_VALUE, "cudaErrorInvalidValue", "invalid argument"},
    {NO_MEMORY, "cudaErrorMemoryAllocation", "out of memory"},
    {INVALID_DIRECTION, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {INVALID_DEVICE, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {INVALID_HANDLE, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {NOT_READY, "cudaErrorNotReady", "device not ready"},
    {PEER_ON, "cudaErrorPeerAccessAlreadyEnabled", "peer access is already enabled"},
    {HOST_REGISTERED, "cudaErrorHostMemoryAlreadyRegistered", "part or all of the requested memory range is already mapped"},
    {HOST_NOT_REGISTERED, "cudaErrorHostMemoryNotRegistered", "pointer does not correspond to a registered memory region"},
    {NOT_PERMITTED, "cudaErrorNotPermitted", "operation not permitted"},
    {NOT_SUPPORTED, "cudaErrorNotSupported", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"},
    {CAPTURE_MERGE, "cudaErrorStreamCaptureMerge", "operation would result in a merge of separate capture sequences"},
    {CAPTURE_UNMATCHED, "cudaErrorStreamCaptureUnmatched", "capture was not ended in the same stream as it began"},
    {CAPTURE_UNJOINED, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {CAPTURE_ISOLATION, "cudaErrorStreamCaptureIsolation", "dependency created on uncaptured work in another stream"},
    {CAPTURE_IMPLICIT, "cudaErrorStreamCaptureImplicit", "operation would make the legacy stream depend on a capturing stream"},
    {CAPTURED_EVENT, "cudaErrorCapturedEvent", "operation not permitted on an event last recorded in a capturing stream"},
    {CAPTURE_WRONG_THREAD, "cudaErrorStreamCaptureWrongThread", "stream capture was ended in another thread than it began"},
};

int xp_cuemu_fail(int error)
{
    if (error)
        last_error = error;
    return error;
}

API int cudaGetLastError(void)
{
    int error = last_error;

    last_error = OK;
    return error;
}

API int cudaPeekAtLastError(void)
{
    return last_error;
}

API const char *cudaGetErrorName(int error)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == error)
            return errors[i].name;
    return "unrecognized error code";
}

API const char *cudaGetErrorString(int error)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == error)
            return errors[i].text;
    return "unrecognized error code";
}

int xp_sim_enter(const char *call)
{
    if (xp_sim_in_op(call))
        return NOT_PERMITTED;
    pthread_mutex_lock(&xp_sim_lock);
    return OK;
}

int xp_sim_leave(int error)
{
    pthread_mutex_unlock(&xp_sim_lock);
    return xp_cuemu_fail(error);
}

/* ---- devices */

int xp_sim_devices(void)
{
    const char *text = getenv("CUEMU_DEVICES");
    int n = text && *text ? atoi(text) : 8;

    return n < 0 ? 0 : n > MAX_DEVICES ? MAX_DEVICES : n;
}

int xp_sim_current_device(void)
{
    return device;
}

int xp_cuemu_device(void)
{
    return device;
}

API int cudaDriverGetVersion(int *version)
{
    *version = VERSION;
    return OK;
}

API int cudaRuntimeGetVersion(int *version)
{
    *version = VERSION;
    return OK;
}

API int cudaGetDeviceCount(int *count)
{
    *count = xp_sim_devices();
    return xp_cuemu_fail(*count ? OK : 100); /* cudaErrorNoDevice */
}

API int cudaGetDevice(int *current)
{
    *current = device;
    return OK;
}

API int cudaSetDevice(int wanted)
{
    if (wanted < 0 || wanted >= xp_sim_devices())
        return xp_cuemu_fail(INVALID_DEVICE);
    device = wanted;
    return OK;
}

API int cudaDeviceGetAttribute(int *value, int attribute, int which)
{
    static const struct {
        int attribute, value;
    } known[] = {{1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535}, {8, 49152}, {10, 32}, {12, 65536},
                 {16, 16}, {31, 1}, {39, 2048}, {40, 1}, {41, 1}, {75, 9}, {76, 0}, {81, 233472}, {82, 65536}, {83, 1}, {95, 1},
                 {97, 232448}, {99, 1}, {106, 32}, {115, 1}};

    if (which < 0 || which >= xp_sim_devices())
        return xp_cuemu_fail(INVALID_DEVICE);
    *value = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].attribute == attribute)
            *value = known[i].value;
    return OK;
}

API int cudaDeviceGetPCIBusId(char *text, int size, int which)
{
    if (which < 0 || which >= xp_sim_devices())
        return xp_cuemu_fail(INVALID_DEVICE);
    snprintf(text, (size_t)size, "0000:%02x:00.0", which + 1);
    return OK;
}

API int cudaDeviceCanAccessPeer(int *can, int one, int other)
{
    *can = one != other;
    return OK;
}

API int cudaDeviceEnablePeerAccess(int peer, unsigned flags)
{
    static __thread bool on[MAX_DEVICES];

    if (flags || peer < 0 || peer >= xp_sim_devices() || peer == device)
        return xp_cuemu_fail(INVALID_DEVICE);
    if (on[peer])
        return xp_cuemu_fail(PEER_ON);
    on[peer] = true;
    return OK;
}

API int cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return OK;
}

API int cudaDeviceSynchronize(void)
{
    if (xp_sim_enter(__func__))
        return NOT_PERMITTED;
    int error = xp_sim_capture_forbids();
    if (!error)
        xp_sim_wait_all(device);
    return xp_sim_leave(error);
}

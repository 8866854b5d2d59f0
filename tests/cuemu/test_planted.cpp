/*
 * test_planted.cpp - the emulator finds each planted bug, under every schedule, and nothing in the right forms
 *
 * Prints TAP.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "emu.h"
#include "planted.h"

extern "C" {
#include "cudart.h"
}

#include <cstdio>
#include <vector>

using namespace cuemu;

static const struct Row {
    enum planted_bug bug;
    const char *name;
    Kind kind;
} rows[] = {
    {PLANTED_NO_BARRIER, "read of a neighbour's word without a barrier", Kind::race},
    {PLANTED_NO_BARRIER_BEFORE_WRITE, "write while a neighbour may still read", Kind::race},
    {PLANTED_NO_SYNCWARP, "exchange in a warp without __syncwarp", Kind::race},
    {PLANTED_RACE, "blocks add to one word without atomics", Kind::race},
    {PLANTED_NO_FENCE, "the last block reads without fences", Kind::race},
    {PLANTED_OVERRUN, "global memory, one word too far", Kind::bounds},
    {PLANTED_SHARED_OVERRUN, "shared memory, one word too far", Kind::bounds},
    {PLANTED_HOST_POINTER, "a pointer to host memory", Kind::bounds},
    {PLANTED_UNWRITTEN, "shared memory that nothing wrote", Kind::uninitialised},
    {PLANTED_UNWRITTEN_GLOBAL, "global memory that nothing wrote", Kind::uninitialised},
    {PLANTED_WRONG_MASK, "a lane outside its own mask", Kind::mask},
    {PLANTED_ABSENT_LANE, "shuffle from a lane that takes no part", Kind::mask},
    {PLANTED_DIVERGED_BARRIER, "one barrier in two places", Kind::divergence},
    {PLANTED_DEADLOCK, "lanes that never arrive", Kind::deadlock},
};

static int number, failures;

static void verdict(bool ok, const char *name, const char *what)
{
    failures += !ok;
    printf("%sok %d - %s: %s\n", ok ? "" : "not ", ++number, name, what);
    if (!ok)
        for (const Finding &f : findings())
            printf("# %s: %s\n", kind_name(f.kind), f.text.c_str());
    fflush(stdout);
}

/* Findings of one launch under one schedule. */
static void run(const Row &row, bool wrong, Order order, uint64_t seed)
{
    const std::vector<unsigned> zeros(128);
    unsigned *a = static_cast<unsigned *>(device_alloc(192 * 4)), *b = static_cast<unsigned *>(device_alloc(64 * 4));
    unsigned *c = static_cast<unsigned *>(device_alloc(128 * 4));

    upload(b, zeros.data(), 64 * 4);
    upload(c, zeros.data(), 128 * 4);
    clear_findings();
    set_schedule(order, seed);
    planted_launch(row.bug, wrong, nullptr, a, b, c);
    cudaDeviceSynchronize();
    device_free(a);
    device_free(b);
    device_free(c);
}

/* A race may also show as a read of what is not written yet. */
static bool caught_as(Kind kind)
{
    bool caught = false;

    for (const Finding &f : findings()) {
        if (f.kind != kind && !(kind == Kind::race && f.kind == Kind::uninitialised))
            return false;
        caught = caught || f.kind == kind;
    }
    return caught;
}

static void check_row(const Row &row)
{
    bool caught = true, quiet = true;

    for (uint64_t seed = 0; seed < 22 && caught; seed++) {
        run(row, true, seed == 0 ? Order::forward : seed == 1 ? Order::reverse : Order::random, seed);
        caught = caught_as(row.kind);
    }
    verdict(caught, row.name, "caught");
    for (uint64_t seed = 0; seed < 22 && quiet; seed++) {
        run(row, false, seed == 0 ? Order::forward : seed == 1 ? Order::reverse : Order::random, seed);
        quiet = findings().empty();
    }
    verdict(quiet, row.name, "nothing reported of the right form");
}

static void check_counts()
{
    unsigned *a = static_cast<unsigned *>(device_alloc(192 * 4)), *b = static_cast<unsigned *>(device_alloc(128 * 4));

    clear_findings();
    clear_counts();
    planted_launch(PLANTED_FILL, false, nullptr, a, b, nullptr);
    planted_launch(PLANTED_ADD_ONE, false, nullptr, a, b, nullptr);
    cudaDeviceSynchronize();
    const Count c = count_of("planted");
    verdict(findings().empty() && c.launches == 2 && c.read == 512 && c.written == 1024, "counters", "launches and bytes of device memory");
    std::vector<unsigned> back(128);
    download(back.data(), b, 512);
    bool right = findings().empty();
    for (unsigned v : back)
        right = right && v == 8;
    verdict(right, "two launches", "the second reads what the first wrote");
    device_free(a);
    device_free(b);
}

/* One stream fills, another reads; waits: the second waits for an event of the first. Memory of the emulator or of cudaMalloc. */
static void run_streams(bool waits, unsigned *a, unsigned *b)
{
    cudaStream_t first, second;
    cudaEvent_t filled;

    clear_findings();
    cudaStreamCreate(&first);
    cudaStreamCreate(&second);
    cudaEventCreate(&filled);
    planted_launch(PLANTED_FILL, false, first, a, b, nullptr);
    cudaEventRecord(filled, first);
    if (waits)
        cudaStreamWaitEvent(second, filled, 0);
    planted_launch(PLANTED_ADD_ONE, false, second, a, b, nullptr);
    cudaDeviceSynchronize();
    cudaEventDestroy(filled);
    cudaStreamDestroy(first);
    cudaStreamDestroy(second);
}

static void check_streams()
{
    bool caught = true, quiet = true;

    for (int i = 0; i < 8 && caught && quiet; i++) {
        unsigned *a, *b;
        if (i % 2) {
            cudaMalloc(reinterpret_cast<void **>(&a), 512);
            cudaMalloc(reinterpret_cast<void **>(&b), 512);
        } else {
            a = static_cast<unsigned *>(device_alloc(512));
            b = static_cast<unsigned *>(device_alloc(512));
        }
        run_streams(true, a, b);
        quiet = findings().empty();
        if (!quiet)
            break;
        run_streams(false, a, b);
        caught = caught_as(Kind::race);
        if (i % 2) {
            cudaFree(a);
            cudaFree(b);
        } else {
            device_free(a);
            device_free(b);
        }
    }
    verdict(quiet, "a stream that waits for another's event", "nothing reported of the right form");
    verdict(caught, "a stream that does not wait for another's event", "caught");
}

static void check_foreign_bounds()
{
    unsigned *a;

    clear_findings();
    cudaMalloc(reinterpret_cast<void **>(&a), 64 * 4 * 2 - 4); /* two blocks of 64 words are written */
    planted_launch(PLANTED_FILL, false, nullptr, a, nullptr, nullptr);
    cudaDeviceSynchronize();
    verdict(caught_as(Kind::bounds), "memory of cudaMalloc, one word too far", "caught");
    cudaFree(a);
}

int main()
{
    follow_runtime();
    for (const Row &row : rows)
        check_row(row);
    check_counts();
    check_streams();
    check_foreign_bounds();
    printf("1..%d\n", number);
    return failures > 0;
}

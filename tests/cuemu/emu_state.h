/*
 * emu_state.h - the inside of the emulator: fibres, warps, blocks, and what its files owe each other
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUEMU_EMU_STATE_H
#define XP_CUEMU_EMU_STATE_H

#include "emu.h"
#include "emu_device.h"

#include <map>
#include <memory>
#include <utility>

namespace cuemu
{

constexpr size_t STACK_BYTES = 64 << 10;

struct Block;

/* One CUDA thread. */
struct Fiber {
    void *sp = nullptr;
    char *stack = nullptr;
    Block *block = nullptr;
    uint3 thread{}, place{};   /* threadIdx, blockIdx */
    unsigned number = 0, lane = 0;
    enum State { READY, IN_WARP_OP, IN_BARRIER, DONE } state = DONE;

    /* What it waits for. */
    Op op{};
    unsigned mask = 0, arg = 0, kind = 0;
    uint64_t in = 0, out = 0;
    const char *file = nullptr;
    int line = 0;

    /* Logical time, for the checker. */
    unsigned barriers = 0, warp_clock = 1, acquired = 0, fences = 0;
    unsigned seen[32] = {};    /* warp clocks of the other lanes that this one has synchronised with */
};

struct Pending {
    Op op;
    unsigned mask, arrived;
};

struct Warp {
    unsigned alive = 0;
    std::vector<Pending> pending;
};

struct Block {
    unsigned number = 0, live = 0, arrived = 0;
    int count = 0;
    std::vector<Fiber *> fibers;
    std::vector<Warp> warps;
    std::map<const void *, std::pair<void *, size_t>> shared;
    std::pair<void *, size_t> dynamic{nullptr, 0};
};

extern Fiber *current; /* NULL: the host */
/* This thread runs the launch; another one is the host, whose code in .cu files is compiled with the same calls. */
extern thread_local bool runs_launch;

/* emu_sched.cpp */
void make_ready(Fiber *f);
void wait_here();                       /* the current fibre waits; others go on */
[[noreturn]] void abandon(Kind kind, const std::string &text); /* a finding that ends the launch */
std::string place_of(const Fiber *f);
std::string format(const char *f, ...) __attribute__((format(printf, 1, 2)));
unsigned random_below(unsigned n);
void progress();                        /* something happened: loops that wait are not stuck */
const char *launch_name();

/* emu_warp.cpp */
void warp_check(Block *b, unsigned warp);
const char *op_name(Op op);

/* emu_check.cpp */
void add_finding(Kind kind, const std::string &text);
void *arena_alloc(size_t bytes, bool shared);
void arena_free(void *p, bool shared);
void check_launch_begins(const char *name, const void *args, size_t size);
void check_launch_ends();
void check_fence(Fiber *f);

} // namespace cuemu

#endif

/*
 * emu_sched.cpp - launches as fibres: their stacks, whose turn it is, block barriers
 *
 * Built without instrumentation, like all of the emulator. A launch that goes wrong is abandoned: its fibres are simply never
 * switched to again (kernels own nothing), so one process can look at many faulty launches.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "emu_state.h"
#include "runtime.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

/* Saves the callee's registers on one stack and takes them from another (x86-64 System V). */
extern "C" void xp_cuemu_switch(void **save, void *load);
asm(R"(
.text
.globl xp_cuemu_switch
.type xp_cuemu_switch,@function
xp_cuemu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size xp_cuemu_switch, .-xp_cuemu_switch
)");

/* The CUDA runtime double, where it is linked, runs a launch when its stream gets to it; without it a launch runs at once. */
extern "C" int xp_cuemu_enqueue_op(void *stream, const struct xp_cuemu_op *op) __attribute__((weak));

namespace cuemu
{

Fiber *current;
thread_local bool runs_launch;

namespace
{

constexpr unsigned MAX_THREADS = 1024;
constexpr size_t MAX_DYNAMIC_SHARED = 227 << 10;
constexpr unsigned ATOMIC_YIELD = 4; /* in random schedules one atomic in so many gives way */

struct Job {
    std::string name;
    Shape shape;
    void (*call)(void *);
    void *args;
    size_t args_size;
    void (*destroy)(void *);
};

struct Scheduler {
    Order order = Order::forward;
    uint64_t random = 1;
    unsigned resident = 4;
    const Job *job = nullptr;
    void *host_sp = nullptr;
    std::vector<Fiber *> ready; /* [head, size) */
    size_t head = 0;
    std::vector<std::unique_ptr<Block>> blocks;
    std::vector<Fiber *> pool;
    size_t finished = 0;
    unsigned long idle_turns = 0; /* turns given away since something last happened */
    bool abandoned = false;
} S;

/* ---- whose turn it is ---- */

Fiber *take()
{
    if (S.head == S.ready.size()) {
        S.ready.clear();
        S.head = 0;
        return nullptr;
    }
    if (S.order == Order::reverse) {
        Fiber *f = S.ready.back();
        S.ready.pop_back();
        return f;
    }
    if (S.order == Order::random)
        std::swap(S.ready[S.head + random_below((unsigned)(S.ready.size() - S.head))], S.ready[S.head]);
    Fiber *f = S.ready[S.head++];
    if (S.head > 16384) {
        S.ready.erase(S.ready.begin(), S.ready.begin() + (long)S.head);
        S.head = 0;
    }
    return f;
}

/* Goes on with `to`; nullptr: the host. */
void switch_to(Fiber *to)
{
    Fiber *from = current;

    if (to == from)
        return;
    current = to;
    if (to) {
        threadIdx = to->thread;
        blockIdx = to->place;
    }
    xp_cuemu_switch(from ? &from->sp : &S.host_sp, to ? to->sp : S.host_sp);
}

/* ---- life of a fibre ---- */

void thread_ends(Fiber *f);

void fiber_main()
{
    S.job->call(S.job->args);
    thread_ends(current);
    switch_to(take());
    abort(); /* a finished fibre is never chosen again */
}

/* Makes the next switch to f enter fiber_main. */
void prime(Fiber *f)
{
    void **top = reinterpret_cast<void **>(f->stack + STACK_BYTES - 64);

    *--top = nullptr;
    *--top = reinterpret_cast<void *>(fiber_main);
    f->sp = top - 6;
}

Fiber *new_fiber()
{
    const size_t guard = 4096;
    Fiber *f;

    if (!S.pool.empty()) {
        f = S.pool.back();
        S.pool.pop_back();
    } else {
        f = new Fiber;
        void *m = mmap(nullptr, STACK_BYTES + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (m == MAP_FAILED || mprotect(m, guard, PROT_NONE)) {
            perror("cuemu: stack of a fibre");
            exit(1);
        }
        f->stack = static_cast<char *>(m) + guard;
    }
    char *stack = f->stack;
    *f = Fiber();
    f->stack = stack;
    prime(f);
    return f;
}

uint3 coordinates(unsigned i, const dim3 &d)
{
    return {i % d.x, i / d.x % d.y, i / d.x / d.y};
}

std::unique_ptr<Block> new_block(unsigned number)
{
    const Shape &s = S.job->shape;
    auto b = std::make_unique<Block>();

    b->number = number;
    b->live = s.block.x * s.block.y * s.block.z;
    b->warps.resize((b->live + 31) / 32);
    for (unsigned t = 0; t < b->live; t++) {
        Fiber *f = new_fiber();
        f->block = b.get();
        f->number = t;
        f->lane = t % 32;
        f->thread = coordinates(t, s.block);
        f->place = coordinates(number, s.grid);
        b->warps[t / 32].alive |= 1u << f->lane;
        b->fibers.push_back(f);
        make_ready(f);
    }
    return b;
}

void end_block(Block *b)
{
    for (auto &s : b->shared)
        arena_free(s.second.first, true);
    if (b->dynamic.first)
        arena_free(b->dynamic.first, true);
    for (Fiber *f : b->fibers)
        S.pool.push_back(f);
}

/* ---- block barriers ---- */

/* Lets the block go on when all threads that still live have arrived. */
void barrier_check(Block *b)
{
    const Fiber *first = nullptr;
    unsigned acquired = 0;

    if (b->arrived == 0 || b->arrived != b->live)
        return;
    for (Fiber *f : b->fibers)
        acquired = std::max(acquired, f->acquired);
    for (Fiber *f : b->fibers) {
        if (f->state != Fiber::IN_BARRIER)
            continue;
        if (!first)
            first = f;
        else if (first->line != f->line || strcmp(first->file, f->file))
            abandon(Kind::divergence, format("one barrier of block %u is met at %s:%d and at %s:%d", b->number, first->file, first->line, f->file, f->line));
    }
    for (Fiber *f : b->fibers) {
        f->barriers++;
        f->acquired = acquired;
        if (f->state != Fiber::IN_BARRIER)
            continue;
        f->out = (uint64_t)b->count;
        make_ready(f);
    }
    b->arrived = 0;
    b->count = 0;
    progress();
}

void thread_ends(Fiber *f)
{
    Block *b = f->block;

    progress();
    f->state = Fiber::DONE;
    if (--b->live == 0) {
        S.finished++;
        return;
    }
    barrier_check(b);
    b->warps[f->number / 32].alive &= ~(1u << f->lane);
    warp_check(b, f->number / 32);
}

std::string waiting_threads()
{
    std::string text;
    int shown = 0;

    for (auto &b : S.blocks)
        for (Fiber *f : b->fibers)
            if ((f->state == Fiber::IN_WARP_OP || f->state == Fiber::IN_BARRIER) && shown++ < 4)
                text += format("; block %u thread %u waits in %s (mask %08x) at %s:%d", b->number, f->number,
                               f->state == Fiber::IN_BARRIER ? "__syncthreads" : op_name(f->op), f->state == Fiber::IN_BARRIER ? 0 : f->mask,
                               f->file, f->line);
    return text;
}

/* ---- launches ---- */

std::vector<unsigned> block_order(unsigned n)
{
    std::vector<unsigned> order(n);

    for (unsigned i = 0; i < n; i++)
        order[i] = S.order == Order::reverse ? n - 1 - i : i;
    if (S.order == Order::random)
        for (unsigned i = n; i > 1; i--)
            std::swap(order[i - 1], order[random_below(i)]);
    return order;
}

void reap_blocks()
{
    for (size_t i = 0; i < S.blocks.size();)
        if (S.blocks[i]->live == 0) {
            end_block(S.blocks[i].get());
            S.blocks[i] = std::move(S.blocks.back());
            S.blocks.pop_back();
        } else {
            i++;
        }
}

void run_blocks()
{
    const dim3 &g = S.job->shape.grid;
    const unsigned blocks = g.x * g.y * g.z, resident = S.job->shape.cooperative ? blocks : S.resident;
    const std::vector<unsigned> order = block_order(blocks);
    unsigned next = 0;

    while (S.finished < blocks && !S.abandoned) {
        reap_blocks();
        while (next < blocks && S.blocks.size() < resident)
            S.blocks.push_back(new_block(order[next++]));
        Fiber *f = take();
        if (!f) {
            add_finding(Kind::deadlock, S.job->name + ": nobody can go on" + waiting_threads());
            break;
        }
        switch_to(f); /* comes back when no fibre is ready, or the launch is abandoned */
    }
    for (auto &b : S.blocks)
        end_block(b.get());
    S.blocks.clear();
    S.ready.clear();
    S.head = S.finished = 0;
}

int run_job(void *arg, int)
{
    Job *job = static_cast<Job *>(arg);

    S.job = job;
    S.abandoned = false;
    S.idle_turns = 0;
    blockDim = job->shape.block;
    gridDim = job->shape.grid;
    check_launch_begins(job->name.c_str(), job->args, job->args_size);
    runs_launch = true;
    run_blocks();
    runs_launch = false;
    check_launch_ends();
    S.job = nullptr;
    return XP_CUEMU_DONE;
}

void drop_job(void *arg)
{
    Job *job = static_cast<Job *>(arg);

    job->destroy(job->args);
    delete job;
}

const char *wrong_shape(const Shape &s)
{
    const unsigned long threads = (unsigned long)s.block.x * s.block.y * s.block.z;

    if (threads == 0 || threads > MAX_THREADS || s.block.z > 64)
        return "threads of a block";
    if (s.grid.x == 0 || s.grid.y == 0 || s.grid.z == 0 || s.grid.x > 0x7fffffff || s.grid.y > 65535 || s.grid.z > 65535)
        return "blocks of the grid";
    return s.dynamic_shared > MAX_DYNAMIC_SHARED ? "dynamic shared memory" : nullptr;
}

} // namespace

/* ---- for emu_warp.cpp and emu_check.cpp ---- */

void make_ready(Fiber *f)
{
    f->state = Fiber::READY;
    S.ready.push_back(f);
}

void wait_here()
{
    switch_to(take());
}

unsigned random_below(unsigned n)
{
    S.random ^= S.random << 13;
    S.random ^= S.random >> 7;
    S.random ^= S.random << 17;
    return (unsigned)((S.random >> 32) * n >> 32);
}

void progress()
{
    S.idle_turns = 0;
}

const char *launch_name()
{
    return S.job ? S.job->name.c_str() : "no launch";
}

std::string format(const char *f, ...)
{
    char text[600];
    va_list args;

    va_start(args, f);
    vsnprintf(text, sizeof(text), f, args);
    va_end(args);
    return text;
}

std::string place_of(const Fiber *f)
{
    return format("block %u,%u,%u thread %u,%u,%u", f->place.x, f->place.y, f->place.z, f->thread.x, f->thread.y, f->thread.z);
}

void abandon(Kind kind, const std::string &text)
{
    add_finding(kind, std::string(launch_name()) + ": " + text);
    S.abandoned = true;
    switch_to(nullptr);
    abort();
}

/* ---- for kernels ---- */

int barrier(int predicate, const char *file, int line)
{
    Fiber *f = current;
    Block *b = f->block;

    f->file = file;
    f->line = line;
    f->state = Fiber::IN_BARRIER;
    b->arrived++;
    b->count += predicate != 0;
    barrier_check(b);
    wait_here();
    return (int)f->out;
}

void give_way()
{
    Fiber *f = current;

    if (++S.idle_turns > 200000)
        abandon(Kind::deadlock, "threads wait in loops and nothing else happens, " + place_of(f));
    Fiber *next = take();
    if (!next)
        return;
    f->state = Fiber::READY;
    if (S.order == Order::reverse)
        S.ready.insert(S.ready.begin() + (long)S.head, f);
    else
        S.ready.push_back(f);
    switch_to(next);
}

void at_atomic()
{
    progress();
    if (S.order == Order::random && random_below(ATOMIC_YIELD) == 0) {
        give_way();
        progress();
    }
}

void fence()
{
    check_fence(current);
}

void *shared_memory(const void *key, size_t bytes)
{
    auto &s = current->block->shared[key];

    if (!s.first)
        s = {arena_alloc(bytes, true), bytes};
    return s.first;
}

void *dynamic_shared_memory()
{
    auto &s = current->block->dynamic;

    if (!s.first)
        s = {arena_alloc(S.job->shape.dynamic_shared, true), S.job->shape.dynamic_shared};
    return s.first;
}

int launch(const char *name, const Shape &shape, void *stream, void (*call)(void *), void *args, size_t args_size, void (*destroy)(void *))
{
    if (const char *what = wrong_shape(shape)) {
        add_finding(Kind::launch, format("%s: %s", name, what));
        destroy(args);
        return 9; /* cudaErrorInvalidConfiguration */
    }
    Job *job = new Job{name, shape, call, args, args_size, destroy};
    if (xp_cuemu_enqueue_op) {
        const struct xp_cuemu_op op = {run_job, drop_job, job, "kernel", 0, 1};
        const int error = xp_cuemu_enqueue_op(stream, &op);
        if (error)
            drop_job(job);
        return error;
    }
    run_job(job, 1);
    drop_job(job);
    return 0;
}

/* ---- for tests ---- */

void set_schedule(Order order, uint64_t seed)
{
    S.order = order;
    S.random = seed * 0x9E3779B97F4A7C15ull | 1;
}

void set_resident_blocks(unsigned n)
{
    S.resident = n;
}

} // namespace cuemu

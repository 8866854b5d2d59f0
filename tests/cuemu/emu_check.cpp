/*
 * emu_check.cpp - memory of the emulated device, and what is checked at every access to it
 *
 * Kernels are compiled with -fsanitize=thread; the calls which the compiler puts before each access end here (the way Linux's KCSAN
 * uses them). For every byte the last write and two reads are remembered with their logical time. Two accesses of one launch are
 * ordered when they are by one thread; or in one block with a __syncthreads between; or in one warp and joined by __syncwarp
 * (shuffles order nothing); or a fence follows the first and another fence comes before the second, later. Unordered accesses of
 * which one writes, and not both are atomic, are a race, whatever the schedule. Accesses of two launches are ordered when the runtime
 * double says that streams and events order these; without the double they run one after the other.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "emu_state.h"
#include "runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <sys/mman.h>
#include <unistd.h>

extern char __executable_start, end;

extern "C" {
uint64_t xp_cuemu_running(void) __attribute__((weak));
int xp_cuemu_ordered(uint64_t earlier) __attribute__((weak));
void xp_cuemu_listen(void (*changed)(const struct xp_cuemu_range *range, int born)) __attribute__((weak));
}

namespace cuemu
{
namespace
{

/* ---- the memory ---- */

enum : uint16_t { UNALLOCATED = 0, UNWRITTEN = 1, BY_HOST = 2, FIRST_LAUNCH = 3 };

struct Access {
    uint32_t pc;
    uint32_t who; /* block << 10 | thread */
    uint16_t launch, barriers, warp_clock;
    uint16_t fences : 15, atomic : 1;
};

struct Cell {
    Access write, reads[2];
};

constexpr size_t SECTOR = 32; /* what moves between memory and the second-level cache */

struct Sector {
    uint16_t read, written; /* the last launch that did */
};

struct Arena {
    const char *name;
    size_t size;
    char *base = nullptr;
    Cell *cells = nullptr;
    Sector *sectors = nullptr; /* global memory */
    std::map<size_t, size_t> pieces; /* offset -> bytes */

    bool holds(const char *p) const { return (size_t)(p - base) < size; }
};

constexpr size_t PAST = 16;
constexpr size_t GAP = 256; /* between pieces: a small overrun meets no other piece */

Arena global{"global", (size_t)1 << 30}, shared{"shared", (size_t)1 << 26};

/* Memory that the runtime double handed out, by its last byte. What is written to it by copies is not known here. */
std::map<const char *, Arena> foreign;

void *reserve(size_t bytes)
{
    void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        perror("cuemu: memory of the device");
        exit(1);
    }
    return p;
}

void open(Arena *a)
{
    if (a->base)
        return;
    a->base = static_cast<char *>(reserve(a->size));
    a->cells = static_cast<Cell *>(reserve(a->size * sizeof(Cell)));
    a->sectors = static_cast<Sector *>(reserve(a->size / SECTOR * sizeof(Sector)));
}

void set_cells(Arena *a, size_t offset, size_t bytes, uint16_t launch)
{
    Cell c = {};

    c.write.launch = launch;
    for (size_t i = 0; i < bytes; i++)
        a->cells[offset + i] = c;
}

size_t first_gap(const Arena *a, size_t room)
{
    size_t at = GAP;

    for (auto &p : a->pieces) {
        if (p.first - at >= room)
            break;
        at = (p.first + p.second + 2 * GAP - 1) / GAP * GAP;
    }
    return at;
}

/* ---- findings and counters ---- */

std::vector<Finding> found;
std::set<std::pair<uint32_t, uint32_t>> told; /* pairs of places, per launch */
std::map<std::string, Count> counts;
Count *counting;

/* ---- logical time ---- */

struct FenceLog {
    std::vector<std::pair<unsigned, unsigned>> by_block;  /* (barriers passed, time) */
    std::map<unsigned, std::vector<unsigned>> by_thread;  /* times */
};

uint16_t launch_number = FIRST_LAUNCH;
unsigned fence_time;
std::map<unsigned, FenceLog> fence_logs; /* of the blocks of this launch */
const char *args_begin, *args_end;

std::map<uint16_t, uint64_t> operations; /* launch -> its number in the runtime double */
std::map<uint16_t, bool> before_this;    /* launch -> is it ordered before the running one? */

bool launch_ordered(uint16_t earlier)
{
    const auto known = before_this.find(earlier);

    if (earlier < FIRST_LAUNCH || !xp_cuemu_ordered)
        return true;
    if (known != before_this.end())
        return known->second;
    const auto operation = operations.find(earlier);
    return before_this[earlier] = operation == operations.end() || xp_cuemu_ordered(operation->second);
}

/* The time of the first fence that covers access a; UINT_MAX: none. */
unsigned released(const Access &a)
{
    const auto log = fence_logs.find(a.who >> 10);
    unsigned time = UINT32_MAX;

    if (log == fence_logs.end())
        return time;
    const auto own = log->second.by_thread.find(a.who & 1023);
    if (own != log->second.by_thread.end() && a.fences < own->second.size())
        time = own->second[a.fences];
    for (auto &f : log->second.by_block)
        if (f.first > a.barriers) {
            time = std::min(time, f.second);
            break;
        }
    return time;
}

bool ordered(const Access &a, const Fiber *f)
{
    if (a.launch != launch_number)
        return launch_ordered(a.launch);
    if (a.who >> 10 == f->block->number) {
        const unsigned thread = a.who & 1023;
        if (thread == f->number || a.barriers < (uint16_t)f->barriers)
            return true;
        if (thread / 32 == f->number / 32 && f->seen[thread % 32] >= a.warp_clock)
            return true;
    }
    return f->acquired && f->acquired >= released(a);
}

/* ---- texts ---- */

std::string source_line(uint32_t pc)
{
    char exe[256], command[400], line[200] = "";
    const ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

    exe[n < 0 ? 0 : n] = 0;
    snprintf(command, sizeof(command), "addr2line -s -e '%s' 0x%x 2>/dev/null", exe, pc - 1);
    if (FILE *p = popen(command, "r")) {
        if (!fgets(line, sizeof(line), p))
            line[0] = 0;
        pclose(p);
    }
    line[strcspn(line, "\n ")] = 0;
    return line[0] ? line : format("+0x%x", pc);
}

std::string describe(const Arena *a, const char *p)
{
    auto piece = a->pieces.upper_bound((size_t)(p - a->base));

    if (piece == a->pieces.begin())
        return format("%s memory", a->name);
    --piece;
    return format("byte %zu of %zu in %s memory", (size_t)(p - a->base) - piece->first, piece->second, a->name);
}

void report(Kind kind, const char *what, const Fiber *f, uint32_t pc, const Arena *a, const char *p, const Access *other, bool other_writes)
{
    if (!told.insert({pc, other ? other->pc : 0}).second)
        return;
    std::string text = format("%s: %s at %s by %s", launch_name(), what, source_line(pc).c_str(), place_of(f).c_str());
    if (a)
        text += ", " + describe(a, p);
    if (other)
        text += format("; unordered with the %s%s at %s by block %u thread %u", other->atomic ? "atomic " : "", other_writes ? "write" : "read",
                       source_line(other->pc).c_str(), other->who >> 10, other->who & 1023);
    add_finding(kind, text);
}

/* ---- one access ---- */

/* Memory that threads have to themselves or that nobody changes: own stack (and that of the host), arguments, constants. */
bool harmless(const Fiber *f, const char *p, bool write)
{
    if (p >= f->stack && p < f->stack + STACK_BYTES)
        return true;
    return !write && ((p >= args_begin && p < args_end) || (p >= &__executable_start && p < &end));
}

void check_read(Cell *c, const Access &me, const Fiber *f, const Arena *a, const char *p)
{
    if (c->write.launch == UNWRITTEN) {
        report(Kind::uninitialised, "read of what nothing wrote", f, me.pc, a, p, nullptr, false);
        c->write.launch = BY_HOST;
    }
    if (!(me.atomic && c->write.atomic) && !ordered(c->write, f))
        report(Kind::race, "read", f, me.pc, a, p, &c->write, true);
    Access &first = c->reads[0];
    (!first.launch || first.who == me.who || ordered(first, f) ? first : c->reads[1]) = me;
}

void check_write(Cell *c, const Access &me, const Fiber *f, const Arena *a, const char *p)
{
    if (!(me.atomic && c->write.atomic) && !ordered(c->write, f))
        report(Kind::race, "write", f, me.pc, a, p, &c->write, true);
    for (Access &r : c->reads) {
        if (r.launch && !(me.atomic && r.atomic) && !ordered(r, f))
            report(Kind::race, "write", f, me.pc, a, p, &r, false);
        r.launch = 0;
    }
    c->write = me;
}

Arena *arena_of(const char *p)
{
    if (global.holds(p))
        return &global;
    if (shared.holds(p))
        return &shared;
    const auto other = foreign.lower_bound(p);
    return other != foreign.end() && other->second.holds(p) ? &other->second : nullptr;
}

void foreign_changed(const struct xp_cuemu_range *range, int born)
{
    char *base = static_cast<char *>(range->base);
    const char *last = base + range->bytes - 1;
    Arena a = {"the double's", range->bytes};

    if (range->bytes == 0)
        return;
    if (!born) {
        const auto known = foreign.find(last);
        if (known == foreign.end())
            return;
        munmap(known->second.cells, (known->second.size + PAST) * sizeof(Cell));
        foreign.erase(known);
        return;
    }
    a.base = base;
    a.cells = static_cast<Cell *>(reserve((a.size + PAST) * sizeof(Cell))); /* an access may reach beyond the end */
    set_cells(&a, 0, a.size, BY_HOST);
    a.pieces[0] = a.size;
    foreign[last] = a;
}

/* All bytes, and those of the sectors that this launch touches for the first time. */
void count_access(Arena *a, const char *p, size_t n, bool write)
{
    (write ? counting->written : counting->read) += n;
    if (!a->sectors)
        return;
    Sector &s = a->sectors[(size_t)(p - a->base) / SECTOR];
    if (write && s.written != launch_number)
        counting->written_once += SECTOR;
    if (!write && s.written != launch_number && s.read != launch_number)
        counting->read_once += SECTOR;
    (write ? s.written : s.read) = launch_number;
}

void check(const char *p, size_t n, bool write, bool atomic, uint32_t pc)
{
    Fiber *f = runs_launch ? current : nullptr;
    Arena *a = f ? arena_of(p) : nullptr;

    if (!f)
        return;
    if (!a) {
        if (harmless(f, p, write))
            return;
        abandon(Kind::bounds, format("%s of an address that is no memory of the device at %s by %s", write ? "write" : "read",
                                     source_line(pc).c_str(), place_of(f).c_str()));
    }
    if (a != &shared)
        count_access(a, p, n, write);
    const Access me = {pc, f->block->number << 10 | f->number, launch_number, (uint16_t)f->barriers, (uint16_t)f->warp_clock,
                       (uint16_t)(f->fences & 0x7fff), atomic};
    if (atomic && write && a->cells[p - a->base].write.launch == UNWRITTEN)
        report(Kind::uninitialised, "atomic on what nothing wrote", f, pc, a, p, nullptr, false);
    if ((uintptr_t)p % n)
        abandon(Kind::bounds, format("%zu-byte access to an address that is not a multiple of that at %s by %s", n, source_line(pc).c_str(),
                                     place_of(f).c_str()));
    for (size_t i = 0; i < n; i++) {
        Cell *c = a->cells + (p - a->base) + i;
        if (c->write.launch == UNALLOCATED)
            abandon(Kind::bounds, format("%s of %zu bytes at %s by %s, %s", write ? "write" : "read", n, source_line(pc).c_str(),
                                         place_of(f).c_str(), describe(a, p + i).c_str()));
        if (write)
            check_write(c, me, f, a, p + i);
        else
            check_read(c, me, f, a, p + i);
    }
}

uint32_t pc_of(void *return_address)
{
    return (uint32_t)(static_cast<char *>(return_address) - &__executable_start);
}

} // namespace

/* ---- for emu_sched.cpp ---- */

void add_finding(Kind kind, const std::string &text)
{
    found.push_back({kind, text});
}

void *arena_alloc(size_t bytes, bool in_shared)
{
    Arena *a = in_shared ? &shared : &global;

    open(a);
    const size_t at = first_gap(a, bytes + 2 * GAP);
    if (at + bytes + GAP > a->size) {
        fprintf(stderr, "cuemu: out of %s memory\n", a->name);
        exit(1);
    }
    a->pieces[at] = bytes;
    set_cells(a, at, bytes, UNWRITTEN);
    memset(a->base + at, 0xff, bytes); /* NaN as a float, -1 as an integer */
    return a->base + at;
}

void arena_free(void *p, bool in_shared)
{
    Arena *a = in_shared ? &shared : &global;
    const auto piece = a->pieces.find((size_t)(static_cast<char *>(p) - a->base));

    if (piece == a->pieces.end()) {
        fprintf(stderr, "cuemu: free of what is no piece of %s memory\n", a->name);
        exit(1);
    }
    set_cells(a, piece->first, piece->second, UNALLOCATED);
    a->pieces.erase(piece);
}

void check_launch_begins(const char *name, const void *args, size_t size)
{
    open(&global);
    open(&shared);
    launch_number = launch_number == UINT16_MAX ? (uint16_t)FIRST_LAUNCH : (uint16_t)(launch_number + 1);
    fence_time = 0;
    fence_logs.clear();
    before_this.clear();
    if (xp_cuemu_running)
        operations[launch_number] = xp_cuemu_running();
    told.clear();
    args_begin = static_cast<const char *>(args);
    args_end = args_begin + size;
    counting = &counts[name];
    counting->launches++;
}

void check_launch_ends()
{
    args_begin = args_end = nullptr;
}

void check_fence(Fiber *f)
{
    FenceLog &log = fence_logs[f->block->number];

    fence_time++;
    log.by_block.emplace_back(f->barriers, fence_time);
    log.by_thread[f->number].push_back(fence_time);
    f->fences++;
    f->acquired = fence_time;
}

void touch(void *p, size_t n, bool write, bool atomic, void *pc)
{
    check(static_cast<char *>(p), n, write, atomic, pc_of(pc));
}

/* ---- for tests ---- */

void follow_runtime()
{
    if (xp_cuemu_listen)
        xp_cuemu_listen(foreign_changed);
}

const char *kind_name(Kind k)
{
    static const char *const names[] = {"race", "bounds", "uninitialised", "mask", "divergence", "deadlock", "launch"};
    return names[(int)k];
}

const std::vector<Finding> &findings()
{
    return found;
}

void clear_findings()
{
    found.clear();
}

Count count_of(const char *kernel)
{
    Count sum = {};

    for (auto &c : counts)
        if (!kernel || c.first == kernel) {
            sum.launches += c.second.launches;
            sum.read += c.second.read;
            sum.written += c.second.written;
            sum.read_once += c.second.read_once;
            sum.written_once += c.second.written_once;
        }
    return sum;
}

void clear_counts()
{
    counts.clear();
}

void *device_alloc(size_t bytes)
{
    return arena_alloc(bytes, false);
}

void device_free(void *p)
{
    if (p)
        arena_free(p, false);
}

void upload(void *device, const void *host, size_t bytes)
{
    if (bytes)
        memcpy(device, host, bytes);
    set_cells(&global, (size_t)(static_cast<char *>(device) - global.base), bytes, BY_HOST);
}

void device_fill(void *device, int byte, size_t bytes)
{
    if (bytes)
        memset(device, byte, bytes);
    set_cells(&global, (size_t)(static_cast<char *>(device) - global.base), bytes, BY_HOST);
}

void download(void *host, const void *device, size_t bytes)
{
    const char *p = static_cast<const char *>(device);

    for (size_t i = 0; i < bytes; i++)
        if (global.cells[p - global.base + i].write.launch == UNWRITTEN) {
            add_finding(Kind::uninitialised, "download of what nothing wrote, " + describe(&global, p + i));
            break;
        }
    if (bytes)
        memcpy(host, device, bytes);
}

} // namespace cuemu

/* ---- what the compiler calls ---- */

#define RETURN_ADDRESS cuemu::pc_of(__builtin_return_address(0))
#define ACCESS(n)                                                                                                          \
    void __tsan_read##n(void *p) { cuemu::check(static_cast<char *>(p), n, false, false, RETURN_ADDRESS); }                \
    void __tsan_write##n(void *p) { cuemu::check(static_cast<char *>(p), n, true, false, RETURN_ADDRESS); }                \
    void __tsan_volatile_read##n(void *p) { cuemu::check(static_cast<char *>(p), n, false, false, RETURN_ADDRESS); }       \
    void __tsan_volatile_write##n(void *p) { cuemu::check(static_cast<char *>(p), n, true, false, RETURN_ADDRESS); }       \
    void __tsan_unaligned_read##n(void *p) { cuemu::check(static_cast<char *>(p), n, false, false, RETURN_ADDRESS); }      \
    void __tsan_unaligned_write##n(void *p) { cuemu::check(static_cast<char *>(p), n, true, false, RETURN_ADDRESS); }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *) {}
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        cuemu::check(static_cast<char *>(p) + i, 1, false, false, RETURN_ADDRESS);
}
void __tsan_write_range(void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        cuemu::check(static_cast<char *>(p) + i, 1, true, false, RETURN_ADDRESS);
}
}

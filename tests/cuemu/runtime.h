/*
 * runtime.h - the CUDA runtime double: what the tests and the kernel emulator see behind the CUDA calls
 *
 * The double (runtime.c and its neighbours) answers CUDA's runtime calls on a machine without a GPU. Device memory is host memory.
 * Work on a stream waits in a queue; nothing runs before somebody waits or asks (synchronize, query), and then the operations that
 * their streams and events allow run in random order, one at a time. A program that forgets a wait therefore reads old bytes.
 * From the first operation that another thread or process may be waiting for (a host function, a value written to memory, a message
 * of the NCCL double) a device thread also runs what is queued, after random delays, as a device would.
 *
 * Every operation carries a vector clock of what the program has ordered before it. An operation says which memory it reads and
 * writes; two that touch the same bytes, one of them writing, without an order between them are a violation, whatever order they
 * happened to run in.
 *
 * Environment:
 *   CUEMU_SEED          printed with every violation; the same seed and one thread give the same order
 *   CUEMU_DEVICES       how many (8); CUEMU_MEMORY: bytes of each
 *   CUEMU_DELAY_US      the longest wait of the device thread (2000)
 *   CUEMU_LOOK_US       a thread that waits looks again after so long (50); where cores are few and time is taken, more
 *   CUEMU_ON_VIOLATION  exit (exit code 97) or count
 *   CUEMU_PROTECT=1     the host cannot touch device memory while no operation runs
 *   CUEMU_TIMES         what operations take, as events tell it, whatever they really take: "NCCL group=1000,wait for a value=50",
 *                       microseconds by the name of the operation; all others take no time
 *   CUEMU_TIMEOUT_S     a wait in which nothing moves for so long ends the process (120)
 *   CUEMU_DRIVER=0      no libcuda.so.1
 *
 * This header needs no CUDA header and goes along with NVIDIA's. Results typed int are cudaError_t.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUEMU_RUNTIME_H
#define XP_CUEMU_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define XP_CUEMU_API __attribute__((visibility("default")))
#define XP_CUEMU_EXIT_VIOLATION 97

/* ---- work on a stream */

/* What run() answers. AGAIN: it waits for something outside the stream, call it again later. */
#define XP_CUEMU_DONE 0
#define XP_CUEMU_AGAIN 1

/*
 * One operation of a stream. run() is called by one thread at a time, whichever drives the queues just then, with no lock held;
 * no CUDA call that waits or enqueues may be made in it. In a captured graph it runs once per launch, each time from `first` on.
 */
struct xp_cuemu_op {
    int (*run)(void *arg, int first);
    void (*drop)(void *arg); /* may be NULL; called once when it will never run again; makes no call of CUDA or of this header */
    void *arg;
    const char *name; /* a literal, for messages */
    int outside;      /* 1: others may wait for it, start the device thread */
    int kernel;       /* 1: goes only to a stream of the current device */
};

/* stream: a cudaStream_t, or NULL, 1 (legacy) or 2 (per-thread) as in CUDA. On an error drop() has not been called. */
XP_CUEMU_API int xp_cuemu_enqueue_op(void *stream, const struct xp_cuemu_op *op);

/* The short form for a kernel launch: fn(arg) runs when stream order lets it. arg belongs to the caller. */
XP_CUEMU_API int xp_cuemu_enqueue(void *stream, void (*fn)(void *arg), void *arg);

/* ---- order between operations, for operations that know what they touch. Called inside run(). */

XP_CUEMU_API void xp_cuemu_reads(const void *p, size_t bytes);
XP_CUEMU_API void xp_cuemu_writes(void *p, size_t bytes);

/* A number for the running operation, never used twice; 0 outside run(). */
XP_CUEMU_API uint64_t xp_cuemu_running(void);

/* 1: the program ordered operation `earlier` (a number from xp_cuemu_running()) before the running one. */
XP_CUEMU_API int xp_cuemu_ordered(uint64_t earlier);

/* ---- memory */

enum xp_cuemu_kind { XP_CUEMU_UNKNOWN = 0, XP_CUEMU_DEVICE, XP_CUEMU_PINNED, XP_CUEMU_REGISTERED, XP_CUEMU_MANAGED };

struct xp_cuemu_range {
    void *base;
    size_t bytes;
    enum xp_cuemu_kind kind;
    int device;
};

/* 1 and *range when p lies in memory that the double handed out or registered, else 0. */
XP_CUEMU_API int xp_cuemu_find(const void *p, struct xp_cuemu_range *range);

/* changed(range, 1) after every allocation, changed(range, 0) before every free. One listener; NULL removes it. */
XP_CUEMU_API void xp_cuemu_listen(void (*changed)(const struct xp_cuemu_range *range, int born));

/* ---- what libcuda.so.1 of the double calls; CUresult, whose numbers are those of cudaError_t here */

XP_CUEMU_API int xp_cuemu_wait_value32(void *stream, uint64_t address, uint32_t value, unsigned flags);
XP_CUEMU_API int xp_cuemu_write_value32(void *stream, uint64_t address, uint32_t value, unsigned flags);

/* ---- the rest */

XP_CUEMU_API int xp_cuemu_device(void);          /* current device of this thread */
XP_CUEMU_API int xp_cuemu_fail(int error);       /* sets what cudaGetLastError() gives; returns error */
XP_CUEMU_API uint64_t xp_cuemu_seed(void);
XP_CUEMU_API uint32_t xp_cuemu_random(void);     /* from the seed; used by the one that drives the queues */
XP_CUEMU_API void xp_cuemu_violation(const char *format, ...) __attribute__((format(printf, 1, 2)));
XP_CUEMU_API unsigned xp_cuemu_violations(void); /* with CUEMU_ON_VIOLATION=count */

/* Runs what can run now, at most `most` operations (0: all). Returns how many ended. */
XP_CUEMU_API unsigned xp_cuemu_step(unsigned most);

/* Waits until everything enqueued on all devices is done. */
XP_CUEMU_API int xp_cuemu_drain(void);

#ifdef __cplusplus
}
#endif
#endif

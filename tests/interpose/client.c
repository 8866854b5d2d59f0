/*
 * client.c - ranks as processes, the id, data that can be checked, a report
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define XXH_INLINE_ALL
#include "tests/interpose/client.h"
#include <xxhash.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROW 256
#define AFTER_FAILURE 2.0 /* seconds */

/* ---- failures */

static int my_rank = -1;

static void fail(const char *what, const char *why, const char *file, int line)
{
    fflush(stdout);
    fprintf(stderr, "%s:%d: rank %d: %s: %s\n", file, line, my_rank, what, why);
    _exit(1);
}

void client_nccl(ncclResult_t result, const char *what, const char *file, int line)
{
    static const char *const names[] = {"success", "unhandled CUDA error", "system error", "internal error", "invalid argument",
                                        "invalid usage", "remote error", "in progress"};

    if (result)
        fail(what, (unsigned)result < 8 ? names[result] : "unknown result", file, line);
}

void client_cuda(int error, const char *what, const char *file, int line)
{
    char text[32];

    snprintf(text, sizeof text, "CUDA error %d", error);
    if (error)
        fail(what, text, file, line);
}

void client_true(bool ok, const char *what, const char *file, int line)
{
    if (!ok)
        fail(what, "not so", file, line);
}

double client_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the launcher */

struct rank {
    pid_t pid;
    int out, status;
    bool ended;
};

static int start_rank(struct rank *r, char **argv, int rank, int n, int board, uint64_t seed)
{
    char text[32];

    r->out = memfd_create("stdout", 0);
    r->pid = fork();
    if (r->pid != 0)
        return r->pid < 0 ? -1 : 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(r->out, 1);
    snprintf(text, sizeof text, "%d", rank);
    setenv("CLIENT_RANK", text, 1);
    snprintf(text, sizeof text, "%d", n);
    setenv("CLIENT_RANKS", text, 1);
    snprintf(text, sizeof text, "%d", board);
    setenv("CLIENT_BOARD", text, 1);
    snprintf(text, sizeof text, "%llu", (unsigned long long)(seed + (uint64_t)rank));
    setenv("CUEMU_SEED", text, 1);
    if (getenv("CLIENT_PER_NODE")) { /* the layout that a layer below is told of */
        snprintf(text, sizeof text, "node%d", rank / atoi(getenv("CLIENT_PER_NODE")));
        setenv("CROSSPRESS_NODE", text, 1);
    }
    execv("/proc/self/exe", argv);
    _exit(127);
}

/* The others may hang when a rank has failed: they are not waited for long then. */
static void reap(struct rank *ranks, int n, int victim, double until)
{
    for (int left = n; left;) {
        for (int i = 0; i < n; i++)
            if (!ranks[i].ended && waitpid(ranks[i].pid, &ranks[i].status, WNOHANG) == ranks[i].pid) {
                ranks[i].ended = true;
                left--;
                if (i != victim && ranks[i].status && until > client_seconds() + AFTER_FAILURE)
                    until = client_seconds() + AFTER_FAILURE;
            }
        if (left && client_seconds() > until) {
            for (int i = 0; i < n; i++)
                if (!ranks[i].ended) {
                    fprintf(stderr, "rank %d is still there after the time limit\n", i);
                    kill(ranks[i].pid, SIGKILL);
                }
            until = 1e300;
        }
        usleep(2000);
    }
}

static void print_output(int fd)
{
    char text[4096];
    ssize_t n;

    lseek(fd, 0, SEEK_SET);
    while ((n = read(fd, text, sizeof text)) > 0)
        fwrite(text, 1, (size_t)n, stdout);
    close(fd);
}

static int verdict(struct rank *ranks, int n, int victim)
{
    int code = 0;

    for (int i = 0; i < n; i++) {
        int s = ranks[i].status;
        bool fate = i == victim && WIFSIGNALED(s) && WTERMSIG(s) == SIGKILL;
        printf("rank %d\n", i);
        print_output(ranks[i].out);
        if (fate || (WIFEXITED(s) && WEXITSTATUS(s) == 0))
            continue;
        if (WIFEXITED(s) && WEXITSTATUS(s) == CLIENT_SKIP) {
            code = code ? code : CLIENT_SKIP;
            continue;
        }
        fprintf(stderr, "rank %d %s %d\n", i, WIFSIGNALED(s) ? "was ended by signal" : "ended with code",
                WIFSIGNALED(s) ? WTERMSIG(s) : WEXITSTATUS(s));
        code = 1;
    }
    fflush(stdout);
    return code;
}

static int launch(char **argv, int n, int seconds, int victim)
{
    const char *given = getenv("CUEMU_SEED");
    uint64_t seed = given && *given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 64;
    int board = memfd_create("board", 0);
    struct rank ranks[CLIENT_MAX] = {{0}};

    if (n > CLIENT_MAX || board < 0 || ftruncate(board, sizeof(struct board)) != 0)
        return 1;
    fprintf(stderr, "%s: CUEMU_SEED=%llu\n", argv[0], (unsigned long long)seed);
    for (int i = 0; i < n; i++)
        if (start_rank(&ranks[i], argv, i, n, board, seed) != 0)
            return 1;
    reap(ranks, n, victim, client_seconds() + seconds);
    return verdict(ranks, n, victim);
}

/* Under another launcher: RANK and WORLD_SIZE, and a file that all ranks see. */
static int foreign_rank(struct client *c, const char *shared)
{
    const char *seed = getenv("CUEMU_SEED");

    if (!getenv("RANK") || !getenv("WORLD_SIZE"))
        return -1;
    c->rank = atoi(getenv("RANK"));
    c->n = atoi(getenv("WORLD_SIZE"));
    c->seed = seed ? strtoull(seed, NULL, 0) : 64;
    int fd = open(shared, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return fd < 0 || ftruncate(fd, sizeof *c->board) != 0 ? -1 : fd;
}

static int own_rank(struct client *c)
{
    c->rank = atoi(getenv("CLIENT_RANK"));
    c->n = atoi(getenv("CLIENT_RANKS"));
    c->seed = strtoull(getenv("CUEMU_SEED"), NULL, 0) - (uint64_t)c->rank;
    return atoi(getenv("CLIENT_BOARD"));
}

int client_main_victim(int argc, char **argv, int ranks, int seconds, int victim,
                       int (*rank_main)(struct client *c, int argc, char **argv))
{
    const char *shared = getenv("CLIENT_SHARED");
    bool skip = argc > 2 && strcmp(argv[1], "-n") == 0;
    struct client c;
    int board;

    if (!getenv("CLIENT_RANK") && !shared)
        return launch(argv, skip ? atoi(argv[2]) : ranks, seconds, victim);
    board = shared ? foreign_rank(&c, shared) : own_rank(&c);
    my_rank = c.rank;
    c.board = mmap(NULL, sizeof *c.board, PROT_READ | PROT_WRITE, MAP_SHARED, board, 0);
    if (c.board == MAP_FAILED) {
        fprintf(stderr, "CLIENT_SHARED needs RANK, WORLD_SIZE and a file that can be written\n");
        return 1;
    }
    return rank_main(&c, argc - 2 * skip, argv + 2 * skip);
}

int client_main(int argc, char **argv, int ranks, int seconds, int (*rank_main)(struct client *c, int argc, char **argv))
{
    return client_main_victim(argc, argv, ranks, seconds, -1, rank_main);
}

/* ---- between ranks */

ncclUniqueId client_id(struct client *c, int which)
{
    ncclUniqueId id;

    if (c->rank == 0) {
        NCCL(ncclGetUniqueId(&id));
        memcpy(c->board->id[which], id.internal, sizeof id.internal);
        atomic_store(&c->board->ids[which], 1);
    }
    while (!atomic_load(&c->board->ids[which]))
        usleep(200);
    memcpy(id.internal, c->board->id[which], sizeof id.internal);
    return id;
}

void client_barrier(struct client *c)
{
    unsigned round = atomic_load(&c->board->left);

    if (atomic_fetch_add(&c->board->arrived, 1) + 1 == (unsigned)c->n) {
        atomic_store(&c->board->arrived, 0);
        atomic_fetch_add(&c->board->left, 1);
    }
    while (atomic_load(&c->board->left) == round)
        usleep(100);
}

ncclComm_t client_comm(struct client *c, int which)
{
    ncclUniqueId id = client_id(c, which);
    ncclComm_t comm;

    CUDA(cudaSetDevice(c->rank % 8));
    NCCL(ncclCommInitRank(&comm, c->n, id, c->rank));
    return comm;
}

void client_exchange(struct client *c, ncclComm_t comm, char *send, char *recv, size_t each, cudaStream_t stream)
{
    NCCL(ncclGroupStart());
    for (int p = 0; p < c->n; p++) {
        NCCL(ncclSend(send + (size_t)p * each, each, ncclUint8, p, comm, stream));
        NCCL(ncclRecv(recv + (size_t)p * each, each, ncclUint8, p, comm, stream));
    }
    NCCL(ncclGroupEnd());
}

/* ---- data */

static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t tag_of(int from, int to, int step)
{
    return ((uint64_t)step << 32 | (uint64_t)from << 16 | (uint64_t)to) + 1;
}

void pattern(void *at, size_t bytes, uint64_t tag)
{
    char *p = at;

    for (size_t row = 0; row * ROW < bytes; row++) {
        uint64_t key = mix(tag * 1000003u + row);
        size_t left = bytes - row * ROW;
        if (key & 1)
            key = key >> 8 & 7;
        for (size_t w = 0; w < ROW / 8; w++) {
            uint64_t word = mix(key * 64 + w);
            size_t have = left > 8 * w ? left - 8 * w : 0;
            memcpy(p + row * ROW + 8 * w, &word, have < 8 ? have : 8);
        }
    }
}

void *device_alloc(size_t bytes)
{
    void *p;

    CUDA(cudaMalloc(&p, bytes ? bytes : 1));
    return p;
}

cudaStream_t new_stream(void)
{
    cudaStream_t s;

    CUDA(cudaStreamCreateWithFlags(&s, xp_cudaStreamNonBlocking));
    return s;
}

void client_close(ncclComm_t comm, void *send, void *recv, cudaStream_t stream)
{
    NCCL(ncclCommDestroy(comm));
    CUDA(cudaFree(send));
    CUDA(cudaFree(recv));
    CUDA(cudaStreamDestroy(stream));
}

void device_fill(void *at, size_t bytes, uint64_t tag, cudaStream_t stream)
{
    char *host;

    if (!bytes)
        return;
    host = malloc(bytes);
    TRUE(host != NULL);
    pattern(host, bytes, tag);
    CUDA(cudaMemcpyAsync(at, host, bytes, xp_cudaMemcpyHostToDevice, stream));
    free(host); /* pageable: has been read */
}

void device_clear(void *at, size_t bytes, cudaStream_t stream)
{
    CUDA(cudaMemsetAsync(at, 0xee, bytes, stream));
}

static char *fetch(const void *at, size_t bytes, cudaStream_t stream)
{
    char *host;

    CUDA(cudaHostAlloc((void **)&host, bytes ? bytes : 1, 0));
    CUDA(cudaMemcpyAsync(host, at, bytes, xp_cudaMemcpyDeviceToHost, stream));
    CUDA(cudaStreamSynchronize(stream));
    return host;
}

static void print(const char *label, const char *host, size_t bytes)
{
    printf("%s %016llx %zu\n", label, (unsigned long long)XXH64(host, bytes, 0), bytes);
}

void device_report(const char *label, const void *at, size_t bytes, cudaStream_t stream)
{
    char *host = fetch(at, bytes, stream);

    print(label, host, bytes);
    CUDA(cudaFreeHost(host));
}

void device_expect(const char *label, const void *at, size_t bytes, uint64_t tag, cudaStream_t stream)
{
    char *host = fetch(at, bytes, stream), *want = malloc(bytes ? bytes : 1);

    TRUE(want != NULL);
    pattern(want, bytes, tag);
    print(label, host, bytes);
    for (size_t i = 0; i < bytes; i++)
        if (host[i] != want[i]) {
            fprintf(stderr, "rank %d: %s: byte %zu of %zu is %02x, not %02x\n", my_rank, label, i, bytes, (unsigned char)host[i],
                    (unsigned char)want[i]);
            fflush(stdout);
            _exit(1);
        }
    free(want);
    CUDA(cudaFreeHost(host));
}

/*
 * bench_transport.c - time of an all-to-all straight over a transport, without plans and codecs
 *
 *     bench_transport shm|ucx [--spawn N | --threads N] [--chunk BYTES] [--iters N] [--check] MIB...
 *
 * MIB is what one rank sends, the part for itself included (as MPI_Alltoall counts). Without --spawn and --threads the rank
 * comes from RANK and WORLD_SIZE, and addresses travel through files in XP_EXCHANGE. Prints the best and the median time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/transport/transport.h"
#include "tests/harness/clock.h"

#define MAX_RANKS 64
#define MAX_ITERS 400
#define SELF_STEP ((size_t)256 << 10) /* of the part for itself, copied while the others are under way */

struct bench {
    const struct xp_transport_ops *ops;
    struct xp_transport *t;
    int rank, size, check;
    size_t chunk;
    const char *dir;
    uint64_t tag;
};

static int opt_iters, opt_check;
static size_t opt_chunk;
static const char *exchange_dir;
static const struct xp_transport_ops *chosen;
static char **sizes;

static void die(const struct bench *b, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fprintf(stderr, "rank %d: ", b->rank);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

static void log_line(void *user, xp_log_level level, const char *fmt, ...)
{
    va_list ap;

    if (level > XP_LOG_WARN)
        return;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
}

/* ------------------------------------------------------------------ addresses through files */

static void publish(const struct bench *b, const char *what, const void *data, size_t len)
{
    char part[PATH_MAX], name[PATH_MAX];

    snprintf(part, sizeof part, "%s/%s.%d.part", b->dir, what, b->rank);
    snprintf(name, sizeof name, "%s/%s.%d", b->dir, what, b->rank);
    FILE *f = fopen(part, "wb");
    if (f == NULL || fwrite(data, 1, len, f) != len || fclose(f) != 0 || rename(part, name) != 0)
        die(b, "cannot write %s", name);
}

static size_t collect(const struct bench *b, const char *what, int peer, void *data, size_t cap)
{
    char name[PATH_MAX];
    double end = clock_now() + 30;

    snprintf(name, sizeof name, "%s/%s.%d", b->dir, what, peer);
    for (;;) {
        FILE *f = fopen(name, "rb");

        if (f != NULL) {
            size_t n = fread(data, 1, cap, f);

            fclose(f);
            return n;
        }
        if (clock_now() > end)
            die(b, "no %s", name);
        usleep(1000);
    }
}

static void connect_all(struct bench *b)
{
    static int node_of[2][MAX_RANKS];
    char err[512] = "", addr[XP_ADDRESS_MAX];
    size_t len = sizeof addr;
    int apart = strcmp(b->ops->name, "shm") != 0;

    for (int r = 0; r < MAX_RANKS; r++)
        node_of[1][r] = r;
    struct xp_transport_env env = {b->rank, b->size, node_of[apart], apart ? 1 : b->size, 0x1234567890abcdefull,
                                   getenv("CROSSPRESS_INTERFACE"), apart, log_line, NULL};
    if (!b->ops->available(err, sizeof err) || b->ops->open(&b->t, &env, addr, &len, err, sizeof err) != XP_OK)
        die(b, "%s", err);
    publish(b, "address", addr, len);
    for (int p = 0; p < b->size; p++) {
        if (p == b->rank)
            continue;
        len = collect(b, "address", p, addr, sizeof addr);
        if (b->ops->connect(b->t, p, addr, len, err, sizeof err) != XP_OK)
            die(b, "%s", err);
    }
    publish(b, "connected", "y", 1);
    for (int p = 0; p < b->size; p++)
        collect(b, "connected", p, addr, 1);
    b->ops->settled(b->t);
}

/* ------------------------------------------------------------------ waiting */

static void wait_for(struct bench *b, struct xp_op *op)
{
    unsigned idle = 0;
    double end = 0;

    while (op->status == XP_IN_PROGRESS) {
        if (b->ops->progress(b->t) > 0) {
            idle = 0;
            end = 0;
            continue;
        }
        if (++idle < 100)
            continue;
        sched_yield();
        if (idle % 1024 == 0) {
            end = end > 0 ? end : clock_now() + 30;
            if (clock_now() > end)
                die(b, "stuck");
        }
    }
    if (op->status != XP_OK)
        die(b, "operation: %s", xp_status_string(op->status));
}

/* Largest value over all ranks, on rank 0, and everyone leaves together. */
static double barrier_max(struct bench *b, double v)
{
    struct xp_op s[MAX_RANKS], r[MAX_RANKS];
    double in[MAX_RANKS], max = v;

    b->tag++;
    for (int p = 0; p < b->size; p++) {
        if (p == b->rank)
            continue;
        b->ops->recv(b->t, p, XP_LANE_CTRL, b->tag, &in[p], sizeof in[p], &r[p]);
        b->ops->send(b->t, p, XP_LANE_CTRL, b->tag, &v, sizeof v, &s[p]);
    }
    for (int p = 0; p < b->size; p++) {
        if (p == b->rank)
            continue;
        wait_for(b, &s[p]);
        wait_for(b, &r[p]);
        max = in[p] > max ? in[p] : max;
    }
    return max;
}

/* ------------------------------------------------------------------ the exchange */

struct pair {
    struct xp_op hello, hello_out, *in, *out;
    char word[8];
    int granted;
};

static void post_receives(struct bench *b, struct pair *pair, unsigned char *recv, size_t per, size_t chunk, size_t chunks)
{
    for (int i = 1; i < b->size; i++) {
        int p = (b->rank + b->size - i) % b->size;

        for (size_t c = 0; c < chunks; c++) {
            size_t n = c + 1 < chunks ? chunk : per - c * chunk;

            b->ops->recv(b->t, p, XP_LANE_BULK, b->tag << 20 | c, recv + (size_t)p * per + c * chunk, n, &pair[p].in[c]);
        }
        b->ops->recv(b->t, p, XP_LANE_CTRL, b->tag, pair[p].word, sizeof pair[p].word, &pair[p].hello);
        b->ops->send(b->t, p, XP_LANE_CTRL, b->tag, "go ahead", 8, &pair[p].hello_out);
        pair[p].granted = 0;
    }
}

static void send_when_granted(struct bench *b, struct pair *pair, const unsigned char *send, size_t per, size_t chunk, size_t chunks)
{
    int left = b->size - 1;
    unsigned idle = 0;

    while (left > 0) {
        int moved = b->ops->progress(b->t);

        for (int i = 1; i < b->size; i++) {
            int p = (b->rank + i) % b->size;

            if (pair[p].granted || pair[p].hello.status == XP_IN_PROGRESS)
                continue;
            pair[p].granted = 1;
            left--;
            for (size_t c = 0; c < chunks; c++) {
                size_t n = c + 1 < chunks ? chunk : per - c * chunk;

                b->ops->send(b->t, p, XP_LANE_BULK, b->tag << 20 | c, send + (size_t)p * per + c * chunk, n, &pair[p].out[c]);
            }
        }
        idle = moved ? 0 : idle + 1;
        if (idle > 100)
            sched_yield();
    }
}

static void alltoall(struct bench *b, struct pair *pair, const unsigned char *send, unsigned char *recv, size_t per)
{
    size_t chunk = b->chunk > 0 && b->chunk < per ? b->chunk : per, chunks = (per + chunk - 1) / chunk;

    b->tag++;
    post_receives(b, pair, recv, per, chunk, chunks);
    send_when_granted(b, pair, send, per, chunk, chunks);
    for (size_t at = 0; at < per; at += SELF_STEP) {
        size_t n = per - at < SELF_STEP ? per - at : SELF_STEP;

        memcpy(recv + (size_t)b->rank * per + at, send + (size_t)b->rank * per + at, n);
        b->ops->progress(b->t);
    }
    for (int p = 0; p < b->size; p++) {
        if (p == b->rank)
            continue;
        wait_for(b, &pair[p].hello_out);
        for (size_t c = 0; c < chunks; c++) {
            wait_for(b, &pair[p].in[c]);
            wait_for(b, &pair[p].out[c]);
        }
    }
}

static unsigned char pattern(int from, int to, size_t i)
{
    return (unsigned char)((size_t)from * 31 + (size_t)to * 7 + i + i / 251);
}

static void fill(const struct bench *b, unsigned char *send, size_t per)
{
    for (int p = 0; p < b->size; p++) {
        for (size_t i = 0; i < per; i++)
            send[(size_t)p * per + i] = pattern(b->rank, p, i);
    }
}

static void verify(const struct bench *b, const unsigned char *recv, size_t per)
{
    for (int p = 0; p < b->size; p++) {
        for (size_t i = 0; i < per; i++) {
            if (recv[(size_t)p * per + i] != pattern(p, b->rank, i))
                die(b, "byte %zu from rank %d is wrong", i, p);
        }
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void measure(struct bench *b, double mib)
{
    size_t per = (size_t)(mib * 1048576) / (size_t)b->size & ~(size_t)63;
    unsigned char *send = malloc(per * (size_t)b->size), *recv = malloc(per * (size_t)b->size);
    struct pair *pair = calloc((size_t)b->size, sizeof *pair);
    size_t chunks = b->chunk > 0 ? per / b->chunk + 2 : 1;
    double t[MAX_ITERS], total = 0;
    int n = 0;

    for (int p = 0; p < b->size; p++) {
        pair[p].in = calloc(chunks, sizeof *pair[p].in);
        pair[p].out = calloc(chunks, sizeof *pair[p].out);
    }
    fill(b, send, per);
    memset(recv, 0, per * (size_t)b->size);
    while (n < MAX_ITERS && (n < 3 || (opt_iters > 0 ? n < opt_iters : total < 1.5))) {
        barrier_max(b, 0);
        double t0 = clock_now();
        alltoall(b, pair, send, recv, per);
        t[n] = barrier_max(b, clock_now() - t0);
        total += t[n++];
    }
    if (b->check)
        verify(b, recv, per);
    qsort(t, (size_t)n, sizeof t[0], by_value);
    if (b->rank == 0) {
        double wire = (double)per * (b->size - 1);

        printf("%s %d ranks %.2f MiB/rank: best %.3f ms, median %.3f ms, %.2f GB/s a rank (median %.2f), %d runs\n", b->ops->name,
               b->size, mib, t[0] * 1e3, t[n / 2] * 1e3, wire / t[0] * 1e-9, wire / t[n / 2] * 1e-9, n);
        fflush(stdout);
    }
    for (int p = 0; p < b->size; p++) {
        free(pair[p].in);
        free(pair[p].out);
    }
    free(pair);
    free(send);
    free(recv);
}

static int run_rank(int rank, int size)
{
    struct bench b = {chosen, NULL, rank, size, opt_check, opt_chunk, exchange_dir, 0};

    connect_all(&b);
    for (char **s = sizes; *s != NULL; s++)
        measure(&b, atof(*s));
    barrier_max(&b, 0);
    b.ops->close(b.t);
    return 0;
}

struct thread_arg {
    int rank, size;
};

static void *thread_main(void *p)
{
    struct thread_arg *a = p;

    run_rank(a->rank, a->size);
    return NULL;
}

static void run_threads(int n)
{
    pthread_t thread[MAX_RANKS];
    struct thread_arg arg[MAX_RANKS];

    for (int r = 0; r < n; r++) {
        arg[r] = (struct thread_arg){r, n};
        if (pthread_create(&thread[r], NULL, thread_main, &arg[r]) != 0)
            exit(1);
    }
    for (int r = 0; r < n; r++)
        pthread_join(thread[r], NULL);
}

static int run_processes(int n)
{
    int worst = 0;

    for (int r = 0; r < n; r++) {
        if (fork() == 0)
            exit(run_rank(r, n));
    }
    for (int r = 0; r < n; r++) {
        int st = 0;

        wait(&st);
        if (st != 0)
            worst = 1;
    }
    return worst;
}

static int find_transport(const char *name)
{
    for (const struct xp_transport_ops *const *o = xp_transport_list(); *o != NULL; o++) {
        if (strcmp((*o)->name, name) == 0)
            chosen = *o;
    }
    return chosen != NULL;
}

int main(int argc, char **argv)
{
    int spawn = 0, threads = 0, i = 2;

    if (argc < 3 || !find_transport(argv[1])) {
        fprintf(stderr, "usage: bench_transport TRANSPORT [--spawn N | --threads N] [--chunk BYTES] [--iters N] [--check] MIB...\n");
        return 1;
    }
    for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--check") == 0)
            opt_check = 1;
        else if (strcmp(argv[i], "--spawn") == 0)
            spawn = atoi(argv[++i]);
        else if (strcmp(argv[i], "--threads") == 0)
            threads = atoi(argv[++i]);
        else if (strcmp(argv[i], "--chunk") == 0)
            opt_chunk = (size_t)atol(argv[++i]);
        else if (strcmp(argv[i], "--iters") == 0)
            opt_iters = atoi(argv[++i]);
    }
    sizes = argv + i;
    exchange_dir = getenv("XP_EXCHANGE");
    if (spawn == 0 && threads == 0) {
        if (exchange_dir == NULL || getenv("RANK") == NULL || getenv("WORLD_SIZE") == NULL)
            return fprintf(stderr, "RANK, WORLD_SIZE and XP_EXCHANGE (an empty directory) are needed\n"), 1;
        return run_rank(atoi(getenv("RANK")), atoi(getenv("WORLD_SIZE")));
    }
    char dir[] = "/tmp/xp-bench-XXXXXX", command[64];
    exchange_dir = mkdtemp(dir);
    if (exchange_dir == NULL || spawn > MAX_RANKS || threads > MAX_RANKS)
        return 1;
    int rc = 0;
    if (threads > 0)
        run_threads(threads);
    else
        rc = run_processes(spawn);
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    return system(command) != 0 ? 1 : rc;
}

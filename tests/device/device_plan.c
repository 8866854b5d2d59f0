/*
 * device_plan.c - plans for rows in device memory, on the CUDA double: the bytes are those of a plan for host memory
 *
 * usage: device_plan CASE RANKS NODES      cases: the names in the table at the end
 *
 * Every rank is a process. The rows get into device memory by a copy on the plan's stream right before the call, and the program
 * overwrites what it sent right after: the double ends a rank that does not keep the order of the stream.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "collectives/rowmap.h"
#include "lib/comm.h"
#include "lib/interpose/nccl_abi.h"
#include "tests/cuemu/cudart.h"
#include "tests/device/device_rank.h"

/* ---- the same bytes as a plan for host memory ------------------------------------------------------------------------ */

static void raw_rows(struct device_rank *r)
{
    static const size_t dims[] = {1, 3, 129, 768};
    for (unsigned p = 0; p < PATTERNS; p++) {
        struct exchange e = {.pattern = (enum pattern)p, .rows = 70, .dim = dims[p % 4], .dtype = p % 2 ? XP_BF16 : XP_F32,
                             .mode = p % 3 ? XP_MODE_RAW : XP_MODE_EXACT, .seed = 7 + p, .calls = 3};
        device_compare(r, &e);
    }
    struct exchange bytes = {.pattern = RANDOM_SKEW, .rows = 300, .dim = 100, .dtype = XP_BYTE, .mode = XP_MODE_RAW, .seed = 3, .calls = 4};
    device_compare(r, &bytes);
}

/* Coded rows: the same frames, and so the same rows, as a plan for host memory with the same codec. */
static void coded_rows(struct device_rank *r)
{
    static const struct { size_t dim, rows; xp_dtype dtype; double eps; const char *codec; enum filling filling; enum pattern pattern; xp_dither dither; } cases[] = {
        {64, 40, XP_BF16, 0.03, "quant", DISTINCT, UNIFORM, 0},          {100, 30, XP_F32, 0.1, "quant", WITH_NAN, RANDOM_SKEW, 0},
        {129, 20, XP_F16, 0.01, "quant", DISTINCT, HOT_PEER, 0},         {256, 9, XP_BF16, 0.2, "int4", DISTINCT, EMPTY_RANK, 0},
        {3, 90, XP_F32, 0.05, "fp8", DISTINCT, UNIFORM, 0},              {100, 30, XP_BF16, 0.1, "quant", WITH_NAN, RANDOM_SKEW, XP_DITHER_ON},
        {700, 12, XP_F32, 0.05, "quant", DISTINCT, UNIFORM, XP_DITHER_ON}, {8, 70, XP_F16, 0.2, "int4", DISTINCT, HOT_PEER, XP_DITHER_ON},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct exchange e = {.pattern = cases[i].pattern, .filling = cases[i].filling, .rows = cases[i].rows, .dim = cases[i].dim, .dtype = cases[i].dtype,
                             .mode = XP_MODE_BOUNDED, .eps = cases[i].eps, .codec = cases[i].codec, .algo = "flat", .dither = cases[i].dither, .seed = 30 + i, .calls = 2};
        device_compare(r, &e);
    }
}

/* Rows whose copies are left out, and that are packed: by every algorithm of the host, with its bytes on the wire. */
static void exact_rows(struct device_rank *r)
{
    static const char *const algorithms[] = {"flat", "hier", "leader", NULL}, *const codecs[] = {NULL, "exact", "pack"};
    static const size_t dims[] = {64, 33, 200, 5};
    for (unsigned n = 0; n < 12; n++) {
        struct exchange e = {.pattern = (enum pattern)(n % PATTERNS), .filling = (enum filling)(n % FILLINGS), .rows = 120, .dim = dims[n % 4], .dtype = XP_BF16 + n % 3,
                             .mode = XP_MODE_EXACT, .codec = codecs[n % 3], .algo = algorithms[n / 3], .seed = 50 + n, .calls = 3};
        device_compare(r, &e);
    }
    struct exchange bytes = {.pattern = RANDOM_SKEW, .filling = COPIES, .rows = 300, .dim = 100, .dtype = XP_BYTE, .mode = XP_MODE_EXACT, .seed = 3, .calls = 2};
    device_compare(r, &bytes);
}

/* Rows that go to the transports straight from device memory, as UCX with CUDA takes them. */
static void direct_rows(struct device_rank *r)
{
    for (int i = 0; i < r->ranks; i++)
        if (i != r->rank)
            r->comm->route[i]->takes_device_memory = 1;
    r->leaves_copies = 1;
    raw_rows(r);
}

/* ---- requests, streams, errors --------------------------------------------------------------------------------------- */

static void two_plans(struct device_rank *r)
{
    struct exchange a = {.pattern = UNIFORM, .rows = 200, .dim = 64, .dtype = XP_F32, .mode = XP_MODE_RAW, .seed = 1};
    struct exchange b = {.pattern = EMPTY_RANK, .rows = 150, .dim = 32, .dtype = XP_BF16, .mode = XP_MODE_RAW, .seed = 2};
    struct device_call one, other;
    device_call_start(r, &a, 0, &one);
    device_call_start(r, &b, 0, &other);
    device_call_end(r, &other);
    device_call_end(r, &one);
}

/* Each call of a plan on another stream, without a wait in between. */
static void two_streams(struct device_rank *r)
{
    struct exchange e = {.pattern = UNIFORM, .rows = 100, .dim = 64, .dtype = XP_F32, .mode = XP_MODE_RAW, .seed = 5, .calls = 4};
    cudaStream_t streams[2];
    for (int i = 0; i < 2; i++)
        must(r, cudaStreamCreateWithFlags(&streams[i], xp_cudaStreamNonBlocking) == 0, "a stream");
    struct device_call c;
    device_call_open(r, &e, &c);
    for (int call = 0; call < e.calls; call++) {
        must(r, xp_plan_set_stream(c.plan, streams[call % 2]) == XP_OK, "xp_plan_set_stream");
        c.stream = streams[call % 2];
        device_call_run(r, &c, call);
        device_call_check(r, &c, call);
    }
    device_call_close(r, &c);
}

static void disagreement_in(struct device_rank *r, xp_mode mode)
{
    struct exchange e = {.pattern = UNIFORM, .filling = COPIES, .rows = 100, .dim = 16, .dtype = XP_F32, .mode = mode, .seed = 9, .calls = 2};
    struct device_call c;
    device_call_open(r, &e, &c);
    device_call_fill(r, &c, 0);
    if (r->rank == 0)
        c.send_rows[1]--;
    xp_status st = xp_alltoallv(c.plan, c.send, c.send_rows, c.recv, c.recv_rows, NULL);
    must(r, st == XP_ERR_MISMATCH, "counts that disagree are refused");
    device_call_run(r, &c, 1); /* the next call is as good as ever */
    device_call_check(r, &c, 1);
    device_call_close(r, &c);
}

static void disagreement(struct device_rank *r)
{
    disagreement_in(r, XP_MODE_RAW);
    disagreement_in(r, XP_MODE_EXACT);
}

/* ---- streams that are being captured ---------------------------------------------------------------------------------- */

/* The exchange of each row of cases is another way through the device plans. */
static void each_way(struct device_rank *r, void (*what)(struct device_rank *r, const struct exchange *e))
{
    static const struct exchange ways[] = {
        {.pattern = UNIFORM, .rows = 40, .dim = 16, .dtype = XP_F32, .mode = XP_MODE_RAW, .seed = 9, .calls = 3},
        {.pattern = RANDOM_SKEW, .rows = 30, .dim = 64, .dtype = XP_BF16, .mode = XP_MODE_BOUNDED, .eps = 0.05, .codec = "quant", .algo = "flat", .seed = 4, .calls = 3},
        {.pattern = UNIFORM, .filling = COPIES, .rows = 100, .dim = 32, .dtype = XP_BF16, .mode = XP_MODE_EXACT, .seed = 8, .calls = 3},
    };
    static const char *const transports[] = {"auto", "nccl"};
    for (size_t t = 0; t < 2; t++)
        for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
            r->transport = transports[t];
            what(r, &ways[i]);
        }
}

static void begin_capture(struct device_rank *r, cudaStream_t stream, int mode)
{
    must(r, cudaStreamBeginCapture(stream, mode) == 0, "begin of a capture");
}

/* Also that nothing has gone wrong with it. */
static void end_capture(struct device_rank *r, cudaStream_t stream)
{
    cudaGraph_t graph;
    must(r, cudaStreamEndCapture(stream, &graph) == 0, "end of a capture");
    must(r, cudaGraphDestroy(graph) == 0, "a graph");
}

static void is_refused(struct device_rank *r, xp_status st)
{
    must(r, st == XP_ERR_STATE && strstr(xp_comm_last_error(r->comm), "captured"), "a captured stream is refused");
}

/* The ranks by turns are refused a call that the others make. */
static void refuses_by_turns(struct device_rank *r, const struct exchange *e)
{
    struct device_call c;
    device_call_open(r, e, &c);
    for (int call = 0; call < e->calls; call++) {
        device_call_fill(r, &c, call);
        for (int mode = 0; mode < 3 && call % r->ranks == r->rank; mode++) {
            begin_capture(r, c.stream, mode);
            is_refused(r, xp_alltoallv(c.plan, c.send, c.send_rows, c.recv, c.recv_rows, NULL));
            is_refused(r, xp_alltoallv(c.plan, c.send, c.send_rows, c.recv, c.recv_rows, &c.request));
            end_capture(r, c.stream);
        }
        device_call_run(r, &c, call);
    }
    for (int call = 0; call < e->calls; call++)
        device_call_check(r, &c, call);
    device_call_close(r, &c);
}

/* The default stream, too, while a stream is captured that it waits for. */
static void refuses_the_default_stream(struct device_rank *r, const struct exchange *e)
{
    struct device_call c;
    cudaStream_t other;
    must(r, cudaStreamCreate(&other) == 0, "a stream that the default stream waits for");
    device_call_open(r, e, &c);
    device_call_fill(r, &c, 0);
    must(r, xp_plan_set_stream(c.plan, NULL) == XP_OK, "xp_plan_set_stream");
    begin_capture(r, other, xp_cudaStreamCaptureModeGlobal);
    is_refused(r, xp_alltoallv(c.plan, c.send, c.send_rows, c.recv, c.recv_rows, NULL));
    end_capture(r, other);
    must(r, xp_plan_set_stream(c.plan, c.stream) == XP_OK, "xp_plan_set_stream");
    device_call_run(r, &c, 0);
    device_call_check(r, &c, 0);
    device_call_close(r, &c);
    must(r, cudaStreamDestroy(other) == 0, "the end of a stream");
}

/* A capture that begins when a request is under way holds it up. */
static void holds_requests_up(struct device_rank *r, const struct exchange *e)
{
    struct device_call c;
    device_call_start(r, e, 0, &c);
    begin_capture(r, c.stream, xp_cudaStreamCaptureModeGlobal);
    is_refused(r, xp_request_test(c.request));
    is_refused(r, xp_request_wait(c.request));
    xp_request_free(c.request);
    end_capture(r, c.stream);
    device_call_end(r, &c);
}

/* The capture of another stream changes nothing, and comes to no harm: not by a plan that is made, used and destroyed meanwhile. */
static void leaves_other_captures_alone(struct device_rank *r, const struct exchange *e)
{
    struct device_call c;
    cudaStream_t other;
    int mode = xp_cudaStreamCaptureModeGlobal;
    xp_plan_desc d;
    xp_plan *plan = NULL;
    must(r, cudaStreamCreateWithFlags(&other, xp_cudaStreamNonBlocking) == 0, "a stream");
    device_call_open(r, e, &c);
    device_call_fill(r, &c, 0);
    begin_capture(r, other, xp_cudaStreamCaptureModeGlobal);
    exchange_plan(e, r->ranks, &d);
    d.memory = XP_MEMORY_DEVICE;
    d.stream = c.stream;
    d.transport = r->transport;
    must(r, xp_plan_create(&plan, r->comm, &d) == XP_OK, "a plan beside a capture");
    must(r, xp_alltoallv(plan, c.send, c.send_rows, c.recv, c.recv_rows, NULL) == XP_OK, "an exchange beside a capture");
    xp_plan_destroy(plan);
    must(r, cudaThreadExchangeStreamCaptureMode(&mode) == 0 && mode == xp_cudaStreamCaptureModeGlobal, "what a capture forbids is as it was");
    end_capture(r, other);
    device_call_run(r, &c, 0);
    device_call_check(r, &c, 0);
    device_call_close(r, &c);
    must(r, cudaStreamDestroy(other) == 0, "the end of a stream");
}

static void captured(struct device_rank *r)
{
    each_way(r, refuses_by_turns);
    each_way(r, refuses_the_default_stream);
    each_way(r, holds_requests_up);
    each_way(r, leaves_other_captures_alone);
}

/* ---- another device ---------------------------------------------------------------------------------------------------- */

static void is_current(struct device_rank *r, int device)
{
    int current = -1;
    must(r, cudaGetDevice(&current) == 0 && current == device, "the program's device is as it was");
}

/* The program has gone on to another device: the plan stays on its own, and the program on that one. */
static void from_another_device(struct device_rank *r, const struct exchange *e)
{
    struct device_call c;
    const int own = r->rank % 8, other = (own + 1) % 8;
    device_call_open(r, e, &c);
    must(r, cudaSetDevice(other) == 0, "another device");
    for (int call = 0; call < e->calls; call++) {
        device_call_run(r, &c, call);
        is_current(r, other);
    }
    for (int call = 0; call < e->calls; call++)
        device_call_check(r, &c, call);
    device_call_close(r, &c);
    is_current(r, other);
    must(r, cudaSetDevice(own) == 0, "the device");
}

static void other_device(struct device_rank *r)
{
    each_way(r, from_another_device);
}

/* ---- plans that are refused --------------------------------------------------------------------------------------------- */

static void refused(struct device_rank *r)
{
    static const struct { xp_mode mode; const char *algo, *codec, *why; int memory; xp_status st; size_t dim; const char *transport; } cases[] = {
        {XP_MODE_RAW, "hier", NULL, "directly", XP_MEMORY_DEVICE, XP_ERR_UNSUPPORTED, 8},
        {XP_MODE_RAW, "flat", NULL, "does not exist", 7, XP_ERR_INVALID_ARG, 8},
        {XP_MODE_BOUNDED, NULL, "book", "does not run on the device", XP_MEMORY_DEVICE, XP_ERR_UNSUPPORTED, 8},
        {XP_MODE_RAW, NULL, "pack", "does not run on the device", XP_MEMORY_DEVICE, XP_ERR_UNSUPPORTED, 8},
        {XP_MODE_EXACT, NULL, "pack", "does not run on the device", XP_MEMORY_DEVICE, XP_ERR_UNSUPPORTED, 8, "nccl"},
        {XP_MODE_BOUNDED, NULL, "quant", "too long", XP_MEMORY_DEVICE, XP_ERR_UNSUPPORTED, 1 << 16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        xp_plan_desc d;
        xp_plan *plan = NULL;
        xp_plan_desc_init(&d);
        d.dtype = XP_F32;
        d.dim = cases[i].dim;
        d.eps = 0.1;
        d.codec = cases[i].codec;
        d.max_send_rows = d.max_recv_rows = 8;
        d.mode = cases[i].mode;
        d.algo = cases[i].algo;
        d.memory = (xp_memory)cases[i].memory;
        d.transport = cases[i].transport;
        must(r, xp_plan_create(&plan, r->comm, &d) == cases[i].st, "a plan is refused");
        must(r, strstr(xp_comm_last_error(r->comm), cases[i].why) != NULL, xp_comm_last_error(r->comm));
    }
}

/* ---- over NCCL ------------------------------------------------------------------------------------------------------- */

static void nccl_raw(struct device_rank *r)
{
    r->transport = "nccl";
    r->leaves_copies = 1;
    raw_rows(r);
}

static void nccl_coded(struct device_rank *r)
{
    r->transport = "nccl";
    coded_rows(r);
}

/* Rows of which copies are left out: as many as the host's plan leaves out, where all streams are long enough to be looked at. A stream has one head
 * more at most, and a header one word. */
static void nccl_distinct(struct device_rank *r, const struct exchange *e)
{
    xp_stats host = {.size = sizeof host}, device = {.size = sizeof device};
    const uint64_t far = (uint64_t)(r->ranks - r->ranks / r->comm->nodes) * (uint64_t)e->calls;
    struct device_call c;
    device_call_open(r, e, &c);
    for (int call = 0; call < e->calls; call++)
        device_call_run(r, &c, call);
    for (int call = 0; call < e->calls; call++)
        device_call_check(r, &c, call);
    must(r, xp_plan_stats(c.host_plan, &host) == XP_OK && xp_plan_stats(c.plan, &device) == XP_OK, "statistics");
    must(r, host.rows_unique == device.rows_unique, "as many rows as the host's plan sends");
    must(r, device.wire_bytes_slow >= host.wire_bytes_slow && device.wire_bytes_slow <= host.wire_bytes_slow + far * (XP_ROWMAP_HEADER + 8), "and as many bytes");
    must(r, strcmp(host.codec, device.codec) == 0, "the same codec");
    must(r, (host.rows_unique < far * e->rows) == (e->filling == COPIES || e->filling == SOME_COPIES), "copies are left out where there are some");
    device_call_close(r, &c);
}

static void nccl_exact(struct device_rank *r)
{
    static const struct { size_t rows, dim; xp_dtype dtype; enum filling filling; } cases[] = {
        {150, 64, XP_BF16, COPIES},       {190, 33, XP_F32, SOME_COPIES},  {300, 15, XP_F16, WITH_NAN}, {130, 100, XP_BYTE, COPIES},    {120, 64, XP_F32, DISTINCT},
        {1100, 2, XP_BF16, COPIES},       {200, 129, XP_BF16, SOME_COPIES}, {420, 11, XP_BYTE, SOME_COPIES}, {8, 4096, XP_BF16, COPIES},
    };
    r->transport = "nccl";
    r->leaves_copies = 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct exchange e = {.pattern = UNIFORM, .filling = cases[i].filling, .rows = cases[i].rows, .dim = cases[i].dim, .dtype = cases[i].dtype,
                             .mode = XP_MODE_EXACT, .codec = "exact", .algo = "flat", .seed = 70 + i, .calls = 2};
        nccl_distinct(r, &e);
    }
    for (unsigned p = 0; p < PATTERNS; p++) {
        struct exchange e = {.pattern = (enum pattern)p, .filling = p % 2 ? COPIES : SOME_COPIES, .rows = 100, .dim = 40, .dtype = XP_BF16, .mode = XP_MODE_EXACT, .seed = 90 + p, .calls = 2};
        device_compare(r, &e);
    }
}

/* Rows of which half are copies, and the same again, each with another byte where no sample looks: these are copies of nothing, and arrive as they
 * are. */
static void nccl_alike(struct device_rank *r)
{
    enum { ROWS = 64, DIM = 200, UNSEEN = 50 };
    xp_plan_desc d;
    xp_plan *plan = NULL;
    xp_stats s = {.size = sizeof s};
    size_t send[2] = {0}, recv[2] = {0};
    char *rows, *host = calloc(2 * ROWS, DIM), *got = calloc(2 * ROWS, DIM);
    for (size_t i = 0; i < 2 * ROWS; i++) {
        host[i * DIM] = (char)(i % (ROWS / 2));
        host[i * DIM + UNSEEN] = (char)(i < ROWS ? 0 : i);
    }
    send[1 - r->rank] = recv[1 - r->rank] = 2 * ROWS;
    xp_plan_desc_init(&d);
    d.dtype = XP_BYTE;
    d.dim = DIM;
    d.max_send_rows = d.max_recv_rows = 2 * ROWS;
    d.mode = XP_MODE_EXACT;
    d.memory = XP_MEMORY_DEVICE;
    d.transport = "nccl";
    must(r, xp_plan_create(&plan, r->comm, &d) == XP_OK, "a plan");
    must(r, cudaMalloc((void **)&rows, 4 * ROWS * DIM) == 0, "device memory");
    must(r, cudaMemcpy(rows, host, 2 * ROWS * DIM, xp_cudaMemcpyDefault) == 0, "copy to the device");
    must(r, xp_alltoallv(plan, rows, send, rows + 2 * ROWS * DIM, recv, NULL) == XP_OK, "exchange");
    must(r, cudaMemcpy(got, rows + 2 * ROWS * DIM, 2 * ROWS * DIM, xp_cudaMemcpyDefault) == 0, "copy to the host");
    must(r, memcmp(got, host, 2 * ROWS * DIM) == 0, "rows that are alike arrive as they are");
    must(r, xp_plan_stats(plan, &s) == XP_OK && s.rows_unique == ROWS / 2 + ROWS, "and only copies are left out");
    xp_plan_destroy(plan);
    cudaFree(rows);
    free(host);
    free(got);
}

static int called(const struct device_rank *r, const char *prefix, const char *function)
{
    char path[200], line[300];
    int times = 0;
    snprintf(path, sizeof path, "%s.%d", prefix, (int)getpid());
    FILE *f = fopen(path, "r");
    must(r, f != NULL, "the double's list of calls");
    while (fgets(line, sizeof line, f))
        times += strncmp(line, function, strlen(function)) == 0;
    fclose(f);
    return times;
}

/* Equal counts go by one ncclAlltoAll where the library has it, all others by sends and receives. */
static void nccl_even(struct device_rank *r)
{
    struct exchange even = {.pattern = UNIFORM, .rows = 33, .dim = 24, .dtype = XP_BF16, .mode = XP_MODE_RAW, .seed = 4, .calls = 3};
    struct exchange uneven = {.pattern = EMPTY_RANK, .rows = 20, .dim = 24, .dtype = XP_BF16, .mode = XP_MODE_RAW, .seed = 5, .calls = 1};
    char prefix[120], mine[160];
    snprintf(prefix, sizeof prefix, "%s/device_even.%d", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (int)getppid());
    setenv("FAKE_NCCL_LOG", prefix, 1);
    r->transport = "nccl";
    void *nccl = dlopen("libnccl.so.2", RTLD_LAZY);
    must(r, nccl != NULL, "NCCL");
    const int has = dlsym(nccl, "ncclAlltoAll") != NULL;
    device_compare(r, &even);
    must(r, called(r, prefix, "ncclAlltoAll") == (has ? 3 : 0), "equal counts go by ncclAlltoAll");
    must(r, (called(r, prefix, "ncclSend") == 0) == has, "and by nothing else");
    device_compare(r, &uneven);
    must(r, called(r, prefix, "ncclAlltoAll") == (has ? 3 : 0), "unequal counts do not");
    snprintf(mine, sizeof mine, "%s.%d", prefix, (int)getpid());
    unlink(mine);
}

/* The same with a communicator of the program. */
static void nccl_given(struct device_rank *r)
{
    void *nccl = dlopen("libnccl.so.2", RTLD_LAZY);
    must(r, nccl != NULL, "NCCL");
    __typeof__(&ncclGetUniqueId) get_id = (__typeof__(get_id))dlsym(nccl, "ncclGetUniqueId");
    __typeof__(&ncclCommInitRank) init = (__typeof__(init))dlsym(nccl, "ncclCommInitRank");
    __typeof__(&ncclCommDestroy) destroy = (__typeof__(destroy))dlsym(nccl, "ncclCommDestroy");
    ncclUniqueId mine, all[WORLD_MAX];
    ncclComm_t comm;
    memset(&mine, 0, sizeof mine);
    must(r, r->rank != 0 || get_id(&mine) == ncclSuccess, "an id");
    must(r, xp_comm_allgather(r->comm, &mine, all, sizeof mine) == XP_OK, "ids");
    must(r, init(&comm, r->ranks, all[0], r->rank) == ncclSuccess, "a communicator");
    r->nccl_comm = comm;
    coded_rows(r);
    must(r, destroy(comm) == ncclSuccess, "the end of the communicator");
}

static void nccl_disagreement(struct device_rank *r)
{
    r->transport = "nccl";
    disagreement(r);
}

/* A rank ends while the others wait for it. */
static void lost_in(struct device_rank *r, xp_mode mode)
{
    struct exchange e = {.pattern = UNIFORM, .rows = 100, .dim = 16, .dtype = XP_F32, .mode = mode, .seed = 9, .calls = 1};
    struct device_call c;
    device_call_open(r, &e, &c);
    device_call_fill(r, &c, 0);
    if (r->rank == 1)
        exit(0);
    must(r, xp_alltoallv(c.plan, c.send, c.send_rows, c.recv, c.recv_rows, NULL) == XP_ERR_REMOTE, "a lost rank is an error");
    must(r, strstr(xp_comm_last_error(r->comm), "rank 1") != NULL, xp_comm_last_error(r->comm));
    r->broken = 1;
    device_call_close(r, &c);
}

static void raw_lost(struct device_rank *r)
{
    lost_in(r, XP_MODE_RAW);
}

static void exact_lost(struct device_rank *r)
{
    lost_in(r, XP_MODE_EXACT);
}

static void nccl_lost(struct device_rank *r)
{
    r->transport = "nccl";
    lost_in(r, XP_MODE_RAW);
}

static void nccl_exact_lost(struct device_rank *r)
{
    r->transport = "nccl";
    lost_in(r, XP_MODE_EXACT);
}

int main(int argc, char **argv)
{
    static const struct device_case cases[] = {
        {"raw", raw_rows}, {"exact", exact_rows}, {"coded", coded_rows}, {"direct", direct_rows}, {"two_plans", two_plans}, {"two_streams", two_streams},
        {"nccl_raw", nccl_raw}, {"nccl_coded", nccl_coded}, {"nccl_exact", nccl_exact}, {"nccl_alike", nccl_alike}, {"nccl_given", nccl_given}, {"nccl_even", nccl_even},
        {"nccl_disagreement", nccl_disagreement}, {"nccl_lost", nccl_lost}, {"nccl_exact_lost", nccl_exact_lost}, {"raw_lost", raw_lost}, {"exact_lost", exact_lost}, {"disagreement", disagreement},
        {"captured", captured}, {"other_device", other_device}, {"refused", refused}, {NULL, NULL},
    };
    return device_main(argc, argv, cases);
}

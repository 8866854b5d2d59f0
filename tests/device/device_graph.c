/*
 * device_graph.c - compressing and decompressing are captured in graphs of fixed maxima, and replayed with other rows: the bytes are those of the C code
 *
 * On the CUDA double, whose graphs run the kernels in the emulator in any order that the capture allows, or on a GPU. Exits 77 where there is none.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda/cuda_kernels.h"
#include "hash/book.h"
#include "hash/half.h"
#include "hash/hasher.h"
#include "hash/quant_frame.h"
#include "tests/cuemu/cudart.h"
#include "tests/device/device_rank.h"
#include "tests/harness/random.h"

#define ATTRIBUTE_MULTIPROCESSORS 16
#define ATTRIBUTE_SHARED_BYTES 97
enum { DIM = 256, FRAMES = 3, FRAME_ROWS = 9, ROWS = FRAMES * FRAME_ROWS, ROW_BYTES = DIM * 2, CENTROIDS = 4, SKETCH = 64, REPLAYS = 4 };

/* ---- memory and graphs ------------------------------------------------------------------------------------------------ */

static void sure(int so, const char *what)
{
    if (so)
        return;
    fprintf(stderr, "# not so: %s\n", what);
    exit(1);
}

/* Device memory; with these bytes in it, or any. */
static void *on_device(const void *bytes, size_t n)
{
    void *p = NULL;
    sure(cudaMalloc(&p, n) == 0, "device memory");
    sure(bytes ? cudaMemcpy(p, bytes, n, xp_cudaMemcpyDefault) == 0 : cudaMemset(p, 0, n) == 0, "its first bytes");
    return p;
}

static void fetch(void *to, const void *from, size_t n)
{
    sure(n == 0 || cudaMemcpy(to, from, n, xp_cudaMemcpyDefault) == 0, "bytes from the device");
}

struct graph {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
};

static struct graph capture(cudaStream_t stream, int (*enqueue)(void *arg), void *arg)
{
    struct graph g;
    sure(cudaStreamBeginCapture(stream, xp_cudaStreamCaptureModeGlobal) == 0, "begin of a capture");
    sure(enqueue(arg) == 0, "launches while capturing");
    sure(cudaStreamEndCapture(stream, &g.graph) == 0, "end of a capture");
    sure(cudaGraphInstantiate(&g.exec, g.graph, 0) == 0, "an executable graph");
    return g;
}

static void replay(const struct graph *g, cudaStream_t stream)
{
    sure(cudaGraphLaunch(g->exec, stream) == 0, "launch of a graph");
    sure(cudaStreamSynchronize(stream) == 0, "end of a graph");
}

static void drop(struct graph *g)
{
    sure(cudaGraphExecDestroy(g->exec) == 0 && cudaGraphDestroy(g->graph) == 0, "end of a graph's life");
}

/* Rows of bf16 with something in common, other ones each time. */
static void make_rows(uint64_t seed, char *rows)
{
    struct random r = {seed};
    for (size_t i = 0; i < (size_t)ROWS * DIM; i++)
        xp_store_f32(rows, XP_BF16, i, (float)((double)(random_bits(&r) % 2001) / 1000 - 1) + (float)(i % DIM % 7));
}

static void free_all(void **memory, size_t n)
{
    for (size_t i = 0; i < n; i++)
        cudaFree(memory[i]);
}

/* ---- codec quant -------------------------------------------------------------------------------------------------------- */

struct quant {
    struct xp_gpu gpu;
    struct xp_coder *coder;
    struct xp_row_plan plan;
    struct xp_quantiser q;
    struct xp_rows in;
    struct xp_gpu_frame *frames;
    struct xp_gpu_means means;
    struct xp_gpu_bases bases;
    uint8_t *slots, *formats, *payload;
    uint32_t *lengths;
    uint64_t *at;
    void *errors, *scratch, *rows, *back;
};

static int compress_quant(void *arg)
{
    struct quant *k = arg;
    int e = xp_cuda_means(&k->gpu, &k->in, k->frames, FRAMES, &k->means);
    if (!e)
        e = xp_cuda_row_encode(&k->gpu, &k->plan, &k->q, &k->in, &k->bases, k->slots, ROW_BYTES, k->formats, k->lengths, k->errors);
    return e ? e : xp_cuda_pack(&k->gpu, k->slots, ROW_BYTES, k->lengths, NULL, ROWS, k->scratch, k->at, k->payload);
}

/* Straight from what compressing has left. */
static int decompress_quant(void *arg)
{
    struct quant *k = arg;
    const struct xp_gpu_bases bases = {k->means.rows, k->means.base_of, NULL, NULL};
    return xp_cuda_row_decode(&k->gpu, &k->q, k->formats, XP_Q_RAW, k->payload, k->at, 0, &bases, XP_BF16, ROWS, k->back);
}

static void open_quant(struct quant *k, const struct xp_gpu *g)
{
    struct xp_coder_desc d = {.dtype = XP_BF16, .dim = DIM, .mode = XP_MODE_BOUNDED, .eps = 0.05, .isa = XP_ISA_C};
    struct xp_gpu_frame frames[FRAMES];
    memset(k, 0, sizeof *k);
    k->gpu = *g;
    sure(xp_codec_parse("quant", &d.choice) == XP_OK && xp_coder_create(&k->coder, &d) == XP_OK, "a coder");
    xp_row_plan_init(&k->plan, k->coder, k->coder->formats, NULL);
    for (uint32_t i = 0; i < FRAMES; i++)
        frames[i] = (struct xp_gpu_frame){i * FRAME_ROWS, FRAME_ROWS};
    k->q = (struct xp_quantiser){DIM, on_device(k->coder->quantiser.signs, xp_sign_words(DIM) * 4)};
    k->rows = on_device(NULL, ROWS * ROW_BYTES);
    k->in = (struct xp_rows){.data = k->rows, .rows = ROWS, .dim = DIM, .dtype = XP_BF16};
    k->frames = on_device(frames, sizeof frames);
    k->means = (struct xp_gpu_means){on_device(NULL, FRAMES * DIM * 4), on_device(NULL, FRAMES * ROW_BYTES), on_device(NULL, FRAMES),
                                     on_device(NULL, ROWS * 4), on_device(NULL, ROWS * 4)};
    k->bases = (struct xp_gpu_bases){k->means.rows, k->means.base_of, k->means.reference_of, NULL};
    k->slots = on_device(NULL, ROWS * ROW_BYTES);
    k->formats = on_device(NULL, ROWS);
    k->lengths = on_device(NULL, ROWS * 4);
    k->errors = on_device(NULL, ROWS * 4);
    k->scratch = on_device(NULL, xp_cuda_pack_scratch(g));
    k->at = on_device(NULL, (ROWS + 1) * 8);
    k->payload = on_device(NULL, ROWS * ROW_BYTES);
    k->back = on_device(NULL, ROWS * ROW_BYTES);
}

static void close_quant(struct quant *k)
{
    void *memory[] = {k->q.signs, k->rows, k->frames, k->means.rows, k->means.typed, k->means.pays, k->means.base_of, k->means.reference_of, k->slots,
                      k->formats, k->lengths, k->errors, k->scratch, k->at, k->payload, k->back};
    free_all(memory, sizeof memory / sizeof *memory);
    xp_coder_destroy(k->coder);
}

/* What lies on the device is what the C code makes of these rows. */
static void check_quant(struct quant *k, const char *rows)
{
    static uint8_t typed[FRAMES * ROW_BYTES], pays[FRAMES], formats[ROWS], payload[ROWS * ROW_BYTES], want[2 * ROWS * ROW_BYTES], got[2 * ROWS * ROW_BYTES];
    static char back[ROWS * ROW_BYTES], want_back[FRAME_ROWS * ROW_BYTES];
    uint64_t at[ROWS + 1];
    fetch(pays, k->means.pays, sizeof pays);
    for (size_t i = 0; i < FRAMES; i++)
        fetch(typed + i * ROW_BYTES, k->means.typed + i * ROW_BYTES, pays[i] ? ROW_BYTES : 0);
    fetch(formats, k->formats, sizeof formats);
    fetch(at, k->at, sizeof at);
    fetch(payload, k->payload, at[ROWS]);
    fetch(back, k->back, sizeof back);
    for (size_t i = 0; i < FRAMES; i++) {
        const size_t first = i * FRAME_ROWS, bytes = at[first + FRAME_ROWS] - at[first];
        const struct xp_rows in = {.data = rows + first * ROW_BYTES, .rows = FRAME_ROWS, .dim = DIM, .dtype = XP_BF16};
        size_t want_len = 0;
        sure(xp_coder_encode(k->coder, &in, want, sizeof want, &want_len, NULL) == XP_OK, "the C code's frame");
        memcpy(got + xp_quant_head_bytes(k->coder, FRAME_ROWS, pays[i]), payload + at[first], bytes);
        const size_t len = xp_quant_close(k->coder, got, k->coder->desc.seed, pays[i] ? typed + i * ROW_BYTES : NULL, formats + first, FRAME_ROWS, bytes);
        sure(len == want_len && memcmp(want, got, len) == 0, "a frame of codec quant has the bytes of the C code's");
        sure(xp_coder_decode(k->coder, want, want_len, want_back, FRAME_ROWS) == XP_OK, "the C code's rows");
        sure(memcmp(want_back, back + first * ROW_BYTES, sizeof want_back) == 0, "decoded rows of codec quant are the C code's");
    }
}

static void replay_quant(const struct xp_gpu *g)
{
    static char rows[ROWS * ROW_BYTES];
    struct quant k;
    open_quant(&k, g);
    struct graph in = capture(g->stream, compress_quant, &k), out = capture(g->stream, decompress_quant, &k);
    for (uint64_t i = 0; i < REPLAYS; i++) {
        make_rows(i + 1, rows);
        sure(cudaMemcpy(k.rows, rows, sizeof rows, xp_cudaMemcpyDefault) == 0, "rows to the device");
        replay(&in, g->stream);
        replay(&out, g->stream);
        check_quant(&k, rows);
    }
    drop(&in);
    drop(&out);
    close_quant(&k);
}

/* ---- codec book ----------------------------------------------------------------------------------------------------------- */

struct book {
    struct xp_gpu gpu;
    struct xp_hasher host_hasher, hasher;
    struct xp_book host;
    struct xp_gpu_book device;
    struct xp_book_promise promise;
    struct xp_rows in;
    void *memory, *tables, *rows, *ids, *scratch, *read_scratch, *bytes, *errors, *back;
    int16_t *sketch, *centroid_sketch;
    uint32_t *of, *status;
    uint64_t *len;
    size_t read;              /* bytes to decode */
};

static int compress_book(void *arg)
{
    struct book *k = arg;
    int e = xp_cuda_hash(&k->gpu, &k->hasher, &k->in, k->ids, k->sketch);
    if (!e)
        e = xp_cuda_assign(&k->gpu, k->sketch, ROWS, SKETCH, k->centroid_sketch, CENTROIDS, k->of);
    return e ? e : xp_cuda_book_encode(&k->gpu, &k->device, &k->promise, NULL, &k->in, k->of, k->scratch, k->bytes, k->len, k->errors);
}

static int decompress_book(void *arg)
{
    struct book *k = arg;
    return xp_cuda_book_decode(&k->gpu, &k->device, NULL, k->bytes, k->read, XP_BF16, ROWS, k->read_scratch, k->back, k->status);
}

/* A book as its reader has it. */
static void make_book(struct xp_book *read)
{
    struct xp_book b;
    struct random r = {7};
    const char *why;
    size_t used;
    sure(xp_book_init(&b, DIM, CENTROIDS, 0) == XP_OK && xp_book_init(read, DIM, CENTROIDS, 0) == XP_OK, "a book");
    b.has_spread = b.has_mean = 1;
    b.centroids = CENTROIDS;
    for (size_t i = 0; i < DIM; i++)
        b.channel_class[i] = (uint8_t)(random_bits(&r) % 12);
    xp_book_sort(&b);
    for (size_t i = 0; i < DIM; i++)
        b.mean[i] = 3;
    for (size_t i = 0; i < CENTROIDS * b.pad; i++)
        b.centroid[i] = i % b.pad < DIM ? b.mean[i % b.pad] + (float)(random_bits(&r) % 1000) / 1000 : 0;
    uint8_t *wire = malloc(xp_book_bytes(&b));
    xp_book_write(&b, wire);
    sure(xp_book_read(read, wire, xp_book_bytes(&b), &used, &why) == XP_OK, "a book that can be read");
    free(wire);
    xp_book_fini(&b);
}

static void open_book(struct book *k, const struct xp_gpu *g)
{
    const struct xp_hasher_desc desc = {.dim = DIM, .sketch = SKETCH, .seed = 5};
    int16_t sketches[CENTROIDS * SKETCH];
    struct random r = {11};
    memset(k, 0, sizeof *k);
    k->gpu = *g;
    k->promise = (struct xp_book_promise){0.1, 1};
    sure(xp_hasher_init(&k->host_hasher, &desc) == XP_OK, "a hasher");
    k->tables = on_device(k->host_hasher.memory, xp_cuda_hasher_bytes(&k->host_hasher));
    xp_cuda_hasher(&k->host_hasher, k->tables, &k->hasher);
    make_book(&k->host);
    void *image = malloc(xp_cuda_book_bytes(&k->host));
    k->memory = on_device(NULL, xp_cuda_book_bytes(&k->host));
    sure(xp_cuda_book(&k->host, image, k->memory, &k->device) == XP_OK, "a book on the device");
    sure(cudaMemcpy(k->memory, image, xp_cuda_book_bytes(&k->host), xp_cudaMemcpyDefault) == 0, "its tables");
    free(image);
    for (size_t i = 0; i < CENTROIDS * SKETCH; i++)
        sketches[i] = (int16_t)(random_bits(&r) % 2000 - 1000);
    k->rows = on_device(NULL, ROWS * ROW_BYTES);
    k->in = (struct xp_rows){.data = k->rows, .rows = ROWS, .dim = DIM, .dtype = XP_BF16};
    k->ids = on_device(NULL, ROWS * 4);
    k->sketch = on_device(NULL, ROWS * SKETCH * 2);
    k->centroid_sketch = on_device(sketches, sizeof sketches);
    k->of = on_device(NULL, ROWS * 4);
    k->scratch = on_device(NULL, xp_cuda_book_encode_scratch(g, &k->in));
    k->read_scratch = on_device(NULL, xp_cuda_book_scratch(g, ROWS));
    k->bytes = on_device(NULL, ROWS * (ROW_BYTES + 16));
    k->len = on_device(NULL, 8);
    k->errors = on_device(NULL, ROWS * 4);
    k->back = on_device(NULL, ROWS * ROW_BYTES);
    k->status = on_device(NULL, 4);
}

static void close_book(struct book *k)
{
    void *memory[] = {k->memory, k->tables, k->rows, k->ids, k->scratch, k->read_scratch, k->bytes, k->errors, k->back, k->sketch, k->centroid_sketch,
                      k->of, k->status, k->len};
    free_all(memory, sizeof memory / sizeof *memory);
    xp_hasher_fini(&k->host_hasher);
    xp_book_fini(&k->host);
}

/* The bytes on the device are those of the C code, with the centroids that the device has chosen. Returns how many. */
static size_t check_book(struct book *k, const char *rows, char *back)
{
    static uint8_t want[ROWS * (ROW_BYTES + 16)], got[ROWS * (ROW_BYTES + 16)];
    const struct xp_rows in = {.data = rows, .rows = ROWS, .dim = DIM, .dtype = XP_BF16};
    struct xp_kernels plain;
    struct xp_book_room room;
    xp_codec_stats st = {0};
    const char *why;
    uint32_t of[ROWS];
    uint64_t len;
    size_t want_len = 0;
    fetch(of, k->of, sizeof of);
    fetch(&len, k->len, sizeof len);
    fetch(got, k->bytes, len);
    xp_kernels_init(&plain, XP_ISA_C);
    sure(xp_book_room_init(&room, &plain, XP_BF16, DIM) == XP_OK && xp_book_room_reserve(&room, ROWS) == XP_OK, "room for rows");
    sure(xp_book_encode_rows(&room, &k->host, &k->promise, NULL, &in, of, want, sizeof want, &want_len, &st) == XP_OK, "the C code's bytes");
    sure(len == want_len && memcmp(want, got, len) == 0, "rows coded with a book have the bytes of the C code's");
    sure(xp_book_decode_rows(&room, &k->host, NULL, want, want_len, ROWS, back, &why) == XP_OK, "the C code's rows");
    xp_book_room_fini(&room);
    return len;
}

/* How many bytes are decoded is known on the host, so each message has a graph of its own, which is replayed. */
static void replay_decoding(struct book *k, const char *want)
{
    static char back[ROWS * ROW_BYTES];
    struct graph out = capture(k->gpu.stream, decompress_book, k);
    for (int twice = 0; twice < 2; twice++) {
        uint32_t status = 1;
        sure(cudaMemset(k->back, 0xee, sizeof back) == 0, "other rows in the place of the result");
        replay(&out, k->gpu.stream);
        fetch(back, k->back, sizeof back);
        fetch(&status, k->status, sizeof status);
        sure(status == 0 && memcmp(want, back, sizeof back) == 0, "decoded rows are the C code's");
    }
    drop(&out);
}

static void replay_book(const struct xp_gpu *g)
{
    static char rows[ROWS * ROW_BYTES], back[ROWS * ROW_BYTES];
    struct book k;
    open_book(&k, g);
    struct graph in = capture(g->stream, compress_book, &k);
    for (uint64_t i = 0; i < REPLAYS; i++) {
        make_rows(i + 20, rows);
        sure(cudaMemcpy(k.rows, rows, sizeof rows, xp_cudaMemcpyDefault) == 0, "rows to the device");
        replay(&in, g->stream);
        k.read = check_book(&k, rows, back);
        replay_decoding(&k, back);
    }
    drop(&in);
    close_book(&k);
}

int main(void)
{
    struct xp_gpu g = {0};
    cudaStream_t stream;
    int devices = 0, sms = 0, shared = 0;
    emulator_open((unsigned)getpid());
    if (cudaGetDeviceCount(&devices) != 0 || devices == 0)
        return 77;
    sure(cudaDeviceGetAttribute(&sms, ATTRIBUTE_MULTIPROCESSORS, 0) == 0 && cudaDeviceGetAttribute(&shared, ATTRIBUTE_SHARED_BYTES, 0) == 0, "a device");
    sure(cudaStreamCreate(&stream) == 0, "a stream"); /* ordered with copies that name no stream */
    g = (struct xp_gpu){stream, (unsigned)sms, (size_t)shared};
    replay_quant(&g);
    replay_book(&g);
    sure(cudaStreamDestroy(stream) == 0, "the end of the stream");
    return emulator_findings() != 0;
}

/*
 * device_coder.h - codec quant on the device: batches of frames out of device memory, runs of frames into it
 *
 * A frame has the bytes that the coder of the host gives it. Encoding takes three steps: the kernels (means, rows, pack) and the copy of
 * what the host must know are enqueued for a whole batch; when that is here, the rows' bytes of each frame are copied to their place in the
 * frame; then the host writes what lies around them, the checksum included. Decoding is the reverse: the host checks a frame, the bytes
 * go to the device, and one launch decodes the rows of a run of frames.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_DEVICE_CODER_H
#define XP_DEVICE_CODER_H

#include "collectives/algo.h"
#include "cuda/cuda_kernels.h"
#include "hash/quant_frame.h"
#include "lib/device.h"

#define XP_DEVICE_BATCHES 2

/* What the kernels make of rows: the mean rows and signs of their frames, and codes. In device memory. */
struct xp_device_codes {
    struct xp_gpu_frame *frame;
    uint32_t *base_of, *reference_of, *lengths;
    float *means, *errors;
    uint8_t *formats, *pays, *typed, *slots;
    struct xp_gpu_frame_signs signs; /* dither */
};

/* Frames that are encoded together. */
struct xp_device_batch {
    size_t frames, rows;
    const char *from;           /* the caller's rows, */
    const uint32_t *list;       /* and where each is; NULL: one after another */
    uint32_t *order;            /* where its code is in the store */
    struct xp_gpu_frame *frame; /* pinned, as all that the host reads and writes here */
    uint32_t *index;            /* where the rows are */
    uint64_t *at;
    uint8_t *formats, *pays, *typed;
    uint64_t *seeds;            /* dither: of the frames */
    void *known;                /* event: the host has at, formats, pays and typed */
    struct {
        struct xp_device_codes codes;
        uint32_t *index, *order;
        uint64_t *at;
        uint8_t *payload;
    } dev;
};

/* The rows of a call that name their places (call.all), each coded once, for all frames that it is in. */
struct xp_device_store {
    size_t cap;           /* places; 0: there is no store */
    size_t all, distinct; /* rows that the mean row and the seed are of; that are coded */
    int active, coded;    /* of the call under way: its rows are here; kernels have been enqueued */
    uint32_t *which;      /* [cap] of a place: which of those coded */
    struct xp_gpu_frame *frame; /* pinned, as what follows */
    uint32_t *list, *index;     /* [max_send_rows], [cap] places: of all, and of those coded */
    uint8_t *formats, *pays, *typed;
    uint64_t *seed;
    struct {
        struct xp_device_codes codes; /* of one frame */
        uint32_t *list, *index;
    } dev;
};

/* What the rows of a run of frames are decoded with. */
struct xp_device_notes {
    float *mean;
    uint64_t *at; /* in the staging memory */
    uint32_t *of; /* which mean, or XP_GPU_NO_ROW */
    uint32_t *signs_of; /* which of seeds */
    uint64_t *seeds;
    uint8_t *formats;
};
struct xp_device_run {
    size_t rows, frames, means, notes, bytes;
    uint32_t *signs; /* device */
    struct xp_device_notes host, dev;
};

struct xp_device_coder {
    const struct xp_shape *shape;
    const struct xp_device *dev;
    const struct xp_cuda_table *kernels;
    struct xp_coder *coder;    /* the host's: formats, seed, checks */
    struct xp_row_plan plan;
    struct xp_gpu gpu;         /* its stream is set for each launch */
    struct xp_quantiser quantiser;
    size_t batches, batch_frames, batch_rows, stride;
    size_t sign_words;         /* of a frame's table, where rows are dithered; 0: they are not */
    struct xp_device_batch batch[XP_DEVICE_BATCHES];
    struct xp_device_store store;
    void *scratch;             /* of pack */
    /* decode */
    size_t staging_bytes;
    uint8_t *staging;          /* device: rows' bytes at the same places as in the pinned staging memory */
    uint8_t *notes, *dev_notes;/* pinned, device: what a run of frames is decoded with; carved per call */
    size_t notes_cap, notes_used;
    uint32_t *signs_in;        /* device, dither: of the frames of a call */
    size_t frames_in, frames_used;
    struct xp_device_run kept; /* of a call with a result */
    size_t kept_rows;
};

/* Whether rows of this length can be coded on the device; *why gets a static text. */
int xp_device_coder_fits(const struct xp_shape *s, const char **why);

/* Sets everything but memory. whole: one batch holds all frames of a call. 0 or a cudaError_t. */
int xp_device_coder_open(struct xp_device_coder *d, const struct xp_shape *s, size_t frames_out, size_t frames_in, size_t staging_bytes, int whole);
/* Takes the parts of both pools; run once to count and once to take. */
void xp_device_coder_parts(struct xp_device_coder *d, struct xp_pool *device, struct xp_pool *pinned);
/* Fills the tables, by the stream. 0 or a cudaError_t. */
int xp_device_coder_fill(struct xp_device_coder *d, void *stream);
void xp_device_coder_close(struct xp_device_coder *d);

/* Before the batches of a call. */
void xp_device_call_begin(struct xp_device_coder *d, const struct xp_call *call);
/* An empty batch, of rows of this call. */
void xp_device_batch_begin(struct xp_device_batch *b, const struct xp_call *call);
/* Adds rows [row, row + rows) of those sent to a batch as a frame. */
void xp_device_batch_add(const struct xp_device_coder *d, struct xp_device_batch *b, size_t row, size_t rows);
/* Enqueues the first step; b->known is recorded behind it. */
int xp_device_encode(struct xp_device_coder *d, struct xp_device_batch *b, void *stream);
/* When that has come, before anything else. */
void xp_device_known(const struct xp_device_coder *d, struct xp_device_batch *b);
/* The second step, of frame i: enqueues the copy of its rows' bytes to `out`. */
int xp_device_fetch(struct xp_device_coder *d, const struct xp_device_batch *b, size_t i, uint8_t *out, void *stream);
/* The third, when that is there: completes the frame at `out` and counts it. Returns its length. */
size_t xp_device_close(struct xp_device_coder *d, const struct xp_device_batch *b, size_t i, uint8_t *out);

/* For those who send the rows' bytes from device memory: those of frame i, or NULL where its rows travel raw. */
void *xp_device_payload(struct xp_device_coder *d, const struct xp_device_batch *b, size_t i, size_t *length);
/* Those rows, one after another and behind those of the frame before: where they are, or where they are gathered, which is enqueued. */
int xp_device_raw_rows(struct xp_device_coder *d, const struct xp_device_batch *b, size_t i, void *stream, const void **rows);
/* What precedes them: a byte, 0 raw or 1 coded, and of a coded frame its seed, where rows are dithered, and the head of its payload, which is
 * counted. Returns the bytes written. */
size_t xp_device_write_head(struct xp_device_coder *d, const struct xp_device_batch *b, size_t i, uint8_t *out);

/* Before the runs of a call: there is room for the notes of every frame once. With a result it is one run, begun here, of all rows received; they
 * are kept as they came until the result is made. Rows that are not added to it are those in the call's recv. */
void xp_device_decode_begin(struct xp_device_coder *d, const struct xp_call *call);
/* A run of so many rows and frames, whose rows follow one another at `to`. Their bytes are, or will be by the stream, in the device's
 * staging memory from `at` on. */
void xp_device_run_begin(struct xp_device_coder *d, struct xp_device_run *run, size_t rows, size_t frames);
void xp_device_run_add(struct xp_device_coder *d, struct xp_device_run *run, const struct xp_quant_parts *p, size_t rows, size_t at);
int xp_device_run_end(struct xp_device_coder *d, const struct xp_device_run *run, void *to, void *stream);
/* Adds a frame of the call's rows from `row` on to that run. */
void xp_device_keep(struct xp_device_coder *d, const struct xp_quant_parts *p, size_t row, size_t rows, size_t at);
int xp_device_result(struct xp_device_coder *d, const struct xp_call *call, void *stream);

/* A frame that has come. */
struct xp_device_frame {
    const uint8_t *frame; /* in the pinned staging memory */
    size_t len, rows, offset; /* offset: of the frame in the staging memory */
};
/* Checks frames of the call's rows from `row` on, copies their rows' bytes to the device, and decodes them as one run, or keeps them. XP_ERR_CORRUPT;
 * *error: of CUDA, else 0. */
xp_status xp_device_decode(struct xp_device_coder *d, const struct xp_call *call, const struct xp_device_frame *frames, size_t count, size_t row, void *stream,
                           int *error);

#endif

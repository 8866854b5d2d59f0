/*
 * nccl_wires.c - data between two ranks of the NCCL double
 *
 * Nothing is buffered: a sender writes when the receiver has said that its receive runs (CTS). Several messages may be under way
 * between two ranks; each goes to the receive with its key. One frame at a time is on the socket in each direction.
 *
 * Called only by operations of streams, of which the CUDA double runs one at a time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/fake_nccl/fake_nccl.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WIRE_MAGIC 0x6e63636cu

static bool same(struct key a, struct key b)
{
    return a.space == b.space && a.round == b.round && a.seq == b.seq;
}

static struct transfer *find(struct transfer *list, struct key key)
{
    while (list && !same(list->key, key))
        list = list->next;
    return list;
}

static void post(struct ncclComm *comm, struct link *link, enum wire_kind kind, struct key key, const struct transfer *about)
{
    struct queued *q = calloc(1, sizeof *q), **end = &link->out;

    if (!q) {
        fake_set_error(comm, ncclSystemError);
        return;
    }
    q->wire = (struct wire){.magic = WIRE_MAGIC, .kind = kind, .key = key, .rank = (uint32_t)comm->rank};
    if (about) {
        q->wire.bytes = about->bytes;
        q->wire.type = (uint32_t)about->type;
    }
    while (*end)
        end = &(*end)->next;
    *end = q;
}

static void lose(struct ncclComm *comm, struct link *link)
{
    link->gone = true;
    if (!link->left)
        fake_set_error(comm, fake_error(ncclRemoteError, "rank %d: rank %d is gone", comm->rank, (int)(link - comm->links)));
    else if (link->sends || link->recvs)
        fake_set_error(comm, fake_error(ncclRemoteError, "rank %d: rank %d has left", comm->rank, (int)(link - comm->links)));
}

/* ---- matching */

static void disagree(struct ncclComm *comm, const struct transfer *send, const struct wire *cts)
{
    const char *mode = getenv("FAKE_NCCL_ON_MISMATCH");

    fprintf(stderr, "fake nccl: rank %d sends %zu bytes of type %d where rank %u receives %llu of type %u\n", comm->rank,
            send->bytes, send->type, cts->rank, (unsigned long long)cts->bytes, cts->type);
    if (!mode || strcmp(mode, "error") != 0) {
        fflush(stderr);
        _exit(FAKE_EXIT_LOUD);
    }
    fake_set_error(comm, ncclInvalidUsage);
}

static void clear_to_send(struct ncclComm *comm, struct link *link, struct transfer *send, const struct wire *cts)
{
    if (send->bytes != cts->bytes || send->type != (int)cts->type) {
        disagree(comm, send, cts);
        post(comm, link, WIRE_MISMATCH, send->key, NULL);
        return;
    }
    send->step = READY;
}

/* Makes a transfer active. */
void fake_wires_start(struct ncclComm *comm, struct transfer *t)
{
    struct link *link = &comm->links[t->peer];
    struct transfer **list = t->send ? &link->sends : &link->recvs;

    while (*list)
        list = &(*list)->next;
    *list = t;
    t->next = NULL;
    t->step = WAITS;
    t->moved = 0;
    if (t->send) {
        for (struct queued **at = &link->early; *at; at = &(*at)->next)
            if (same((*at)->wire.key, t->key)) {
                struct queued *q = *at;
                *at = q->next;
                clear_to_send(comm, link, t, &q->wire);
                free(q);
                return;
            }
        return;
    }
    struct transfer told = *t;
    long unused;
    if (fake_fault_at("mismatch", comm, ++comm->received, &unused))
        told.bytes++;
    post(comm, link, WIRE_CTS, t->key, &told);
}

void fake_wires_drop(struct ncclComm *comm, struct transfer *t)
{
    struct link *link = &comm->links[t->peer];
    struct transfer **list = t->send ? &link->sends : &link->recvs;

    while (*list && *list != t)
        list = &(*list)->next;
    if (*list)
        *list = t->next;
    if (link->out_data == t || link->in_data == t)
        link->gone = true; /* in the middle of a frame: nothing can follow */
    if (link->out_data == t)
        link->out_data = NULL;
    if (link->in_data == t)
        link->in_data = NULL;
}

static void end(struct ncclComm *comm, struct transfer *t)
{
    t->step = ENDED;
    fake_wires_drop(comm, t);
}

/* ---- writing */

static bool would_block(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ENOBUFS;
}

static bool next_frame(struct ncclComm *comm, struct link *link)
{
    struct queued *q = link->out;
    struct transfer *t = link->sends;

    if (q) {
        link->out_head = q->wire;
        link->out = q->next;
        free(q);
    } else {
        while (t && t->step != READY)
            t = t->next;
        if (!t)
            return false;
        t->step = MOVES;
        link->out_data = t;
        link->out_head = (struct wire){.magic = WIRE_MAGIC, .kind = WIRE_DATA, .key = t->key, .bytes = t->bytes,
                                       .type = (uint32_t)t->type, .rank = (uint32_t)comm->rank};
    }
    link->out_done = 0;
    link->out_busy = true;
    return true;
}

/* false: the socket takes no more now, or there is nothing to write */
static bool write_some(struct ncclComm *comm, struct link *link)
{
    const char *from;
    size_t left;

    if (!link->out_busy && !next_frame(comm, link))
        return false;
    struct transfer *t = link->out_data;
    bool head = link->out_done < sizeof link->out_head;
    from = head ? (const char *)&link->out_head + link->out_done : t->at + t->moved;
    left = head ? sizeof link->out_head - link->out_done : t->bytes - t->moved;
    ssize_t n = left ? send(link->data, from, left, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (n < 0) {
        if (!would_block())
            lose(comm, link);
        return false;
    }
    if (head)
        link->out_done += (size_t)n;
    else
        t->moved += (size_t)n;
    if (link->out_done == sizeof link->out_head && (!t || t->moved == t->bytes)) {
        link->out_busy = false;
        link->out_data = NULL;
        if (t)
            end(comm, t);
    }
    return true;
}

/* ---- reading */

static void hear_cts(struct ncclComm *comm, struct link *link, const struct wire *wire)
{
    struct transfer *send = find(link->sends, wire->key);
    struct queued *q;

    if (send) {
        clear_to_send(comm, link, send, wire);
        return;
    }
    q = calloc(1, sizeof *q);
    if (!q) {
        fake_set_error(comm, ncclSystemError);
        return;
    }
    q->wire = *wire;
    q->next = link->early;
    link->early = q;
}

static void hear(struct ncclComm *comm, struct link *link)
{
    const struct wire *wire = &link->in_head;

    if (wire->magic != WIRE_MAGIC)
        lose(comm, link);
    else if (wire->kind == WIRE_CTS)
        hear_cts(comm, link, wire);
    else if (wire->kind == WIRE_MISMATCH)
        fake_set_error(comm, ncclInvalidUsage);
    else if (wire->kind == WIRE_BYE)
        link->left = true;
    else if (wire->kind == WIRE_DATA && !(link->in_data = find(link->recvs, wire->key)))
        lose(comm, link);
    link->in_done = 0;
}

/* false: nothing to read now */
static bool read_some(struct ncclComm *comm, struct link *link)
{
    struct transfer *t = link->in_data;
    char *to = t ? t->at + t->moved : (char *)&link->in_head + link->in_done;
    size_t left = t ? t->bytes - t->moved : sizeof link->in_head - link->in_done;
    ssize_t n = left ? recv(link->data, to, left, MSG_DONTWAIT) : 0;

    if (left && n <= 0) {
        if (n == 0 || !would_block())
            lose(comm, link);
        return false;
    }
    if (!t) {
        link->in_done += (size_t)n;
        if (link->in_done == sizeof link->in_head)
            hear(comm, link);
        return !link->gone;
    }
    t->moved += (size_t)n;
    if (t->moved == t->bytes) {
        link->in_data = NULL;
        end(comm, t);
    }
    return true;
}

void fake_wires_progress(struct ncclComm *comm)
{
    for (int i = 0; i < comm->n; i++) {
        struct link *link = &comm->links[i];
        if (i == comm->rank)
            continue;
        for (int rounds = 0; !link->gone && rounds < 64; rounds++) {
            bool wrote = write_some(comm, link);
            bool got = !link->gone && read_some(comm, link);
            if (!wrote && !got)
                break;
        }
    }
}

/* ---- the rest */

/* A rank that ended without a word: its control socket is at its end. */
void fake_wires_watch(struct ncclComm *comm)
{
    char byte;

    for (int i = 0; i < comm->n; i++)
        if (i != comm->rank && comm->links[i].control >= 0) {
            ssize_t n = recv(comm->links[i].control, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
            if (n == 0 || (n < 0 && !would_block()))
                fake_set_error(comm, fake_error(ncclRemoteError, "rank %d: rank %d is gone", comm->rank, i));
        }
}

static void free_queue(struct queued *q)
{
    while (q) {
        struct queued *next = q->next;
        free(q);
        q = next;
    }
}

void fake_wires_close(struct ncclComm *comm, bool in_order)
{
    const struct wire bye = {.magic = WIRE_MAGIC, .kind = WIRE_BYE, .rank = (uint32_t)comm->rank};

    for (int i = 0; i < comm->n; i++) {
        struct link *link = &comm->links[i];
        bool tell = in_order && !link->gone && !link->out_busy;
        if (link->data >= 0) {
            if (tell && send(link->data, &bye, sizeof bye, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                link->gone = true;
            close(link->data);
        }
        if (link->control >= 0) {
            if (tell && send(link->control, &bye, sizeof bye, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                link->gone = true;
            close(link->control);
        }
        free_queue(link->out);
        free_queue(link->early);
        memset(link, 0, sizeof *link);
        link->control = link->data = -1;
    }
}

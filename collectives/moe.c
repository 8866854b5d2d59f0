/*
 * moe.c - operations of a MoE layer as lists of steps, driven like an exchange (algo.h)
 *
 * A step is local work, or one exchange over a channel with local work before and after it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/moe.h"

#include <stdio.h>
#include <string.h>

#include "collectives/books.h"
#include "hash/coded_rows.h"

#define INTAKE_BYTES ((size_t)64 << 10) /* about, laid out between two looks at the messages */

/* ---- which steps an operation has ---------------------------------------------------------------------------------- */

static void add(struct xp_moe *m, enum xp_moe_step_kind kind, int hop, enum xp_moe_channel channel)
{
    m->step[m->steps++] = (struct xp_moe_step){kind, hop, channel};
}

static void add_outward(struct xp_moe *m, enum xp_moe_channel channel)
{
    for (int h = 0; h < m->hops; h++)
        add(m, XP_STEP_FORWARD, h, channel);
    add(m, XP_STEP_ARRIVE, 0, channel);
}

static void add_back(struct xp_moe *m, enum xp_moe_step_kind back, enum xp_moe_step_kind home, enum xp_moe_channel channel)
{
    for (int h = m->hops - 1; h >= 0; h--)
        add(m, back, h, channel);
    add(m, home, 0, channel);
}

static void add_records(struct xp_moe *m)
{
    for (int h = 0; h < m->hops; h++)
        add(m, XP_STEP_RECORDS, h, XP_CHANNEL_RECORDS);
}

/* Operations on tokens. */
static void list_steps(struct xp_moe *m, const struct xp_moe_op *op)
{
    switch (op->kind) {
    case XP_MOE_AGREE:
        add(m, XP_STEP_HELLO, 0, XP_CHANNEL_HELLO);
        break;
    case XP_MOE_RECORDS:
        add_records(m);
        break;
    case XP_MOE_DISPATCH:
        add_outward(m, XP_CHANNEL_DISPATCH);
        break;
    case XP_MOE_COMBINE:
        add_back(m, XP_STEP_BACK, XP_STEP_HOME, XP_CHANNEL_COMBINE);
        break;
    case XP_MOE_COMBINE_BACKWARD:
        add_outward(m, XP_CHANNEL_GRAD_OUT);
        if (op->scalars)
            add_back(m, XP_STEP_SCALARS, XP_STEP_SCALARS_HOME, XP_CHANNEL_SCALARS);
        break;
    case XP_MOE_DISPATCH_BACKWARD:
        add_back(m, XP_STEP_BACK, XP_STEP_HOME, XP_CHANNEL_GRAD_BACK);
        break;
    }
}

/* The same on virtual tokens: dispatch makes them and agrees on a map for them. */
static void list_folded_steps(struct xp_moe *m, const struct xp_moe_op *op)
{
    switch (op->kind) {
    case XP_MOE_DISPATCH:
        add(m, XP_STEP_FOLD, 0, XP_CHANNEL_FOLDED);
        add(m, XP_STEP_HELLO, 0, XP_CHANNEL_HELLO);
        if (!xp_hello_tells_all(&m->shape))
            add_records(m);
        add_outward(m, XP_CHANNEL_FOLDED);
        add(m, XP_STEP_FOLD_END, 0, XP_CHANNEL_FOLDED);
        break;
    case XP_MOE_COMBINE_BACKWARD:
        add(m, XP_STEP_FOLD_GRAD, 0, XP_CHANNEL_FOLDED);
        add_outward(m, XP_CHANNEL_FOLDED);
        add(m, XP_STEP_FOLD_END, 0, XP_CHANNEL_FOLDED);
        break;
    default:
        add_back(m, XP_STEP_BACK, XP_STEP_HOME, XP_CHANNEL_FOLDED);
        break;
    }
}

void xp_moe_prepare(struct xp_moe *m, const struct xp_moe_op *op)
{
    m->op = *op;
    m->steps = m->at = m->calling = m->filling.left = m->own_home = 0;
    m->going.stage = XP_AHEAD_NONE;
    m->folded = op->routing && op->routing->folded && op->kind != XP_MOE_AGREE && op->kind != XP_MOE_RECORDS;
    m->map = !op->routing ? NULL : m->folded ? &op->routing->virtual_map : &op->routing->map;
    if (m->folded)
        list_folded_steps(m, op);
    else
        list_steps(m, op);
}

/* ---- one step -------------------------------------------------------------------------------------------------------- */

/* What a hop takes from is what the hop before it brought: in[hop & 1] holds what hop `hop` receives, in either direction. */
static char *received(struct xp_moe *m, int hop)
{
    return m->in[hop & 1];
}

static float *received_scalars(struct xp_moe *m, int hop)
{
    return m->scalars[hop & 1];
}

/* What the first hop outward takes from: rows that stay are found there. */
static const void *first_rows(const struct xp_moe *m)
{
    return m->folded ? m->fold->first_rows(m) : m->op.in;
}

static int weighted(const struct xp_moe *m)
{
    return m->op.kind == XP_MOE_COMBINE;
}

/* Rows of this call that go to several nodes are coded once; virtual tokens have been coded when they were made. */
static void code_once(struct xp_moe *m, const struct xp_map_hop *p, int hop)
{
    if (!m->store || hop != m->slow_hop || !(m->folded ? m->op.kind == XP_MOE_DISPATCH : xp_path_copies(&m->shape)))
        return;
    if (!m->folded)
        xp_coded_rows_begin(m->store, &(struct xp_rows){.data = m->call.from, .index = m->call.at, .rows = p->rows_out, .dim = m->shape.dim, .dtype = m->shape.dtype});
    m->call.store = m->store;
    m->call.number = p->gather;
}

/* Rows on their way out: taken from where they lie. */
static void send_rows(struct xp_moe *m, const struct xp_moe_step *s)
{
    struct xp_map_hop *p = &m->map->hop[s->hop];
    const void *from = s->hop > 0 ? received(m, s->hop - 1) : first_rows(m);
    m->call = (struct xp_call){.send = m->out, .send_rows = p->rows_to, .recv = received(m, s->hop), .recv_rows = p->rows_from};
    m->call.grad_weights = m->op.scalars && !m->folded; /* folded steps find them at home */
    if (s->hop == 0 && m->folded && m->op.kind == XP_MOE_DISPATCH && m->slow_hop > 0 && !m->device) {
        xp_folded_leave(m, m->op.routing);
        return;
    }
    m->rows->leave(m, m->map, s->hop, from);
    if (!m->device) {
        m->call.from = from;
        m->call.at = p->gather;
    }
    code_once(m, p, s->hop);
}

static void send_units(struct xp_moe *m, const struct xp_moe_step *s)
{
    struct xp_map_hop *p = &m->map->hop[s->hop];
    const void *from = s->hop == m->hops - 1 ? m->op.in : received(m, s->hop + 1);
    m->call = (struct xp_call){.send = m->out, .send_rows = p->units_to, .recv = received(m, s->hop), .recv_rows = p->units_from};
    m->rows->units_leave(m, m->map, s->hop, from, weighted(m));
    if (!m->device && !m->map->sum) {
        m->call.from = from;
        m->call.at = m->sort;
    }
}

/* A virtual token has one expert, so the exchange itself can put its row where it belongs, at either end. */
static void place_rows(struct xp_moe *m, const struct xp_moe_step *s)
{
    const struct xp_map_level *v = &m->map->level[s->kind == XP_STEP_FORWARD ? 1 : 0];
    if (!m->folded || m->hops > 1 || m->device) /* on the device lists of the map say the same */
        return;
    for (size_t i = 0; i < v->entries; i++) {
        if (xp_entry_stays(m, m->map, &v->entry[i]))
            continue;
        if (s->kind == XP_STEP_FORWARD)
            m->sort2[v->row[i]] = v->unit[i];
        else
            m->sort2[v->unit[i]] = (uint32_t)i;
    }
    m->call.to = s->kind == XP_STEP_FORWARD ? m->op.out : m->fold->home_rows(m);
    m->call.place = m->sort2;
}

static void prepare_call(struct xp_moe *m, const struct xp_moe_step *s)
{
    struct xp_map_hop *p = m->map ? &m->map->hop[s->hop] : NULL;
    struct xp_call *c = &m->call;
    switch (s->kind) {
    case XP_STEP_HELLO:
        *c = (struct xp_call){.send = m->hello_out, .send_rows = m->ones, .recv = m->hello_in, .recv_rows = m->ones};
        break;
    case XP_STEP_RECORDS:
        if (s->hop == 0 && !m->folded)
            xp_map_home(m, m->op.routing);
        xp_map_leave(m, m->map, s->hop);
        *c = (struct xp_call){.send = m->records_out, .send_rows = p->entries_to, .recv = m->records_in, .recv_rows = p->entries_from};
        break;
    case XP_STEP_FORWARD:
        send_rows(m, s);
        place_rows(m, s);
        break;
    case XP_STEP_BACK:
        send_units(m, s);
        place_rows(m, s);
        break;
    case XP_STEP_SCALARS:
        xp_scalars_leave(m, m->map, s->hop, s->hop == m->hops - 1 ? m->dots : received_scalars(m, s->hop + 1));
        *c = (struct xp_call){.send = m->records_out, .send_rows = p->entries_from, .recv = received_scalars(m, s->hop), .recv_rows = p->entries_to};
        break;
    default:
        break;
    }
}

/* XP_IN_PROGRESS: the device must be asked again. */
static xp_status local_work(struct xp_moe *m, const struct xp_moe_step *s)
{
    const struct xp_moe_op *op = &m->op;
    xp_status st = XP_OK;
    if (s->kind == XP_STEP_FOLD)
        st = m->fold->choose(m, op->routing);
    else if (s->kind == XP_STEP_FOLD_GRAD)
        st = m->fold->gradients(m, op->routing);
    else if (s->kind == XP_STEP_FOLD_END)
        st = m->fold->end(m, op->routing);
    else if (s->kind == XP_STEP_HOME && m->folded)
        st = m->fold->home(m, op->routing);
    else if (s->kind == XP_STEP_ARRIVE)
        m->rows->arrive(m, m->map, SIZE_MAX);
    else if (s->kind == XP_STEP_HOME)
        m->rows->units_home(m, m->map, weighted(m), SIZE_MAX);
    else if (s->kind == XP_STEP_SCALARS_HOME)
        xp_scalars_home(m, op->routing, received_scalars(m, 0), op->grad_weight);
    return st == XP_OK ? m->rows->error(m) : st;
}

static int is_local(const struct xp_moe_step *s)
{
    return s->kind == XP_STEP_ARRIVE || s->kind == XP_STEP_HOME || s->kind == XP_STEP_SCALARS_HOME || s->kind == XP_STEP_FOLD ||
           s->kind == XP_STEP_FOLD_GRAD || s->kind == XP_STEP_FOLD_END;
}

static int moves_rows(const struct xp_moe_step *s)
{
    return s->kind == XP_STEP_FORWARD || s->kind == XP_STEP_BACK;
}

/* Whether the step after this one, the last hop, works on rows as they come. */
static int takes_in(const struct xp_moe *m, const struct xp_moe_step *s)
{
    return m->rows->piecewise && moves_rows(s) && (s[1].kind == XP_STEP_ARRIVE || (s[1].kind == XP_STEP_HOME && !m->folded));
}

/* Rows laid out between two looks at the messages. */
static size_t piece_of(const struct xp_moe *m)
{
    return INTAKE_BYTES / m->shape.row_bytes + 1;
}

/* A piece of the next step while this one waits. Returns whether there was any. */
static int take_in(struct xp_moe *m, const struct xp_moe_step *s)
{
    if (!takes_in(m, s))
        return 0;
    return s->kind == XP_STEP_FORWARD ? m->rows->arrive(m, m->map, piece_of(m)) > 0 : m->rows->units_home(m, m->map, weighted(m), piece_of(m)) > 0;
}

/*
 * A piece of the step under way, of what comes after it or of what came before it, while it waits. Returns whether there was any. Rows of
 * virtual tokens are made while ranks agree on them, too: those that choose last hold up all others.
 */
static int use_wait(struct xp_moe *m, const struct xp_moe_step *s, xp_status *st)
{
    if (m->filling.left) {
        *st = xp_folded_fill(m, m->op.routing);
        *st = *st == XP_OK ? XP_IN_PROGRESS : *st;
        return 1;
    }
    if (m->folded && !m->device && s->kind == XP_STEP_BACK && s[1].kind == XP_STEP_HOME && !m->own_home) {
        xp_folded_own_home(m, m->op.routing);
        return 1;
    }
    return take_in(m, s);
}

/* Rows must be made before a call of theirs. */
static xp_status fill_before(struct xp_moe *m, const struct xp_moe_step *s)
{
    xp_status st = XP_OK;
    while (m->filling.left && moves_rows(s) && st == XP_OK)
        st = xp_folded_fill(m, m->op.routing);
    return st;
}

xp_status xp_moe_start_call(struct xp_moe *m, enum xp_moe_channel channel)
{
    struct xp_channel *ch = &m->channel[channel];
    m->call.seq = ch->calls++;
    m->call.stream = m->stream;
    memcpy(m->codec_before, m->stats->codec, sizeof m->codec_before);
    return ch->ops->start(ch->state, &m->call, m->stats);
}

static xp_status begin_call(struct xp_moe *m, const struct xp_moe_step *s)
{
    xp_status st = s->kind == XP_STEP_SCALARS ? m->rows->dots_known(m) : fill_before(m, s);
    if (st != XP_OK)
        return st;
    prepare_call(m, s);
    m->call.distinct = m->shape.path != XP_PATH_FLAT && m->shape.comm->nodes == 2;
    st = m->rows->error(m);
    if (st != XP_OK)
        return st;
    if (takes_in(m, s))
        xp_intake_begin(m, s->hop, s->kind == XP_STEP_FORWARD, m->call.recv, s->kind == XP_STEP_FORWARD ? first_rows(m) : m->op.in);
    m->calling = 1;
    return m->going.stage != XP_AHEAD_NONE && s->kind == XP_STEP_FORWARD ? xp_ahead_agreed(m) : xp_moe_start_call(m, s->channel);
}

/* An operation names the codec of a hop that was coded, and counts as bypassed when none was. */
static void account(struct xp_moe *m, const struct xp_moe_step *s)
{
    const struct xp_comm *c = m->shape.comm;
    if (!moves_rows(s) || (m->row_calls > 0 && strcmp(m->stats->codec, "raw") == 0))
        memcpy(m->stats->codec, m->codec_before, sizeof m->codec_before);
    if (!moves_rows(s))
        return;
    m->row_calls++;
    for (int i = 0; i < c->size; i++) {
        if (c->node_of[i] != c->node)
            m->stats->hop_rows_slow += m->call.send_rows[i];
        else if (i != c->rank)
            m->stats->hop_rows_fast += m->call.send_rows[i];
    }
}

/* The records of a hop are here. */
static xp_status enter(struct xp_moe *m, int hop)
{
    const xp_status st = xp_map_enter(m, m->map, hop);
    if (st != XP_OK || hop < m->hops - 1)
        return st;
    xp_map_layout(m, m->map);
    m->rows->map_known(m, m->op.routing);
    return m->rows->error(m);
}

/* The hellos about virtual tokens are here. */
static xp_status agree_folded(struct xp_moe *m)
{
    xp_status st = xp_hello_verdict(m, m->map);
    if (st != XP_OK || !xp_hello_tells_all(&m->shape))
        return st;
    xp_map_leave(m, m->map, 0);
    st = xp_hello_records(m, m->map);
    return st == XP_OK ? enter(m, 0) : st;
}

static xp_status end_call(struct xp_moe *m, const struct xp_moe_step *s)
{
    m->channel[s->channel].ops->finish(m->channel[s->channel].state);
    m->calling = 0;
    account(m, s);
    if (s->kind == XP_STEP_HELLO && m->folded)
        return agree_folded(m);
    return s->kind == XP_STEP_RECORDS ? enter(m, s->hop) : XP_OK;
}

/* ---- what request.c drives --------------------------------------------------------------------------------------------- */

static xp_status moe_start(void *state, const struct xp_call *call, xp_stats *stats)
{
    struct xp_moe *m = state;
    m->stats = stats;
    m->bypassed_before = stats->bypassed;
    m->row_calls = 0;
    return xp_moe_moves_rows(m) ? m->rows->begin(m, m->op.routing, call->stream) : XP_OK;
}

static void end_operation(struct xp_moe *m)
{
    m->stats->bypassed = m->bypassed_before + (m->row_calls && m->stats->bypassed - m->bypassed_before == m->row_calls);
    if (!m->folded)
        return;
    if (m->op.kind == XP_MOE_DISPATCH)
        m->op.routing->stage = XP_DISPATCHED;
    else if (m->op.kind == XP_MOE_COMBINE)
        m->op.routing->stage = XP_COMBINED;
    else if (m->op.kind == XP_MOE_COMBINE_BACKWARD)
        m->op.routing->stage = XP_COMBINED_BACKWARD;
    if (m->op.kind == XP_MOE_DISPATCH)
        m->stats->clusters += xp_fold_clusters(m->op.routing->fold);
    xp_folded_stats(m, m->op.routing, m->stats);
}

static xp_status moe_progress(void *state, int *moved)
{
    struct xp_moe *m = state;
    xp_status st;
    if (m->at == m->steps)
        return XP_OK;
    const struct xp_moe_step *s = &m->step[m->at];
    if ((st = xp_ahead_progress(m, moved)) != XP_IN_PROGRESS)
        return st;
    if (is_local(s)) {
        st = local_work(m, s);
        *moved += st != XP_IN_PROGRESS || !m->device; /* else the device must be asked again */
    } else {
        st = m->calling ? XP_OK : begin_call(m, s);
        if (st == XP_OK)
            st = m->channel[s->channel].ops->progress(m->channel[s->channel].state, moved);
        if (st == XP_IN_PROGRESS && !*moved && use_wait(m, s, &st))
            ++*moved;
        else if (st == XP_IN_PROGRESS && !*moved)
            xp_books_work(m->channel[s->channel].shape->books, XP_BOOKS_IDLE);
        if (st != XP_OK)
            return st;
        st = end_call(m, s);
    }
    if (st != XP_OK || ++m->at < m->steps)
        return st == XP_OK ? XP_IN_PROGRESS : st;
    end_operation(m);
    return XP_OK;
}

static void moe_waiting_for(void *state, char *text, size_t size)
{
    static const char *const names[] = {"hello: ", "records of hop %d: ", "hop %d: ", "", "hop %d back: ", "", "weights, hop %d back: ", "", "", "", ""};
    struct xp_moe *m = state;
    text[0] = 0;
    if (!m->calling && m->device)
        snprintf(text, size, "the device");
    if (!m->calling)
        return;
    const struct xp_moe_step *s = &m->step[m->at];
    char inner[280] = "", head[40];
    m->channel[s->channel].ops->waiting_for(m->channel[s->channel].state, inner, sizeof inner);
    snprintf(head, sizeof head, names[s->kind], s->hop + 1);
    snprintf(text, size, "%s%s", head, inner[0] ? inner : "its own messages to leave");
}

static void moe_finish(void *state)
{
    struct xp_moe *m = state;
    if (m->calling) {
        enum xp_moe_channel ch = m->step[m->at].channel;
        m->channel[ch].ops->finish(m->channel[ch].state);
    }
    m->calling = 0;
    xp_ahead_finish(m);
    if (xp_moe_moves_rows(m))
        m->rows->end(m);
}

static void moe_destroy(void *state)
{
    xp_moe_destroy(state);
}

const struct xp_algo_ops xp_moe_ops = {
    .size = sizeof(struct xp_algo_ops),
    .name = "moe",
    .about = "dispatch and combine over inner plans",
    .start = moe_start,
    .progress = moe_progress,
    .waiting_for = moe_waiting_for,
    .finish = moe_finish,
    .destroy = moe_destroy,
};

/*
 * routes.h - which transport reaches which peer
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_ROUTES_H
#define XP_ROUTES_H

#include "lib/comm.h"
#include "lib/topology.h"

/*
 * Opens the transports this comm needs, exchanges their addresses and connects them; then messages may flow. Collective.
 * interface_ is the one the start-up went through, NULL = unknown. On an error the text is in c->error.
 */
xp_status xp_routes_open(struct xp_comm *c, const struct xp_place *places, const char *interface_);

/* Whether closing would cut off nothing that was sent; nothing may be sent any more. */
int xp_routes_flushed(struct xp_comm *c);

/* At most 2 s, also with dead peers and after a failed open. */
void xp_routes_close(struct xp_comm *c);

/* A peer is gone: its operations end. */
void xp_routes_fail(struct xp_comm *c, int peer);

#endif

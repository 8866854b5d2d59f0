/*
 * exchange.h - one diverted exchange, on the proxy's thread
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_EXCHANGE_H
#define XP_EXCHANGE_H

#include "lib/interpose/proxy.h"

/* Waits for the send buffer, exchanges, counts. Collective over the communicator. */
xp_status xp_exchange_run(struct xp_proxy *p, const struct xp_slot *s);

/* Gives the core away, the longer nothing moves the more. */
void xp_exchange_idle(unsigned rounds);

#endif

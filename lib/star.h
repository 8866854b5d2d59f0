/*
 * star.h - the star of sockets: every rank holds one connection to rank 0
 *
 * It is made at start-up and stays open as the liveness network (liveness.h).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_STAR_H
#define XP_STAR_H

#include "crosspress/crosspress.h"
#include "lib/handshake.h"
#include "lib/socket.h"

struct xp_bootstrap_net {
    int rank, size;
    uint64_t job; /* random, chosen by rank 0 */
    int *fds;     /* rank 0: [size], -1 for itself; others: [1], the connection to rank 0 */
};

#define XP_LATE_MSG (XP_MSG_HEAD + 8u) /* a rank's word that its deadline has passed; body = the deadline in ms */

/*
 * Rank 0: gathers the others on a listening socket (which stays the caller's). All of them hear of a failure.
 * Returns XP_OK; XP_ERR_TIMEOUT (the deadline of any rank; text lists the missing ranks); XP_ERR_MISMATCH; XP_ERR_REMOTE; XP_ERR_NO_MEMORY; XP_ERR_SYSTEM.
 */
xp_status xp_star_gather(struct xp_bootstrap_net *net, int listener, const struct xp_identity *me, double deadline,
                         char *err, size_t err_size);

/* Other ranks: tries the addresses in turn until one of them is rank 0 of this job. Returns as above. */
xp_status xp_star_join(struct xp_bootstrap_net *net, const struct xp_address *roots, int nroots,
                       const struct xp_identity *me, double deadline, char *err, size_t err_size);

/* Closes what is open; also after a failure. */
void xp_star_close(struct xp_bootstrap_net *net);

#endif

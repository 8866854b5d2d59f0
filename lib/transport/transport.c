/*
 * transport.c - the list of transports
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/transport/transport.h"

static const struct xp_transport_ops *const list[] = {&xp_transport_shm, &xp_transport_ucx, NULL};

const struct xp_transport_ops *const *xp_transport_list(void)
{
    return list;
}

/*
 * bootstrap.h - from "here are some ranks" to the star of sockets
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_BOOTSTRAP_H
#define XP_BOOTSTRAP_H

#include "lib/params.h"
#include "lib/star.h"

/*
 * Finds the other ranks through boot (NULL: the environment) and fills *net. Collective.
 * Returns XP_OK, or an error whose text is in err. xp_star_close() ends what was started.
 */
xp_status xp_bootstrap_run(struct xp_bootstrap_net *net, const xp_bootstrap *boot, const struct xp_params *p, char *err,
                           size_t err_size);

#endif

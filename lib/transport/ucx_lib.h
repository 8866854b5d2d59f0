/*
 * ucx_lib.h - libucp, loaded when it is first needed
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_UCX_LIB_H
#define XP_UCX_LIB_H

#include <stddef.h>
#include <ucp/api/ucp.h>

/* The functions that are used, under their own names. */
#define XP_UCX_SYMBOLS(X)                                                                                              \
    X(ucp_config_read)                                                                                                 \
    X(ucp_config_modify)                                                                                               \
    X(ucp_config_release)                                                                                              \
    X(ucp_init_version)                                                                                                \
    X(ucp_cleanup)                                                                                                     \
    X(ucp_context_query)                                                                                               \
    X(ucp_worker_create)                                                                                               \
    X(ucp_worker_destroy)                                                                                              \
    X(ucp_worker_query)                                                                                                \
    X(ucp_worker_release_address)                                                                                      \
    X(ucp_worker_progress)                                                                                             \
    X(ucp_ep_create)                                                                                                   \
    X(ucp_ep_close_nbx)                                                                                                \
    X(ucp_ep_flush_nbx)                                                                                                \
    X(ucp_tag_send_nbx)                                                                                                \
    X(ucp_tag_recv_nbx)                                                                                                \
    X(ucp_request_cancel)                                                                                              \
    X(ucp_request_free)                                                                                                \
    X(ucp_request_check_status)                                                                                        \
    X(ucp_get_version_string)                                                                                          \
    X(ucs_status_string)

struct xp_ucx_lib {
#define XP_UCX_FIELD(name) __typeof__(&name) name;
    XP_UCX_SYMBOLS(XP_UCX_FIELD)
#undef XP_UCX_FIELD
};

/*
 * The library, loaded once in a process and never unloaded (it has threads and hooks of its own). NULL: why says why not.
 * Loading it leaves signal handlers, memory allocation and standard output of the process alone.
 */
const struct xp_ucx_lib *xp_ucx_load(char *why, size_t why_size);

#endif

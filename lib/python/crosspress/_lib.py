"""_lib.py - the C library: where it is found, its structs and prototypes as ctypes sees them

The tables below repeat crosspress.h; tests/python/test_header.py compares them with it, name by name and type by type.

SPDX-License-Identifier: Apache-2.0
"""
import ctypes
import ctypes.util
import os
from ctypes import (CFUNCTYPE, POINTER, Structure, c_char, c_char_p, c_double, c_float, c_int, c_int32, c_size_t, c_uint32,
                    c_uint64, c_void_p)

from . import errors

# ---- enums: name -> value ------------------------------------------------------------------------------------------

STATUS = {
    'XP_OK': 0, 'XP_IN_PROGRESS': 1,
    'XP_ERR_INVALID_ARG': -1, 'XP_ERR_STATE': -2, 'XP_ERR_UNSUPPORTED': -3,
    'XP_ERR_NO_MEMORY': -10, 'XP_ERR_SYSTEM': -11,
    'XP_ERR_TIMEOUT': -20, 'XP_ERR_REMOTE': -21, 'XP_ERR_MISMATCH': -22,
    'XP_ERR_CORRUPT': -30, 'XP_ERR_INTERNAL': -40,
}
DTYPE = {'XP_BF16': 1, 'XP_F16': 2, 'XP_F32': 3, 'XP_BYTE': 4}
MODE = {'XP_MODE_DEFAULT': 0, 'XP_MODE_RAW': 1, 'XP_MODE_EXACT': 2, 'XP_MODE_BOUNDED': 3, 'XP_MODE_FOLDED': 4}
EPS_REF = {'XP_EPS_REF_DEFAULT': 0, 'XP_EPS_REF_MIN': 1, 'XP_EPS_REF_ROW': 2}
DITHER = {'XP_DITHER_DEFAULT': 0, 'XP_DITHER_OFF': 1, 'XP_DITHER_ON': 2}
LOG_LEVEL = {'XP_LOG_NONE': 0, 'XP_LOG_ERROR': 1, 'XP_LOG_WARN': 2, 'XP_LOG_INFO': 3, 'XP_LOG_DEBUG': 4}
COMBINE = {'XP_COMBINE_DEFAULT': 0, 'XP_COMBINE_ROWS': 1, 'XP_COMBINE_SUM': 2}
ALPHA = {'XP_ALPHA_FIT': 0, 'XP_ALPHA_FIXED': 1}
MEMORY = {'XP_MEMORY_HOST': 0, 'XP_MEMORY_DEVICE': 1}
CENTROID = {'XP_CENTROID_MEAN': 0, 'XP_CENTROID_LEADER': 1, 'XP_CENTROID_SEQUENCES': 2}
ENUMS = {'xp_status': STATUS, 'xp_dtype': DTYPE, 'xp_mode': MODE, 'xp_eps_ref': EPS_REF, 'xp_dither': DITHER,
         'xp_log_level': LOG_LEVEL, 'xp_combine_sum': COMBINE, 'xp_alpha': ALPHA, 'xp_centroid': CENTROID,
         'xp_memory': MEMORY}

OK, IN_PROGRESS = STATUS['XP_OK'], STATUS['XP_IN_PROGRESS']

# ---- callbacks and structs -----------------------------------------------------------------------------------------

AllgatherFn = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_size_t)
LogFn = CFUNCTYPE(None, c_void_p, c_int, c_char_p)


class Config(Structure):
    _fields_ = [('size', c_size_t), ('timeout_s', c_double), ('node', c_char_p), ('transport', c_char_p),
                ('interface_', c_char_p), ('log', LogFn), ('log_user', c_void_p)]


class Bootstrap(Structure):
    _fields_ = [('size', c_size_t), ('rank', c_int), ('nranks', c_int), ('threads', c_void_p), ('allgather', AllgatherFn),
                ('allgather_user', c_void_p), ('door', c_char_p), ('door_fd', c_int)]


class MoeDesc(Structure):
    _fields_ = [('size', c_size_t), ('experts', c_int), ('max_topk', c_int), ('combine', c_int), ('eps_combine', c_double),
                ('eps_grad', c_double), ('preset', c_char_p), ('rate', c_double), ('alpha_rule', c_int), ('alpha', c_double),
                ('centroid', c_int), ('hashes', c_int), ('width', c_int), ('rounds', c_int), ('refine', c_int),
                ('probes', c_int), ('outlier', c_double), ('error_limit', c_double)]


class RouteDesc(Structure):
    _fields_ = [('size', c_size_t), ('tokens', c_size_t), ('topk', c_int), ('expert', c_void_p), ('weight', c_void_p),
                ('expert_rank', c_void_p), ('sequence', c_void_p)]


class PlanDesc(Structure):
    _fields_ = [('size', c_size_t), ('dtype', c_int), ('dim', c_size_t), ('max_send_rows', c_size_t),
                ('max_recv_rows', c_size_t), ('mode', c_int), ('eps', c_double), ('eps_ref', c_int), ('dither', c_int),
                ('codec', c_char_p), ('algo', c_char_p), ('seed', c_uint64), ('moe', POINTER(MoeDesc)), ('memory', c_int), ('stream', c_void_p),
                ('transport', c_char_p), ('nccl_comm', c_void_p)]


class Stats(Structure):
    _fields_ = [('size', c_size_t), ('calls', c_uint64), ('bypassed', c_uint64), ('rows_sent', c_uint64),
                ('rows_unique', c_uint64), ('rows_raw', c_uint64), ('raw_bytes', c_uint64), ('wire_bytes_slow', c_uint64),
                ('wire_bytes_fast', c_uint64), ('err_mean', c_double), ('err_max', c_double), ('err_ref_max', c_double),
                ('seconds_total', c_double), ('seconds_encode', c_double), ('seconds_decode', c_double),
                ('seconds_wait', c_double), ('algo', c_char * 16), ('codec', c_char * 16), ('books_fitted', c_uint64),
                ('books_sent_bytes', c_uint64), ('books_memory', c_uint64), ('book_version', c_uint32), ('hop_rows_slow', c_uint64),
                ('hop_rows_fast', c_uint64), ('clusters', c_uint64), ('rate', c_double), ('rho', c_double),
                ('fold_err', c_double), ('fold_fallbacks', c_uint64)]


STRUCTS = {'xp_config': Config, 'xp_bootstrap': Bootstrap, 'xp_plan_desc': PlanDesc, 'xp_stats': Stats,
           'xp_moe_desc': MoeDesc, 'xp_route_desc': RouteDesc}

# ---- prototypes: name -> (result, arguments); 'xp_status' results are checked by call() ----------------------------

Status = c_int
Handle = c_void_p  # xp_comm *, xp_plan *, xp_request *, xp_routing *, xp_thread_group *
PROTOTYPES = {
    'xp_version': (c_char_p, []),
    'xp_status_string': (c_char_p, [c_int]),
    'xp_dtype_size': (c_size_t, [c_int]),
    'xp_config_init': (None, [POINTER(Config)]),
    'xp_thread_group_create': (Status, [POINTER(Handle), c_int]),
    'xp_thread_group_destroy': (None, [Handle]),
    'xp_door_open': (Status, [c_char_p, c_size_t, POINTER(c_int)]),
    'xp_bootstrap_init': (None, [POINTER(Bootstrap)]),
    'xp_comm_create': (Status, [POINTER(Handle), POINTER(Bootstrap), POINTER(Config)]),
    'xp_comm_destroy': (None, [Handle]),
    'xp_comm_rank': (c_int, [Handle]),
    'xp_comm_size': (c_int, [Handle]),
    'xp_comm_nodes': (c_int, [Handle]),
    'xp_comm_node_of': (c_int, [Handle, c_int]),
    'xp_comm_barrier': (Status, [Handle]),
    'xp_comm_allgather': (Status, [Handle, c_void_p, c_void_p, c_size_t]),
    'xp_comm_last_error': (c_char_p, [Handle]),
    'xp_last_error': (c_char_p, []),
    'xp_plan_desc_init': (None, [POINTER(PlanDesc)]),
    'xp_plan_create': (Status, [POINTER(Handle), Handle, POINTER(PlanDesc)]),
    'xp_plan_destroy': (None, [Handle]),
    'xp_plan_set_stream': (Status, [Handle, c_void_p]),
    'xp_alltoallv': (Status, [Handle, c_void_p, POINTER(c_size_t), c_void_p, POINTER(c_size_t), POINTER(Handle)]),
    'xp_alltoall': (Status, [Handle, c_void_p, c_void_p, c_size_t, POINTER(Handle)]),
    'xp_alltoallv_early': (Status, [Handle, c_void_p, POINTER(c_size_t), c_void_p, POINTER(c_size_t), POINTER(Handle)]),
    'xp_request_ready': (Status, [Handle, c_int]),
    'xp_request_arrived': (c_size_t, [Handle, c_int]),
    'xp_request_idle': (c_int, [Handle]),
    'xp_request_test': (Status, [Handle]),
    'xp_request_wait': (Status, [Handle]),
    'xp_request_free': (None, [Handle]),
    'xp_plan_stats': (Status, [Handle, POINTER(Stats)]),
    'xp_plan_stats_reset': (None, [Handle]),
    'xp_moe_desc_init': (None, [POINTER(MoeDesc)]),
    'xp_route_desc_init': (None, [POINTER(RouteDesc)]),
    'xp_route': (Status, [Handle, POINTER(RouteDesc), POINTER(Handle)]),
    'xp_routing_destroy': (None, [Handle]),
    'xp_routing_rows': (c_size_t, [Handle]),
    'xp_routing_local_experts': (c_int, [Handle]),
    'xp_routing_expert_ids': (POINTER(c_int32), [Handle]),
    'xp_routing_offsets': (POINTER(c_size_t), [Handle]),
    'xp_routing_clusters': (Status, [Handle, c_void_p, c_void_p, c_void_p, POINTER(c_size_t)]),
    'xp_dispatch': (Status, [Handle, Handle, c_void_p, c_void_p, POINTER(Handle)]),
    'xp_combine': (Status, [Handle, Handle, c_void_p, c_void_p, c_void_p, POINTER(Handle)]),
    'xp_combine_backward': (Status, [Handle, Handle, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(Handle)]),
    'xp_dispatch_backward': (Status, [Handle, Handle, c_void_p, c_void_p, c_void_p, POINTER(Handle)]),
}

# ---- loading -------------------------------------------------------------------------------------------------------

SONAME = 'libcrosspress.so.0'


def candidates():
    """Where the library may be, in order. CROSSPRESS_LIB is the only one when it is set."""
    if os.environ.get('CROSSPRESS_LIB'):
        return [os.environ['CROSSPRESS_LIB']]
    here = os.path.dirname(os.path.abspath(__file__))
    beside = [os.path.join(here, name) for name in (SONAME, 'libcrosspress.so')]
    found = ctypes.util.find_library('crosspress')
    return [path for path in beside if os.path.exists(path)] + [SONAME] + ([found] if found else [])


def load():
    problems = []
    for path in candidates():
        try:
            return ctypes.CDLL(path)
        except OSError as e:
            problems.append(str(e))
    raise ImportError('crosspress: the C library was not found. Set CROSSPRESS_LIB to its file, put it beside the Python '
                      'package, or install it (meson install). Tried: ' + '; '.join(problems))


def declare(library):
    for name, (result, arguments) in PROTOTYPES.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise ImportError(f'crosspress: {library._name} has no {name}: it is of another version than this package') from None
        function.restype, function.argtypes = result, arguments
    return library


lib = declare(load())
STATUS_NAME = {value: name for name, value in STATUS.items()}


def check(status, comm=None):
    """Raises what a status says, with the text of the comm's (or else the thread's) last error."""
    if status >= 0:
        return status
    text = (lib.xp_comm_last_error(comm) if comm else b'') or lib.xp_last_error() or lib.xp_status_string(status)
    raise errors.kind(status)(status, STATUS_NAME.get(status, f'status {status}'), text.decode(errors='replace'))


def text(value):
    """A str (or None) for a const char * field."""
    return None if value is None else str(value).encode()


def choice(value, table, prefix, what):
    """'bounded' -> 3. None is the default, a number is taken as it is."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    name = prefix + str(value).upper()
    if name not in table:
        known = ', '.join(n[len(prefix):].lower() for n in table)
        raise ValueError(f'crosspress: no {what} is called {value!r}; there are {known}')
    return table[name]

#!/usr/bin/env python3
# replacement_names.py - our libnccl.so.2 has every name of NCCL's, hands them on, and lets through those that nobody has heard of
#
# usage: replacement_names.py REPLACEMENT NEXT REAL LIST LIBRARY_DIR...
#   NEXT: the library that finds real/libnccl.so.2; REAL: an NCCL with one function more than LIST names; LIST: name and release
# SPDX-License-Identifier: Apache-2.0
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile


def check(folder, names):
    """In a process whose loader looks into `folder` first."""
    nccl = ctypes.CDLL(os.path.join(folder, "libnccl.so.2"))
    wrong = []
    with open(names) as lines:
        listed = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    wrong += [f"{prefix}{name} is missing" for name in listed for prefix in ("", "p") if not hasattr(nccl, prefix + name)]

    version = ctypes.c_int()
    if nccl.ncclGetVersion(ctypes.byref(version)) or version.value != 22809:
        wrong.append(f"ncclGetVersion says {version.value}")
    nccl.ncclGetErrorString.restype = ctypes.c_char_p
    if nccl.ncclGetErrorString(6) != b"remote process exited or there was a network error":
        wrong.append(f"ncclGetErrorString says {nccl.ncclGetErrorString(6)}")
    if nccl.ncclLLA2ACalcSlots(3, 20) != 9 or nccl.pncclLLA2ACalcSlots(5, 8) != 5:
        wrong.append("a trampoline loses its arguments")
    if not hasattr(nccl, "ncclFutureCall"):
        wrong.append("the function of a later NCCL is missing")
    else:
        nccl.ncclFutureCall.argtypes = [ctypes.c_int, ctypes.c_double, ctypes.c_char_p]
        if nccl.ncclFutureCall(2, 3.0, b"abcd") != 9:
            wrong.append("the function of a later NCCL gives something else")
    if hasattr(nccl, "ncclNeverHeardOf"):
        wrong.append("a name that NCCL does not have resolves")
    print("\n".join(wrong) or f"{len(listed)} names")
    return 1 if wrong or len(listed) < 90 else 0


def main():
    if len(sys.argv) == 3:
        return check(*sys.argv[1:])
    replacement, following, real, names = sys.argv[1:5]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(replacement, os.path.join(folder, "libnccl.so.2"))
        shutil.copy(following, folder)
        os.mkdir(os.path.join(folder, "real"))
        os.symlink(real, os.path.join(folder, "real", "libnccl.so.2"))
        env = dict(os.environ, LD_LIBRARY_PATH=":".join([folder] + sys.argv[5:]), CROSSPRESS_NCCL_PATH=real)
        return subprocess.run([sys.executable, __file__, folder, names], env=env).returncode


sys.exit(main())

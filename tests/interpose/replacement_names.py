#!/usr/bin/env python3
# replacement_names.py - our libnccl.so.2 has every name of NCCL's, hands them on, and lets through those that nobody has heard of
#
# usage: replacement_names.py REPLACEMENT NEXT REAL LIST
#   NEXT: the library that finds real/libnccl.so.2; REAL: an NCCL with one function more than LIST names; LIST: name and release
# SPDX-License-Identifier: Apache-2.0
import ctypes
import os
import shutil
import sys
import tempfile


def main():
    replacement, following, real, names = sys.argv[1:]
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        ours = os.path.join(folder, "libnccl.so.2")
        shutil.copy(replacement, ours)
        shutil.copy(following, folder)
        os.mkdir(os.path.join(folder, "real"))
        os.symlink(real, os.path.join(folder, "real", "libnccl.so.2"))
        os.environ["CROSSPRESS_NCCL_PATH"] = real
        nccl = ctypes.CDLL(ours)
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
        future = nccl.ncclFutureCall
        future.argtypes = [ctypes.c_int, ctypes.c_double, ctypes.c_char_p]
        if future(2, 3.0, b"abcd") != 9:
            wrong.append(f"the function of a later NCCL gives {future(2, 3.0, b'abcd')}")
        try:
            nccl.ncclNeverHeardOf
            wrong.append("a name that NCCL does not have resolves")
        except AttributeError:
            pass
    print("\n".join(wrong) or f"{len(listed)} names")
    return 1 if wrong else 0


sys.exit(main())

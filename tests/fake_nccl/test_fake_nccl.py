#!/usr/bin/env python3
# test_fake_nccl.py - the doubles report the mistakes of programs, and fail as they are asked to
#
# usage: test_fake_nccl.py FAULTY NONBLOCKING GROUPED [OLD_LIBRARY_DIR]      (programs; the folder of the double of NCCL 2.21)
# SPDX-License-Identifier: Apache-2.0
import glob
import os
import random
import re
import subprocess
import sys
import tempfile

faulty, nonblocking, grouped, old = sys.argv[1:5]
seed = os.environ.get("CUEMU_SEED", str(random.randrange(1 << 20) * 64))
print(f"CUEMU_SEED={seed}", flush=True)
failures = []
libraries = os.path.join(os.path.dirname(old), "..", "cuemu") + ":" + os.path.dirname(old)


def run(command, **env):
    env.setdefault("LD_LIBRARY_PATH", libraries)
    done = subprocess.run(command, env=dict(os.environ, CUEMU_SEED=seed, **env), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")


def check(what, good, result):
    print(("ok   " if good else "FAIL ") + what, flush=True)
    if not good:
        failures.append(what)
        print(f"  exit code {result[0]}\n{result[1]}{result[2]}")


def says(what, command, text, code=None, **env):
    """The program must end with a failure, and a rank with `code`, and the text must be there."""
    result = run(command, **env)
    good = result[0] == 1 and re.search(text, result[2]) and (code is None or f"ended with code {code}" in result[2])
    check(what, good, result)


def prints(what, command, text, **env):
    result = run(command, **env)
    check(what, result[0] == 0 and re.search(text, result[1]), result)


# mistakes of programs
says("sends before receives", [faulty, "deadlock"], "waits to\n  send 50000 bytes to rank", 98, FAKE_NCCL_STUCK_S="1")
says("counts that differ", [faulty, "mismatch"], "rank 1 sends 50000 bytes of type 1 where rank 0 receives 49999", 98)
for name, text in (("fill", "that memset|memset .* writes"), ("read", "copy .* reads|that copy"), ("refill", "memset|NCCL group")):
    for i in range(4):
        says(f"{name} without an order between the streams", [faulty, name], f"cuemu: .*({text}).*nothing orders the two", 97,
             FAKE_NCCL_FAULTS="late=3000" if i % 2 else "")
says("device memory touched by the host", [faulty, "touch"], "the host touches memory of a device", 97, CUEMU_PROTECT="1")
says("CUDA calls in a host function", [faulty, "host"], "called inside an operation of a stream", 97)

# failures on request
prints("asynchronous error", [faulty, "async"], "rank 0\ngroup 3: 6\n", FAKE_NCCL_FAULTS="async#3=6")
prints("asynchronous error of a rank", [faulty, "async"], "rank 1\ngroup 2: 2\n", FAKE_NCCL_FAULTS="async#2=2", FAKE_NCCL_FAULT_RANK="1")
prints("result code", [faulty, "codes"], "exchange 0: 0\nexchange 1: 3\nexchange 2: 0\nncclSend: call 3 fails",
       FAKE_NCCL_FAULTS="ncclSend#3=3", FAKE_NCCL_FAULT_RANK="0")
prints("result code of every call", [faulty, "codes"], "exchange 0: 2\nexchange 1: 2\n", FAKE_NCCL_FAULTS="ncclRecv=2")
prints("a rank falls silent", [faulty, "mute"], "rank 0\nstate 0, stream 600\nrank 1\nstate 0, stream 600", FAKE_NCCL_FAULTS="mute#2",
       FAKE_NCCL_FAULT_RANK="1")
prints("a receive asks for too much", [faulty, "async"], "group 2: 5", FAKE_NCCL_FAULTS="mismatch#2", FAKE_NCCL_FAULT_RANK="1",
       FAKE_NCCL_ON_MISMATCH="error")
prints("late groups", [faulty, "simple"], "version 22809, unknown result code", FAKE_NCCL_FAULTS="late=5000,delay:ncclGroupEnd#2=20")
prints("the version", [faulty, "simple"], "version 23007,", FAKE_NCCL_VERSION="23007")
prints("slow background work", [nonblocking], "half 1 of 2", FAKE_NCCL_FAULTS="inprogress=30")
prints("non-blocking groups of many calls", [faulty, "background"], "rank 1\n")
prints("handles are used again", [faulty, "handles"], "stale 4\nsame handle 1\n")
prints("ranks over TCP", [grouped, "uneven"], "step 5 from 3", FAKE_NCCL_TCP="lo")
says("an interface that is not there", [grouped, "uneven"], "ncclGetUniqueId.*system error", FAKE_NCCL_TCP="nowhere0")
prints("the library of 2.21", [grouped, "zeros"], "step 5 from 3", LD_LIBRARY_PATH=old + ":" + libraries)
prints("its version", [faulty, "simple"], "version 22105,", LD_LIBRARY_PATH=old + ":" + libraries)

with tempfile.TemporaryDirectory() as folder:
    result = run([faulty, "simple"], FAKE_NCCL_LOG=os.path.join(folder, "calls"))
    calls = [open(name).read() for name in glob.glob(os.path.join(folder, "calls.*"))]
    counts = [(c.count("ncclSend "), c.count("ncclRecv "), c.count("ncclGroupEnd "), c.count("ncclCommDestroy ")) for c in calls]
    check("the log of calls", counts == [(10, 10, 5, 1)] * 2, (result[0], str(counts), ""))

sys.exit(1 if failures else 0)

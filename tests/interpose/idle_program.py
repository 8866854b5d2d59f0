#!/usr/bin/env python3
# idle_program.py - what preloading costs a program that never calls NCCL: less than 5 ms, and not a word
#
# usage: idle_program.py LIBRARY...      (the preload library, the replacement)
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
import time

ROUNDS = 40
MOST_MS = 5.0


def run(env):
    """Milliseconds of a program that does nothing, and what was printed."""
    since = time.perf_counter()
    done = subprocess.run(["/bin/true"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return 1e3 * (time.perf_counter() - since), done.stdout, done.returncode


def main():
    plain = dict(os.environ, CROSSPRESS_LOG="debug", CROSSPRESS_STATS="1")
    failed = 0
    for library in sys.argv[1:]:
        alone = loaded = 1e9
        for _ in range(ROUNDS):  # in turns, and the fastest counts: others may be at work here
            alone = min(alone, run(plain)[0])
            ms, text, code = run(dict(plain, LD_PRELOAD=library))
            loaded = min(loaded, ms)
            if text or code:
                print(f"{library}: exit code {code}, printed {text!r}")
                failed = 1
        print(f"{library}: {alone:.2f} ms alone, {loaded:.2f} ms preloaded")
        failed |= loaded - alone > MOST_MS
    return failed


sys.exit(main())

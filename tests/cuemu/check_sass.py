#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What nvcc made of the kernels: registers, spills, and how the hot loops reach device memory. Prints TAP; 77 without cuobjdump.

   check_sass.py FOLDER OBJECT...        FOLDER: where cuobjdump may lie besides PATH

 - no kernel spills or has a stack; none needs more than 128 registers
 - hot kernels load rows 16 bytes at a time in a loop, and store so; what they load in smaller pieces there is indices
"""
import pathlib
import re
import shutil
import subprocess
import sys

# kernel -> (name must contain, most narrow loads in loops, most narrow stores). Where a kernel also has a path for rows off 16-byte
# boundaries no most is given; where results are words, no wide store is asked for.
RESULTS_ARE_WORDS = {"assign_kernel", "refine_kernel", "compare_kernel"}
HOT = {
    "hash_kernel": ("Lb1E", 1, 1),      # the row's index; ids
    "centroid_kernel": ("Lb1E", 4, 0),  # start, order, index, count
    "assign_kernel": ("", None, None),
    "refine_kernel": ("", None, None),
    "encode_kernel": ("", None, None),
    "decode_kernel": ("", None, None),
    "decodesums_kernel": ("", None, None),
    "pack_kernel": ("", None, None),
    "combine_kernel": ("Lb1E", None, 0),
    "sums_kernel": ("Lb1E", None, 0),
    "gather_kernel": ("Lb1E", None, 0),
    "compare_kernel": ("Lb1E", None, None),
    "backward_kernel": ("Lb1E", None, 0),
}
MOST_REGISTERS = 128


def find_tool(folder):
    inside = sorted(pathlib.Path(folder).glob("**/bin/cuobjdump"))
    return shutil.which("cuobjdump") or (str(inside[0]) if inside else None)


def run(tool, *args):
    env = {"PATH": str(pathlib.Path(tool).parent) + ":/usr/bin:/bin"}  # it calls nvdisasm
    return subprocess.run([tool, *args], capture_output=True, text=True, check=True, env=env).stdout


def resources(tool, obj):
    """(arch, function, registers, stack, local)"""
    arch = name = None
    for line in run(tool, "-res-usage", obj).splitlines():
        if m := re.search(r"arch = (sm_\d+)", line):
            arch = m[1]
        if m := re.search(r"Function (\S+):", line):
            name = m[1]
        if m := re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", line):
            yield arch, name, int(m[1]), int(m[2]), int(m[3])


def functions(tool, obj):
    """(arch, function, [(address, instruction)])"""
    arch, name, code = None, None, []
    for line in run(tool, "-sass", obj).splitlines():
        if m := re.search(r"arch = (sm_\d+)", line):
            next_arch = m[1]
            if name:
                yield arch, name, code
            arch, name, code = next_arch, None, []
        elif m := re.search(r"Function : (\S+)", line):
            if name:
                yield arch, name, code
            name, code = m[1], []
        elif m := re.match(r"\s*/\*([0-9a-f]+)\*/\s+(.*?);", line):
            code.append((int(m[1], 16), m[2]))
    if name:
        yield arch, name, code


def loops(code):
    """Address ranges that a backward branch closes."""
    for at, text in code:
        m = re.search(r"\bBRA(?:\.\w+)* .*?(0x[0-9a-f]+)", text)
        if m and int(m[1], 16) < at:
            yield int(m[1], 16), at


def count(code, pattern, inside=None):
    return sum(bool(re.search(pattern, text)) for at, text in code if inside is None or any(a <= at <= b for a, b in inside))


def short(name):
    m = re.search(r"([a-z]+_kernel)(.*?)(?:EEv|E?v?N|$)", name)
    return (m[1] + " " + m[2]) if m else name


def hot_problem(name, code):
    kernel = re.search(r"([a-z]+_kernel)", name)
    if not kernel or kernel[1] not in HOT or HOT[kernel[1]][0] not in name:
        return None
    (_, most_loads, most_stores), closed = HOT[kernel[1]], list(loops(code))
    problems = []
    if not count(code, r"\bLDG\S*\.128", closed):
        problems.append("no 16-byte load in a loop")
    if kernel[1] not in RESULTS_ARE_WORDS and not count(code, r"\bSTG?\.E\S*\.128"):  # ptxas places the store of a rare loop end behind the exit
        problems.append("no 16-byte store")
    narrow = count(code, r"\bLDG(?!\S*\.128)", closed)
    if most_loads is not None and narrow > most_loads:
        problems.append(f"{narrow} narrow loads in loops")
    narrow = count(code, r"\bSTG?\.E(?!\S*\.128)")
    if most_stores is not None and narrow > most_stores:
        problems.append(f"{narrow} narrow stores")
    return "; ".join(problems)


def main():
    tool = find_tool(sys.argv[1])
    if not tool:
        print("1..0 # SKIP no cuobjdump")
        return 77
    problems, worst, hot, seen = [], {}, 0, 0
    for obj in sys.argv[2:]:
        for arch, name, registers, stack, local in resources(tool, obj):
            seen += 1
            key = (arch, short(name).split()[0])
            worst[key] = max(worst.get(key, 0), registers)
            if registers > MOST_REGISTERS or stack or local:
                problems.append(f"{arch} {short(name)}: {registers} registers, stack {stack}, local {local}")
        for arch, name, code in functions(tool, obj):
            if count(code, r"\b(LDL|STL)\b"):
                problems.append(f"{arch} {short(name)}: local memory")
            verdict = hot_problem(name, code)
            hot += verdict is not None
            if verdict:
                problems.append(f"{arch} {short(name)}: {verdict}")
    for (arch, kernel), registers in sorted(worst.items()):
        print(f"# {arch} {kernel}: up to {registers} registers")
    for p in problems:
        print("# " + p)
    print(f"{'not ok' if problems or not seen else 'ok'} 1 - {seen} kernels: no spills, at most {MOST_REGISTERS} registers, rows in 16-byte pieces")
    print(f"{'ok' if hot else 'not ok'} 2 - {hot} hot kernels were looked at")
    print("1..2")
    return bool(problems or not seen or not hot)


sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Laws of the tree that no compiler checks. Prints TAP.

   check_headers.py SOURCE_ROOT LIBRARY CC [CXX]

 - every public header compiles alone, as C11 and as C++, without a warning
 - the library exports the functions that the public headers declare, and nothing else
 - includes point the allowed way: hash -> hash; lib/transport -> lib/transport and NCCL's interface; lib -> lib, except for the files that reach up;
   collectives -> collectives, hash, lib, the list of CUDA kernels; public headers from everywhere
 - names of the library's source files are unique, and every source file begins with a comment that has its name and license
"""
import pathlib
import re
import subprocess
import sys

ROOT, LIBRARY, COMPILERS = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
PUBLIC = sorted((ROOT / "lib/include/crosspress").glob("*.h"))
REACH_UP = {"api.c", "plan.c", "plan.h", "request.c", "codec_api.c", "moe_api.c", "moe_plan.c"}
ALLOWED = {  # folder -> prefixes of what its files may include besides the public headers and config.h
    "hash": ("hash/",),
    "lib/transport": ("lib/transport/", "lib/interpose/nccl_abi.h"),
    "lib": ("lib/",),
    "collectives": ("collectives/", "hash/", "lib/", "cuda/cuda_kernels.h"),
}


def compiles(compiler, language, header):
    args = [compiler, "-x", language, "-std=" + ("c11" if language == "c" else "c++11"), "-Wall", "-Wextra", "-Wpedantic", "-Werror",
            "-fsyntax-only", "-I", str(ROOT / "lib/include"), "-include", str(header), "/dev/null"]
    done = subprocess.run(args, capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


def declared():
    names = set()
    for header in PUBLIC:
        text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.S)
        names |= set(re.findall(r"XP_API[^;(]*?\b(xp_\w+)\s*\(", text))
    return names


def exported():
    out = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], capture_output=True, text=True, check=True).stdout
    return {line.split()[2].split("@")[0] for line in out.splitlines() if line.split()[1] != "A"}


def sources(folder):
    return [f for f in sorted((ROOT / folder).rglob("*")) if f.suffix in (".c", ".h") and "include" not in f.parts]


def home(path):
    relative = path.relative_to(ROOT).as_posix()
    return max((f for f in ALLOWED if relative.startswith(f + "/")), key=len)


def wrong_includes():
    wrong = []
    for folder in ("hash", "lib", "collectives"):
        for path in sources(folder):
            place = home(path)
            if place == "lib" and (path.name in REACH_UP or "tools" in path.parts):
                continue
            for included in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), flags=re.M):
                fine = included == "config.h" or included.startswith(("crosspress/",) + ALLOWED[place])
                if not fine:
                    wrong.append(f"{path.relative_to(ROOT)} includes {included}")
    return wrong


def wrong_names():
    seen, wrong = {}, []
    for folder in ("hash", "lib", "collectives", "perf", "tests"):
        for path in sources(folder):
            if path.name in seen and folder in ALLOWED:
                wrong.append(f"{path.relative_to(ROOT)} has the name of {seen[path.name]}")
            seen[path.name] = path.relative_to(ROOT)
            head = path.read_text()[:3000]
            if not head.startswith(f"/*\n * {path.name} - ") or "SPDX-License-Identifier: Apache-2.0" not in head:
                wrong.append(f"{path.relative_to(ROOT)} does not begin with its name and license")
    return wrong


def main():
    results = []
    for compiler, language in zip(COMPILERS, ("c", "c++")):
        for header in PUBLIC:
            results.append((f"{header.name} alone as {language}", compiles(compiler, language, header)))
    missing, extra = declared() - exported(), exported() - declared()
    problem = "".join([f"declared but not exported: {sorted(missing)} " if missing else "", f"exported but not declared: {sorted(extra)}" if extra else ""])
    results.append(("exports are the public functions", problem if declared() else "no declaration found"))
    results.append(("include direction", "; ".join(wrong_includes())))
    results.append(("names and heads of source files", "; ".join(wrong_names())))
    for number, (name, problem) in enumerate(results, 1):
        print(f"{'not ok' if problem else 'ok'} {number} - {name}")
        for line in problem.splitlines():
            print("# " + line)
    print(f"1..{len(results)}")
    return any(problem for _, problem in results)


sys.exit(main())

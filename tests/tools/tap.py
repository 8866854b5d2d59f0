"""tap.py - test scripts that report case by case (TAP, what meson counts)

SPDX-License-Identifier: Apache-2.0
"""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
count = failed = 0


def case(name, good, detail=''):
    """One result; the detail of a failed one is shown."""
    global count, failed
    count += 1
    failed += not good
    print(f'{"ok" if good else "not ok"} {count} - {name}', flush=True)
    if not good and detail:
        for line in str(detail).strip().splitlines()[-30:]:
            print(f'# {line}', flush=True)
    return good


def skip(name, why):
    global count
    count += 1
    print(f'ok {count} - {name} # SKIP {why}', flush=True)


def done():
    print(f'1..{count}', flush=True)
    sys.exit(failed != 0)


def run(command, timeout=60, env=None, unset=(), cwd=None):
    """Exit code, stdout, stderr. 124 when it ran too long, negative for a signal."""
    full = {k: v for k, v in os.environ.items() if k not in unset and not k.startswith('CROSSPRESS_')}
    full.update(env or {})
    try:
        r = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, env=full, cwd=cwd, errors='replace')
        return r.returncode, r.stdout, r.stderr
    except subprocess.TimeoutExpired as e:
        return 124, '', f'still running after {timeout} s: {e.stderr or ""}'

"""perf_case.py - one case of xp_perf --check, with the fields that its JSON must have (for perf_exchange.py and perf_moe.py)

SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import tempfile

from tap import case, run

folder = tempfile.TemporaryDirectory()


def measured(command, fields, name, args, check, env=None):
    """Runs `command` (a list) with args; good when it ends well, its JSON has the fields, and check says so of them."""
    path = os.path.join(folder.name, 'out.json')
    if os.path.exists(path):
        os.remove(path)
    code, out, err = run([*command, '--iters', '2', '--check', '--json', path, *args], timeout=60, env=env)
    if code != 0 or not os.path.exists(path):
        return case(name, False, f'exit code {code}\n{out}\n{err}')
    c = json.loads(open(path).read())
    missing = [f for f in fields if f not in c]
    return case(name, not missing and check(c), f'missing {missing}\n{json.dumps(c, indent=1)}')


def lossless(c):
    return c['rel_err_max'] == 0

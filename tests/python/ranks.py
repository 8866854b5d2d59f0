"""ranks.py - a group of ranks for a test: threads of this process, or processes started the way torchrun does

SPDX-License-Identifier: Apache-2.0
"""
import os
import socket
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.join(os.path.dirname(os.path.dirname(HERE)), 'lib', 'python')
TIMEOUT = 60
KEPT = ('CROSSPRESS_LIB', 'CROSSPRESS_TRANSPORT')  # what meson.build sets


def threads(n, body, nodes=None, **options):
    """body(comm) on n threads. Returns what each returned; raises what the first failing rank raised. `nodes`: name per rank."""
    import crosspress
    group, results, raised = crosspress.ThreadGroup(n), [None] * n, [None] * n

    def run(rank):
        try:
            node = nodes[rank] if nodes else None
            with crosspress.Comm(threads=group, rank=rank, node=node, timeout=TIMEOUT, **options) as comm:
                results[rank] = body(comm)
        except BaseException as e:
            raised[rank] = (time.monotonic(), e)

    started = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(n)]
    for t in started:
        t.start()
    for t in started:
        t.join(2 * TIMEOUT)
        if t.is_alive():
            raise TimeoutError('a rank is still running')
    failed = sorted((r for r in raised if r), key=lambda r: r[0])
    if failed:
        raise failed[0][1]
    return results


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])


def processes(n, script, *arguments, env=None, timeout=TIMEOUT):
    """python SCRIPT ARGUMENTS on n ranks. Returns [(exit code, stdout, stderr)]; code None when it ran too long."""
    port, started, ended = free_port(), [], []
    for rank in range(n):
        full = {k: v for k, v in os.environ.items() if not k.startswith('CROSSPRESS_') or k in KEPT}
        full.update(CROSSPRESS_SECRET='only for this test 1234', RANK=str(rank), WORLD_SIZE=str(n), LOCAL_RANK=str(rank),
                    MASTER_ADDR='127.0.0.1', MASTER_PORT=port, OMP_NUM_THREADS='1', GLOO_SOCKET_IFNAME='lo',
                    PYTHONPATH=os.pathsep.join([PACKAGE, HERE]))
        full.update(env(rank) if callable(env) else env or {})
        started.append(subprocess.Popen([sys.executable, script, *arguments], env=full, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True))
    end = time.monotonic() + timeout
    for p in started:
        try:
            text = p.communicate(timeout=max(0.1, end - time.monotonic()))
            ended.append((p.returncode, *text))
        except subprocess.TimeoutExpired:
            p.kill()
            ended.append((None, *p.communicate()))
    return ended

"""launch.py - starts ranks the way torchrun does: variables set by hand

SPDX-License-Identifier: Apache-2.0
"""
import os
import socket
import subprocess

SECRET = 'only for this test 1234'


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])


def torchrun(ranks, command, timeout=60):
    """One process a rank. Returns (exit code, stdout, stderr) of each; code None when it ran too long."""
    port, started, ended = free_port(), [], []
    for rank in range(ranks):
        env = {k: v for k, v in os.environ.items() if not k.startswith('CROSSPRESS_')}
        env.update(CROSSPRESS_SECRET=SECRET, RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    for p in started:
        try:
            text = p.communicate(timeout=timeout)
            ended.append((p.returncode, *text))
        except subprocess.TimeoutExpired:
            p.kill()
            ended.append((None, *p.communicate()))
    return ended

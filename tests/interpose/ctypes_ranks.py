#!/usr/bin/env python3
# ctypes_ranks.py - NCCL as vLLM uses it: opened by its name, or by VLLM_NCCL_SO_PATH, from Python; every function looked up by name
# SPDX-License-Identifier: Apache-2.0
import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
import time

RANKS, STEPS, MOST, TIMEOUT = 4, 4, 5000, 60
INT8, STREAM_NON_BLOCKING, TO_DEVICE, TO_HOST = 0, 1, 1, 2


class UniqueId(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_byte * 128)]


class Library:
    """Every call must return 0."""

    def __init__(self, name):
        self.library = ctypes.CDLL(name)

    def __getattr__(self, name):
        function = getattr(self.library, name)

        def call(*args):
            result = function(*args)
            if result:
                raise RuntimeError(f"{name} returned {result}")
        return call


def count(source, target, step):
    return (source * 7919 + target * 104729 + step * 1299709) % MOST * ((source + target + step) % 4 != 0)


def data(source, target, step):
    seed = hashlib.sha256(f"{source} {target} {step}".encode()).digest()
    return (seed * (MOST // len(seed) + 1))[:count(source, target, step)]


def the_id(nccl, rank, folder):
    path, unique = os.path.join(folder, "id"), UniqueId()
    if rank == 0:
        nccl.ncclGetUniqueId(ctypes.byref(unique))
        with open(path + ".new", "wb") as f:
            f.write(bytes(unique))
        os.rename(path + ".new", path)
    while not os.path.exists(path):
        time.sleep(0.001)
    with open(path, "rb") as f:
        return UniqueId.from_buffer_copy(f.read())


def rank_main(rank, folder):
    cuda = Library("libcudart.so.13")
    nccl = Library(os.environ.get("VLLM_NCCL_SO_PATH") or "libnccl.so.2")
    comm, stream, send, recv = (ctypes.c_void_p() for _ in range(4))
    cuda.cudaSetDevice(rank)
    nccl.ncclCommInitRank(ctypes.byref(comm), RANKS, the_id(nccl, rank, folder), rank)
    cuda.cudaStreamCreateWithFlags(ctypes.byref(stream), STREAM_NON_BLOCKING)
    for pointer in (send, recv):
        cuda.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(RANKS * MOST))
    for step in range(STEPS):
        for peer in range(RANKS):
            text = data(rank, peer, step)
            cuda.cudaMemcpyAsync(ctypes.c_void_p(send.value + peer * MOST), text, ctypes.c_size_t(len(text)), TO_DEVICE, stream)
        nccl.ncclGroupStart()
        for peer in range(RANKS):
            for call, buffer, pair in ((nccl.ncclSend, send, (rank, peer)), (nccl.ncclRecv, recv, (peer, rank))):
                call(ctypes.c_void_p(buffer.value + peer * MOST), ctypes.c_size_t(count(*pair, step)), INT8, peer, comm, stream)
        nccl.ncclGroupEnd()
        got = ctypes.create_string_buffer(RANKS * MOST)
        cuda.cudaMemcpyAsync(got, recv, ctypes.c_size_t(RANKS * MOST), TO_HOST, stream)
        cuda.cudaStreamSynchronize(stream)
        for peer in range(RANKS):
            piece = got.raw[peer * MOST:peer * MOST + count(peer, rank, step)]
            assert piece == data(peer, rank, step), (rank, peer, step)
            print("step", step, "from", peer, hashlib.sha256(piece).hexdigest()[:16])
    nccl.ncclCommDestroy(comm)
    cuda.cudaStreamDestroy(stream)
    cuda.cudaFree(send)
    cuda.cudaFree(recv)


def main():
    if "CTYPES_RANK" in os.environ:
        return rank_main(int(os.environ["CTYPES_RANK"]), os.environ["CTYPES_FOLDER"])
    per_node = int(os.environ.get("CLIENT_PER_NODE", RANKS))
    with tempfile.TemporaryDirectory() as folder:
        ranks = [subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE,
                                  env=dict(os.environ, CTYPES_RANK=str(r), CTYPES_FOLDER=folder, CROSSPRESS_NODE=f"node{r // per_node}",
                                           CUEMU_SEED=str(int(os.environ.get("CUEMU_SEED", "0")) + r))) for r in range(RANKS)]
        try:
            for r, process in enumerate(ranks):
                print("rank", r)
                sys.stdout.write(process.communicate(timeout=TIMEOUT)[0].decode())
        finally:
            for process in ranks:
                process.kill()
        return 1 if any(process.wait() for process in ranks) else 0


sys.exit(main())

"""Runs a function in several processes joined by gloo, never longer than a deadline."""

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import timedelta
from multiprocessing import connection, get_context
from pathlib import Path

import torch
import torch.distributed as dist

PRELOAD = ["torch", "torch.distributed.tensor", "torch.distributed.fsdp", "torch.distributed.checkpoint", "pliant"]


def on_ranks(world, work, *args, timeout=90):
    """Return what `work(*args)` returns on every rank; raise if one fails, or if they take longer than `timeout` s."""
    context = get_context("forkserver")  # imports torch once for all processes
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        common = {"world": world, "folder": folder, "timeout": timeout}
        ends = [context.Pipe(duplex=False) for _ in range(world)]
        processes = [
            context.Process(
                target=_child, args=(ends[rank][1], work, args), kwargs=common | {"rank": rank}, daemon=True
            )
            for rank in range(world)
        ]
        try:
            for process in processes:
                process.start()
            for _, end in ends:
                end.close()
            return _collect([end for end, _ in ends], time.monotonic() + timeout)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.join(10)


def launched(folder, arguments, timeout=290):
    """Return what became of a Python command that starts processes of its own; of these none is left behind."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with subprocess.Popen(  # noqa: S603  (our own command)
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # the launcher and all that it launched
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def message_of(error, action):
    """Return what an error of this kind says, or None if there is none."""
    try:
        action()
    except error as found:
        return str(found)
    return None


def _collect(ends, deadline):
    results = {}
    while len(results) < len(ends):
        waiting = [end for rank, end in enumerate(ends) if rank not in results]
        ready = connection.wait(waiting, max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"only ranks {sorted(results)} of {len(ends)} answered in time")
        for end in ready:
            rank = ends.index(end)
            try:
                done, value = torch.load(io.BytesIO(end.recv_bytes()), weights_only=False)
            except EOFError as error:
                raise RuntimeError(f"rank {rank} died") from error
            if not done:
                raise AssertionError(f"rank {rank} failed:\n{value}")
            results[rank] = value
    return [results[rank] for rank in range(len(ends))]


def _child(end, work, args, *, rank, world, folder, timeout):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    patience = timedelta(seconds=timeout / 2)
    store = dist.FileStore(str(Path(folder) / "store"), world)
    try:
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=patience)
        answer = (True, work(*args))
    except BaseException:  # noqa: BLE001  (told to the parent)
        answer = (False, traceback.format_exc())
    buffer = io.BytesIO()
    torch.save(answer, buffer)
    end.send_bytes(buffer.getvalue())
    if answer[0]:
        dist.destroy_process_group()

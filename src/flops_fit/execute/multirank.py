"""One run by several ranks of this machine: the first in this process, the others started by it.

What each is told is what ``torchrun`` would tell it, so training code meets its ranks as it does
there.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from flops_fit.distributed import Ranks
from flops_fit.errors import SweepError
from flops_fit.execute.attempt import Setting, attempt, pin_threads, read_task
from flops_fit.execute.executor import Report, Task
from flops_fit.records import Experiment, Run


def lead(ranks: Ranks, task: Task, sweep: Callable[[Task], list[Run]]) -> list[Run]:
    """Rank 0's part: ``sweep`` with a task that every rank carries out; its runs, sent to all."""

    def together(experiment: Experiment, report: Report | None = None) -> Run:
        ranks.lead(experiment)
        return task(experiment, report)

    try:
        runs = sweep(together)
    except Exception as error:  # whatever it was, the other ranks have to hear of it
        ranks.lead(SweepError(f"rank 0 stopped the sweep: {error}"))
        raise
    ranks.lead(runs)
    return runs


def follow(ranks: Ranks, task: Task) -> list[Run]:
    """What the other ranks do: each run that rank 0 names, until it sends all that came of them."""
    while True:
        told = ranks.lead()
        if isinstance(told, Experiment):
            task(told, None)
        elif isinstance(told, SweepError):
            raise told
        else:
            return list(told)


_PATIENCE = 20.0  # seconds for ranks to notice that another is gone, and to end after the run
_PEER = "from flops_fit.execute.peer import main; main()"


def together(
    task_path: str,
    experiment: Experiment,
    report: Report,
    setting: Setting,
    give_up: Callable[[Run], None],
) -> Run:
    """The run, carried out by this process and the ranks that it starts.

    A rank that is killed makes a preempted run. ``give_up`` gets it where this process waits for
    that rank and cannot return.
    """
    if setting.gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(setting.gpus[:1])
    task = read_task(task_path, experiment)
    pin_threads(setting.threads)
    if isinstance(task, Run):
        return task
    if setting.ranks == 1:
        return attempt(task, experiment, report)
    address = ("127.0.0.1", _free_port())
    os.environ.update(rank_environment(0, 0, setting.ranks, setting.ranks, *address))
    with _peers(task_path, experiment, setting, address) as peers:
        ended = threading.Event()
        watch = threading.Thread(
            target=_watch, args=(peers, experiment, ended, give_up), daemon=True
        )
        watch.start()
        run = attempt(task, experiment, report)
        ended.set()
        lost = _lost(peers)
        if lost and run.state == "failed":  # the others lost their connection to it
            return replace(run, state="preempted", reason=lost)
        return run


def rank_environment(
    rank: int, local_rank: int, size: int, local_size: int, host: str, port: int
) -> dict[str, str]:
    """What a launcher tells one rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(local_size),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }


@contextmanager
def _peers(
    task_path: str, experiment: Experiment, setting: Setting, address: tuple[str, int]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """All ranks but the first, ended with the block. They end by themselves if this process does."""
    peers: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, setting.ranks):
            told = rank_environment(rank, rank, setting.ranks, setting.ranks, *address)
            if setting.gpus is not None:
                told["CUDA_VISIBLE_DEVICES"] = setting.gpus[rank]
            peer = subprocess.Popen(
                [sys.executable, "-c", _PEER],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **told, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            peers.append(peer)
            assert peer.stdin is not None
            pickle.dump((task_path, experiment, setting.threads), peer.stdin)
            peer.stdin.flush()  # and left open: that it closes tells the peer to end
        yield peers
    finally:
        until = time.monotonic() + _PATIENCE
        for peer in peers:
            try:
                peer.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                peer.kill()
                peer.wait()
            if peer.stdin is not None:
                peer.stdin.close()


def _watch(
    peers: Sequence[subprocess.Popen[bytes]],
    experiment: Experiment,
    ended: threading.Event,
    give_up: Callable[[Run], None],
) -> None:
    """Give the run up where a peer was lost and the others wait for it for too long."""
    while not ended.wait(0.5):
        lost = _lost(peers)
        if lost:
            if not ended.wait(_PATIENCE):
                give_up(Run(experiment, "preempted", reason=lost, ranks=len(peers) + 1))
            return


def _lost(peers: Sequence[subprocess.Popen[bytes]]) -> str:
    """Which peer ended before its work was done, if one did."""
    for rank, peer in enumerate(peers, start=1):
        if code := peer.poll():
            how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
            return f"rank {rank} of {len(peers) + 1} {how} before the run had a result"
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

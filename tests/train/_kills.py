"""Kill processes that save checkpoints, and say what a fresh one finds: one JSON line a kill.

A process of its own, because it forks: PyTorch is imported once and each child is fresh.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch

from flops_fit.train.checkpoint import Checkpoints, read_snapshot

SIZE = {"random": 200_000, "every_call": 1_000}[sys.argv[1]]
CALLS = ("replace", "fsync", "mkdir", "unlink", "rmdir")


def content(step: int, take: int) -> dict[str, Any]:
    """A state that says of every number in it what it must be."""
    values = torch.arange(SIZE) * step + take
    return {"take": take, "values": values, "parts": [torch.tensor(step)] * 20}


def fork(child: Callable[[int], None]) -> tuple[int, int]:
    """Run ``child`` in a process, with the descriptor that it reports to."""
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        return pid, read
    os.close(read)
    try:
        child(write)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def output(pid: int, read: int) -> str:
    os.waitpid(pid, 0)
    with os.fdopen(read) as handle:
        return handle.read()


def look(folder: Path) -> dict[str, Any]:
    """What a fresh process finds."""

    def child(write: int) -> None:
        left = [p.name for p in folder.glob(".*")]
        checkpoints = Checkpoints(folder, key="k")
        step, state = checkpoints.newest() or (0, content(0, 0))
        true = content(step, state["take"])
        for path in folder.glob("step-*"):  # the older ones, which newest() does not open
            read_snapshot(path, "k", int(path.name.removeprefix("step-")))
        found = {
            "found": step,
            "whole": torch.equal(state["values"], true["values"])
            and state["parts"] == true["parts"],
            "findings": [str(f) for f in checkpoints.findings],
            "left": left,
            "names": [p.name for p in folder.glob("*")] + [p.name for p in folder.glob(".*")],
        }
        os.write(write, json.dumps(found).encode())

    return json.loads(output(*fork(child)))


def save_from(folder: Path, step: int, write: int, stop: int | None = None) -> None:
    """Save every step, and every third step twice; tell which are saved."""
    checkpoints = Checkpoints(folder, key="k", keep=2)
    for now in count(step):
        for take in range(2 if now % 3 == 0 else 1):
            checkpoints.save(now, content(now, take))
            os.write(write, b"%d\n" % now)
        if now == stop:
            return


def kill_at_random_times(folder: Path) -> None:
    generator, reported, seen = random.Random(0), 0, {"found": 0}
    for _ in range(20):
        start = seen["found"] + 1
        pid, read = fork(lambda write, start=start: save_from(folder, start, write))
        told = os.read(read, 3).decode()  # at least one is saved, however slow the disk
        time.sleep(generator.uniform(0, 0.08))
        os.kill(pid, signal.SIGKILL)
        reported = max([reported, *map(int, (told + output(pid, read)).split())])
        seen = look(folder)
        print(json.dumps({**seen, "reported": reported}), flush=True)


def kill_at_every_call(folder: Path) -> None:
    """Die at the n-th call that changes the disk, for each n until none is left."""

    def dying(n: int, write: int) -> None:
        calls = count(1)

        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                if next(calls) == n:
                    os._exit(9)
                return function(*args, **options)

            return call

        for name in CALLS:
            setattr(os, name, wrap(getattr(os, name)))
        save_from(folder, 3, write, stop=4)
        os.write(write, b"end")

    before = folder.with_name("before")
    for step in (1, 2):
        Checkpoints(before, key="k").save(step, content(step, 0))
    for n in count(1):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        told = output(*fork(lambda write, n=n: dying(n, write)))
        reported = max([2, *map(int, told.removesuffix("end").split())])
        print(json.dumps({**look(folder), "reported": reported}), flush=True)
        if told.endswith("end"):
            return


if __name__ == "__main__":
    torch.set_num_threads(1)
    kill = {"random": kill_at_random_times, "every_call": kill_at_every_call}[sys.argv[1]]
    kill(Path(sys.argv[2]))

"""Tasks that workers import without anything heavy."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from flops_fit.records import Experiment, Run
from flops_fit.train import Progress
from flops_fit.train.monitor import Interruption, end_by

KILLED, WRONG, SLOW = 13, 17, 19


def square(experiment: Experiment, report=None) -> Run:
    """Squares the size; one size kills its process, one raises, one takes a minute."""
    if experiment.size == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if experiment.size == WRONG:
        raise ValueError("a mistake of the user's")
    if experiment.size == SLOW:
        time.sleep(60)
    if report is not None:
        report(Progress(experiment.id, 1, 1, 0.5))
    return Run(experiment, "completed", loss=float(experiment.size**2), device=str(os.getpid()))


def leaving(experiment: Experiment, report=None) -> Run:
    """Leaves a thread that goes on, and no standard output."""
    threading.Thread(target=time.sleep, args=(100,)).start()
    sys.stdout = None
    return Run(experiment, "completed", loss=1.0)


def parent(experiment: Experiment, report=None) -> Run:
    """Starts a process of its own."""
    multiprocessing.Process(target=time.sleep, args=(0,)).start()
    return Run(experiment, "completed", loss=1.0)


@dataclass(frozen=True)
class Crowd:
    """Answers with how many were at it at the same time."""

    folder: Path

    def __call__(self, experiment: Experiment, report=None) -> Run:
        mine = self.folder / experiment.id
        mine.touch()
        time.sleep(0.2)
        seen = len(list(self.folder.iterdir()))
        mine.unlink()
        return Run(experiment, "completed", loss=float(seen))


@dataclass(frozen=True)
class Long:
    """Goes on until it is told to stop, keeps a note, and is done when it finds the note."""

    folder: Path

    def __call__(self, experiment: Experiment, report=None) -> Run:
        note = self.folder / experiment.id
        if note.exists():
            return Run(experiment, "completed", loss=1.0, resumed=1)
        note.with_suffix(".begun").touch()
        with Interruption() as interruption:
            for _ in range(300):
                time.sleep(0.1)
                if interruption.signal:
                    note.touch()
                    end_by(interruption.signal)
        return Run(experiment, "completed", loss=2.0)


def environment(experiment: Experiment, report=None) -> Run:
    """Answers with what its process was given."""
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RANK", "WORLD_SIZE")
    return Run(experiment, "completed", versions={n: os.environ.get(n, "") for n in names})


def modules(experiment: Experiment, report=None) -> Run:
    """Answers whether its process has imported torch."""
    return Run(
        experiment, "completed", versions={"torch": "yes" if "torch" in sys.modules else "no"}
    )


class Pair:
    """A run of two ranks of which the second is killed."""

    def __call__(self, experiment: Experiment, report=None) -> Run:
        time.sleep(4)
        raise ConnectionError("the other rank is gone")

    def follower(self, experiment: Experiment, report=None) -> Run:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def talking(experiment: Experiment, report=None) -> Run:
    """Prints by Python, and by a process that it starts; a size of 2 is silent."""
    if experiment.size != 2:
        print(f"size {experiment.size}")
        subprocess.run(["sh", "-c", "echo shell >&2"], check=True)
    return square(experiment, report)


@dataclass(frozen=True)
class Waiting:
    """Leaves the number of its process and waits for a minute."""

    folder: Path

    def __call__(self, experiment: Experiment, report=None) -> Run:
        (self.folder / str(os.getpid())).touch()
        time.sleep(60)
        return Run(experiment, "completed", loss=1.0)


@dataclass(frozen=True)
class Ordered:
    """Answers with what it and a process that it starts print, as it stands in a file by then."""

    folder: Path

    def __call__(self, experiment: Experiment, report=None) -> Run:
        path = self.folder / experiment.id
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        print("first")
        subprocess.run(["echo", "second"], check=True)
        return Run(experiment, "completed", details=path.read_text())


def deaf(experiment: Experiment, report=None) -> Run:
    """Takes two minutes, whatever signal comes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(120)
    return Run(experiment, "completed", loss=1.0)

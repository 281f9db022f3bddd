"""Sweeps of runs that cost next to nothing and need no PyTorch, and the process that drives one.

    python -m benchmarks.chaos.cheap_sweeps EXECUTOR FOLDER RUNS SECONDS

What a driver says stands in ``FOLDER.said``: a line for each run that was begun, and for each result
that it was handed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chaos.full_disk import FillsUp
from flops_fit.execute import (
    Executor,
    InProcessExecutor,
    PoolExecutor,
    RayExecutor,
    SlurmExecutor,
    slurm_jobs,
)
from flops_fit.files import write_json
from flops_fit.fit import fit_runs
from flops_fit.hparams import HParams
from flops_fit.laws import Hoffmann
from flops_fit.records import Experiment, ParamCount, Run
from flops_fit.store import Store
from flops_fit.sweep import run_experiments
from flops_fit.train import Progress
from flops_fit.view import SilentView

LAW = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)
BUDGETS = (1e17, 3e17, 1e18, 3e18, 1e19)
AGAIN = 75  # the exit status of a driver that leaves runs to the next one
PAUSES = (0.02, 0.05, 0.1)


def _slurm() -> SlurmExecutor:
    """Asks often, as jobs end within seconds."""
    slurm_jobs._QUERY_SECONDS, slurm_jobs._LAG_SECONDS = 0.5, 2.0
    options = {"signal_delay_s": 1}
    return SlurmExecutor(time=1, keep_running=True, poll_seconds=0.1, options=options)


EXECUTORS: dict[str, Callable[[], Executor]] = {
    "inprocess": InProcessExecutor,
    "pool": lambda: PoolExecutor(2, 1),
    "slurm": _slurm,
    "cluster": RayExecutor,
    "ray": lambda: RayExecutor(options={"num_cpus": 2}),
}


def experiments(n: int) -> list[Experiment]:
    """Runs at five budgets around their optima; every fourth size is a trunk with a branch a budget."""
    sizes = -(-n // len(BUDGETS))
    made = []
    for i in range(n):
        budget, j = BUDGETS[i % len(BUDGETS)], i // len(BUDGETS)
        best = np.sqrt(budget / 120)
        size = int(best * np.geomspace(0.2, 5.0, sizes)[j]) if sizes > 1 else int(best)
        made.append(_experiment(i, size, budget, "" if j % 4 else f"{j + 1:016x}"))
    return made


def _experiment(seed: int, size: int, budget: float, trunk: str) -> Experiment:
    tokens, each = int(budget / (6 * size)), 6.0 * size
    return Experiment(
        "Cheap", {}, size, ParamCount(size, size, size, size), budget, tokens=tokens,
        steps=max(1, tokens // 1000), batch_size=1, units_per_sample=1000.0, unit="tokens",
        flops_per_unit=each, flops_per_unit_6nd=each, hparams=HParams(lr=1e-3, batch_units=1),
        seed=seed, repeat=0, fingerprint="", trunk=trunk,
    )  # fmt: skip


@dataclass(frozen=True)
class Cheap:
    """Answers by a law with seeded noise after a while, and leaves a line of having begun.

    Every second run says meanwhile that it lives, and so finds out when nobody listens; the others
    outlive their driver. ``device`` is new for each time that a run is made.
    """

    said: Path
    seconds: float
    disk: FillsUp | None = None

    def __call__(self, experiment: Experiment, report: Any = None) -> Run:
        say(self.said, "begun", experiment.id)
        time.sleep(self.seconds / 2)
        if report is not None and experiment.seed % 2:
            report(Progress(experiment.id, 1, 2, 3.0))
        time.sleep(self.seconds / 2)
        clean = float(LAW.loss(experiment.params.total, experiment.tokens))
        z = float(np.random.default_rng(experiment.seed).standard_normal())
        made = f"{os.getpid()}-{time.time_ns()}"
        loss = clean * float(np.exp(0.003 * z))
        return Run(
            experiment, "completed", loss=loss, loss_se=0.003 * clean,
            tokens=experiment.tokens, flops=experiment.flops, device=made,
        )  # fmt: skip


def say(path: Path, *words: str) -> None:
    """A line, in one call, however many processes write at the same time."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, (" ".join(words) + "\n").encode())
    finally:
        os.close(descriptor)


@dataclass
class Hearing(SilentView):
    """Notes which result of each run the sweep was handed."""

    said: Path
    notes: list[str] = field(default_factory=list)

    def ended(self, run: Run) -> None:
        if run.state == "completed":
            say(self.said, "heard", run.experiment.id, run.device)

    def note(self, message: str) -> None:
        print(message, flush=True)


def carry_out(
    asked: Sequence[Experiment], task: Any, executor: Executor, folder: Path, said: Path
) -> int:
    """As ``find_optimal`` does it: the plan on record, the runs, their table, the fit."""
    store = Store.open(folder)
    store.write_plan(asked)
    runs = run_experiments(asked, task, executor, store, Hearing(said), pauses=PAUSES)
    store.write_table(runs)
    if any(run.state != "completed" for run in runs):
        return AGAIN
    write_json(folder / "fit.json", fit_runs(runs).to_dict())
    return 0


def said_of(folder: Path) -> Path:
    """Where those who work on a sweep leave their lines, outside of its folder."""
    return folder.with_name(f"{folder.name}.said")


def full_of(folder: Path) -> Path:
    """The flag that lets the disk of a sweep be full while it is there."""
    return folder.with_name(f"{folder.name}.full")


def main(executor: str, folder: str, runs: str, seconds: str) -> int:
    """Drive a sweep on a disk that may fill up."""
    out = Path(folder)
    disk = FillsUp(full_of(out))
    disk.begin()
    task = Cheap(said_of(out), float(seconds), disk)
    return carry_out(experiments(int(runs)), task, EXECUTORS[executor](), out, said_of(out))


if __name__ == "__main__":
    from benchmarks.chaos.cheap_sweeps import (
        main,  # so that what it pickles is found by its workers
    )

    sys.exit(main(*sys.argv[1:]))

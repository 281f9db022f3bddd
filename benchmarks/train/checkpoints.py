"""What checkpoints cost while a run goes well, and what they save when it is killed.

A real run is killed by SIGKILL at a moment of its own choosing and begun again by a new process. All
the time that the second attempt takes until it is where the first one was is the price of the
kill: reading the checkpoint, and making again the steps since. It is compared with the time that
had passed since the last checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.common.report import Goal, Result, Table, at_most
from benchmarks.common.timing import duration
from benchmarks.train.by_hand import Task
from benchmarks.train.engine import experiment
from flops_fit.data import split_data
from flops_fit.examples.gpt import GPTFactory, gpt_loss_fn
from flops_fit.examples.text import SOTUDataset
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective
from flops_fit.recipes import HParams
from flops_fit.train import Progress, Trainer
from flops_fit.train.checkpoint import Checkpoints
from flops_fit.train.config import TrainingConfig
from flops_fit.train.optimizer import make_optimizer

TASK = Task(width=64, steps=3000)
EVERY = 3.0  # seconds between the checkpoints of the killed runs
KILLED_AT = (4.5, 7.0, 8.5, 11.0, 14.0)  # seconds into the run
EXTRA_GOAL = 2.0  # seconds that a kill may cost beyond the time since the last checkpoint
SHARE_GOAL = 0.01  # of a run's time
MINUTE = 60.0
WIDTHS = (56, 192, 640, 1600)
SAVES = 5


def checkpoints(quick: bool) -> Result:
    """The price of a save by size, and the price of a kill."""
    torch.set_num_threads(1)
    saved = [_save(width) for width in (WIDTHS[:2] if quick else WIDTHS)]
    kills = [_kill(after) for after in (KILLED_AT[:1] if quick else KILLED_AT)]
    return [_save_table(saved), _kill_table(kills)], _goals(saved, kills)


@dataclass(frozen=True)
class Saved:
    """Seconds and bytes of one checkpoint of a model with its optimizer."""

    params: int
    size: int
    seconds: float

    @property
    def share(self) -> float:
        """Of the time of a run that saves once a minute, or less often where saving is slow."""
        return self.seconds / max(MINUTE, self.seconds / SHARE_GOAL)


def _save(width: int) -> Saved:
    """The median of some saves."""
    model: Any = GPTFactory()(d_model=width)
    optimizer = make_optimizer(model, HParams(lr=1e-3, batch_units=1))
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        kept = Checkpoints(Path(folder) / "checkpoint", "benchmark")
        seconds = []
        for step in range(1, SAVES + 1):
            began = time.perf_counter()
            kept.save(step, state)
            seconds.append(time.perf_counter() - began)
        size = max(p.stat().st_size for p in Path(folder).rglob("state.pt"))
    return Saved(model.num_params(), size, median(seconds))


def _save_table(saved: list[Saved]) -> Table:
    rows = tuple(
        (
            f"{s.params:,}",
            f"{s.size / 1e6:,.1f} MB",
            duration(s.seconds),
            duration(max(MINUTE, s.seconds / SHARE_GOAL)),
            f"{s.share:.2%}",
        )
        for s in saved
    )
    columns = ("parameters", "checkpoint", "to save", "time between saves", "share of the run")
    notes = (
        "Written and flushed to this disk. From .6 s a save on, they come less than once a minute.",
    )
    return Table("A checkpoint of a GPT and its AdamW", columns, rows, notes)


@dataclass(frozen=True)
class Killed:
    """One run that was killed and went on; seconds."""

    after: float
    since_checkpoint: float
    caught_up: float

    @property
    def extra(self) -> float:
        """Beyond the time since the last checkpoint."""
        return self.caught_up - self.since_checkpoint


def _kill(after: float) -> Killed:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        first = _attempt(Path(folder), seconds=after)
        newest = max(p.stat().st_mtime for p in Path(folder).rglob("manifest.json"))
        second = _attempt(Path(folder), step=first[-1][1])
    seconds, steps, _ = zip(*second, strict=True)
    return Killed(
        after=first[-1][0],
        since_checkpoint=first[-1][2] - newest,
        caught_up=float(np.interp(first[-1][1], steps, seconds)),
    )


def _attempt(folder: Path, seconds: float = 0.0, step: int = 0) -> list[tuple[float, int, float]]:
    """Readings of one process, killed after so many seconds and at this step: seconds since the
    call, step, time of day."""
    told = folder / "readings.jsonl"
    told.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "benchmarks.train.checkpoints",
        str(folder),
        str(seconds),
        str(step),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != -signal.SIGKILL:
        raise RuntimeError(f"the run ended with {done.returncode}:\n{done.stderr}")
    return [tuple(json.loads(line)) for line in told.read_text().splitlines()]


def _train(folder: Path, seconds: float, step: int) -> None:
    torch.set_num_threads(1)
    specs = split_data(SOTUDataset("train", TASK.seq_len), SOTUDataset("validation", TASK.seq_len))
    trainer = Trainer(ModelSpec(GPTFactory(), "d_model"), *specs, Objective(gpt_loss_fn))
    trainer(experiment(replace(TASK, steps=1)))  # torch loads much at its first step
    config = TrainingConfig(checkpoint_seconds=EVERY)
    trainer = replace(trainer, folder=folder, config=config)
    began = time.perf_counter()
    with (folder / "readings.jsonl").open("w") as handle:

        def report(progress: Progress) -> None:
            passed = time.perf_counter() - began
            handle.write(json.dumps([passed, progress.step, time.time()]) + "\n")
            handle.flush()
            if passed > seconds and progress.step >= step:
                os.kill(os.getpid(), signal.SIGKILL)

        trainer(experiment(TASK), report)


def _kill_table(kills: list[Killed]) -> Table:
    rows = tuple(
        tuple(f"{v:.2f} s" for v in (k.after, k.since_checkpoint, k.caught_up, k.extra))
        for k in kills
    )
    columns = ("killed after", "since the last checkpoint", "to be there again", "beyond that time")
    notes = (
        f"A checkpoint every {EVERY:g} s; seconds from the trainer's call, without the start of torch. "
        "A resumed run equals the uninterrupted one to the last bit: tests/train/test_resume.py.",
    )
    return Table(f"A GPT of width {TASK.width}, killed by SIGKILL", columns, rows, notes)


def _goals(saved: list[Saved], kills: list[Killed]) -> list[Goal]:
    worst = max(s.share for s in saved)
    extra = max(k.extra for k in kills)
    return [
        at_most("share of a run's time that checkpoints take, at most", worst, SHARE_GOAL),
        at_most("seconds that a kill costs beyond those since the checkpoint", extra, EXTRA_GOAL),
    ]


if __name__ == "__main__":
    _train(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))

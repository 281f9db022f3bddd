"""A cut-down demo sweep that trains, and the process that drives it while others kill.

python -m benchmarks.chaos.real_sweep EXECUTOR FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.chaos.cheap_sweeps import AGAIN, EXECUTORS, full_of, said_of, say
from benchmarks.chaos.full_disk import FillsUp
from flops_fit import TrainingConfig, plan_sweep, run_sweep
from flops_fit.cli.sweep_commands import demo_sweep
from flops_fit.files import write_json
from flops_fit.records import Experiment, Run

SIZES = {1e9: [8, 16], 2e9: [8, 16, 24], 4e9: [16, 24, 32]}
EVERY_STEPS = 20  # a checkpoint


@dataclass(frozen=True)
class Training:
    """A trainer whose disk may fill up, that leaves a line of having begun."""

    trainer: Any
    said: Path
    disk: FillsUp

    def __call__(self, experiment: Experiment, report: Any = None) -> Run:
        say(self.said, "begun", experiment.id)
        return self.trainer(experiment, report)


def facts(runs: Sequence[Run]) -> str:
    """All digits of what was trained."""
    digits = [
        (r.experiment.id, r.state, r.loss, r.loss_se, r.train_loss, r.gradient_norm, r.tokens)
        for r in runs
    ]
    return json.dumps(digits)


def main(executor: str, folder: str) -> int:
    """Drive the sweep; its fit file holds every digit that a fit would rest on."""
    torch.set_num_threads(1)
    out = Path(folder)
    disk = FillsUp(full_of(out))
    disk.begin()
    plan = plan_sweep(
        **demo_sweep(SIZES), device="cpu", training=TrainingConfig(checkpoint_steps=EVERY_STEPS)
    )
    trainer = plan.task.in_folder(out / "runs", out / "trunks")
    task = Training(trainer, said_of(out), disk)
    runs = run_sweep(plan, task, executor=EXECUTORS[executor](), output_dir=out, progress=False)
    if any(run.state != "completed" for run in runs):
        return AGAIN
    write_json(out / "fit.json", json.loads(facts(runs)))
    return 0


if __name__ == "__main__":
    from benchmarks.chaos.real_sweep import main  # so that what it pickles is found by its workers

    sys.exit(main(*sys.argv[1:]))

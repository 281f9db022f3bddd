"""A sweep of small trainings that take as long as a test needs, and the process that drives one.

python -m tests.cluster._sweep EXECUTOR FOLDER
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

import flops_fit
from flops_fit.execute import Executor, RayExecutor, SlurmExecutor
from flops_fit.plan import SweepPlan
from flops_fit.records import Run
from tests.conftest import MLP, Blobs, cross_entropy

PAUSE = "PAUSE_SECONDS"  # the environment variable with the seconds that a step takes longer


def unhurried(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy after a pause."""
    time.sleep(float(os.environ.get(PAUSE, 0)))
    return cross_entropy(logits, targets)


def plan(*sizes: int) -> SweepPlan:
    """Some 200 steps a run, with a checkpoint every five."""
    training = flops_fit.TrainingConfig(checkpoint_steps=5)
    return flops_fit.plan_sweep(
        MLP, "width", None, Blobs(), unhurried, [1.2e6], sizes=sizes, batch_size=8, device="cpu",
        training=training,
    )  # fmt: skip


def digits(runs: list[Run]) -> list[object]:
    """All that two sweeps have to have in common to the last bit."""
    return [(r.experiment.id, r.state, r.loss, r.train_loss, r.gradient_norm) for r in runs]


def sweep(planned: SweepPlan, executor: Executor | str, folder: Path) -> list[Run]:
    """Carry it out; one thread, as everywhere."""
    torch.set_num_threads(1)
    return flops_fit.run_sweep(planned, executor=executor, output_dir=folder, progress=False)


def main(executor: str, folder: str, *sizes: str) -> None:
    """Drive a sweep whose jobs outlive this process."""
    out = Path(folder)
    made = (
        RayExecutor()
        if executor == "ray"
        else SlurmExecutor(out / "jobs", cpus_per_run=2, keep_running=True, poll_seconds=0.1)
    )
    runs = sweep(plan(*map(int, sizes)), made, out / "sweep")
    print([(r.state, r.resumed) for r in runs])


if __name__ == "__main__":
    from tests.cluster._sweep import main  # so that what it pickles is found by its workers

    main(*sys.argv[1:])

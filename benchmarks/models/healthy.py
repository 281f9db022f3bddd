"""A thousand healthy runs of ten kinds, of which none may be called diverged, and runs that do diverge."""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import torch

from benchmarks.common.report import Result, Table, at_most
from benchmarks.models.kinds import BATCH, KINDS, STEPS
from flops_fit import Grid, Run, SweepPlan, plan_sweep, run_sweep

HEALTHY = (
    "contrastive pairs (CLIP)", "class weights", "ragged text, collated", "pixels that are ignored",
    "diffusion step", "normalizing flow, negative loss", "rare classes at the prior",
    "noisy regression", "variational autoencoder", "much dropout",
)  # fmt: skip
"""Plateaus, rare classes, targets that are noise, losses that are drawn, and losses below zero."""
RATES = (3e-4, 3e-3)
TOO_LARGE = (1.0, 1e3)
REPEATS = 25
_BATCHES = 40
_RISEN = 0.1


def healthy(quick: bool) -> Result:
    """A row for each kind: runs at usual rates, and at rates at which no training is possible."""
    rows, alarms, missed = [], 0, 0
    for name in HEALTHY:
        well = [r for lr in RATES for r in _runs(name, {"lr": lr}, 2 if quick else REPEATS)[1]]
        called = [r for r in well if r.state != "completed"]
        wild, wrong, caught = 0, 0, 0
        for lr in TOO_LARGE:
            without = {"lr": lr, "clip": 1e30, "schedule": "constant"}
            plan, runs = _runs(name, without, 1 if quick else 5)
            wild += len(runs)
            caught += sum(r.state == "diverged" for r in runs)
            wrong += sum(_ended_above(plan, r) for r in runs if r.state == "completed")
        alarms, missed = alarms + len(called), missed + wrong
        rows.append((name, str(len(well)), str(len(called)), str(wild), str(caught), str(wrong)))
    columns = (
        "kind", "healthy runs", "called diverged", "at rates of 1 and 1,000", "called diverged ",
        "ended a tenth above their start, and were not",
    )  # fmt: skip
    return [Table((__doc__ or "").strip(), columns, tuple(rows))], [
        at_most("healthy runs called diverged", alarms, 0),
        at_most("runs that ended above their start and were not called diverged", missed, 0),
    ]


def _runs(name: str, hparams: dict[str, Any], repeats: int) -> tuple[SweepPlan, list[Run]]:
    kind = KINDS[name]
    torch.manual_seed(0)
    sizes = {kind.flops(size) * kind.batch * STEPS: [size] for size in kind.sizes}
    usual = {"model_size_param": "width", "batch_size": kind.batch or BATCH, "hparams": hparams}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        plan = plan_sweep(
            compute_budgets=list(sizes),
            sizes=sizes,
            design=Grid(repeats=repeats),
            **{**usual, **kind.sweep()},
        )
        return plan, list(run_sweep(plan, output_dir=folder, progress=False))


def _ended_above(plan: SweepPlan, run: Run) -> bool:
    """Whether the held-out loss is a tenth above the mean of many batches before training."""
    assert plan.planner is not None
    assert run.loss is not None
    trainer: Any = plan.planner.task
    experiment = run.experiment
    torch.manual_seed(experiment.seed)
    model = trainer.model.build(experiment.size).eval()
    with torch.no_grad():
        batches = trainer.data.batches(experiment.batch_size, _BATCHES, experiment.seed)
        losses = [trainer.objective(model, batch)[0].item() for batch in batches]
    start = sum(losses) / len(losses)
    return run.loss > start + _RISEN * abs(start)

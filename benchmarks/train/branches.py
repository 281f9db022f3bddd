"""WSD branches against separate runs: the same losses for fewer FLOPs, and what clusters cost."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from benchmarks.common.report import Goal, Result, Table, at_most, near
from benchmarks.common.timing import duration
from flops_fit import Grid, TrainingConfig, fit_runs, plan_sweep, run_sweep
from flops_fit.examples.gpt import GPTFactory, gpt_loss_fn
from flops_fit.examples.text import SOTUDataset
from flops_fit.plan import SweepPlan
from flops_fit.records import Run

SEQ_LEN = 64
SIZES = [16, 24, 32]
BUDGETS = [1e10, 3e10, 9e10]
HELD_OUT = 512  # windows
HPARAMS = {"schedule": "wsd", "batch_units": 512, "warmup_units": 5_000, "lr": 0.01}
SEEDS = 3

# What a plan saves does not depend on the model: F(N)·D is the budget at every size.
GRIDS = ((5, 3.0), (9, math.sqrt(3.0)), (17, 3.0**0.25))
MOCK_SIZES = (0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0)
MOCK_SEEDS = 20


def branches(quick: bool) -> Result:
    """A rectangular grid on the bundled text, branched, alone, and alone from other seeds."""
    torch.set_num_threads(1)
    plan = planned(BUDGETS[: 2 if quick else None], SIZES[: 2 if quick else None])
    start = time.process_time()
    with TemporaryDirectory() as folder:
        ours = run_sweep(plan, output_dir=Path(folder) / "sweep", progress=False)
    between = time.process_time()
    alone = _runs(plan, 0)
    took = (time.process_time() - between, between - start)
    others = _runs(plan, 1)
    middle = len(plan) // 2
    noise = _seed_noise(plan, middle, [alone[middle], others[middle]])
    tables = [_losses(ours, alone, others, noise), _costs(plan, ours, alone, took)]
    tables += [_grids(), *([] if quick else [_clusters()])]
    return tables, _goals(plan, ours, alone, noise)


def planned(budgets: Sequence[float], sizes: Sequence[Any]) -> SweepPlan:
    """Every size at every budget, on the bundled text."""
    plan = plan_sweep(
        GPTFactory(), "d_model", {},
        SOTUDataset("train", SEQ_LEN), gpt_loss_fn, budgets,
        eval_dataset=Subset(SOTUDataset("validation", SEQ_LEN), range(HELD_OUT)),
        sizes=sizes, hparams=HPARAMS, training=TrainingConfig(branch=True), device="cpu",
    )  # fmt: skip
    assert isinstance(plan, SweepPlan)
    return plan


def _runs(plan: SweepPlan, offset: int) -> list[Run]:
    """Each run by itself; with an ``offset`` each from a seed of its own."""
    assert plan.task is not None
    return [
        plan.task(replace(e, trunk="", seed=e.seed + offset * (i + 1)))
        for i, e in enumerate(plan.experiments)
    ]


def _seed_noise(plan: SweepPlan, which: int, runs: list[Run]) -> float:
    """Standard deviation of one configuration's loss over its seeds."""
    assert plan.task is not None
    e = plan.experiments[which]
    more = [plan.task(replace(e, trunk="", seed=e.seed + 1000 + i)) for i in range(SEEDS - 2)]
    return float(np.std([_loss(r) for r in (*runs, *more)], ddof=1))


def _loss(run: Run) -> float:
    if run.state != "completed" or run.loss is None:
        raise RuntimeError(f"{run.experiment.label}: {run.state}: {run.reason}")
    return run.loss


def _losses(ours: list[Run], alone: list[Run], others: list[Run], noise: float) -> Table:
    rows = []
    for a, b, c in zip(ours, alone, others, strict=True):
        e = a.experiment
        rows.append((
            e.label, f"{e.steps:,}", f"{100 * a.flops_shared / a.flops:.0f} %",
            f"{_loss(a):.5f}", f"{_loss(a) - _loss(b):+.1e}", f"{_loss(a) - _loss(c):+.4f}",
        ))  # fmt: skip
    columns = ("run", "steps", "shared", "branched", "− alone", "− alone, other seed")
    note = f"Seed noise: sd {noise:.4f} nats over {SEEDS} seeds of {alone[len(alone) // 2].experiment.label}."
    return Table("WSD branches against separate runs", columns, tuple(rows), (note,))


def _costs(plan: SweepPlan, ours: list[Run], alone: list[Run], took: tuple[float, float]) -> Table:
    """What both ways were planned to take and took; ``took`` in seconds, separate and branched."""
    separate = math.fsum(e.flops for e in plan.experiments)
    rows = []
    for what, planned_flops, runs, seconds in (
        ("separate", separate, alone, took[0]),
        ("branched", plan.total_flops, ours, took[1]),
    ):
        rows.append((what, f"{planned_flops:.4g}", f"{_spent(runs):.4g}", duration(seconds)))
    flops = _spent(alone) / _spent(ours)
    factors = (separate / plan.total_flops, flops, took[0] / took[1])
    rows.append(("factor", *(f"{factor:.3g}" for factor in factors)))
    columns = ("", "FLOPs planned", "FLOPs spent", "CPU time")
    note = (
        "CPU time holds building, the held-out loss of every run and writing snapshots, not the wait "
        "for a disk."
    )
    return Table("What branching saves here", columns, tuple(rows), (note,))


def _grids() -> Table:
    """Planned savings over one span of compute, cooled down over 20 % and over 10 %."""
    rows = []
    for n, ratio in GRIDS:
        cost = ratio ** -np.arange(n)
        cells = []
        for cooldown in (0.2, 0.1):
            cells.append(f"{cost.sum() / (1 + cooldown * (cost.sum() - 1)):.2f}×")
        rows.append((f"{n} budgets ×{ratio:.3g} apart", *cells))
    columns = ("rectangular grid", "cooldown 0.2", "cooldown 0.1")
    note = "Σ C / (C_max + cooldown·Σ other C); the number of sizes does not matter."
    return Table("What branching saves on other grids", columns, tuple(rows), (note,))


def _clusters() -> Table:
    """Half-widths of 90 % intervals of N* at ten times the top budget, in a mock of 5 × 7 runs."""
    rows = []
    for repeats, branch in ((1, False), (1, True), (2, True)):
        widths = [_width(seed, repeats, branch) for seed in range(MOCK_SEEDS)]
        known = [w for w in widths if w is not None]
        middle = f"×/÷ {math.exp(np.median(known)):.2f}" if known else "none"
        what = f"{'branched' if branch else 'separate'}, repeats={repeats}"
        rows.append((what, middle, f"{len(known)} of {MOCK_SEEDS}"))
    notes = (
        "Noise of 0.5 %, equal for all branches of a trunk: more alike than real branches are.",
        "Seven trunks leave two degrees of freedom to a law of five parameters.",
    )
    columns = ("sweep", "median half-width of N*", "sweeps with an interval")
    return Table("What clusters cost an interval", columns, tuple(rows), notes)


def _width(seed: int, repeats: int, branch: bool) -> float | None:
    budgets = [1e15 * 3.0**i for i in range(5)]
    centre = math.sqrt(budgets[2] / 120)
    plan = plan_sweep(
        _Sized, "n", compute_budgets=budgets, mode="mock", seed=seed, design=Grid(repeats=repeats),
        sizes=[round(centre * s) for s in MOCK_SIZES], flops="6nd", training=TrainingConfig(branch=branch),
        hparams={"schedule": "wsd", "batch_units": 4096, "warmup_units": 1e5},
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        runs = run_sweep(plan, output_dir=Path(folder) / "sweep", progress=False)
    interval = fit_runs(runs, "hoffmann", window=None).predict(budgets[-1] * 10).intervals
    if "optimal_params" not in interval:
        return None
    low, high = interval["optimal_params"]
    return 0.5 * math.log(high / low)


class _Sized(torch.nn.Module):
    """A model of ``n`` parameters, which a mock never builds in memory."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(n))


def _spent(runs: Sequence[Run]) -> float:
    return math.fsum(r.flops_spent for r in runs)


def _goals(plan: SweepPlan, ours: list[Run], alone: list[Run], noise: float) -> list[Goal]:
    worst = max(abs(_loss(a) - _loss(b)) for a, b in zip(ours, alone, strict=True))
    return [
        at_most("branched against alone: worst difference of a loss, nats", worst, noise),
        at_most("the same, equal seeds being equal to the last bit", worst, 0.0),
        near("FLOPs that branches spent, over planned", _spent(ours) / plan.total_flops, 1.0, tol=1e-9),
    ]  # fmt: skip

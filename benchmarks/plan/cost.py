"""Is the predicted time of a plan the time that the sweep takes?

A cut-down demo sweep is planned, carried out one run after another and in a pool, and compared run by
run and in all. Each run has one thread: on busy cores two threads were seen to take up to a hundred times
as long for a step, which says nothing of the plan. What is compared is the clock, so another program on
the same cores is in the numbers: steps are timed anew after the sweep, and how far that is from before is
shown beside it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common.report import Goal, Result, Table
from flops_fit import plan_sweep, run_sweep
from flops_fit.cli.sweep_commands import demo_sweep
from flops_fit.execute import Executor, InProcessExecutor, PoolExecutor
from flops_fit.plan import SweepPlan

WITHIN = 0.25
SIZES = {2e9: [8, 16, 32], 4e9: [12, 24, 48], 8e9: [16, 32, 56]}
QUICK = {1e9: [8, 24], 2e9: [16, 32]}


def cost(quick: bool) -> Result:
    """Predicted and real times of each run and of the sweep."""
    sizes = QUICK if quick else SIZES
    torch.set_num_threads(1)
    tables, goals = [], []
    for name, executor in (
        ("one after another", InProcessExecutor()),
        ("a pool of two", PoolExecutor(workers=2, threads=1)),
    ):
        table, goal = _compared(name, executor, sizes)
        tables.append(table)
        goals.append(goal)
    return tables, goals


def _compared(name: str, executor: Executor, sizes: dict[float, list[int]]) -> tuple[Table, Goal]:
    plan, parallel = _planned(sizes), executor.capacity
    expected = plan.estimate(parallel=parallel)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        runs = run_sweep(plan, executor=executor, output_dir=Path(folder) / "runs", progress=False)
    wall = time.perf_counter() - started
    drift = _planned(sizes).seconds() / plan.seconds()
    rows = [
        (
            cost.label,
            f"{cost.seconds:.2f}",
            f"{run.seconds:.2f}",
            f"{cost.seconds / run.seconds:.2f}",
        )
        for cost, run in zip(expected.runs, runs, strict=True)
    ]
    ratio = expected.wall_seconds / wall
    rows.append(("the sweep", f"{expected.wall_seconds:.2f}", f"{wall:.2f}", f"{ratio:.2f}"))
    notes = (expected.basis, f"Planned again afterwards: {drift:.2f} times the predicted time.")
    table = Table(f"Seconds, {name}", ("run", "predicted", "real", "ratio"), tuple(rows), notes)
    what = f"predicted / real time of a sweep, {name}"
    return table, Goal(what, ratio, 1 / (1 + WITHIN), 1 + WITHIN, "1")


def _planned(sizes: dict[float, list[int]]) -> SweepPlan:
    return plan_sweep(**demo_sweep(sizes), device="cpu")

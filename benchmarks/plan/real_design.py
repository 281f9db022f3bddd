"""The demo's sweep as a grid and adaptively: FLOPs to equal precision on real runs.

Both train the demo's model on the demo's text. The grid is the demo's; the adaptive sweep is asked for
the grid's own half-width of N* at ten times the largest budget, and may spend what the grid did.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common.report import Goal, Table, at_most
from benchmarks.common.report import Result as Found
from flops_fit import Adaptive, Result, find_optimal
from flops_fit.cli.sweep_commands import SIZES, demo_sweep
from flops_fit.execute import PoolExecutor
from flops_fit.text import format_count

FURTHER = 10.0
PILOT = [1.5e10, 3e10, 6e10]  # cheaper runs have too few steps to say much
WIDTHS = [8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128]
QUICK = {budget: SIZES[budget] for budget in list(SIZES)[:3]} | {2.5e11: [24, 32, 48]}


def real_design(quick: bool) -> Found:
    """Two sweeps of real runs and the log of the adaptive one."""
    sizes = QUICK if quick else SIZES
    top = max(sizes)
    target = FURTHER * top
    with tempfile.TemporaryDirectory() as folder:
        place = {"executor": PoolExecutor(workers=2, threads=1), "progress": False}
        started = time.perf_counter()
        grid = find_optimal(**demo_sweep(sizes), output_dir=Path(folder) / "grid", **place)
        middle = time.perf_counter()
        assert isinstance(grid, Result)
        spent = sum(run.flops for run in grid.runs)
        half, span, best = _answer(grid, target)
        place["executor"] = PoolExecutor(workers=2, threads=1)
        asked = {**demo_sweep(sizes), "compute_budgets": PILOT, "sizes": WIDTHS}
        adaptive = find_optimal(
            **asked,
            output_dir=Path(folder) / "adaptive",
            design=Adaptive(
                target_compute=target, half_width=float(np.expm1(half)), max_flops=spent
            ),
            **place,
        )
        end = time.perf_counter()
    assert isinstance(adaptive, Result)
    own, its_span, its_best = _answer(adaptive, target)
    its_spent = sum(run.flops for run in adaptive.runs)
    rows = [
        _row("grid", grid, spent, half, best, span, middle - started),
        _row("adaptive", adaptive, its_spent, own, its_best, its_span, end - middle),
    ]
    columns = ("design", "runs", "FLOPs", f"N* at {target:.2g}", "half-width", "largest", "wall s")
    log = Table(
        "The adaptive sweep's own log", ("step",), tuple((line,) for line in adaptive.steps)
    )
    agree = abs(float(np.log(its_best / best))) / float(np.hypot(half, own))
    goals = [
        at_most("real text: FLOPs of the adaptive sweep over the grid's", its_spent / spent, 1.0),
        Goal("real text: N* apart, in half-widths", agree, 0.0, 1.0, "<= 1"),
    ]
    return [Table("The demo's text, by design", columns, tuple(rows)), log], goals


def _answer(result: Result, target: float) -> tuple[float, tuple[float, float], float]:
    """Half-width of ln N*, its interval and N* itself."""
    told = result.predict(target)
    low, high = told.intervals["optimal_params"] or (np.nan, np.nan)
    return float(np.log(high / low) / 2), (low, high), told.optimal_params


def _row(
    name: str,
    result: Result,
    spent: float,
    half: float,
    best: float,
    span: tuple[float, float],
    wall: float,
) -> tuple[str, ...]:
    return (
        name,
        str(len(result.runs)),
        f"{spent:.3g}",
        f"{format_count(best)} ({format_count(span[0])}–{format_count(span[1])})",
        f"±{100 * np.expm1(half):.0f} %",
        f"{max(run.flops for run in result.runs):.2g}",
        f"{wall:.0f}",
    )

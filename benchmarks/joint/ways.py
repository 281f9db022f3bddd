"""Every way to tune, as the library carries it out, on simulated runs of StepLaw's valley."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import Pool
from typing import Any

import numpy as np
import torch

import flops_fit
from benchmarks.common.report import Result, Table
from benchmarks.joint.priors import WITHOUT_DENSE
from benchmarks.joint.simulated import (
    BUDGETS,
    LAW,
    RECIPES,
    SIZES,
    TARGET,
    Score,
    goals_of,
    held_against,
    regret,
)
from flops_fit import Adaptive
from flops_fit.adaptive import run_adaptive
from flops_fit.adaptive.candidates import Experimenter
from flops_fit.fit.solver import one_blas_thread
from flops_fit.fit.varied import TUNED
from flops_fit.hparams import HParams
from flops_fit.recipes.published import Recipe
from flops_fit.records import Experiment, Run
from flops_fit.table import RunTable
from flops_fit.tune import Tune
from flops_fit.tune.joint import Climber
from flops_fit.tune.search import run_tuning

SHARES = {"none": 0.0, "pilot": 0.15, "per-size": 0.5, "joint": 0.0}
"""Of all FLOPs that the sweep leaves to its trials, so that all ways cost the same; joint's are counted."""
DESIGN = Adaptive(
    target_compute=TARGET, max_flops=len(SIZES) * float(np.sum(BUDGETS)), half_width=0.15
)
"""An adaptive sweep that may spend what the grid does."""

PRIOR = replace(WITHOUT_DENSE, names=TUNED[:2])


class Square(torch.nn.Module):
    """width² parameters, six FLOPs a token for each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)
        return y


def rates(recipe: str) -> Recipe:
    """A recipe of the valley's as one of the library."""

    def chosen(params: Any, units: float, unit: str) -> HParams:
        lr, batch = RECIPES[recipe](params.total, units)
        return HParams(lr=float(lr), batch_units=float(batch), recipe=recipe)

    return chosen


def plan(recipe: str, way: str, seed: int) -> flops_fit.SweepPlan:
    """5×7 runs around the optimum at each budget."""
    budgets = BUDGETS * (1 - SHARES[way])
    widths = np.sqrt(LAW.optimal(budgets).params[:, None] * SIZES).round().astype(int)
    return flops_fit.plan_sweep(
        Square, "width", compute_budgets=budgets.tolist(), mode="mock", seed=seed, hparams=rates(recipe),
        sizes=dict(zip(budgets.tolist(), widths.tolist(), strict=True)),
        tune="joint" if way == "joint" else "none",
    )  # fmt: skip


def trained(noise: float, experiments: Sequence[Experiment]) -> list[Run]:
    """The runs as the valley has them."""
    out = []
    for e in experiments:
        N, D, batch = e.params.total, e.tokens, e.batch_size * e.units_per_sample
        off = regret(N, D, e.hparams.lr, batch)
        off += noise * np.random.default_rng([e.seed, e.steps]).normal()
        loss = float(LAW.loss(N, D)) * math.exp(off)
        out.append(Run(e, "completed", loss=loss, tokens=D, flops=e.flops))
    return out


@one_blas_thread
def one(recipe: str, way: str, noise: float, seed: int) -> tuple[float, bool, float, float]:
    """The error of ln N*, whether its interval held it, the rule's regret, and FLOPs over those planned."""
    planned, carry_out = plan(recipe, way, seed), partial(trained, noise)
    total = math.fsum(e.flops for e in planned.experiments) / (1 - SHARES[way])
    planner = planned.require_planner("tune")
    if planner.joint is not None:
        done = Climber(planned, planner.joint, carry_out, PRIOR).climb()
        runs, spent = list(done.runs), math.fsum(e.flops for e in done.experiments)
        return *held_against(RunTable.from_runs(runs), PRIOR), spent / total
    spent = 0.0
    if way != "none":
        tuning = run_tuning(
            Tune(way),
            planner.factory,
            planned.experiments,
            planned.flops,
            carry_out,
        )
        planned, spent = planner.remake(planned, tuning.recipe), tuning.flops
    table = RunTable.from_runs(carry_out(planned.experiments))
    spent += math.fsum(e.flops for e in planned.experiments)
    return *held_against(table, None), spent / total


@one_blas_thread
def adaptive(recipe: str, way: str, noise: float, seed: int) -> tuple[float, bool, float, float]:
    """As :func:`one`, of a sweep that chooses its sizes too."""
    planned = flops_fit.plan_sweep(
        Square, "width", mode="mock", seed=seed, hparams=rates(recipe), design=DESIGN, tune=way
    )
    planner, carry_out = planned.require_planner("tune"), partial(trained, noise)
    oracle: Experimenter | Climber
    if planner.joint is None:
        oracle = Experimenter(planner.factory, planned.flops, carry_out)
        run_adaptive(oracle, DESIGN, pilot_budgets=planned.budgets)
    else:
        limits = {"top": DESIGN.top, "total": DESIGN.max_flops}
        oracle = Climber(planned, planner.joint, carry_out, PRIOR, **limits)
        oracle.adapt(DESIGN)
    spent = math.fsum(e.flops for e in oracle.experiments) / DESIGN.max_flops
    prior = None if planner.joint is None else PRIOR
    return *held_against(RunTable.from_runs(list(oracle.runs)), prior), spent


def ways(quick: bool, sweeps: int | None = None, only: Sequence[str] = ()) -> Result:
    """None, pilot, per-size and joint, from every recipe, at like FLOPs; and none and joint, adaptive."""
    sweeps = sweeps or (4 if quick else 200)
    rows, goals, tuned = [], [], {}
    asked = [(one, way, way) for way in SHARES]
    asked += [(adaptive, way, f"adaptive, {way}") for way in ("none", "joint")]
    asked = [each for each in asked if not only or each[2].split(",")[0] in only]
    with Pool() as pool:
        for noise, recipe in itertools.product((0.002, 0.005), RECIPES):
            label = f"noise {100 * noise:g} %"
            for run, way, name in asked:
                found = pool.map(partial(run, recipe, way, noise), range(sweeps))
                score = _score(found)
                spent = 100 * float(np.mean([spent for *_, spent in found]))
                told = f"{score.regret:.2f} %" if way == "joint" else ""
                rows.append((label, recipe, name, *score.cells(), told, f"{spent:.0f} %"))
                print(rows[-1], flush=True)
                if way == "none" and recipe == "right":
                    tuned[run, noise] = score
                if way == "joint":
                    climbs = f"{name} as it climbs, {recipe}, {label}"
                    goals += goals_of(climbs, score, tuned[run, noise])
    columns = ("", "recipe", "tune", "bias", "rms", "holds", "rule's regret", "FLOPs")
    notes = (
        f"{sweeps} sweeps of 5×7 runs each; ln N* at 1e21 FLOPs. The sweep of a pilot has 15 % fewer "
        "FLOPs than that of none, and of per-size half, as trials may take the rest. Adaptive sweeps "
        f"end at ±{DESIGN.half_width:.0%}, or at what the grid costs.",
    )
    return [Table("Ways to tune, at like FLOPs", columns, tuple(rows), notes)], goals


def _score(found: Sequence[tuple[float, bool, float, float]]) -> Score:
    errors, held, regrets, _ = zip(*found, strict=True)
    return Score(list(errors), list(held), list(regrets))

"""Sweeps simulated on the valley of StepLaw's dense runs, trained by right and by wrong recipes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common.report import Goal, Result, Table, at_most
from benchmarks.joint.priors import WITHOUT_DENSE
from flops_fit.fit.hparam_rule import HParamRule, tuned_losses
from flops_fit.fit.intervals import Evidence
from flops_fit.fit.power import flops_of
from flops_fit.fit.surface import points_of
from flops_fit.fit.window import FitProblem
from flops_fit.laws import Hoffmann
from flops_fit.table import RunTable

LAW = Hoffmann(1.7, 0.8 * 1e8**0.35, 0.8 * 2e9**0.35, 0.35, 0.35)
JITTER, FURTHER, LEVEL = 3.0, 10.0, 0.9
BUDGETS, SIZES = np.geomspace(1e18, 1e20, 5), np.geomspace(1 / 6, 6, 7)
TARGET = FURTHER * float(BUDGETS[-1])
# ln N, ln D, ln η and ln B in the middle of StepLaw's dense runs; a₀ … a₃, b₀ … b₂, c_η, c_B, s there.
MIDDLE = (19.61, 23.37, -6.236, 12.90)
A, B = (-0.10, -0.71, 0.33, 0.38), (-0.21, 0.67, -0.24)
C_LR, C_BATCH, SKEW = 0.0068, 0.0054, 0.36


def right(N: Any, D: Any) -> tuple[Any, Any]:
    """The best rate and batch of the valley."""
    x, y = np.log(N) - MIDDLE[0], np.log(D) - MIDDLE[1]
    lr = np.exp(MIDDLE[2] + A[0] + A[1] * x + A[2] * y)
    return lr, np.exp(MIDDLE[3] + B[0] + B[1] * y + B[2] * x)


RECIPES: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "right": right,
    "GPT-3-like": lambda N, D: (6e-4 * (N / 1.25e8) ** -0.39, 0.15 * D**0.571),
    "constant": lambda N, D: (2e-3 + 0 * N, 2.0**19 + 0 * N),
    "DeepSeek": lambda N, D: (
        0.3118 * (6 * N * D) ** -0.125,
        0.2920 * (6 * N * D) ** 0.3271,
    ),
}


def regret(N: Any, D: Any, lr: Any, batch: Any) -> Any:
    """ln L over the floor, written without the library's own function."""
    best_lr, best_batch = right(N, D)
    v = np.log(batch / best_batch)
    u = np.log(lr / best_lr) - A[3] * v
    return C_LR * u * u * np.exp(SKEW * np.tanh(u)) + C_BATCH * v * v


def sweep(recipe: str, jitter: float, noise: float, seed: int) -> RunTable:
    """A 5×7 sweep whose rates and batches lie within ``jitter`` of a recipe."""
    rng = np.random.default_rng([seed, 7])
    compute = np.repeat(BUDGETS, len(SIZES))
    N = LAW.optimal(compute).params * np.tile(SIZES, len(BUDGETS))
    D = compute / (6 * N)
    lr, batch = RECIPES[recipe](N, D)
    moved = np.exp(np.log(jitter) * rng.uniform(-1, 1, (2, len(N))))
    lr, batch = lr * moved[0], batch * moved[1]
    loss = LAW.loss(N, D) * np.exp(regret(N, D, lr, batch) + noise * rng.normal(size=len(N)))
    labels = tuple(map(str, range(len(N))))
    return RunTable(N, D, compute, loss, labels, compute, lr=lr, batch_units=batch)


def fitted(table: RunTable, hparams: Any) -> tuple[Evidence, HParamRule | None]:
    """What fit_runs solves, without its refits and findings."""
    table, rule = tuned_losses(table, hparams, "total")
    base = np.ones(len(table)) if rule is None else rule.weights(table)
    points, flops = points_of(table, log=True), flops_of(table, None)
    problem = FitProblem(None, table, flops, points, "mad", base, rule=rule)
    solution, report = problem.windowed("auto")
    return problem.evidence(solution.chosen, report), rule


@dataclass
class Score:
    """Errors of ln N* at ten times the compute, whether the interval held, and the rule's regret."""

    errors: list[float]
    held: list[bool]
    regrets: list[float]

    @property
    def bias(self) -> float:
        return float(np.mean(self.errors))

    @property
    def rms(self) -> float:
        return float(np.sqrt(np.mean(np.square(self.errors))))

    @property
    def coverage(self) -> float:
        return 100 * float(np.mean(self.held))

    @property
    def regret(self) -> float:
        return 100 * float(np.mean(self.regrets)) if self.regrets else math.nan

    def cells(self) -> tuple[str, ...]:
        return (f"{self.bias:+.3f}", f"{self.rms:.3f}", f"{self.coverage:.0f} %")


def score(recipe: str, jitter: float, noise: float, hparams: Any, sweeps: int) -> Score:
    """One way to train and fit, over many sweeps."""
    best, out = LAW.optimal(TARGET), Score([], [], [])
    for seed in range(sweeps):
        evidence, rule = fitted(sweep(recipe, jitter, noise, seed), hparams)
        sizes = evidence.optima(TARGET).params
        span = evidence.span(sizes, LEVEL)
        out.errors.append(math.log(float(np.median(sizes)) / best.params))
        out.held.append(span is not None and span[0] <= best.params <= span[1])
        if rule is not None:
            told = rule.optimal(best.params, best.tokens)
            out.regrets.append(
                math.expm1(regret(best.params, best.tokens, told.lr, told.batch_units))
            )
    return out


def simulated(quick: bool, sweeps: int | None = None) -> Result:
    """Joint, plain and perfectly tuned sweeps of the same runs."""
    sweeps = sweeps or (20 if quick else 200)
    rows, goals = [], []
    for noise in (0.002, 0.005):
        perfect = score("right", 1.0, noise, None, sweeps)
        label = f"noise {100 * noise:g} %"
        rows.append((label, "perfectly tuned", *perfect.cells(), "", "", "", ""))
        for recipe in RECIPES:
            plain = score(recipe, 1.0, noise, None, sweeps)
            joint = score(recipe, JITTER, noise, WITHOUT_DENSE, sweeps)
            rows.append((label, recipe, *plain.cells(), *joint.cells(), f"{joint.regret:.2f} %"))
            print(rows[-1], flush=True)
            goals += _goals(f"{recipe}, {label}", joint, perfect)
    columns = (
        "", "recipe", "plain: bias", "rms", "holds", "joint: bias", "rms", "holds", "rule's regret",
    )  # fmt: skip
    notes = (
        f"{sweeps} sweeps of 5×7 runs from 1e18 to 1e20 FLOPs; ln N* at ten times that. Plain: trained at "
        f"the recipe. Joint: within ×{JITTER:g} of it, with a prior that has not seen these runs.",
    )
    return [Table("ln N* at ten times the compute", columns, tuple(rows), notes)], goals


def _goals(name: str, joint: Score, perfect: Score) -> list[Goal]:
    return [
        at_most(f"{name}: bias of ln N*", abs(joint.bias), 0.08),
        at_most(f"{name}: rms over that of tuned sweeps", joint.rms / perfect.rms, 2.0),
        Goal(f"{name}: coverage, %", joint.coverage, 88.0, 96.0, "90 %"),
        at_most(f"{name}: regret of the rule, %", joint.regret, 0.15),
    ]

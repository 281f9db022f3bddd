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
from flops_fit.fit.valley import NAMES
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
VALLEY = (*A, *B, math.log(0.0068), math.log(0.0054), 0.36)


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


def regret(N: Any, D: Any, lr: Any, batch: Any, valley: Any = VALLEY) -> Any:
    """ln L over the floor, written without the library's own function."""
    a0, a1, a2, a3, b0, b1, b2, c_lr, c_batch, s = valley
    logs = zip((N, D, lr, batch), MIDDLE, strict=True)
    x, y, rate, size = (np.log(value) - middle for value, middle in logs)
    v = size - (b0 + b1 * y + b2 * x)
    u = rate - (a0 + a1 * x + a2 * y + a3 * v)
    return np.exp(c_lr) * u * u * np.exp(s * np.tanh(u)) + np.exp(c_batch) * v * v


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


def _logs(constants: Any, table: RunTable) -> Any:
    """ln L of every run by ln E, ln A, ln B, α, β and the constants of the valley."""
    E, a, b, alpha, beta, *valley = constants
    N, D = np.log(table.params), np.log(table.tokens)
    floor = np.log(np.exp(E) + np.exp(a - alpha * N) + np.exp(b - beta * D))
    return floor + regret(table.params, table.tokens, table.lr, table.batch_units, valley)


def least(recipe: str, jitter: float, noise: float, sweeps: int = 20) -> float:
    """The least rms of ln N* that an unbiased estimate from such runs can have, by Cramér and Rao.

    The valley's constants have the widths of their priors, its form is exact and nothing else is known.
    """
    at = np.array([*np.log([LAW.E, LAW.A, LAW.B]), LAW.alpha, LAW.beta, *VALLEY])
    steps = 1e-5 * np.eye(len(at))
    known = [getattr(WITHOUT_DENSE, name)[1] ** -2 for name in NAMES[: len(at) - 5]]
    prior = np.diag([4.0, 0.0, 0.0, 11.0, 11.0, *known])  # sd .5 of ln E, .3 of exponents

    def size(t: Any) -> float:
        _, a, b, alpha, beta = t[:5]
        gap = math.log(alpha / beta) + a - b + beta * math.log(TARGET / 6)
        return float(gap / (alpha + beta))

    slope = np.array([size(at + d) - size(at - d) for d in steps]) / 2e-5
    variances = []
    for seed in range(sweeps):
        table = sweep(recipe, jitter, noise, seed)
        J = np.array([_logs(at + d, table) - _logs(at - d, table) for d in steps]) / 2e-5
        variances.append(slope @ np.linalg.solve(J @ J.T / noise**2 + prior, slope))
    return math.sqrt(float(np.mean(variances)))


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
        return 100 * float(np.mean(self.regrets))

    def cells(self) -> tuple[str, ...]:
        return (f"{self.bias:+.3f}", f"{self.rms:.3f}", f"{self.coverage:.0f} %")


def score(recipe: str, jitter: float, noise: float, hparams: Any, sweeps: int) -> Score:
    """One way to train and fit, over many sweeps."""
    found = [held_against(sweep(recipe, jitter, noise, seed), hparams) for seed in range(sweeps)]
    errors, held, regrets = zip(*found, strict=True)
    return Score(list(errors), list(held), list(regrets))


def held_against(table: RunTable, hparams: Any) -> tuple[float, bool, float]:
    """The error of ln N* at the target, whether its interval holds it, and the regret of the rule."""
    best = LAW.optimal(TARGET)
    evidence, rule = fitted(table, hparams)
    sizes = evidence.optima(TARGET).params
    span = evidence.span(sizes, LEVEL)
    error = math.log(float(np.median(sizes)) / best.params)
    held = span is not None and span[0] <= best.params <= span[1]
    if rule is None:
        return error, held, math.nan
    told = rule.optimal(best.params, best.tokens)
    return error, held, math.expm1(regret(best.params, best.tokens, told.lr, told.batch_units))


def simulated(quick: bool, sweeps: int | None = None) -> Result:
    """Joint, plain and perfectly tuned sweeps of the same runs."""
    sweeps = sweeps or (20 if quick else 200)
    rows, goals = [], []
    for noise in (0.002, 0.005):
        perfect = score("right", 1.0, noise, None, sweeps)
        label = f"noise {100 * noise:g} %"
        rows.append((label, "perfectly tuned", *perfect.cells(), "", "", "", "", ""))
        for recipe in RECIPES:
            plain = score(recipe, 1.0, noise, None, sweeps)
            joint = score(recipe, JITTER, noise, WITHOUT_DENSE, sweeps)
            told = f"{joint.regret:.2f} %", f"{least(recipe, JITTER, noise):.3f}"
            rows.append((label, recipe, *plain.cells(), *joint.cells(), *told))
            print(rows[-1], flush=True)
            goals += goals_of(f"{recipe}, {label}", joint, perfect)
    columns = (
        "", "recipe", "plain: bias", "rms", "holds", "joint: bias", "rms", "holds", "rule's regret",
        "least rms",
    )  # fmt: skip
    notes = (
        f"{sweeps} sweeps of 5×7 runs from 1e18 to 1e20 FLOPs; ln N* at ten times that. Plain: trained at "
        f"the recipe. Joint: within ×{JITTER:g} of it, with a prior that has not seen these runs. Least "
        "rms: what no unbiased estimate from these runs can be below.",
    )
    return [Table("ln N* at ten times the compute", columns, tuple(rows), notes)], goals


def goals_of(name: str, joint: Score, perfect: Score) -> list[Goal]:
    """What a sweep with rates in its law has to reach beside one that was tuned."""
    return [
        at_most(f"{name}: bias of ln N*", abs(joint.bias), 0.08),
        at_most(f"{name}: rms over that of tuned sweeps", joint.rms / perfect.rms, 2.0),
        Goal(f"{name}: coverage, %", joint.coverage, 88.0, 96.0, "90 %"),
        at_most(f"{name}: regret of the rule, %", joint.regret, 0.15),
    ]

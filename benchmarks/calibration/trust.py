"""Whether errors rise with what ``fit.trust`` says: on public sweeps, cut and thinned.

A full sweep of a study is a good one. Cut below each of its budgets, and with a part of its runs
left out at random, it is what others have: few budgets, few sizes, edges. What is left predicts the
budgets ahead up to 30 times its largest run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.calibration.sweeps import Budget, Sweep, load, measured_budgets
from benchmarks.common.report import Result, Table, at_least
from flops_fit.errors import FlopsFitError
from flops_fit.fit import Fit, fit_runs
from flops_fit.fit.checks import WIDTH_LIMITS, trust_of

LEVELS = ("ok", "caution", "no")
SHARES = (1.0, 0.6, 0.35)
_FARTHEST, _MOST_AHEAD, _FEWEST_RUNS = 30.0, 4, 10
_LARGEST_ERROR = np.log(20.0)  # of ln N, so that one wild answer is not the whole mean
_STEP = 1.5
_GRID = np.geomspace(0.5, 2.0, 7)  # times the limits as shipped


@dataclass(frozen=True)
class Trial:
    """One fit: its verdict, what else it found, how wide its answer is, and its errors in ln."""

    family: str
    sweep: str
    trust: str
    without_width: str
    widths: tuple[float, float]
    errors: tuple[tuple[float, float], ...]


def trials(sweep: Sweep, quick: bool) -> Iterator[Trial]:
    """Every cut of a sweep, with all of its runs and thinned."""
    runs, rng = sweep.runs, np.random.default_rng(0)
    seen = list(measured_budgets(runs))
    for level, _ in seen:
        below = runs.budget < level * 0.999
        for share in SHARES[:1] if quick else SHARES:
            left = below & (rng.random(len(below)) < share)
            if int(np.sum(left)) < _FEWEST_RUNS or len(np.unique(runs.budget[left])) < 3:
                continue
            reach = _FARTHEST * float(np.max(runs.flops[left]))
            ahead = [b for at, b in seen if at >= level * 0.999 and b.compute <= reach]
            picks = np.unique(np.linspace(0, len(ahead) - 1, _MOST_AHEAD).round().astype(int))
            if ahead:
                try:
                    fit = fit_runs(runs.select(left))
                except FlopsFitError:
                    continue
                yield _trial(sweep, fit, [ahead[i] for i in picks])


def _trial(sweep: Sweep, fit: Fit, ahead: Sequence[Budget]) -> Trial:
    errors = []
    for budget in ahead:
        answer = fit.predict(budget.compute)
        size = abs(float(np.log(answer.optimal_params)) - budget.vertex.log_n)
        loss = abs(float(np.log(answer.expected_loss)) - budget.vertex.log_loss)
        errors.append((min(size, _LARGEST_ERROR), loss))
    rest = trust_of([d for d in fit.diagnostics if d.code != "width_ahead"])
    answer = fit.predict(10 * fit.largest_compute)
    spans = [answer.intervals[name] for name in ("optimal_params", "expected_loss")]
    widths = [float(np.log(s[1] / s[0])) / 2 if s else np.inf for s in spans]
    return Trial(sweep.family, sweep.name, fit.trust, rest, (widths[0], widths[1]), tuple(errors))


@cache
def _all(folder: Path | None, quick: bool) -> list[Trial]:
    return [t for s in load(folder) for t in trials(s, quick)]


def trust(folder: Path | None, quick: bool) -> Result:
    """Errors by level: as shipped, and with the width's limits chosen on the other families."""
    found = _all(folder, quick)
    shipped = [t.trust for t in found]
    chosen = [""] * len(found)
    for family in sorted({t.family for t in found}):
        others = [t for t in found if t.family != family]
        limits = max(
            ((a, b) for a in _GRID for b in _GRID),
            key=lambda factors: _smallest_step(others, [_level(t, *factors) for t in others]),
        )
        for i, trial in enumerate(found):
            if trial.family == family:
                chosen[i] = _level(trial, *limits)
    tables = [
        _table("Errors by trust, as shipped", found, shipped),
        _table("Errors by trust, limits of the width from the other families", found, chosen),
    ]
    goals = []
    for name, labels in (("as shipped", shipped), ("limits from other families", chosen)):
        means = _means(found, labels)
        for i, what in enumerate(("ln N*", "loss")):
            for low, high in pairwise(LEVELS):
                step = means[high][i] / means[low][i]
                goals.append(at_least(f"trust, {name}: {what}, {high} over {low}", step, _STEP))
    return tables, goals


def _level(trial: Trial, caution: float, no: float) -> str:
    """The level where the limits of the width are so many times those shipped."""
    level = LEVELS.index(trial.without_width)
    for width, (low, high) in zip(trial.widths, WIDTH_LIMITS, strict=True):
        level = max(level, 2 * (width > no * high), int(width > caution * low))
    return LEVELS[level]


def _means(found: Sequence[Trial], labels: Sequence[str]) -> dict[str, tuple[float, float]]:
    out = {}
    for level in LEVELS:
        part = [e for t, at in zip(found, labels, strict=True) if at == level for e in t.errors]
        means = np.mean(part, axis=0) if part else np.full(2, np.nan)
        out[level] = (float(means[0]), float(means[1]))
    return out


def _smallest_step(found: Sequence[Trial], labels: Sequence[str]) -> float:
    """The least factor from one level to the next, in N* or loss; 0 where a level has few fits."""
    if any(labels.count(level) < 0.03 * len(labels) for level in LEVELS):
        return 0.0
    means = _means(found, labels)
    return min(means[b][i] / means[a][i] for a, b in pairwise(LEVELS) for i in range(2))


def _table(title: str, found: Sequence[Trial], labels: Sequence[str]) -> Table:
    rows = []
    for level in LEVELS:
        part = [t for t, at in zip(found, labels, strict=True) if at == level]
        errors = np.array([e for t in part for e in t.errors]).reshape(-1, 2)
        if not len(errors):
            rows.append((level, "0", *[""] * 7))
            continue
        (n, loss), (n90, loss90) = np.mean(errors, axis=0), np.quantile(errors, 0.9, axis=0)
        rows.append(
            (
                level,
                str(len(part)),
                str(len({t.sweep for t in part})),
                str(len({t.family for t in part})),
                str(len(errors)),
                f"{n:.3f}",
                f"×{np.exp(n90):.2f}",
                f"{100 * loss:.2f}",
                f"{100 * loss90:.1f}",
            )
        )
    columns = ("trust", "fits", "sweeps", "families", "predictions", "mean |ln N*|", "N* 9 in 10")
    return Table(title, (*columns, "mean |loss|, %", "loss 9 in 10, %"), tuple(rows))

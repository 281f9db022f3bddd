"""Adaptive sweeps on published runs: how few of them give the N* of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.common.report import Result, Table, at_most
from flops_fit import Fit, fit_runs, reference
from flops_fit.adaptive import Candidates, run_adaptive
from flops_fit.adaptive.propose import Criterion
from flops_fit.errors import FitError
from flops_fit.fit import quick_fit
from flops_fit.flops import FlopsFunction
from flops_fit.plan.designs import Adaptive
from flops_fit.table import RunTable

SETS: tuple[tuple[str, dict[str, str]], ...] = (
    ("hoffmann2022_epoch", {}),
    ("llama3_2024", {}),
    ("marin2026_dclm", {}),
    ("porian2024_refinedweb", {"hparams": "tuned"}),
)
MOST = 0.5  # of the table's FLOPs
FURTHER = 10.0  # target over the largest run
SHARES = (0.02, 0.05, 0.1, 0.25, 0.5)
DRAWS = 9
FEWEST = 8

Path = list[tuple[float, float]]
"""Share of a table's FLOPs, and the N* that its runs give."""


class Published:
    """Only the runs of a table can be made, each once."""

    def __init__(self, runs: RunTable, flops: FlopsFunction) -> None:
        self.runs, self.flops = runs, flops

    def candidates(self, params: np.ndarray, budget: np.ndarray) -> Candidates:
        """The run nearest to each one wanted, in ln N and ln C."""
        r = self.runs
        away = (np.log(r.params)[None] - np.log(params)[:, None]) ** 2
        away += (np.log(r.flops)[None] - np.log(budget)[:, None]) ** 2
        i = np.unique(np.argmin(away, axis=1))
        return Candidates(r.params[i], r.tokens[i], r.flops[i], r.budget[i], repeats=False)

    def run(self, chosen: Candidates) -> Sequence[float]:
        r = self.runs
        return [
            float(r.loss[np.flatnonzero((r.params == n) & (r.tokens == d))[0]])
            for n, d in chosen.pairs()
        ]


def chosen(fit: Fit, target: float) -> Path:
    """N* after each batch of a sweep that goes on for as long as runs help."""
    runs = fit.runs
    total, largest = float(np.sum(runs.flops)), float(np.max(runs.flops))
    budgets = np.unique(runs.budget)
    if len(budgets) > 20:  # no tiers: three within the cheapest decade
        budgets = float(np.min(runs.flops)) * np.array([1.0, 3.0, 10.0])
    design = Adaptive(
        target_compute=target,
        half_width=1e-3,
        max_flops=total,
        max_run_flops=largest * (1 + 1e-9),
    )
    found = run_adaptive(Published(runs, fit.flops), design, pilot_budgets=tuple(budgets[:3]))
    ends = np.cumsum([len(c) for c in found.batches])
    parts = (found.runs.select(np.arange(len(found.runs)) < n) for n in ends)
    return [
        (
            float(np.sum(part.flops)) / total,
            _best(part, fit, target),
        )
        for part in parts
        if len(part) >= FEWEST
    ]


def cheapest_first(fit: Fit, target: float) -> Path:
    """N* of all runs up to a compute that grows, as a sweep that goes up has them."""
    runs = fit.runs
    order = np.argsort(runs.flops, kind="stable")
    spent = np.cumsum(runs.flops[order]) / np.sum(runs.flops)
    path = []
    for share in np.geomspace(0.005, 1.0, 24):
        picked = order[spent <= share * (1 + 1e-9)]
        path += list(_answered(fit, picked, target))
    return path


def at_random(fit: Fit, target: float, seed: int) -> Path:
    """N* of runs drawn at random, more and more of them."""
    order = np.random.default_rng(seed).permutation(len(fit.runs))
    path = []
    for part in np.geomspace(0.08, 1.0, 16):
        path += list(_answered(fit, order[: round(part * len(order))], target))
    return path


def _answered(fit: Fit, picked: np.ndarray, target: float) -> Iterator[tuple[float, float]]:
    if len(picked) < FEWEST:
        return
    mask = np.zeros(len(fit.runs), dtype=bool)
    mask[picked] = True
    part = fit.runs.select(mask)
    try:
        best = _best(part, fit, target)
    except FitError:
        return
    yield float(np.sum(part.flops) / np.sum(fit.runs.flops)), best


def _best(runs: RunTable, fit: Fit, target: float) -> float:
    return float(np.median(Criterion(quick_fit(runs, fit.flops), target).optima.params))


def _error(path: Path, share: float, best: float) -> float:
    """|ln N* − ln N* of all| with at most that share of the FLOPs."""
    inside = [n for s, n in path if s <= share]
    return abs(float(np.log(inside[-1] / best))) if inside else float("nan")


def _first(path: Path, low: float, high: float) -> float:
    """The least share whose N* lies in the interval of all runs."""
    return min((s for s, n in path if low <= n <= high), default=float("nan"))


def replay(quick: bool) -> Result:
    """Each published table as an oracle."""
    rows, goals, misfits = [], [], []
    for name, where in SETS:
        fit = fit_runs(reference.runs(name, **where))
        target = FURTHER * float(np.max(fit.runs.flops))
        told = fit.predict(target)
        low, high = told.intervals["optimal_params"] or (np.nan, np.nan)
        best, draws = told.optimal_params, 3 if quick else DRAWS
        ways = {
            "adaptive": [chosen(fit, target)],
            "cheapest first": [cheapest_first(fit, target)],
            "at random": [at_random(fit, target, s) for s in range(draws)],
        }
        for way, paths in ways.items():
            errors = [np.median([_error(p, s, best) for p in paths]) for s in SHARES]
            first = float(np.median([_first(p, low, high) for p in paths]))
            rows.append(
                (
                    name,
                    way,
                    *(f"{e:.2f}" for e in errors),
                    "–" if first != first else f"{first:.1%}",
                )
            )
        least = _first(ways["adaptive"][0], low, high)
        goals.append(at_most(f"{name}: least share of FLOPs with N* inside", least, MOST))
        surface = quick_fit(fit.runs, fit.flops).posterior
        misfits.append((name, f"{100 * surface.amplitude:.2f}", f"{100 * surface.noise:.2f}"))
    columns = ("runs of", "way", *(f"{s:.0%}" for s in SHARES), "inside from")
    notes = (
        "|ln N*(10 C_max) − that of all runs| with so much of the table's FLOPs; then the least share "
        "whose N* is inside the 90 % interval of all.",
        f"at random: the median of {DRAWS} orders. Both rivals are fitted as any table is.",
    )
    return [
        Table("Published runs, chosen one way or another", columns, tuple(rows), notes),
        Table(
            "What all runs show, % of the loss",
            ("runs of", "misfit", "noise"),
            tuple(misfits),
        ),
    ], goals

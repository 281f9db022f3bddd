"""Do the smaller budgets of published sweeps predict the larger ones?

Each packaged sweep is cut below two budgets, every method is fitted to what is left, and its N* and
loss at those two are held against the vertex of the parabola through their runs within ×5 of it.
Regret is what training the predicted N there would have cost in loss, by that parabola.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common.report import Result, Table, at_most
from flops_fit import reference
from flops_fit.fit import fit_runs
from flops_fit.fit.minima import Parabola, isoflop, parabola
from flops_fit.table import RunTable

NEAR = 5.0
FEWEST = 5  # budgets that are left to fit when the cut moves down
TOP = 2
SWEEPS: dict[str, tuple[str, dict[str, str]]] = {
    "Llama 3": ("llama3_2024", {}),
    "Marin DCLM": ("marin2026_dclm", {}),
    "RefinedWeb base/cosine": ("porian2024_refinedweb", {"decay": "chinchilla"}),
    "RefinedWeb tuned/constant": ("porian2024_refinedweb", {"hparams": "tuned"}),
    "RefinedWeb base/kaplan": (
        "porian2024_refinedweb",
        {"warmup": "short", "decay": "kaplan"},
    ),
    "RefinedWeb long warmup": (
        "porian2024_refinedweb",
        {"warmup": "long", "param_count": "standard"},
    ),
    "RefinedWeb Kaplan's own": ("porian2024_refinedweb", {"param_count": "kaplan"}),
}

Answer = Callable[[float], tuple[float, float]]
Method = Callable[[RunTable], Answer]


def surface(**options: Any) -> Method:
    """N* and loss by a fitted law."""

    def fitted(runs: RunTable) -> Answer:
        fit = fit_runs(runs, **options)

        def answer(C: float) -> tuple[float, float]:
            best = fit.law.optimal(C, fit.flops)
            return float(best.params), float(best.loss)

        return answer

    return fitted


def line(factor: float | None) -> Method:
    """N* by approach 2, which has no loss."""

    def fitted(runs: RunTable) -> Answer:
        n_line = isoflop(runs, factor).n_line
        nan = float("nan")  # fewer than two minima inside: no answer
        return lambda C: (nan if n_line is None else float(n_line(C)), nan)

    return fitted


def average(runs: RunTable) -> Answer:
    """Forms averaged in ln N* and ln L, each by how well it predicts the top budget of ``runs``."""
    top = runs.budget == np.max(runs.budget)
    compute, seen = float(np.mean(runs.flops[top])), parabola(runs.select(top), NEAR)
    answers, weights = [], []
    for method in (surface(law="kappa"), surface(law="hoffmann"), line(NEAR)):
        answers.append(method(runs))
        early = method(runs.select(~top))(compute)[0]
        known = seen is not None and seen.interior and np.isfinite(early)
        off = np.log(early / seen.params) if known and seen is not None else 0.0
        weights.append(1 / (0.05**2 + float(off) ** 2))

    def answer(C: float) -> tuple[float, float]:
        found = np.log([a(C) for a in answers])
        w = np.where(np.isnan(found[:, 0]), 0.0, weights)
        loss = found[:2, 1] @ w[:2] / np.sum(w[:2])
        return float(np.exp(w @ np.nan_to_num(found[:, 0]) / np.sum(w))), float(np.exp(loss))

    return answer


SHIPPED = "as shipped"
PARABOLA = "A2 ×5"
METHODS: dict[str, Method] = {
    SHIPPED: surface(),
    "κ-law ×5": surface(law="kappa", window=NEAR),
    "κ-law all": surface(law="kappa", window=None),
    "additive, tilted ×5": surface(law="hoffmann"),
    "additive ×5": surface(law="hoffmann", window=NEAR),
    "additive all": surface(law="hoffmann", window=None),
    "average of forms": average,
    PARABOLA: line(NEAR),
    "A2 all": line(None),
}


@dataclass(frozen=True)
class Miss:
    """One prediction: errors of ln N* and ln L, and the regret."""

    params: float
    loss: float
    regret: float


def cuts(runs: RunTable, rolling: bool) -> Iterator[tuple[RunTable, list[tuple[float, Parabola]]]]:
    """What is left below each cut, and the measured vertices of the next two budgets."""
    budgets = np.unique(runs.budget)
    last = len(budgets) - TOP
    for first in range(FEWEST, last + 1) if rolling else (last,):
        ahead = []
        for budget in budgets[first : first + TOP]:
            part = runs.select(runs.budget == budget)
            vertex = parabola(part, NEAR)
            if vertex is not None and vertex.interior:
                ahead.append((float(np.mean(part.flops)), vertex))
        yield runs.select(runs.budget < budgets[first]), ahead


def misses(runs: RunTable, method: Method, rolling: bool) -> list[Miss]:
    """Of one method on one sweep."""
    out = []
    for left, ahead in cuts(runs, rolling):
        answer = method(left)
        for C, vertex in ahead:
            N, L = answer(C)
            regret = vertex.regret(N)
            out.append(
                Miss(float(np.log(N / vertex.params)), float(np.log(L / vertex.loss)), regret)
            )
    return out


def measure(rolling: bool) -> dict[str, dict[str, list[Miss]]]:
    """By method and sweep."""
    runs = {name: reference.runs(source, **where) for name, (source, where) in SWEEPS.items()}
    return {
        method: {name: misses(table, fitted, rolling) for name, table in runs.items()}
        for method, fitted in METHODS.items()
    }


def backtests(quick: bool) -> Result:
    """The two top budgets of every sweep; and, unless quick, every two budgets above the fifth."""
    top = measure(rolling=False)
    tables = [_by_sweep(top), _pooled("The two top budgets, pooled", top)]
    if not quick:
        tables.append(_pooled("Every two budgets above the fifth, pooled", measure(rolling=True)))
    ours, theirs = _all(top[SHIPPED]), _all(top[PARABOLA])
    goals = [
        at_most("back-test: median |ln N*| error, against A2's", _median(ours), _median(theirs)),
        at_most("back-test: rms ln N* error, against A2's", _rms(ours), _rms(theirs)),
        at_most("back-test: mean |loss error|", _loss(ours), 0.01),
    ]
    return tables, goals


def _by_sweep(found: Mapping[str, Mapping[str, list[Miss]]]) -> Table:
    rows = []
    for sweep in SWEEPS:
        cells = [sweep]
        for sweeps in found.values():
            part = sweeps[sweep]
            error = np.mean([abs(m.params) for m in part])
            loss = np.mean([m.loss for m in part])
            cells.append(f"{error:.2f}" + ("" if np.isnan(loss) else f" {100 * loss:+.1f} %"))
        rows.append(tuple(cells))
    return Table(
        "The two top budgets from the rest: mean |ln N*| error, mean loss error",
        ("sweep", *found),
        tuple(rows),
    )


def _pooled(title: str, found: Mapping[str, Mapping[str, list[Miss]]]) -> Table:
    rows = []
    for method, sweeps in found.items():
        part = _all(sweeps)
        loss = _loss(part)
        rows.append(
            (
                method,
                str(len(part)),
                f"{_median(part):.3f}",
                f"{_rms(part):.3f}",
                f"{100 * np.mean([m.regret for m in part]):.2f} %",
                "-" if np.isnan(loss) else f"{100 * loss:.2f} %",
            )
        )
    columns = ("method", "predictions", "median |ln N*|", "rms ln N*", "mean regret", "mean |loss|")
    return Table(title, columns, tuple(rows))


def _all(sweeps: Mapping[str, list[Miss]]) -> list[Miss]:
    return [m for part in sweeps.values() for m in part if np.isfinite(m.params)]


def _median(part: list[Miss]) -> float:
    return float(np.median([abs(m.params) for m in part]))


def _rms(part: list[Miss]) -> float:
    return float(np.sqrt(np.mean([m.params**2 for m in part])))


def _loss(part: list[Miss]) -> float:
    return float(np.mean([abs(m.loss) for m in part]))

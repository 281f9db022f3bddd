"""Climbing StepLaw's own runs: a few of each cheap cell, and the rule that comes out at the dearest."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.report import Goal, Result, Table, at_least, at_most
from benchmarks.joint.priors import WITHOUT_DENSE, WITHOUT_EXPERTS
from flops_fit.fit.hparam_rule import BestHParams, HParamRule, tuned_losses
from flops_fit.fit.valley import ValleyPrior
from flops_fit.fit.varied import TUNED
from flops_fit.table import RunTable

Floats = NDArray[np.float64]

HELD_OUT, JITTER, FIRST, EVERY = 9, 3.0, 12, 4
SEQUENCE = 2048
_NEAR = 0.06  # of a cell's lowest loss, to which its own surface is fitted
STARTS = (1.0, 4.0, 0.25)
PUBLISHED = {"lr_params": -0.713, "lr_units": 0.307, "batch_units": 0.571, "batch_params": 0.0}


def published(N: float, D: float) -> tuple[float, float]:
    """The rule of Li et al. 2025."""
    return 1.79 * N**-0.713 * D**0.307, 0.58 * D**0.571


@dataclass(frozen=True, eq=False)
class Cell:
    """The runs of one N and D, and a quadratic, skew in the rate, through those near the best.

    ``best`` are ln η and ln B of its minimum.
    """

    runs: RunTable
    coefficients: Floats
    middle: Floats
    lowest: float
    best: Floats

    @property
    def at(self) -> tuple[float, float]:
        return float(self.runs.params[0]), float(self.runs.tokens[0])

    def regret(self, lr: float, batch: float) -> float:
        """ln L over the cell's own minimum."""
        here = _terms(np.log([[lr, batch]]) - self.middle) @ self.coefficients
        return max(float(here[0]) - self.lowest, 0.0)


def _terms(z: Floats) -> Floats:
    r, b = z.T
    return np.column_stack([np.ones(len(z)), r, b, r * r, r * b, b * b, r**3])


def cells(runs: RunTable) -> list[Cell]:
    """All cells, from the cheapest up."""
    keys = np.column_stack([runs.flops, runs.params, runs.tokens])
    out = []
    for key in np.unique(keys, axis=0):
        part = runs.select(np.all(keys == key, axis=1))
        z = np.column_stack([np.log(part.lr), np.log(part.batch_units)])  # type: ignore[arg-type]
        near = part.loss < (1 + _NEAR) * np.min(part.loss)
        middle = z[np.argmin(part.loss)]
        c = np.linalg.lstsq(_terms(z[near] - middle), np.log(part.loss[near]), rcond=None)[0]
        axes = [np.linspace(z[near, i].min(), z[near, i].max(), 81) - middle[i] for i in (0, 1)]
        grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
        values = _terms(grid) @ c
        best = int(np.argmin(values))
        out.append(Cell(part, c, middle, float(values[best]), middle + grid[best]))
    return out


def read(path: Path) -> RunTable:
    """StepLaw's runs of one file, batches in tokens; N is active parameters."""
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    N, D, lr, B, loss = (
        np.array([float(row[name]) for row in rows])
        for name in (
            "active_params" if "active_params" in rows[0] else "non_embedding",
            "tokens", "lr", "batch_sequences", "loss",
        )
    )  # fmt: skip
    C = 6 * N * D
    labels = tuple(f"run {i}" for i in range(len(N)))
    every = np.array([float(row["params"]) for row in rows]) if "params" in rows[0] else N
    return RunTable(N, D, C, loss, labels, C, non_embedding=every, lr=lr, batch_units=SEQUENCE * B)


def climb(
    path: Sequence[Cell], start: float, per: int, prior: ValleyPrior, seed: int
) -> HParamRule | None:
    """The rule from ``per`` runs a cell, each near the rule fitted to the cells before."""
    rng, rule, taken = np.random.default_rng(seed), None, []
    for i, cell in enumerate(path):
        N, D = cell.at
        lr, batch = (start * v for v in published(N, D))
        if rule is not None:
            told = rule.optimal(N, D)
            lr, batch = told.lr or lr, told.batch_units or batch
        runs = cell.runs
        assert runs.lr is not None
        assert runs.batch_units is not None
        left = np.ones(len(runs), dtype=bool)
        for _ in range(per):
            goal = np.log([lr, batch]) + np.log(JITTER) * rng.uniform(-1, 1, 2)
            off = (np.log(runs.lr) - goal[0]) ** 2 + (np.log(runs.batch_units) - goal[1]) ** 2
            best = int(np.argmin(np.where(left, off, np.inf)))
            left[best] = False
        taken.append(runs.take(np.flatnonzero(~left)))
        last = i == len(path) - 1
        if len(taken) * per >= FIRST and (len(taken) % EVERY == 0 or last):
            rule = tuned_losses(_joined(taken), TUNED[:2], "total", prior)[1]
    return rule


def _joined(parts: Sequence[RunTable]) -> RunTable:
    names = ("params", "tokens", "flops", "loss", "budget", "lr", "batch_units")
    columns = {n: np.concatenate([getattr(p, n) for p in parts]) for n in names}
    labels = tuple(map(str, range(len(columns["loss"]))))
    return RunTable(labels=labels, **columns)


def replay(folder: Path | None, quick: bool) -> Result:
    """Dense runs and mixtures of experts, where the folder has them."""
    tables, goals = [], []
    for name, file, prior, held in (
        ("StepLaw, dense", "steplaw2025_lr_batch.csv", WITHOUT_DENSE, HELD_OUT),
        ("StepLaw, mixtures of experts", "steplaw2025_moe.csv", WITHOUT_EXPERTS, 4),
    ):
        if folder is None or not (folder / file).is_file():
            note = f"no file {file} in --data"
            tables.append(Table(name, ("", "regret"), (), (note,)))
            continue
        found, own = _replayed(name, cells(read(folder / file)), prior, held, quick)
        tables += found
        goals += own
    return tables, goals


def _replayed(
    name: str, every: list[Cell], prior: ValleyPrior, held: int, quick: bool
) -> tuple[list[Table], list[Goal]]:
    low, high = every[:-held], every[-held:]
    rows, goals, spans, bounds = [], [], [], []
    for factor in STARTS:
        costs = [c.regret(*(factor * v for v in published(*c.at))) for c in high]
        rows.append((f"published × {factor:g}", "0", *_costs(costs), "", "", ""))
    for start in STARTS:
        for per in (1, 2):
            all_costs, inside = [], []
            for seed in range(1 if quick else 5):
                rule = climb(low, start, per, prior, seed)
                if rule is None:
                    continue
                told = [rule.optimal(*c.at) for c in high]
                pairs = zip(high, told, strict=True)
                costs = [c.regret(t.lr or 0.0, t.batch_units or 0.0) for c, t in pairs]
                all_costs += costs
                inside += [_held(c, t, cost) for c, t, cost in zip(high, told, costs, strict=True)]
                if seed == 0:
                    spans.append(_exponents(f"× {start:g}, {per} a cell", rule))
            label = f"climb from × {start:g}, {per} a cell"
            shares = 100 * np.mean(inside, axis=0)
            held_in = [f"{share:.0f} %" for share in shares]
            rows.append((label, str(per * len(low)), *_costs(all_costs), *held_in))
            bounds.append(shares[2])
            goals.append(at_most(f"{name}, {label}: mean, %", 100 * np.mean(all_costs), 0.25))
            goals.append(at_most(f"{name}, {label}: worst, %", 100 * np.max(all_costs), 0.5))
    what = f"{name}: the bound on the regret holds in so many % (90 %)"
    goals.append(at_least(what, float(np.mean(bounds)), 85.0))
    whole = _joined([c.runs for c in every])
    rule = tuned_losses(whole, TUNED[:2], "total", prior)[1]
    assert rule is not None
    costs = [c.regret(t.lr or 0, t.batch_units or 0) for c in high for t in [rule.optimal(*c.at)]]
    rows.append(("all runs, these cells too", str(len(whole)), *_costs(costs), "", "", ""))
    spans.append(_exponents("all runs", rule))
    head = ("rule", "runs", "regret: mean", "median", "worst", "holds: rate", "batch", "bound")
    notes = (
        f"{len(low)} cells are climbed; regrets at the {held} most expensive, by each cell's own runs. "
        "Holds: how often 90 % intervals of rate and batch have that cell's best, and the bound on the "
        "regret what it is.",
    )
    exponents = tuple(PUBLISHED)
    shown = [("published", *(f"{PUBLISHED[n]:+.3f}" for n in exponents)), *spans]
    return [
        Table(f"{name}: regret of the rule", head, tuple(rows), notes),
        Table(f"{name}: exponents (90 %)", ("", *exponents), tuple(shown)),
    ], goals


def _costs(costs: Sequence[float]) -> tuple[str, ...]:
    values = np.array(costs or [math.nan])
    return tuple(f"{100 * v:.2f} %" for v in (values.mean(), np.median(values), values.max()))


def _held(cell: Cell, told: BestHParams, cost: float) -> tuple[bool, ...]:
    assert told.lr_interval is not None
    assert told.batch_interval is not None
    spans = zip((told.lr_interval, told.batch_interval), np.exp(cell.best), strict=True)
    return *(low <= best <= high for (low, high), best in spans), cost <= told.regret_below


def _exponents(label: str, rule: HParamRule) -> tuple[str, ...]:
    cells = []
    for name in PUBLISHED:
        e = rule.exponents[name]
        assert e.interval is not None
        cells.append(f"{e.value:+.2f} ({e.interval[0]:+.2f} to {e.interval[1]:+.2f})")
    return (label, *cells)

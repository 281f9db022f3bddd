"""Public sweeps, and what each says of its largest budgets when the rest is all that is known."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flops_fit.table import RunTable
from flops_fit.table.cells import budgets_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NEAR = np.log(5.0)  # of the parabola through a held-out budget, in ln N
FEWEST_RUNS, FEWEST_BUDGETS, FEWEST_VERTICES = 12, 3, 4
_MOST_EPOCHS = 4.0
_FEWEST_SIZES = 4
_WORST_VERTEX = 0.35  # standard error of ln N at a vertex beyond which it says nothing
_SAME_SOURCE = {"owt2": "porian"}  # OpenWebText2 runs of the same study
_PUBLISHED_BUDGETS = {  # of points read off a figure, whose compute scatters around them
    "hoffmann2022_epoch": (6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21),
}


@dataclass(frozen=True, eq=False)
class Sweep:
    """Runs of one configuration from one file; ``family`` is the study they come from."""

    name: str
    family: str
    runs: RunTable


@dataclass(frozen=True)
class Vertex:
    """Of a parabola of ln L in ln N: ln N, ln L there, and their standard errors."""

    log_n: float
    log_n_se: float
    log_loss: float
    log_loss_se: float


@dataclass(frozen=True, eq=False)
class Budget:
    """A held-out budget: its compute, its measured optimum, and the run nearest to it."""

    compute: float
    vertex: Vertex
    log_d: float
    nearest_loss: float


@dataclass(frozen=True, eq=False)
class Cut:
    """What is left of a sweep, and the budgets to predict from it."""

    sweep: Sweep
    name: str
    left: RunTable
    budgets: tuple[Budget, ...]


def load(folder: Path | None) -> list[Sweep]:
    """The packaged sweeps and those of a folder's CSV files, without files of the same name."""
    packaged = resources.files("flops_fit.reference") / "data"
    with resources.as_file(packaged) as inside:
        files = {p.name: p for p in sorted(inside.glob("*.csv"))}
        for path in sorted(folder.glob("*.csv")) if folder else ():
            files.setdefault(path.name, path)
        return [s for _, path in sorted(files.items()) for s in _read(path)]


def _read(path: Path) -> Iterator[Sweep]:
    """The sweeps of one file: one for each combination of its text columns."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = tuple(rows[0])
    size = "params" if "params" in names else "non_embedding"
    if not {size, "tokens", "loss"} <= set(names) or "active_params" in names:
        return
    prefix = path.stem.split("_")[0]
    family = _SAME_SOURCE.get(prefix, re.sub(r"\d+$", "", prefix))
    words = [n for n in names if not all(_is_number(r[n]) for r in rows)]
    for key in sorted({tuple(r[n] for n in words) for r in rows}):
        part = [r for r in rows if tuple(r[n] for n in words) == key]
        columns = {n: np.array([float(r[n]) for r in part]) for n in names if n not in words}
        columns["params"] = columns[size]
        yield Sweep("-".join([path.stem, *key]), family, _table(path.stem, columns))


def _table(name: str, columns: dict[str, Floats]) -> RunTable:
    """Fresh data only; one run for each N and D: the best rate and batch, or the mean of seeds."""
    N, D, loss = (columns[n] for n in ("params", "tokens", "loss"))
    C = columns.get("flops", 6 * N * D)
    keep = _MOST_EPOCHS * columns.get("unique_tokens", np.full(len(D), np.inf)) >= D
    data = np.column_stack([N, D, C, loss, columns.get("budget", C)])[keep]
    at, group = np.unique(data[:, :2], axis=0, return_inverse=True)
    if "lr" in columns or "unique_tokens" in columns:
        pick = np.min if "lr" in columns else np.mean
        data = np.array([pick(data[group.ravel() == i], axis=0) for i in range(len(at))])
    N, D, C, loss, budget = data.T
    if "budget" not in columns:
        budget = budgets_of(C)
    if name in _PUBLISHED_BUDGETS:
        levels = np.array(_PUBLISHED_BUDGETS[name])
        off = np.abs(np.log(C[:, None] / levels))
        near = np.argmin(off, axis=1)
        budget = np.where(np.min(off, axis=1) < 0.25, levels[near], C)
    return RunTable.read({"params": N, "tokens": D, "flops": C, "loss": loss, "budget": budget})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def vertex(N: Floats, loss: Floats) -> Vertex | None:
    """The parabola through the sizes within ×5 of its own vertex; ``None`` where it shows none."""
    x, z = np.log(N), np.log(loss)
    centre = float(x[np.argmin(z)])
    for step in range(30):
        near = np.abs(x - centre) <= NEAR * (1 + 1e-7)
        if len(np.unique(np.round(x[near], 3))) < _FEWEST_SIZES:
            return None
        basis = np.vander(x[near] - centre, 3, increasing=True)
        c, slope, bend = np.linalg.lstsq(basis, z[near], rcond=None)[0]
        if bend <= 0:
            return None
        moved = centre - slope / (2 * bend)
        if not x.min() - 0.3 <= moved <= x.max() + 0.3:
            return None
        settled = abs(moved - centre) < 1e-6
        centre = moved if step <= 10 else (centre + moved) / 2
        if settled:
            break
    inside = x.min() < centre < x.max() and np.any(x[near] < centre) and np.any(x[near] > centre)
    if not inside:
        return None
    r = z[near] - basis @ np.array([c, slope, bend])
    cov = np.linalg.inv(basis.T @ basis) * float(r @ r) / max(len(r) - 3, 1)
    move = np.array([0.0, -1 / (2 * bend), slope / (2 * bend**2)])
    lift = np.array([1.0, -slope / (2 * bend), slope**2 / (4 * bend**2)])
    errors = [float(np.sqrt(g @ cov @ g)) for g in (move, lift)]
    return Vertex(float(centre), errors[0], float(c - slope**2 / (4 * bend)), errors[1])


def cuts(sweep: Sweep) -> Iterator[Cut]:
    """Without the top one, two and three budgets that show an optimum, and without a decade."""
    runs = sweep.runs
    seen = list(measured_budgets(runs))
    if len(seen) < FEWEST_VERTICES:
        return
    top = float(np.max(runs.flops))
    levels = [budget for budget, _ in seen]
    parts = [
        (f"top {k}", runs.budget < levels[-k] * 0.999, levels[-k] * 0.999) for k in range(1, 4)
    ]
    parts.append(("decade", runs.flops <= 0.105 * top, 0.12 * top))
    for name, left, above in parts:
        ahead = tuple(b for level, b in seen if level > above)
        enough = len(np.unique(runs.budget[left])) >= FEWEST_BUDGETS
        if ahead and enough and int(np.sum(left)) >= FEWEST_RUNS:
            yield Cut(sweep, name, runs.select(left), ahead)


def measured_budgets(runs: RunTable) -> Iterator[tuple[float, Budget]]:
    """The budgets that show an optimum, cheapest first."""
    for level in np.unique(runs.budget):
        found = _budget(runs, level)
        if found is not None:
            yield found


def _budget(runs: RunTable, level: float) -> tuple[float, Budget] | None:
    part = runs.select(runs.budget == level)
    found = vertex(part.params, part.loss)
    if found is None or found.log_n_se >= _WORST_VERTEX:
        return None
    x, C = np.log(part.params), float(np.median(part.flops))
    order = np.argsort(x)
    per_unit = np.interp(found.log_n, x[order], np.log(part.flops / part.tokens)[order])
    nearest = int(np.argmin(np.abs(x - found.log_n)))
    log_d = float(np.log(C) - per_unit)
    return float(level), Budget(C, found, log_d, float(part.loss[nearest]))

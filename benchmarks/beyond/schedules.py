"""What will a run end at? Forecasts from a quarter, half and three quarters of public training curves.

The curves are those of Luo et al. 2025 (arXiv:2503.12811): models of 25M, 100M and 400M parameters under
nine schedules each, of 16,000 to 72,000 steps.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.common.report import Goal, Result, Table, at_least, at_most
from flops_fit import forecast

Floats = NDArray[np.float64]
Key = tuple[str, str]  # of size and schedule
Curves = dict[Key, Floats]  # step, rate, loss

FILE = "multi_power_law2025_curves.csv"
WARMUP = 2160  # steps, which the curves leave out
RATES = 400  # that a schedule is given as
SEEN = (0.25, 0.5, 0.75)
FITTED = ("cosine_24000", "constant_24000", "wsdcon_9")  # those that the paper fits
MEAN_ERROR, COVERAGE = 0.3, 0.9  # per cent at half of the run; of the 90 % intervals
EARLIER: dict[str, Callable[[Key, Key], bool]] = {
    "nothing": lambda key, other: False,
    "other sizes, same schedule": lambda key, other: other[0] != key[0] and other[1] == key[1],
    "other sizes, three other schedules": lambda key, other: (
        other[0] != key[0] and other[1] in FITTED and other[1] != key[1]
    ),
    "same size, three other schedules": lambda key, other: (
        other[0] == key[0] and other[1] in FITTED and other[1] != key[1]
    ),
}


def schedules(folder: Path, quick: bool) -> Result:
    """Errors and coverage by what the forecast was told of, beside two that know no schedule."""
    curves = read(folder / FILE)
    held_out = {k: c for k, c in curves.items() if not quick or k[0] == "100M"}
    rows, goals, inside = [], [], []
    for name, tells in EARLIER.items():
        for seen in SEEN:
            errors, halves = forecasts(curves, held_out, tells, seen)
            covered = errors < halves
            inside += covered.tolist()
            rows.append(
                (name, *row(seen, errors), f"{np.median(halves):.2f}", f"{covered.mean():.2f}")
            )
            if seen == 0.5:
                what = f"told of {name}: mean error at half of the run, %"
                goals.append(at_most(what, errors.mean(), MEAN_ERROR))
    for name, rival in (("rival: a power law in steps", power_law), ("rival: the last loss", last)):
        for seen in SEEN:
            errors = np.array(
                [abs(100 * (rival(c, seen) / c[2, -1] - 1)) for c in held_out.values()]
            )
            rows.append((name, *row(seen, errors), "–", "–"))
    goals.append(at_least("share of 90 % intervals that hold the end", np.mean(inside), COVERAGE))
    columns = ("told of earlier runs", "seen", "median", "mean", "largest", "± of 90 %", "coverage")
    notes = (
        f"Relative errors of the last loss of {len(held_out)} curves in per cent; the run itself is none of "
        "the earlier ones.",
    )
    misfits, better = forms(curves)
    table = Table("What will this run end at?", columns, tuple(rows), notes)
    return [table, misfits], [*goals, better]


def read(path: Path) -> Curves:
    """The table's curves."""
    points = defaultdict(list)
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            point = [float(line[name]) for name in ("step", "lr", "loss")]
            points[line["model"], line["schedule"]].append(point)
    return {key: np.array(values).T for key, values in points.items()}


def rates(curve: Floats) -> Floats:
    """The schedule at equal distances, its linear warmup included."""
    step, lr, _ = curve
    at = (np.arange(RATES) + 0.5) / RATES * step[-1]
    return np.interp(at, [0, WARMUP, *step], [0, lr.max(), *lr])


def forecasts(
    curves: Curves, held_out: Curves, tells: Callable[[Key, Key], bool], seen: float
) -> tuple[Floats, Floats]:
    """Errors and half-widths of the intervals, in per cent of the last loss, of shape (curves,)."""
    errors, halves = [], []
    for key, curve in held_out.items():
        step, _, loss = curve
        part = step <= seen * step[-1]
        prior = [((c[0], c[2]), rates(c), c[0, -1]) for k, c in curves.items() if tells(key, k)]
        end = forecast((step[part], loss[part]), rates(curve), end=step[-1], prior=prior)
        errors.append(100 * abs(end.value / loss[-1] - 1))
        halves.append(50 * (end.interval[1] - end.interval[0]) / loss[-1])
    return np.array(errors), np.array(halves)


def row(seen: float, errors: Floats) -> tuple[str, ...]:
    """Cells of a table."""
    return f"{seen:.0%}", *(f"{v:.2f}" for v in (np.median(errors), errors.mean(), errors.max()))


def last(curve: Floats, seen: float) -> float:
    """The last loss that was seen."""
    step, _, loss = curve
    return float(loss[step <= seen * step[-1]][-1])


def power_law(curve: Floats, seen: float) -> float:
    """E + A·t^−α through what was seen after the first tenth."""
    step, _, loss = curve
    share = step / step[-1]
    part = (share <= seen) & (share > 0.1 * seen)

    def off(z: Floats) -> Floats:
        return z[0] + np.exp(z[1]) * share[part] ** -np.exp(z[2]) - loss[part]

    z = least_squares(off, [0.9 * loss[part][-1], np.log(0.3), np.log(0.45)]).x
    return float(z[0] + np.exp(z[1]))


def forms(curves: Curves) -> tuple[Table, Goal]:
    """The law's misfit of all schedules of a size at once, S₁ summing η^p."""
    powers = (1.0, 0.75, 0.5, 0.25)
    sizes = sorted({size for size, _ in curves})
    misfit = {
        (size, p): common_fit([c for k, c in curves.items() if k[0] == size], p)
        for size in sizes
        for p in powers
    }
    rows = tuple((f"{p:g}", *(f"{misfit[size, p]:.3f}" for size in sizes)) for p in powers)
    title = "The law's form: root mean square misfit of nine schedules of one size, %"
    table = Table(title, ("S₁ sums η^p, p", *sizes), rows, ("p = 1 is the published form.",))
    worst = max(misfit[size, 0.5] / misfit[size, 1.0] for size in sizes)
    return table, at_most("misfit with the root of the rate to that with the rate", worst, 0.8)


def common_fit(curves: list[Floats], p: float) -> float:
    """Relative misfit in per cent of one set of constants for all."""
    parts = []
    for curve in curves:
        eta = rates(curve) / curve[1].max()
        width = curve[0, -1] / RATES
        edges = np.arange(RATES + 1) * width
        sums, powered = (np.append(0, np.cumsum(r) * width) for r in (eta, eta**p))
        peak = int(np.argmax(eta >= eta.max() * (1 - 1e-9)))
        drops, low = -np.diff(eta[peak:]), np.maximum((eta[peak:-1] + eta[peak + 1 :]) / 2, 1e-3)
        late = curve[0] > edges[peak] + 0.1 * (edges[-1] - edges[peak])
        at, loss = curve[0, late], curve[2, late]
        since = np.maximum(np.interp(at, edges, sums)[:, None] - sums[peak + 1 : -1], 0)
        parts.append((np.interp(at, edges, powered) / 2e4, since, drops, low, loss))

    def off(z: Floats) -> Floats:
        a, alpha, b, c, beta, gamma = np.exp(z[1:])
        errors = [
            (z[0] + a * s**-alpha - b * (1 - (1 + c * low**-gamma * since) ** -beta) @ drops) / loss
            - 1
            for s, since, drops, low, loss in parts
        ]
        return np.concatenate([*errors, 1e-4 * (z[3:] - start[3:])])

    lowest = min(part[-1].min() for part in parts)
    start = np.array([0.9 * lowest, *np.log([0.25, 0.45, 0.15, 0.011, 1.0, 0.6])])
    found = least_squares(off, start, loss="soft_l1", f_scale=1e-3, x_scale=0.3)
    return float(100 * np.sqrt(np.mean(off(found.x)[:-4] ** 2)))

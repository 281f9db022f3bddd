"""Seconds of one fit and of 1,000 refits beside other ways to the same law, on Chinchilla's points.

Everything runs on one thread. Whatever a method minimises, its fitted losses are judged by one
objective, the summed log-Huber at δ = 1e-3, so that speed and accuracy are seen together.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np

from benchmarks.common.peers import measure_peers
from benchmarks.common.report import Goal, Result, Table, at_most
from benchmarks.common.timing import Timing, duration, timed
from benchmarks.fit.independent import (
    DELTA,
    LogHuber,
    chinchilla_runs,
    huber_sum,
    objective_of_losses,
    paper_starts,
    random_starts,
)
from flops_fit.fit import fit_runs, surface
from flops_fit.fit.surface import points_of
from flops_fit.fit.surface_solver import SurfaceSolver
from flops_fit.laws import Hoffmann, Kappa
from flops_fit.table import RunTable

POINT_GOAL, REFITS_GOAL = 10e-3, 0.25  # seconds: the additive law on 240 points
KAPPA_FACTOR = 3  # what the κ-law may take more
REFITS = 1000
CHECKED = 20
LAWS = {"hoffmann": Hoffmann, "kappa": Kappa}


@dataclass(frozen=True)
class Entry:
    """One method: seconds a fit and for 1,000 refits, and the judge's objective at its losses."""

    what: str
    minimises: str
    point: Timing | None
    refits: str
    objective: float | None

    def cells(self, base: Timing, optimum: float) -> tuple[str, ...]:
        told = "" if self.point is None else str(self.point)
        ratio = "" if self.point is None else _times(self.point.median / base.median)
        value = "" if self.objective is None else f"{self.objective:.10g}"
        above = "" if self.objective is None else f"{100 * (self.objective / optimum - 1):+.2g}"
        return self.what, self.minimises, told, ratio, self.refits, value, above


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio > 100 else f"{ratio:.3g}"


def speed(quick: bool) -> Result:
    """Everything that is timed."""
    runs = chinchilla_runs()
    own, goals, base = own_entries(runs, quick)
    entries = [*own, *scipy_entries(runs, quick), *peer_entries(runs, quick)]
    optimum = fit_runs(runs, "hoffmann", delta=DELTA, window=None).objective
    columns = (
        "method", "minimises", "one fit: median (min–max)", "times ours", "1,000 refits",
        "log-Huber at δ=1e-3", "above optimum, %",
    )  # fmt: skip
    load = ", ".join(f"{v:.1f}" for v in os.getloadavg())
    notes = (
        "'times ours' is relative to fit_runs for the additive law at δ = 1e-3.",
        "A κ-law has one parameter more and may lie below the additive optimum.",
        f"CPU seconds, one thread; load of this machine's {os.cpu_count()} cores when measured: {load}.",
    )
    title = "Speed on Chinchilla's 240 points"
    table = Table(title, columns, tuple(e.cells(base, optimum) for e in entries), notes)
    refits, refit_goals = refits_at_optimum(runs)
    return [table, floor(runs), refits], goals + refit_goals


def own_entries(runs: RunTable, quick: bool) -> tuple[list[Entry], list[Goal], Timing]:
    """The library: the whole public call, the solver inside it, and its refits."""
    repeats = 3 if quick else 15
    points = points_of(runs, True)
    ones = np.ones(len(runs))
    entries, goals = [], []
    timings: dict[tuple[str, str], Timing] = {}
    for law in LAWS:
        for delta in (DELTA, "mad"):
            name = f"{law}, δ = {delta}"
            allowed = KAPPA_FACTOR if law == "kappa" else 1
            fit = fit_runs(runs, law, delta=delta, window=None)
            whole = timed(lambda: fit_runs(runs, law, delta=delta, window=None), repeats)  # noqa: B023
            solver = timed(lambda: SurfaceSolver(LAWS[law], points).fit(ones, delta), repeats)  # noqa: B023
            refits = timed(lambda: fit.bootstrap(REFITS), max(repeats // 3, 2))  # noqa: B023
            timings[law, str(delta)] = whole
            objective = objective_of_losses(fit.law.loss(runs.params, runs.tokens), runs)
            kind = "log-Huber"
            entries.append(Entry(f"fit_runs, {name}", kind, whole, str(refits), objective))
            entries.append(Entry(f"its solver alone, {name}", kind, solver, "", objective))
            goals.append(
                at_most(f"{name}: seconds a fit (solver)", solver.median, allowed * POINT_GOAL)
            )
            limit = allowed * REFITS_GOAL
            goals.append(at_most(f"{name}: seconds for 1,000 refits", refits.median, limit))
    return entries, goals, timings["hoffmann", str(DELTA)]


def scipy_entries(runs: RunTable, quick: bool) -> list[Entry]:
    """Plain scipy: as the papers do it, and with all that helps it."""
    raw, helped = LogHuber.raw(runs), LogHuber.of(runs)
    grid = paper_starts()[:: 9 if quick else 1]
    few = random_starts(12, seed=1)
    found: dict[str, tuple[float, np.ndarray]] = {}

    def papers() -> None:
        found["papers"] = min((raw.descend(s, "L-BFGS-B") for s in grid), key=lambda f: f[0])

    def best() -> None:
        found["best"] = min((helped.descend(s, "BFGS", 10) for s in few), key=lambda f: f[0])

    point = timed(papers, 1, warm_up=0), timed(best, 1 if quick else 3, warm_up=0)
    count = 10 if quick else 100
    warm = (
        _warm_refits(runs, LogHuber.raw, found["papers"][1], "L-BFGS-B", 1, count),
        _warm_refits(runs, LogHuber.of, found["best"][1], "BFGS", 10, count),
    )
    return [
        Entry(
            f"scipy L-BFGS-B, {len(grid)} of the papers' 4,500 starts, its defaults",
            "log-Huber", point[0], warm[0], found["papers"][0],
        ),
        Entry(
            f"scipy BFGS, centred, {len(few)} random starts, to convergence",
            "log-Huber", point[1], warm[1], found["best"][0],
        ),
    ]  # fmt: skip


def _warm_refits(
    runs: RunTable,
    problem: Callable[[RunTable, np.ndarray], LogHuber],
    start: np.ndarray,
    method: str,
    rounds: int,
    count: int,
) -> str:
    """``count`` refits from the fit, told as what 1,000 would take."""
    weights = case_weights(len(runs), count)
    took = timed(
        lambda: [problem(runs, w).descend(start, method, rounds) for w in weights], 1, warm_up=0
    )
    return f"{duration(took.median * REFITS / count)} (from {count}, warm)"


def peer_entries(runs: RunTable, quick: bool) -> list[Entry]:
    """Packages from the index, each in a process of its own; one that cannot run says why."""
    entries = []
    for peer in measure_peers(runs, DELTA, REFITS, quick):
        if peer.reason:
            entries.append(Entry(peer.what, peer.reason, None, "", None))
            continue
        refits = "" if peer.refit_seconds is None else f"{duration(peer.refit_seconds)} (once)"
        objective = objective_of_losses(peer.predicted, runs)
        point = Timing((peer.seconds,))
        entries.append(Entry(peer.what, peer.minimises, point, refits, objective))
    return entries


def case_weights(runs: int, count: int, seed: int = 0) -> np.ndarray:
    """How often each run is drawn in each of ``count`` case resamples: as in ``Fit.bootstrap``."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(runs, np.full(runs, 1 / runs), size=count).astype(float)


def refits_at_optimum(runs: RunTable) -> tuple[Table, list[Goal]]:
    """A sample of the 1,000 refits against scipy, from the refit itself, near it and afar."""
    rows, goals = [], []
    rng = np.random.default_rng(3)
    for name, law in LAWS.items():
        fit = fit_runs(runs, name, delta=DELTA, window=None)
        runs = fit.runs  # in the order that the resamples have
        draws, weights = fit.bootstrap(REFITS), case_weights(len(runs), REFITS)
        ours_above, bounded = [], 0
        for i in range(0, REFITS, REFITS // CHECKED):
            refit = law(*draws[i])
            if "kappa" in refit.params and not 0.101 < refit.params["kappa"] < 3.99:
                bounded += 1
                continue
            r = np.log(runs.loss) - np.log(refit.loss(runs.params, runs.tokens))
            ours = huber_sum(r, DELTA, weights[i])
            problem = LogHuber.of(runs, weights[i], kappa=name == "kappa")
            near = problem.theta_of(refit, runs)
            around = near + rng.normal(0, 0.1, (3, len(near)))
            afar = problem.theta_of(fit.law, runs)
            reached = min(problem.minimum(np.vstack([near, afar, *around])))
            ours_above.append(ours / reached - 1)
        worst = max(ours_above)
        goals.append(
            at_most(f"{name}: worst of {len(ours_above)} refits above scipy's, rel", worst, 1e-9)
        )
        cells = (name, str(len(ours_above)), str(bounded), f"{worst:.2g}", f"{min(ours_above):.2g}")
        rows.append(cells)
    columns = ("law", "refits checked", "at a bound of κ", "worst above scipy", "best below scipy")
    return Table("Refits against scipy (five starts each), relative", columns, tuple(rows)), goals


def floor(runs: RunTable) -> Table:
    """The least a Newton method could take: its evaluations times their bare exp and log."""
    rows = []
    for law, transcendental in (("hoffmann", (2, 1)), ("kappa", (3, 2))):
        fit = fit_runs(runs, law, delta=DELTA, window=None)
        points = points_of(runs, True)
        ones = np.ones(len(runs))
        each = bare_seconds(len(runs), *transcendental)
        for what, work in (
            ("one fit (solver)", lambda: SurfaceSolver(LAWS[law], points).fit(ones, DELTA)),  # noqa: B023
            ("1,000 refits", lambda: fit.bootstrap(REFITS)),  # noqa: B023
        ):
            count = evaluations(work)
            seconds = timed(work, 3).median
            least = count * each
            cells = (law, what, f"{count:,}", duration(least), duration(seconds))
            rows.append((*cells, f"{seconds / least:.3g}"))
    columns = ("law", "work", "evaluations", "bare exp and log", "measured", "times the floor")
    note = "An evaluation is one θ on 240 points; it needs 2 exp and 1 log, with κ 3 exp and 2 log."
    return Table("How far from the floor", columns, tuple(rows), (note,))


def evaluations(work: Callable[[], object]) -> int:
    """How many θ the solver evaluates derivatives at."""
    count = 0
    inner = surface.derivatives

    def counted(theta: np.ndarray, *args: object, **options: object) -> object:
        nonlocal count
        count += len(theta)
        return inner(theta, *args, **options)

    with patch.object(surface, "derivatives", counted):
        work()
    return count


def bare_seconds(runs: int, exps: int, logs: int, batch: int = 64) -> float:
    """Seconds of that many exp and log over ``runs`` values, in batches that fit the cache."""
    values = np.random.default_rng(0).uniform(0.1, 2.0, size=(batch, runs))
    out = np.empty_like(values)

    def work() -> None:
        for _ in range(exps):
            np.exp(values, out=out)
        for _ in range(logs):
            np.log(values, out=out)

    return timed(lambda: [work() for _ in range(20)], 7).median / (20 * batch)

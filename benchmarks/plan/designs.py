"""FLOPs to the precision of a uniform grid on simulated laws, and whether intervals stay honest."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.common.report import Goal, Result, Table, at_least, at_most
from benchmarks.plan.simulated import Bent, Branching, Drifting, Simulated, truth
from flops_fit.adaptive import AdaptiveResult, Candidates, run_adaptive
from flops_fit.adaptive.criterion import fit_and_form
from flops_fit.fit import quick_fit
from flops_fit.flops import LinearFlops
from flops_fit.laws import Law
from flops_fit.plan.designs import Adaptive
from flops_fit.table import RunTable

C_MAX = 1e20
TARGET = 10 * C_MAX
REPEATS, GRIDS, BRANCHED = 200, 200, 60
QUICK = 8
OFF = 3.0
CHEAPER = 6.0
COVERS = (86.0, 97.0)


@dataclass(frozen=True)
class Case:
    """A truth, how noise grows at the arms, and whether the law's form is right."""

    name: str
    law: Law
    arms: float = 0.0
    right: bool = True


CASES = (
    Case("additive", truth(1.0, False)),
    Case("κ = .58", truth(0.58, False)),
    Case("asymmetric", truth(1.0, True)),
    Case("noise ×2 at the arms", truth(1.0, False), arms=1.0),
    Case("bent", Bent(), right=False),
    Case("drifting", Drifting(), right=False),
)


@dataclass(frozen=True)
class Outcome:
    """One sweep: FLOPs in C_max, error of ln N*, half-width, whether it held the truth, runs.

    ``wide`` is whether the interval that allows for drifting exponents held it.
    """

    cost: float
    error: float
    half: float
    held: bool
    runs: int
    wide: bool = False
    doubted: bool = False


def grid(law: Law, counts: tuple[int, ...], reach: float) -> Candidates:
    """An IsoFLOP grid from C_max/100 to C_max whose middle is the optimum."""
    budgets = np.geomspace(C_MAX / 100, C_MAX, len(counts))
    N = [
        law.optimal(C).params * np.geomspace(1 / reach, reach, n)
        for C, n in zip(budgets, counts, strict=True)
    ]
    C = np.repeat(budgets, counts)
    sizes = np.concatenate(N)
    return Candidates(sizes, C / (6 * sizes), C, C)


def fixed(case: Case, design: Candidates, seed: int) -> Outcome:
    """A grid, fitted with all runs alike."""
    oracle = Simulated(case.law, np.random.default_rng([1, seed]), case.arms)
    loss = np.array(oracle.run(design))
    labels = tuple(str(i) for i in range(len(loss)))
    runs = RunTable(design.params, design.tokens, design.flops, loss, labels, design.budget)
    evidence = quick_fit(runs, LinearFlops())
    span = evidence.intervals(
        lambda law: np.array([np.log(law.optimal(TARGET).params)]), ("N*",), 0.9
    ).spans[0]
    best = float(evidence.law.optimal(TARGET).params)
    form = fit_and_form(runs, LinearFlops(), TARGET)[1]
    wide = None if span is None else form.widened(best, span)
    return _outcome(case, best, (span, wide), design.cost, len(loss), form.doubtful)


def adaptive(case: Case, half: float, seed: int, branches: bool) -> Outcome:
    """What an adaptive sweep comes to."""
    found, oracle = swept(case, half, seed, branches)
    cost = oracle.spent if isinstance(oracle, Branching) else found.spent
    spans = (found.interval, found.wide_interval)
    return _outcome(case, found.optimal_params, spans, cost, len(found.runs), found.form.doubtful)


def swept(case: Case, half: float, seed: int, branches: bool) -> tuple[AdaptiveResult, Simulated]:
    """An adaptive sweep from a pilot ×3 off-centre, below and above in turn."""
    off = OFF if seed % 2 else 1 / OFF
    rng = np.random.default_rng([2, seed])
    oracle = (Branching if branches else Simulated)(case.law, rng, case.arms)
    design = Adaptive(
        target_compute=TARGET, half_width=float(np.expm1(half)), max_flops=10.2 * C_MAX
    )

    def centre(C: float) -> float:
        return float(case.law.optimal(C).params) * off

    return run_adaptive(oracle, design, centre=centre), oracle


def blind(case: Case, half: float) -> list[tuple[str, ...]]:
    """How far a fit without any noise is off, and how little of that its residuals show."""
    uniform = grid(case.law, (7,) * 5, 8.0)
    chosen = swept(case, half, 0, False)[0].runs
    rows = []
    for name, runs in (("uniform 5×7", uniform), ("adaptive", chosen)):
        loss = np.asarray(case.law.loss(runs.params, runs.tokens))
        labels = tuple(map(str, range(len(loss))))
        table = RunTable(runs.params, runs.tokens, runs.flops, loss, labels, runs.budget)
        evidence = quick_fit(table, LinearFlops())
        misfit = float(np.sqrt(np.mean(evidence.solution.residuals**2)))
        off = float(evidence.law.optimal(TARGET).params / case.law.optimal(TARGET).params)
        rows.append((case.name, name, f"{100 * misfit:.3f}", f"{100 * (off - 1):+.1f}"))
    return rows


def _outcome(
    case: Case,
    best: float,
    spans: Sequence[tuple[float, float] | None],
    cost: float,
    runs: int,
    doubted: bool,
) -> Outcome:
    true = float(case.law.optimal(TARGET).params)
    (low, high), (lowest, highest) = (span or (np.nan, np.nan) for span in spans)
    half = float(np.log(high / low) / 2)
    held, wide = bool(low <= true <= high), bool(lowest <= true <= highest)
    return Outcome(cost / C_MAX, float(np.log(best / true)), half, held, runs, wide, doubted)


def _row(case: Case, name: str, outcomes: list[Outcome], uniform: list[Outcome]) -> tuple[str, ...]:
    # A grid that is less precise needs more repeats of itself, whose variance falls as 1/cost.
    half, base = _median(outcomes, "half"), _median(uniform, "half")
    scale = 1.0 if name.startswith("adaptive") else (half / base) ** 2
    cost = scale * float(np.mean([o.cost for o in outcomes]))
    times = float(np.mean([o.cost for o in uniform])) / cost
    return (
        case.name,
        name,
        str(len(outcomes)),
        f"{_median(outcomes, 'runs'):.0f}",
        f"{cost:.2f}",
        f"{times:.1f}",
        f"{np.mean([o.error for o in outcomes]):+.3f}",
        f"{_rms(outcomes):.3f}",
        f"{half:.3f}",
        f"{_share(outcomes, 'held'):.1f}",
        f"{_share(outcomes, 'wide'):.1f}",
        f"{_share(outcomes, 'doubted'):.0f}",
    )


def _median(outcomes: list[Outcome], what: str) -> float:
    return float(np.median([getattr(o, what) for o in outcomes]))


def _rms(outcomes: list[Outcome]) -> float:
    return float(np.sqrt(np.mean([o.error**2 for o in outcomes])))


def _share(outcomes: list[Outcome], what: str) -> float:
    return 100 * float(np.mean([getattr(o, what) for o in outcomes]))


def _goals(case: Case, uniform: list[Outcome], alone: list[Outcome]) -> list[Goal]:
    goals = []
    if case.right and not case.arms:
        cheaper = np.mean([o.cost for o in uniform]) / np.mean([o.cost for o in alone])
        goals.append(at_least(f"{case.name}: times cheaper", float(cheaper), CHEAPER))
    if case.right:
        held = _share(alone, "held")
        goals.append(Goal(f"{case.name}: coverage", held, *COVERS, "86 to 97"))
    else:
        error, wide = _rms(alone) / _rms(uniform), _share(alone, "wide")
        goals.append(at_most(f"{case.name}: error over the uniform grid's", error, 2.0))
        goals.append(at_least(f"{case.name}: coverage of the wide interval", wide, COVERS[0]))
    return goals


def designs(quick: bool) -> Result:
    """Each case under uniform, tapered, adaptive and adaptive with branches."""
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    unseen: list[tuple[str, ...]] = []
    grids, repeats, branched = (QUICK,) * 3 if quick else (GRIDS, REPEATS, BRANCHED)
    # Spawned, so that no thread of the parent's libraries is copied.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        for case in CASES:
            laid = ((7,) * 5, 8.0), ((12, 9, 6, 4, 2), 10.0)
            uniform, tapered = (
                list(
                    pool.map(partial(fixed, case, grid(case.law, *how)), range(grids), chunksize=8)
                )
                for how in laid
            )
            half = _median(uniform, "half")
            alone, shared = (
                list(pool.map(partial(adaptive, case, half, branches=b), range(n), chunksize=2))
                for b, n in ((False, repeats), (True, branched))
            )
            rows.append(_row(case, "uniform 5×7", uniform, uniform))
            rows.append(_row(case, "tapered", tapered, uniform))
            rows.append(_row(case, "adaptive", alone, uniform))
            rows.append(_row(case, "adaptive + WSD", shared, uniform))
            goals += _goals(case, uniform, alone)
            if not case.right:
                unseen += blind(case, half)
    columns = (
        "truth",
        "design",
        "sweeps",
        "runs",
        "C_max",
        "cheaper",
        "bias",
        "rms",
        "half",
        "held %",
        "wide %",
        "doubted %",
    )
    notes = (
        "C_max: mean FLOPs in budgets of the uniform grid's largest run, for equal precision.",
        "bias, rms: of ln N*; half: median half-width of its 90 % interval; held: how often that has the "
        "truth;",
        "wide: how often the interval that allows for drifting exponents has it; doubted: how often the "
        "form was.",
        "adaptive + WSD takes the noise of branches as independent: one seed cannot tell.",
        "bent: the exponent of N falls from .38 to .30; drifting: by .03 for each e-fold of N.",
    )
    title = f"N* at 10 C_max to the precision of the uniform grid; pilots are ×{OFF:g} off-centre"
    without = Table(
        "What of a wrong form shows in runs without noise",
        ("truth", "design", "rms residual, % of the loss", "N* at 10 C_max off, %"),
        tuple(unseen),
    )
    return [Table(title, columns, tuple(rows), notes), without], goals

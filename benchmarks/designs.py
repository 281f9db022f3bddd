"""FLOPs to the precision of a uniform grid on simulated laws, and whether intervals stay honest."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from benchmarks.report import Goal, Result, Table, at_least
from benchmarks.simulated import Bent, Branching, Simulated, truth
from flops_fit.design import Adaptive, Asked, Candidates, run_adaptive
from flops_fit.fit import outline
from flops_fit.flops import LinearFlops
from flops_fit.laws import Law
from flops_fit.table import RunTable

C_MAX = 1e20
TARGET = 10 * C_MAX
SECONDS = 220.0
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
    Case("wrong form", Bent(), right=False),
)


@dataclass(frozen=True)
class Outcome:
    """One sweep: FLOPs in C_max, error of ln N*, half-width, whether it held the truth, runs."""

    cost: float
    error: float
    half: float
    held: bool
    runs: int
    warned: bool = False


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
    evidence = outline(runs, LinearFlops())
    span = evidence.intervals(
        lambda law: np.array([np.log(law.optimal(TARGET).params)]), ("N*",), 0.9
    ).spans[0]
    best = float(evidence.law.optimal(TARGET).params)
    return _outcome(case, best, span, design.cost, len(loss), False)


def adaptive(case: Case, half: float, seed: int, branches: bool) -> Outcome:
    """An adaptive sweep from a pilot ×3 off-centre, below and above in turn."""
    off = OFF if seed % 2 else 1 / OFF
    rng = np.random.default_rng([2, seed])
    oracle = (Branching if branches else Simulated)(case.law, rng, case.arms)
    asked = Asked(
        TARGET,
        float(np.expm1(half)),
        max_flops=10.2 * C_MAX,
        centre=lambda C: float(case.law.optimal(C).params) * off,
    )
    found: Adaptive = run_adaptive(oracle, asked)
    cost = oracle.spent if isinstance(oracle, Branching) else found.spent
    return _outcome(
        case, found.optimal_params, found.interval, cost, len(found.runs), found.gap.told
    )


def _outcome(
    case: Case,
    best: float,
    span: tuple[float, float] | None,
    cost: float,
    runs: int,
    warned: bool,
) -> Outcome:
    true = float(case.law.optimal(TARGET).params)
    low, high = span or (np.nan, np.nan)
    half = float(np.log(high / low) / 2)
    held = bool(low <= true <= high)
    return Outcome(cost / C_MAX, float(np.log(best / true)), half, held, runs, warned)


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
        f"{_rms(outcomes):.3f}",
        f"{half:.3f}",
        f"{_covers(outcomes):.0f}",
        f"{100 * np.mean([o.warned for o in outcomes]):.0f}",
    )


def _median(outcomes: list[Outcome], what: str) -> float:
    return float(np.median([getattr(o, what) for o in outcomes]))


def _rms(outcomes: list[Outcome]) -> float:
    return float(np.sqrt(np.mean([o.error**2 for o in outcomes])))


def _covers(outcomes: list[Outcome]) -> float:
    return 100 * float(np.mean([o.held for o in outcomes]))


def designs(quick: bool) -> Result:
    """Each case under uniform, tapered, adaptive and adaptive with branches."""
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    most = 12 if quick else 200
    for case in CASES:
        uniform = [fixed(case, grid(case.law, (7,) * 5, 8.0), s) for s in range(100)]
        tapered = [fixed(case, grid(case.law, (12, 9, 6, 4, 2), 10.0), s) for s in range(100)]
        half = _median(uniform, "half")
        rows.append(_row(case, "uniform 5×7", uniform, uniform))
        rows.append(_row(case, "tapered", tapered, uniform))
        end = time.monotonic() + SECONDS / len(CASES)
        alone: list[Outcome] = []
        shared: list[Outcome] = []
        while len(alone) < most and (time.monotonic() < end or len(alone) < 12):
            alone.append(adaptive(case, half, len(alone), False))
            if len(alone) % 4 == 0:
                shared.append(adaptive(case, half, len(shared), True))
        rows.append(_row(case, "adaptive", alone, uniform))
        rows.append(_row(case, "adaptive + WSD", shared, uniform))
        if case.right:
            cheaper = np.mean([o.cost for o in uniform]) / np.mean([o.cost for o in alone])
            if not case.arms:
                goals.append(at_least(f"{case.name}: times cheaper", float(cheaper), CHEAPER))
            # The interval of a share of n: what chance alone does to the bounds.
            slack = 164 * np.sqrt(0.1 * 0.9 / len(alone))
            low, high = COVERS[0] - slack, min(COVERS[1] + slack, 100.0)
            goals.append(
                Goal(f"{case.name}: coverage", _covers(alone), low, high, "86 to 97, and chance")
            )
        else:
            error = _rms(alone) / _rms(uniform)
            goals.append(Goal(f"{case.name}: error over the uniform grid's", error, 0, 2, "<= 2"))
    columns = (
        "truth",
        "design",
        "sweeps",
        "runs",
        "C_max",
        "cheaper",
        "rms ln N*",
        "half",
        "held %",
        "warned %",
    )
    table = Table(
        f"N* at 10 C_max to the precision of the uniform grid; pilots are ×{OFF:g} off-centre",
        columns,
        tuple(rows),
        (
            "C_max: mean FLOPs in budgets of the uniform grid's dearest run, for equal precision.",
            "half: median half-width of the 90 % interval of ln N*; held: how often it has the truth.",
            "adaptive + WSD takes the noise of branches as independent, as it would need more than"
            " one seed to tell.",
        ),
    )
    return [table], goals

"""Which runs to make next, and what they and other budgets would gain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.adaptive.candidates import Candidates, around
from flops_fit.adaptive.criterion import Criterion
from flops_fit.checks import check_number
from flops_fit.errors import FitError, InputError
from flops_fit.fit.fit import Fit
from flops_fit.fit.fitting import quick_fit
from flops_fit.fit.solver import BoundKind
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_count, format_percent

MOST_EXTRAPOLATION = 10.0  # between a run's FLOPs and the largest so far: the law is unknown there
_ENOUGH_GAIN = 0.9  # of what the whole spend would gain; the rest is not worth its FLOPs
_AT_OPTIMUM = np.log(1.3)  # of candidates
_NEAR_OPTIMUM = np.log(1.6)  # of runs that were made
_TIER = np.log(2.0) / 2  # runs of FLOPs this close count as one budget
LARGEST_SHARE = 6.0  # one run costs at most a sixth of a budget, or of all that is spent by then
_MOST_BOUGHT = 48  # runs, for `buys`
SPENDS = (0.3, 1.0, 3.0, 10.0)  # of a spend, for which `buys` is given


@dataclass(frozen=True)
class Proposal:
    """Runs to make next; prints as one line.

    Attributes
    ----------
    runs, cost
        One dict a run, ``params``, ``tokens`` and ``flops``; and the FLOPs of all.
    now, after
        Half the width of the 90 % interval of N* at ``target_compute``, relative (0.1: ±10 %), of
        the runs so far and as predicted with these. ``inf`` if there is none.
    misfit, buys
        How far the loss is off the law's form, relative: a standard deviation. Pairs of FLOPs more and
        the half-width that they would give.
    """

    runs: tuple[dict[str, float], ...]
    cost: float
    now: float
    after: float
    target_compute: float
    misfit: float
    buys: tuple[tuple[float, float], ...] = ()

    def __str__(self) -> str:
        return f"next: {described(self.runs)}: {change(self.now, self.after)}"


def described(runs: Sequence[dict[str, float]]) -> str:
    """Runs in words: how many, their FLOPs and their sizes."""
    C, N = ([r[name] for r in runs] for name in ("flops", "params"))
    names = sorted({format_count(n) for n in N}, key=lambda t: (len(t), t))
    if len(names) == 1:
        sizes = names[0]
    elif len(names) <= 4:
        sizes = f"{', '.join(names[:-1])} and {names[-1]}"
    else:
        sizes = f"{format_count(min(N))} to {format_count(max(N))}"
    span = f"{min(C):.2g}" if max(C) < 1.05 * min(C) else f"{min(C):.2g} to {max(C):.2g}"
    return f"{len(runs)} run{'s' * (len(runs) > 1)} at {span} FLOPs, N = {sizes}"


def change(now: float, after: float) -> str:
    """How a batch changes the interval, in words."""
    if not np.isfinite(now):
        return "there is no interval yet"
    return f"the interval shrinks from {format_percent(now)} to about {format_percent(after)}"


def best_batch(
    criterion: Criterion,
    runs: Candidates,
    batch: int,
    spend: float,
    goal: float = 0.0,
    bottom: int = 0,
) -> list[int]:
    """Positions of a batch of least variance of ln N* for at most ``spend``; ``bottom`` lie near N*.

    The cheapest that reaches ``goal``, a half-width, or nine tenths of what the whole spend gains.
    """
    if not len(runs):
        return []
    # An exchange that begins with expensive runs may have nothing left for cheap ones.
    tops = np.unique(runs.budget[runs.prices <= spend])
    tops = tops[np.unique(np.linspace(0, len(tops) - 1, min(len(tops), 7)).astype(int))]
    batches: list[tuple[float, float, list[int]]] = []
    for top in tops:
        below = np.flatnonzero(runs.budget <= top)
        pool = criterion.pool(runs.pick(below), float(np.max(runs.flops[below])))
        for limit in (spend * share for share in (0.125, 0.25, 0.5, 1.0)):
            affordable = np.flatnonzero(pool.runs.prices <= limit)
            if not len(affordable):
                continue
            within = pool.pick(affordable)
            kept = _near_optimum(criterion, within.runs, limit / 8, bottom)
            picked = within.exchange(batch, limit, tuple(kept))
            chosen = within.pick(picked)
            batches.append((chosen.runs.cost, chosen.after, below[affordable[picked]].tolist()))
    if not batches:
        return []
    base = np.log(criterion.variance)
    most = max(base - np.log(after) for _, after, _ in batches)
    enough = (
        b
        for b in batches
        if criterion.narrowed(b[1]) <= goal or base - np.log(b[1]) >= _ENOUGH_GAIN * most
    )
    return min(enough, key=lambda b: b[0])[2]


def _near_optimum(criterion: Criterion, runs: Candidates, limit: float, wanted: int) -> list[int]:
    """Runs near the fitted optimum, of the largest budgets within ``limit`` that have fewest."""
    if not wanted:
        return []
    near = np.abs(criterion.distance(runs)) < _AT_OPTIMUM
    possible = np.flatnonzero(near & (runs.prices <= limit))
    known, C = criterion.evidence.runs, runs.flops[possible]
    done = known.flops[np.abs(criterion.distance(known)) < _NEAR_OPTIMUM]
    counts = [np.sum(np.abs(np.log(done / c)) < _TIER) for c in C]
    best = possible[np.lexsort((-C, counts))[:wanted]]
    # Where few budgets are within the limit, their runs are repeated.
    return np.resize(best, wanted).tolist() if runs.repeats and len(best) else best.tolist()


def buys(
    criterion: Criterion, spends: Sequence[float], runs: Candidates
) -> tuple[tuple[float, float], ...]:
    """What FLOPs more would give: pairs of FLOPs and the half-width, relative."""
    out = []
    most = min(2 * len(criterion.evidence.runs), _MOST_BOUGHT)
    for spend in spends:
        inside = runs.pick(runs.flops <= spend / LARGEST_SHARE)
        if not len(inside):
            continue
        picked = best_batch(criterion, inside, most, spend)
        after = criterion.after(inside.pick(picked))
        out.append((float(spend), float(np.expm1(criterion.narrowed(after)))))
    return tuple(out)


def next_experiments(
    fit: Fit,
    runs: object = None,
    *,
    target_compute: float,
    budget_flops: float,
    candidates: ArrayLike | None = None,
    batch: int = 6,
    max_run_flops: float | None = None,
) -> Proposal:
    """The runs that narrow the interval of N*(target_compute) most for ``budget_flops``.

    c-optimal at the fitted law; one run in six lies near N*, where a wrong form shows.

    Parameters
    ----------
    fit, runs
        The fit of the runs so far, and the runs if not all of them are in it.
    target_compute
        FLOPs of the run that the answer is for.
    budget_flops, batch
        What the batch may cost, and how many runs it has at most.
    candidates
        Pairs (N, D) to choose from, each at most once. By default any of nine sizes from N*/5 to
        5·N* at budgets a factor of 2 apart, each as often as is useful.
    max_run_flops
        What one run may cost; by default a third of the budget, at most ten times the largest so far.

    Raises
    ------
    FitError
        The fit has no optimum to plan around.
    InputError
        A number is not positive, or no candidate is within the budget.

    Examples
    --------
    >>> from flops_fit import fit_runs, reference
    >>> from flops_fit.adaptive import next_experiments
    >>> fit = fit_runs(reference.runs("llama3_2024"))
    >>> proposal = next_experiments(fit, target_compute=1e24, budget_flops=1e22)
    >>> proposal.cost <= 1e22 and proposal.after < proposal.now
    True
    """
    check_number("target_compute", target_compute, above=0)
    check_number("budget_flops", budget_flops, above=0)
    check_number("batch", batch, above=0)
    evidence = fit._evidence if runs is None else quick_fit(RunTable.read(runs), fit.flops)
    if any(b.kind is BoundKind.VANISHED for b in evidence.solution.bounds):
        raise FitError(
            "expected a fit with an optimum to plan around; a term of its law vanished. Add runs of "
            "smaller and larger sizes at each budget first."
        )
    criterion = Criterion(evidence, float(target_compute))
    if candidates is None:
        known = evidence.runs.flops
        largest = MOST_EXTRAPOLATION * float(np.max(known))
        top = min(max_run_flops or budget_flops / 3, largest, budget_flops)
        low = min(float(np.min(known)), top)
        choice = Candidates.of_any_size(*around(evidence, low, top), fit.flops)
    else:
        choice = Candidates.of(candidates, fit.flops, repeats=False)
        choice = choice.pick(choice.flops <= (max_run_flops or np.inf))
    picked = best_batch(criterion, choice, int(batch), budget_flops, bottom=int(batch) // 6)
    if not picked:
        raise InputError(
            f"budget_flops: expected enough for one run; {budget_flops:.3g} FLOPs are less than each "
            "candidate costs. Give a larger budget or cheaper candidates."
        )
    chosen = choice.pick(picked)
    return Proposal(
        runs=chosen.to_dicts(),
        cost=chosen.cost,
        now=float(np.expm1(criterion.half_width)),
        after=float(np.expm1(criterion.narrowed(criterion.after(chosen)))),
        target_compute=float(target_compute),
        misfit=evidence.posterior.amplitude,
        buys=buys(criterion, [budget_flops * f for f in SPENDS], choice),
    )

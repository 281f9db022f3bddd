"""Which runs to make next, and what they and other budgets would gain.

How much runs tell about N* at a target follows from the model of the fit's own intervals: law plus
misfit plus noise (:mod:`flops_fit.fit.misfit`), with coordinates β of information M, prior included. A
run to come has the row J/σ, J the slopes of ln L over β and σ its noise. With c = ∂ ln N*/∂β at the
target, cᵀM⁻¹c is the variance of ln N*; choosing the runs that make it smallest is c-optimal design
(Elfving 1952; Atkinson, Donev & Tobias 2007, §10.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.adaptive.candidates import Candidates, around
from flops_fit.errors import FitError, InputError, check_number, check_whole
from flops_fit.fit.checks import off_the_runs
from flops_fit.fit.fit import Fit
from flops_fit.fit.fitting import quick_fit
from flops_fit.fit.intervals import DrawnOptima, Evidence
from flops_fit.fit.misfit import trust_weights
from flops_fit.fit.solver import BoundKind, finding, one_blas_thread
from flops_fit.flops.functions import Floats
from flops_fit.records import Diagnostic
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_count, format_percent

LEVEL = 0.9
_SPACING = 0.7  # in ln N, of three points whose parabola has the optimum
_EXCHANGE_ROUNDS = 8
MOST_EXTRAPOLATION = 10.0  # between a run's FLOPs and the largest so far: the law is unknown there
_ENOUGH_GAIN = 0.9  # of what the whole spend would gain; the rest is not worth its FLOPs
_LEAST_GAIN = 0.999  # of the interval, above which runs do not narrow it
_AT_OPTIMUM = np.log(1.3)  # of candidates
_NEAR_OPTIMUM = np.log(1.6)  # of runs that were made
_TIER = np.log(2.0) / 2  # runs of FLOPs this close count as one budget
LARGEST_SHARE = 6.0  # one run costs at most a sixth of a budget, or of all that is spent by then
_MOST_BOUGHT = 48  # runs, for `buys`
SPENDS = (0.3, 1.0, 3.0, 10.0)  # of a spend, for which `buys` is given


@dataclass(frozen=True, eq=False)
class Criterion:
    """What the runs of a fit tell about N* at a target compute, and what more would add."""

    evidence: Evidence
    target: float

    @cached_property
    def optima(self) -> DrawnOptima:
        """The fit's drawn optima at the target."""
        return self.evidence.optima(self.target)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The fit's 90 % interval of N* at the target."""
        if self.evidence.no_interval:
            return None
        return self.evidence.span(self.optima.params, LEVEL)

    @cached_property
    def half_width(self) -> float:
        """Half the log width of that interval; infinite if there is none."""
        span = self.interval
        return float("inf") if span is None else float(np.log(span[1] / span[0])) / 2

    @cached_property
    def direction(self) -> Floats:
        """The change c of ln N* with each coordinate, by the implicit function theorem."""
        local, flops = self.evidence.posterior.gaussian, self.evidence.flops
        best = np.log(local.mean.law(local.eta).optimal(self.target, flops).params)
        N = np.exp(best + _SPACING * np.array([-1.0, 0.0, 1.0]))
        values, rows = local.rows(N, self.target / np.asarray(flops(N)))
        bend = values[0] - 2 * values[1] + values[2]
        with np.errstate(all="ignore"):  # where the fit has no optimum
            return np.asarray((rows[0] - rows[2]) * _SPACING / (2 * bend))

    @cached_property
    def variance(self) -> float:
        """Of ln N* at the target, from the runs so far."""
        information = self.evidence.posterior.gaussian.information
        return float(self.direction @ np.linalg.solve(information, self.direction))

    def narrowed(self, variance: float) -> float:
        """The half-width once the variance has fallen to this."""
        return self.half_width * float(np.sqrt(variance / self.variance))

    def after(self, runs: Candidates) -> float:
        """The variance of ln N* once these are made too."""
        return self.pool(runs, float(np.max(runs.flops))).after

    def distance(self, runs: Candidates | RunTable) -> Floats:
        """ln(N/N*) of runs by the fitted law."""
        best = np.log(self.evidence.law.optimal(runs.flops, self.evidence.flops).params)
        return np.asarray(np.log(runs.params) - best)

    def predictions(self, runs: Candidates) -> list[tuple[float, float]]:
        """(L, standard deviation) of runs to come, noise included."""
        losses = self.evidence.posterior.losses(runs.params, runs.tokens)
        losses = self.evidence.posterior.one_run(losses)
        low, middle, high = np.quantile(losses, [0.16, 0.5, 0.84], axis=0)
        return list(zip(middle.tolist(), ((high - low) / 2).tolist(), strict=True))

    def pool(self, runs: Candidates, largest: float = 0.0) -> Pool:
        """What each of these runs would tell if the largest of all then has this compute."""
        evidence, local = self.evidence, self.evidence.posterior.gaussian
        known, tilt = float(np.max(evidence.runs.flops)), evidence.prior.tilt
        largest = max(largest, known)
        # The runs so far then count less.
        so_far = (known / largest) ** tilt * (local.information - local.prior)
        ask = (runs.params, runs.flops, largest, evidence.flops, evidence.prior)
        trust = trust_weights(evidence.law, *ask)
        rows = local.rows(runs.params, runs.tokens)[1]
        rows *= np.sqrt(local.weights(trust))[:, None]
        solved = np.linalg.solve(local.prior + so_far, np.column_stack([self.direction, rows.T]))
        variance = float(self.direction @ solved[:, 0])
        return Pool(runs, rows @ solved[:, 0], rows @ solved[:, 1:], variance)


@dataclass(frozen=True, eq=False)
class Pool:
    """Runs to come, in units of their noise: covariances with ln N* and with each other."""

    runs: Candidates
    pull: Floats  # shape (runs,)
    cross: Floats  # shape (runs, runs)
    variance: float  # of ln N* without them

    def pick(self, index: Any) -> Pool:
        """Those at ``index``, positions, which may repeat."""
        cross = self.cross[np.ix_(index, index)]
        return Pool(self.runs.pick(index), self.pull[index], cross, self.variance)

    @property
    def after(self) -> float:
        """The variance of ln N* once all are made."""
        told = np.linalg.solve(np.eye(len(self.pull)) + self.cross, self.pull)
        return self.variance - float(self.pull @ told)

    def exchange(self, count: int, spend: float, fixed: tuple[int, ...] = ()) -> list[int]:
        """Positions of up to ``count`` runs for at most ``spend`` FLOPs, of least variance.

        Fedorov's exchange (1972): slots are refilled one at a time with the best run that is
        affordable, until no change helps; ``fixed`` are in already.
        """
        cost, pull, cross = self.runs.prices, self.pull.copy(), self.cross.copy()
        slots: list[int | None] = [None] * (count - len(fixed))
        taken: list[int] = []
        left = spend

        def move(i: int, sign: int) -> None:
            """Take a run (1) or give it back (−1): what it tells leaves the others, or returns."""
            nonlocal left, pull, cross
            share = cross[i] / (sign + cross[i, i])
            pull, cross = pull - share * pull[i], cross - np.outer(share, cross[i])
            left -= sign * cost[i]
            (taken.append if sign > 0 else taken.remove)(i)

        for i in fixed:
            move(i, 1)
        for _ in range(_EXCHANGE_ROUNDS):
            changed = False
            for s, old in enumerate(slots):
                if old is not None:
                    move(old, -1)
                gain = pull**2 / (1 + np.diag(cross))
                gain[cost > left + spend * 1e-9] = -1.0
                if not self.runs.repeats:
                    gain[taken] = -1.0
                best = int(np.argmax(gain))
                new = None if gain[best] < 0 else best
                if new is not None and old is not None and gain[new] <= gain[old] * (1 + 1e-9):
                    new = old
                if new is not None:
                    move(new, 1)
                changed, slots[s] = changed or new != old, new
            if not changed:
                break
        return [*fixed, *sorted(i for i in slots if i is not None)]


@dataclass(frozen=True)
class Proposal:
    """Runs to make next, one dict of ``params``, ``tokens`` and ``flops`` each; prints as one line.

    ``cost`` is the FLOPs of all. ``now`` and ``after`` are half the width of the 90 % interval of N* at
    ``target_compute``, relative (0.1: ±10 %), of the runs so far and as predicted with these; ``inf`` if
    there is none. ``misfit`` is how far the loss is off the law's form, relative: a standard deviation.
    ``buys`` are pairs of FLOPs more and the half-width that they would give. ``diagnostics`` say how far
    the target lies from the runs so far, and where these runs would not tell of it.
    """

    runs: tuple[dict[str, float], ...]
    cost: float
    now: float
    after: float
    target_compute: float
    misfit: float
    buys: tuple[tuple[float, float], ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()

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


@one_blas_thread
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
    if not most > 0:  # NaN where the fit has no optimum there
        return []
    least = base - _ENOUGH_GAIN * most
    enough = (b for b in batches if criterion.narrowed(b[1]) <= goal or np.log(b[1]) <= least)
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


@one_blas_thread
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


@one_blas_thread
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

    c-optimal at the fitted law; one run in six lies near N*, where a wrong form shows. FitError if the
    fit has no optimum to plan around; InputError if a number is not positive, no candidate is within
    the budget, or what it buys is far below the smallest run.

    >>> from flops_fit import fit_runs, reference
    >>> from flops_fit.adaptive import next_experiments
    >>> fit = fit_runs(reference.runs("llama3_2024"))
    >>> proposal = next_experiments(fit, target_compute=1e24, budget_flops=1e22)
    >>> proposal.cost <= 1e22 and proposal.after < proposal.now
    True

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
    """
    most = (
        np.inf if max_run_flops is None else check_number("max_run_flops", max_run_flops, above=0)
    )
    check_number("target_compute", target_compute, above=0)
    check_number("budget_flops", budget_flops, above=0)
    check_whole("batch", batch)
    evidence = fit._evidence if runs is None else quick_fit(RunTable.read(runs), fit.flops)
    if any(b.kind is BoundKind.VANISHED for b in evidence.solution.bounds):
        raise FitError(
            "expected a fit with an optimum to plan around; a term of its law vanished. Add runs of "
            "smaller and larger sizes at each budget first."
        )
    criterion = Criterion(evidence, float(target_compute))
    if not np.isfinite(criterion.variance):
        raise InputError(
            "target_compute: expected one at which the fit has an optimum; got "
            f"{target_compute:.3g}. Choose one nearer to the runs."
        )
    if candidates is None:
        known = evidence.runs.flops
        largest = MOST_EXTRAPOLATION * float(np.max(known))
        top = min(most if np.isfinite(most) else budget_flops / 3, largest, budget_flops)
        least = float(np.min(known)) / MOST_EXTRAPOLATION
        if top < least:
            raise InputError(
                f"budget_flops: expected runs of {least:.3g} FLOPs or more, a tenth of the smallest so far; "
                f"got {budget_flops:.3g}, of which one run may take {top:.3g}. Give a larger budget."
            )
        N, C = around(evidence, min(float(np.min(known)), top), top)
        choice = Candidates(N, C / np.asarray(fit.flops(N)), C, C)
        choice = choice.pick(choice.tokens >= 1)
    else:
        choice = Candidates.of(candidates, fit.flops, repeats=False)
        choice = choice.pick(choice.flops <= most)
    picked = best_batch(criterion, choice, batch, budget_flops, bottom=batch // 6)
    if not picked:
        few = not np.any(choice.flops <= budget_flops)
        why = "are less than each costs" if few else "of these say nothing of N* there"
        raise InputError(
            f"budget_flops: expected enough for one run of use; {budget_flops:.3g} FLOPs {why}. Give a "
            "larger budget or other candidates."
        )
    chosen = choice.pick(picked)
    best = evidence.law.optimal(criterion.target, fit.flops)
    notes = off_the_runs(evidence, best.params, best.tokens, shape=False)
    after = criterion.narrowed(criterion.after(chosen))
    if after > _LEAST_GAIN * criterion.half_width:
        notes = (*notes, finding("no_gain"))
    return Proposal(
        runs=chosen.to_dicts(),
        cost=chosen.cost,
        now=float(np.expm1(criterion.half_width)),
        after=float(np.expm1(after)),
        target_compute=float(target_compute),
        misfit=evidence.posterior.amplitude,
        buys=buys(criterion, [budget_flops * f for f in SPENDS], choice),
        diagnostics=notes,
    )

"""Which runs to make next, and what they and other budgets would buy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.adaptive.candidates import REACH, Candidates, Grid, ladder, lattice
from flops_fit.adaptive.criterion import Criterion, criterion, exchange, log_optimum
from flops_fit.adaptive.form import Form, settled
from flops_fit.checks import check_number
from flops_fit.errors import FitError, InputError
from flops_fit.fit.fit import Fit
from flops_fit.fit.intervals import Evidence, student_t
from flops_fit.fit.solver import BoundKind
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_count, format_percent

Floats = NDArray[np.float64]

LEVEL = 0.9
STEP = 2.0  # between budgets that runs are chosen from
_AHEAD = 10.0  # no run is that much dearer than the dearest so far: the law is not known there
_WORTH = 0.9  # of what the whole spend would gain; the rest is not worth its FLOPs
_NEAR = np.log(1.6)
_EACH = 6.0  # one run costs at most this part of a budget


@dataclass(frozen=True)
class Proposal:
    """Runs to make next; prints as one line.

    Attributes
    ----------
    runs
        One dict a run: ``params``, ``tokens``, ``flops``.
    cost
        FLOPs of all of them.
    now, after
        Half the width of the 90 % interval of N* at the target, relative (0.1: ±10 %), of the
        runs so far and as predicted with these. ``inf`` where there is none.
    target_compute
        The target.
    form
        Whether the runs speak against the law's form, and what they could not tell of it.
    buys
        Pairs of FLOPs more and the half-width that they would buy.
    """

    runs: tuple[dict[str, float], ...]
    cost: float
    now: float
    after: float
    target_compute: float
    form: Form
    buys: tuple[tuple[float, float], ...] = ()

    def __str__(self) -> str:
        return f"next: {described(self.runs)}: {change(self.now, self.after)}"


def described(runs: Sequence[dict[str, float]]) -> str:
    """Runs in words: how many, their FLOPs and their sizes."""
    C = [r["flops"] for r in runs]
    N = sorted({format_count(r["params"]) for r in runs}, key=lambda t: (len(t), t))
    sizes = ", ".join(N[:-1]) + f" and {N[-1]}" if 1 < len(N) <= 4 else ""
    if not sizes:
        low, high = min(r["params"] for r in runs), max(r["params"] for r in runs)
        sizes = format_count(low) if len(N) == 1 else f"{format_count(low)} to {format_count(high)}"
    span = f"{min(C):.2g}" if max(C) < 1.05 * min(C) else f"{min(C):.2g} to {max(C):.2g}"
    return f"{len(runs)} run{'s' * (len(runs) > 1)} at {span} FLOPs, N = {sizes}"


def change(now: float, after: float) -> str:
    """What a batch does to the interval, in words."""
    if not np.isfinite(now):
        return "there is no interval yet"
    return f"the interval shrinks from {format_percent(now)} to about {format_percent(after)}"


def half_width(evidence: Evidence, of: Criterion, target: float) -> float:
    """Half the log width of the 90 % interval of N*(target).

    The wider of the fit's own and that by one common noise with κ free and exponents that drift: a
    small sandwich may be narrow by luck, and who stops when it is narrow would be lucky too often.
    """
    span = evidence.intervals(log_optimum(target, evidence.flops), ("N*",), LEVEL).spans[0]
    if span is None:
        return float("inf")
    return max(float(np.log(span[1] / span[0])) / 2, predicted(of, of.mean_square, 0))


def predicted(of: Criterion, variance: float, more: int) -> float:
    """Half the log width of an interval of that variance, with ``more`` runs."""
    return student_t(LEVEL, of.dof + more) * float(np.sqrt(variance))


def best_batch(
    of: Criterion,
    runs: Candidates,
    batch: int,
    spend: float,
    goal: float = 0.0,
    bottom: int = 0,
) -> list[int]:
    """Positions of a batch of least variance of ln N* for at most ``spend``.

    Of several largest budgets the best one, as an exchange that begins with dear runs may have
    nothing left for cheap ones. The cheapest such batch that reaches ``goal``, a half-width, or
    nine tenths of what the whole spend gains. ``bottom`` of the runs lie at the bottom of the bowl,
    where the criterion sees no use for any and a wrong form shows.
    """
    tops = np.unique(runs.budget[runs.prices <= spend])
    tops = tops[np.unique(np.linspace(0, len(tops) - 1, min(len(tops), 7)).astype(int))]
    if not len(tops):
        return []
    base = np.log(of.variance)
    found: list[tuple[float, float, list[int]]] = []
    for share in (0.125, 0.25, 0.5, 1.0):
        limit = spend * share
        kept = _bottom(of, runs, limit / 8, bottom)
        for top in tops:
            inside = np.flatnonzero((runs.budget <= top) & (runs.prices <= limit))
            inside = np.union1d(inside, np.array(kept, dtype=np.intp))
            if not len(inside):
                continue
            local = tuple(int(np.flatnonzero(inside == i)[0]) for i in kept)
            picked = inside[exchange(of, runs.pick(inside), batch, limit, local)]
            after = of.after(of.rows(runs.pick(picked)))
            found.append((float(np.sum(runs.prices[picked])), after, picked.tolist()))
    if not found:
        return []
    most = max(base - np.log(f[1]) for f in found)
    enough = [
        f
        for f in found
        if predicted(of, f[1], len(f[2])) <= goal or base - np.log(f[1]) >= _WORTH * most
    ]
    return min(enough, key=lambda f: f[0])[2]


def _bottom(of: Criterion, runs: Candidates, limit: float, wanted: int) -> list[int]:
    """Runs near the fitted optimum, of the dearest budgets within ``limit`` that have fewest."""
    if not wanted:
        return []
    near = np.abs(_distance(of, runs.params, runs.flops)) < np.log(1.3)
    open_ = np.flatnonzero(near & (runs.prices <= limit))
    if not len(open_):
        return []
    made = of.evidence.runs
    at = made.flops[np.abs(_distance(of, made.params, made.flops)) < _NEAR]
    have = np.array([np.sum(np.abs(np.log(at / C)) < np.log(STEP) / 2) for C in runs.flops[open_]])
    order = np.lexsort((-runs.flops[open_], have))
    return [int(i) for i in open_[order[:wanted]]]


def _distance(of: Criterion, N: Floats, C: Floats) -> Floats:
    return np.asarray(np.log(N / np.asarray(of.law.optimal(C, of.evidence.flops).params)))


def around(
    evidence: Evidence, low: float, high: float, reach: float = REACH
) -> tuple[Floats, Floats]:
    """N and C wanted: nine sizes around the fitted optimum of each budget from low to high."""
    budgets = ladder(low, high, STEP)
    return lattice(np.asarray(evidence.law.optimal(budgets, evidence.flops).params), budgets, reach)


def buys(
    of: Criterion, now: float, spends: Sequence[float], runs: Candidates
) -> tuple[tuple[float, float], ...]:
    """What FLOPs more would buy: pairs of FLOPs and the half-width, relative.

    ``now`` is half the log width of the interval as it is, by :func:`half_width`: the design says by
    what part of it runs narrow it, and the fit's own interval may be wider than the design's.
    """
    out = []
    before = predicted(of, of.variance, 0)
    wider = now / before if np.isfinite(now) else 1.0
    most = 2 * len(of.evidence.runs)
    for spend in spends:
        inside = runs.pick(runs.flops <= spend / _EACH)
        if not len(inside):
            continue
        picked = best_batch(of, inside, most, spend)
        after = predicted(of, of.after(of.rows(inside.pick(picked))), len(picked))
        out.append((float(spend), float(np.expm1(wider * min(after, before)))))
    return tuple(out)


def next_experiments(
    fit: Fit,
    runs: Any = None,
    *,
    target_compute: float,
    budget_flops: float,
    candidates: Any = None,
    batch: int = 6,
    max_run_flops: float | None = None,
) -> Proposal:
    """The runs that narrow the interval of N*(target_compute) most for ``budget_flops``.

    Locally c-optimal at the fitted constants with κ free; one run in six lies at the bottom of the
    bowl, where a wrong form shows.

    Parameters
    ----------
    fit
        Of the runs so far, by :func:`flops_fit.fit_runs`.
    runs
        All runs so far, as :func:`flops_fit.fit_runs` takes them; by default those of the fit.
    target_compute
        FLOPs of the run that the answer is for.
    budget_flops
        What the batch may cost.
    candidates
        Pairs (N, D) to choose from, each at most once. By default any of nine sizes from N*/5 to
        5·N* at budgets a factor of 2 apart, each as often as is useful.
    batch
        How many runs at most.
    max_run_flops
        What one run may cost; by default a third of the budget, and no more than ten times the
        dearest run so far.

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
    for name, value in (
        ("target_compute", target_compute),
        ("budget_flops", budget_flops),
        ("batch", batch),
    ):
        check_number(name, value, above=0)
    table = fit.runs if runs is None else RunTable.read(runs)
    evidence, form = settled(table, fit.flops, target_compute)
    if any(b.kind is BoundKind.VANISHED for b in evidence.solution.bounds):
        raise FitError(
            "expected a fit with an optimum to plan around; a term of its law vanished. Add runs "
            "of smaller and larger sizes at each budget first."
        )
    of = criterion(evidence, target_compute, form.trusted)
    dearest = float(np.max(table.flops))
    if candidates is None:
        top = min(max_run_flops or budget_flops / 3, _AHEAD * dearest, budget_flops)
        low = min(float(np.min(table.flops)), top)
        choice = Grid(fit.flops).candidates(*around(evidence, low, top))
    else:
        choice = Candidates.of(candidates, fit.flops, repeats=False)
        choice = choice.pick(choice.flops <= (max_run_flops or np.inf))
    picked = best_batch(of, choice, int(batch), budget_flops, bottom=int(batch) // 6)
    if not picked:
        raise InputError(
            f"budget_flops: expected enough for one run at least; {budget_flops:.3g} FLOPs are less "
            "than each candidate costs. Give a larger budget or cheaper candidates."
        )
    chosen = choice.pick(picked)
    now = half_width(evidence, of, target_compute)
    shrink = predicted(of, of.after(of.rows(chosen)), len(picked)) / predicted(of, of.variance, 0)
    spends = [budget_flops * f for f in (0.3, 1.0, 3.0, 10.0)]
    return Proposal(
        runs=rows_of(chosen),
        cost=chosen.cost,
        now=float(np.expm1(now)),
        after=float(np.expm1(now * min(shrink, 1.0))),
        target_compute=float(target_compute),
        form=form,
        buys=buys(of, now, spends, choice),
    )


def rows_of(chosen: Candidates) -> tuple[dict[str, float], ...]:
    """One dict a run, cheapest first."""
    order = np.lexsort((chosen.params, chosen.flops))
    return tuple(
        {
            "params": float(chosen.params[i]),
            "tokens": float(chosen.tokens[i]),
            "flops": float(chosen.flops[i]),
        }
        for i in order
    )

"""The adaptive sweep: pilot, fit, batch, fit, … until the answer is as sure as design."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flops_fit.adaptive.candidates import REACH, Candidates, Oracle, table_of
from flops_fit.adaptive.criterion import Criterion, criterion, log_optimum
from flops_fit.adaptive.form import Check, Form, check_of, predict_largest, settled, window_of
from flops_fit.adaptive.pilot import explore, off_centre, pilot
from flops_fit.adaptive.propose import (
    LEVEL,
    around,
    best_batch,
    buys,
    change,
    described,
    half_width,
    predicted,
    rows_of,
)
from flops_fit.errors import FitError, InputError
from flops_fit.fit.intervals import Evidence
from flops_fit.fit.window import WindowRule
from flops_fit.plan.designs import Adaptive
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_count, format_percent

Floats = NDArray[np.float64]

_MOST_STEPS = 40
_SHARE = 6.0  # one run costs at most this part of all that is spent by then
_AHEAD = 10.0
_USELESS = 0.01  # a batch that narrows the interval by less does not help
_SETTLED = 8  # degrees of freedom before an interval may end the sweep
_EXPLORE = 4
_GROWTH = 0.5  # what a batch may cost, in terms of all that was spent before it


@dataclass(frozen=True)
class AdaptiveResult:
    """What an adaptive sweep did and found; prints as its steps.

    Attributes
    ----------
    runs
        All runs, in the order they were made.
    steps
        One line a decision.
    spent
        FLOPs.
    half_width
        Half the width of the 90 % interval of N* at the target, relative.
    reached
        Whether that is what was asked for.
    optimal_params, interval
        N* at the target and its 90 % interval, if the law's form is right.
    wide_interval
        The same if its exponents may drift: see :class:`Form`.
    check
        Runs at the largest budgets against what was foretold of them.
    form
        Whether the runs speak against the law's form, and what they could not tell of it.
    buys
        Pairs of FLOPs more and the half-width that they would buy.
    """

    runs: RunTable
    steps: tuple[str, ...]
    spent: float
    half_width: float
    reached: bool
    optimal_params: float
    interval: tuple[float, float] | None
    wide_interval: tuple[float, float] | None
    check: Check | None
    form: Form
    buys: tuple[tuple[float, float], ...]
    made: tuple[Candidates, ...] = field(default=(), repr=False, compare=False)

    @property
    def window(self) -> WindowRule:
        """What :func:`flops_fit.fit_runs` has to be given to fit these runs as the sweep did."""
        return window_of(self.form)

    def __str__(self) -> str:
        return "\n".join(self.steps)


@dataclass
class _Log:
    """What was made so far."""

    oracle: Oracle
    say: Callable[[str], None]
    made: list[Candidates] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    foretold: list[tuple[float, float]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def spent(self) -> float:
        return float(sum(c.cost for c in self.made))

    def tell(self, line: str) -> None:
        self.lines.append(line)
        self.say(line)

    def run(self, chosen: Candidates, of: Criterion | None = None) -> None:
        self.foretold += predict_largest(of, chosen)
        losses = [float(x) for x in self.oracle.run(chosen)]
        self.made.append(chosen)
        self.losses += losses

    @property
    def table(self) -> RunTable:
        return table_of(self.made, self.losses)

    def fresh(self, runs: Candidates) -> Candidates:
        """Without those that may not be made again, or had no loss."""
        done = {p for c in self.made for p in c.pairs()} if not runs.repeats else set()
        pairs = [p for c in self.made for p in c.pairs()]
        done |= {p for p, x in zip(pairs, self.losses, strict=True) if not np.isfinite(x)}
        return runs.pick(np.array([p not in done for p in runs.pairs()], dtype=bool))


def run_adaptive(
    oracle: Oracle,
    design: Adaptive,
    say: Callable[[str], None] = lambda line: None,
    *,
    pilot_budgets: Sequence[float] = (),
    centre: Callable[[float], float] | None = None,
) -> AdaptiveResult:
    """Make runs until N*(target) is known as precisely as asked, or no more can be done.

    Decisions follow from the losses alone: the same losses give the same runs.

    Parameters
    ----------
    oracle
        Makes the runs: :class:`Oracle`.
    design
        For what compute, how precisely, and what may be spent.
    say
        Gets each step's line when it is decided.
    pilot_budgets
        Budgets of the pilot, smallest first; by default three for 1.5 % of ``max_flops``.
    centre
        N* of a budget before anything is known; √(C/120) by default, twenty tokens a parameter.

    Raises
    ------
    FitError
        The pilot's runs determine no law.
    InputError
        The pilot alone costs more than may be spent; nothing was run.
    """
    log = _Log(oracle, say)
    first = pilot(oracle, design.max_flops, pilot_budgets, centre)
    if first.cost > design.max_flops:
        raise InputError(
            f"max_flops: expected more than the pilot takes, {first.cost:.3g} FLOPs; got "
            f"{design.max_flops:.3g}. Give more, or a pilot of cheaper budgets."
        )
    log.tell(
        f"pilot: {described(rows_of(first))}, {first.cost / design.max_flops:.2g} of what may be spent"
    )
    log.run(first)
    explored = 0
    for _ in range(_MOST_STEPS):
        evidence, form = _fitted(log, design)
        side = off_centre(evidence)
        if side and explored < _EXPLORE:
            more = log.fresh(explore(oracle, evidence.runs, side))
            if len(more) and log.spent + more.cost <= design.max_flops:
                explored += 1
                log.tell(
                    f"the optimum is not inside the sizes, which go on {side}: {described(rows_of(more))}"
                )
                log.run(more)
                continue
        if not _decide(log, evidence, form, design):
            break
    return _answer(log, design)


def _fitted(log: _Log, design: Adaptive) -> tuple[Evidence, Form]:
    table = log.table
    if len(table) < 7:
        raise FitError(
            f"expected seven runs with a loss at least to plan on; got {len(table)}. See why the "
            "others have none."
        )
    return settled(table, log.oracle.flops, design.target_compute)


def _decide(log: _Log, evidence: Evidence, form: Form, design: Adaptive) -> bool:
    """Make the next batch; ``False`` where the sweep ends, which is told."""
    of = criterion(evidence, design.target_compute, form.trusted)
    half, goal = half_width(evidence, of, design.target_compute), float(np.log1p(design.half_width))
    if half <= goal and of.dof >= _SETTLED:
        log.tell(f"the interval is {format_percent(np.expm1(half))}, as narrow as asked")
        return False
    left = design.max_flops - log.spent
    # The sandwich may be wider than the design's own interval: ask the design for as much less.
    ratio = predicted(of, of.variance, 0) / half if np.isfinite(half) else 1.0
    for spend in (min(left, _GROWTH * log.spent), left):
        choice = log.fresh(_choice(log, evidence, design, spend))
        picked = best_batch(of, choice, design.batch, spend, goal * ratio, design.batch // 6)
        if not picked:
            continue
        chosen = choice.pick(picked)
        now, after = of.variance, of.after(of.rows(chosen))
        if after <= now * (1 - _USELESS) ** 2:
            break
    else:
        log.tell(
            f"{log.spent:.3g} FLOPs are spent, and no batch that fits into what is left would narrow "
            f"the interval of {format_percent(np.expm1(half))}{_doubted(form)} by more than "
            f"{100 * _USELESS:.0f} %"
        )
        return False
    shrunk = half * float(np.sqrt(after / now))
    shrinks = change(np.expm1(half), np.expm1(shrunk))
    log.tell(f"next: {described(rows_of(chosen))}: {shrinks}{_doubted(form)}")
    log.run(chosen, of)
    return True


def _doubted(form: Form) -> str:
    """What an interval holds where the runs speak against the law's form."""
    return ", with the drifts that the runs show" if form.told else ""


def _choice(log: _Log, evidence: Evidence, design: Adaptive, spend: float) -> Candidates:
    C = evidence.runs.flops
    top = min(design.top, _AHEAD * float(np.max(C)), (log.spent + spend) / _SHARE)
    # On one ladder for the whole sweep, so that budgets gather runs.
    top = design.top * 2.0 ** np.floor(np.log2(top / design.top) + 1e-9)
    low = min(float(np.min(C)), top)
    return log.oracle.candidates(*around(evidence, low, top, REACH))


def _answer(log: _Log, design: Adaptive) -> AdaptiveResult:
    evidence, form = _fitted(log, design)
    target = design.target_compute
    of = criterion(evidence, target)
    span = evidence.intervals(log_optimum(target, evidence.flops), ("N*",), LEVEL).spans[0]
    half = half_width(evidence, of, target)
    check = check_of(log.losses, log.foretold, log.made)
    if check is not None:
        log.tell(str(check))
    log.tell(str(form))
    best = float(evidence.law.optimal(target, evidence.flops).params)
    wide = None if span is None else form.widened(best, span)
    if span is not None and wide is not None:
        log.tell(
            f"N* at {target:.2g} FLOPs: {format_count(best)}, {format_count(span[0])} to "
            f"{format_count(span[1])} if the form is right, "
            f"{format_count(wide[0])} to {format_count(wide[1])} if its exponents may drift"
        )
    choice = log.oracle.candidates(
        *around(evidence, float(np.min(evidence.runs.flops)), 10 * design.top)
    )
    bought = buys(of, half, [log.spent * f for f in (0.3, 1.0, 3.0, 10.0)], choice)
    for flops, width in bought:
        log.tell(f"{flops:.2g} FLOPs more would buy about {format_percent(width)}")
    return AdaptiveResult(
        runs=evidence.runs,
        steps=tuple(log.lines),
        spent=log.spent,
        half_width=float(np.expm1(half)),
        reached=bool(half <= np.log1p(design.half_width)),
        optimal_params=best,
        interval=span,
        wide_interval=wide,
        check=check,
        form=form,
        buys=bought,
        made=tuple(log.made),
    )

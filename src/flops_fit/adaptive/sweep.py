"""The adaptive sweep: pilot, fit, batch, fit, … until N* is known as precisely as required."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from flops_fit.adaptive import candidates, propose
from flops_fit.adaptive.candidates import Candidates, Oracle, around
from flops_fit.adaptive.propose import Criterion, best_batch, buys, change, described
from flops_fit.errors import FitError
from flops_fit.fit.fitting import quick_fit
from flops_fit.fit.intervals import Evidence
from flops_fit.plan.designs import Adaptive
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_count, format_percent

_MOST_STEPS = 40
_MOST_EXPLORATIONS = 4
_FEWEST_RUNS = 7
_FEWEST_TO_END = 14  # runs, before an interval may end the sweep
_GROWTH = 0.5  # what a batch may cost, relative to all that was spent before it
_LARGER = 3  # times a batch, before a sweep gives up
_LEAST_GAIN = 0.01  # a batch that narrows the interval by less does not help
_CHECKED_RUNS = 3
_MOST_RMS = 2.0  # the rms of three normal errors exceeds this once in 130


@dataclass(frozen=True)
class Check:
    """The three most expensive runs, compared with the predictions made before they ran.

    ``errors`` are (L − predicted)/predicted of each, and ``scaled`` the same in standard deviations, of the
    run's noise and the prediction together.
    """

    flops: tuple[float, ...]
    errors: tuple[float, ...]
    scaled: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether noise explains the errors."""
        return float(np.sqrt(np.mean(np.square(self.scaled)))) < _MOST_RMS

    def __str__(self) -> str:
        errors = ", ".join(f"{100 * e:+.2g} %" for e in self.errors)
        verdict = "as noise explains" if self.passed else "more than noise: the form may be wrong"
        return (
            f"check: {len(self.errors)} runs of up to {max(self.flops):.2g} FLOPs differ from their "
            f"predictions by {errors}: {verdict}"
        )


@dataclass(frozen=True)
class AdaptiveResult:
    """What an adaptive sweep did and found; prints as its steps.

    ``runs`` are all, in the order they were made, and ``spent`` their FLOPs. ``half_width`` is half the
    width of the 90 % ``interval`` of N* at ``target_compute``, relative; ``reached``, whether that is as
    narrow as required. ``check`` compares runs at the largest budgets with their predictions. ``misfit``
    and ``buys`` are as of :class:`Proposal`.
    """

    runs: RunTable
    steps: tuple[str, ...]  # one line a decision
    spent: float
    half_width: float
    reached: bool
    optimal_params: float
    interval: tuple[float, float] | None
    check: Check | None
    misfit: float
    buys: tuple[tuple[float, float], ...]
    target_compute: float = 0.0
    batches: tuple[Candidates, ...] = field(default=(), repr=False, compare=False)

    def __str__(self) -> str:
        return "\n".join(self.steps)


@dataclass
class _Sweep:
    """The runs so far, and the decisions that follow from them."""

    oracle: Oracle
    design: Adaptive
    say: Callable[[str], None]
    evidence: Callable[[], Evidence] | None
    batches: list[Candidates] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    predicted: list[tuple[float, float]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def spent(self) -> float:
        return float(sum(batch.cost for batch in self.batches))

    def tell(self, line: str) -> None:
        self.lines.append(line)
        self.say(line)

    def run(self, batch: Candidates, criterion: Criterion | None = None) -> None:
        predicted = None if criterion is None else criterion.predictions(batch)
        self.add(batch, self.oracle.run(batch), predicted)

    def add(
        self,
        batch: Candidates,
        losses: Sequence[float],
        predicted: Sequence[tuple[float, float]] | None = None,
    ) -> None:
        unknown = [(float("nan"), float("nan"))] * len(batch)
        self.predicted += unknown if predicted is None else predicted
        self.losses += [float(x) for x in losses]
        self.batches.append(batch)

    def fit(self) -> Criterion:
        table = candidates.table_of(self.batches, self.losses)
        if len(table) < _FEWEST_RUNS:
            raise FitError(
                f"expected seven runs with a loss at least to plan on; got {len(table)}. See why the "
                "others have none."
            )
        found = quick_fit(table, self.oracle.flops) if self.evidence is None else self.evidence()
        return Criterion(found, self.design.target_compute)

    def fresh(self, runs: Candidates) -> Candidates:
        """Without those that may not be made again, or had no loss."""
        pairs = [pair for batch in self.batches for pair in batch.pairs()]
        known = {p for p, x in zip(pairs, self.losses, strict=True) if np.isfinite(x)}
        excluded = {*pairs} - known if runs.repeats else {*pairs}
        return runs.pick(np.array([p not in excluded for p in runs.pairs()], dtype=bool))

    def explore(self, criterion: Criterion) -> bool:
        """Add sizes beyond the edge if the optimum lies there; whether any were added."""
        evidence = criterion.evidence
        side = candidates.off_centre(evidence)
        if not side:
            return False
        sizes = self.oracle.candidates(*candidates.beyond_edge(evidence.runs, side))
        batch = self.fresh(sizes.distinct())
        if not len(batch) or self.spent + batch.cost > self.design.max_flops:
            return False
        self.tell(
            f"the optimum lies {side} the sizes, which are extended: {described(batch.to_dicts())}"
        )
        self.run(batch)
        return True

    def decide(self, criterion: Criterion) -> bool:
        """Make the next batch; whether there was one."""
        design = self.design
        half, goal = criterion.half_width, float(np.log1p(design.half_width))
        width = format_percent(np.expm1(half))
        if half <= goal and len(criterion.evidence.runs) >= _FEWEST_TO_END:
            self.tell(f"the interval is {width}, as narrow as required")
            return False
        left = design.max_flops - self.spent
        # Where no small batch helps, a larger one may make up for what its expensive runs take.
        count, cautious = design.batch, min(left, _GROWTH * self.spent)
        for spend, most in (cautious, count), (left, count), (left, _LARGER * count):
            choice = self.fresh(self.choice(criterion, spend))
            picked = best_batch(criterion, choice, most, spend, goal, count // 6)
            if not picked:
                continue
            batch = choice.pick(picked)
            after = criterion.after(batch)
            if after <= criterion.variance * (1 - _LEAST_GAIN) ** 2:
                break
        else:
            self.tell(
                f"{self.spent:.3g} FLOPs are spent, and no batch for the rest would narrow the "
                f"interval of {width} by more than {100 * _LEAST_GAIN:.0f} %"
            )
            return False
        shrinks = change(np.expm1(half), np.expm1(criterion.narrowed(after)))
        self.tell(f"next: {described(batch.to_dicts())}: {shrinks}")
        self.run(batch, criterion)
        return True

    def choice(self, criterion: Criterion, spend: float) -> Candidates:
        evidence = criterion.evidence
        C, most = evidence.runs.flops, self.design.top
        affordable = (self.spent + spend) / propose.LARGEST_SHARE
        top = min(most, propose.MOST_EXTRAPOLATION * float(np.max(C)), affordable)
        # On one ladder for the whole sweep, so that budgets gather runs.
        top = most * 2.0 ** np.floor(np.log2(top / most) + 1e-9)
        return self.oracle.candidates(*around(evidence, min(float(np.min(C)), top), top))

    def check(self, evidence: Evidence) -> Check | None:
        """The check on the three most expensive runs with a prediction; ``None`` if there are fewer."""
        C = np.concatenate([batch.flops for batch in self.batches])
        level, sd = np.array(self.predicted).T
        error, valid = np.full(len(C), np.nan), np.isfinite(self.losses)
        size = np.abs(level)
        error[valid], sd = (evidence.runs.loss - level[valid]) / size[valid], sd / size
        if (tuned := evidence.tuned) is not None:
            sd[valid] = np.hypot(sd[valid], np.std(tuned.shifts, axis=0))
        known = np.flatnonzero(np.isfinite(error))
        if len(known) < _CHECKED_RUNS:
            return None
        top = known[np.argsort(-C[known], kind="stable")[:_CHECKED_RUNS]]
        columns = C[top], error[top], error[top] / sd[top]
        return Check(*(tuple(column.tolist()) for column in columns))

    def result(self) -> AdaptiveResult:
        criterion = self.fit()
        evidence, half, span = criterion.evidence, criterion.half_width, criterion.interval
        best, posterior = float(np.median(criterion.optima.params)), evidence.posterior
        if (check := self.check(evidence)) is not None:
            self.tell(str(check))
        self.tell(
            f"misfit: the loss is off the law's form by about {100 * posterior.amplitude:.2g} %, "
            f"besides noise of {100 * posterior.noise:.2g} % a run"
        )
        if span is not None:
            self.tell(
                f"N* at {self.design.target_compute:.2g} FLOPs: {format_count(best)}, "
                f"{format_count(span[0])} to {format_count(span[1])}"
            )
        smallest = float(np.min(evidence.runs.flops))
        choice = self.oracle.candidates(*around(evidence, smallest, 10 * self.design.top))
        bought = buys(criterion, [self.spent * f for f in propose.SPENDS], choice)
        for flops, width in bought:
            self.tell(f"{flops:.2g} FLOPs more would give about {format_percent(width)}")
        return AdaptiveResult(
            runs=evidence.runs,
            steps=tuple(self.lines),
            spent=self.spent,
            half_width=float(np.expm1(half)),
            reached=bool(half <= np.log1p(self.design.half_width)),
            optimal_params=best,
            interval=span,
            check=check,
            misfit=posterior.amplitude,
            buys=bought,
            target_compute=self.design.target_compute,
            batches=tuple(self.batches),
        )


def run_adaptive(
    oracle: Oracle,
    design: Adaptive,
    say: Callable[[str], None] = lambda line: None,
    *,
    pilot_budgets: Sequence[float] = (),
    centre: Callable[[float], float] | None = None,
    made: tuple[Candidates, Sequence[float]] | None = None,
    evidence: Callable[[], Evidence] | None = None,
) -> AdaptiveResult:
    """Make runs until N*(target) is known as precisely as required, or no more can be done.

    Decisions depend on the losses only: the same losses give the same runs. FitError if the pilot's
    runs determine no law; InputError if it costs more than may be spent, and nothing was run.

    The ``oracle`` makes the runs; ``design`` says for what compute, how precisely, and what may be spent.
    ``say`` gets each step's line when it is decided. ``pilot_budgets`` come smallest first, by default
    three for 1.5 % of ``max_flops``. ``centre`` gives N* of a budget before anything is known, by default
    √(C/120), twenty tokens a parameter. ``made`` are runs and their losses in place of a pilot, and
    ``evidence`` what all runs so far say, where that is not a fit of their losses.
    """
    sweep = _Sweep(oracle, design, say, evidence)
    if made is None:
        _pilot(sweep, pilot_budgets, centre)
    else:
        sweep.add(*made)
    explored = 0
    for _ in range(_MOST_STEPS):
        criterion = sweep.fit()
        if explored < _MOST_EXPLORATIONS and sweep.explore(criterion):
            explored += 1
        elif not sweep.decide(criterion):
            break
    return sweep.result()


def _pilot(
    sweep: _Sweep, pilot_budgets: Sequence[float], centre: Callable[[float], float] | None
) -> None:
    """Make the runs that a sweep begins with."""
    oracle, design = sweep.oracle, sweep.design
    budgets = pilot_budgets or candidates.pilot_budgets(design.max_flops)
    pilot = oracle.candidates(*candidates.pilot_grid(budgets, centre)).distinct()
    candidates.check_pilot(pilot.cost, design.max_flops)
    share = pilot.cost / design.max_flops
    sweep.tell(f"pilot: {described(pilot.to_dicts())}, {share:.2g} of what may be spent")
    sweep.run(pilot)

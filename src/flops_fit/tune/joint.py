"""A sweep that tunes itself: it climbs its budgets, and asks before each how its runs are best trained.

Rate and batch of each run lie within a factor of the best that the runs so far say of its N and D. They
fill that range and are unrelated to N, so that one surface of law and valley fits all runs
(:mod:`flops_fit.fit.valley`). Where the best lies beyond all that was tried at a budget, its runs are made
again around it. Decisions depend on the losses alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from flops_fit.adaptive.candidates import Experimenter, check_pilot
from flops_fit.adaptive.sweep import AdaptiveResult, run_adaptive
from flops_fit.errors import FitError, TableError
from flops_fit.fingerprint import digest
from flops_fit.fit.fitting import quick_fit
from flops_fit.fit.hparam_rule import HParamRule, prior_for, tuned_losses
from flops_fit.fit.intervals import Evidence
from flops_fit.fit.solver import one_blas_thread
from flops_fit.fit.valley import ValleyPrior
from flops_fit.fit.varied import DECAY, TUNED
from flops_fit.flops.functions import Floats
from flops_fit.hparams import HParams
from flops_fit.model.spec import Size
from flops_fit.plan.designs import Adaptive
from flops_fit.plan.experiments import UnmetBudgetError
from flops_fit.plan.planner import Joint
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.recipes.resolve import Fixed, RecipePowerLaw
from flops_fit.records import Experiment, Run
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_count

CarryOut = Callable[[Sequence[Experiment]], Sequence[Run]]

FEWEST_STEPS = 100  # that a drawn batch leaves a run
_FEWEST_LOSSES = 5
_DESIGNS = 2000  # of which the one is taken that is least related to N
_MOST_AGAIN = 4  # times that one budget is made again
_SURE_EXPONENT = 0.02  # sd of a₁ where muP's check has passed
_LIKELY_EXPONENT = 0.2  # and where it has not
_INSIDE = math.log(1.2)  # beyond all runs of a budget, and near enough to them
_OF_LAW = ("coefficient", "params", "units", "size")
_LOST = ("diverged", "hopeless")
_WORDS = dict(zip(TUNED, ("learning rate", "batch", "weight decay"), strict=True))


@dataclass(frozen=True)
class Rule:
    """The best rate and batch as power laws, and on which side of all runs of a budget they lie."""

    laws: Mapping[str, RecipePowerLaw] = field(default_factory=dict)
    beyond: Mapping[str, str] = field(default_factory=dict)
    lower: float = 1.0  # factor on the recipe's rate, where too few runs have a loss for a law

    @property
    def side(self) -> str:
        """Where the best lies beyond all runs, in words."""
        return ", ".join(f"{_WORDS[name]} {where}" for name, where in self.beyond.items())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        laws = {n: {name: getattr(law, name) for name in _OF_LAW} for n, law in self.laws.items()}
        return {**vars(self), "laws": laws}


def valley_prior(plan: SweepPlan, joint: Joint) -> ValleyPrior:
    """The prior for a plan's valley: under muP one rate serves all sizes."""
    prior = replace(prior_for(plan.unit, joint.mup), names=joint.names)
    if joint.mup and (checked := plan.coordinates) is not None:
        sd = _SURE_EXPONENT if checked.passed else _LIKELY_EXPONENT
        prior = replace(prior, a1=(0.0, sd))
    return prior


def latin(
    x: Floats, columns: int, rng: np.random.Generator, before: Floats | float = 0.0
) -> tuple[Floats, Floats]:
    """Levels between −1 and 1 of shape (columns, runs), one in each of as many strata as runs.

    Of many random Latin hypercubes the one whose columns, squares and products are least correlated with
    ``x`` and ``x``², and whose columns are with each other, these correlations added to those ``before``.
    Returns that sum too.
    """
    m = len(x)
    strata = np.tile(np.arange(m, dtype=np.float64), (_DESIGNS, columns, 1))
    z = 2 * (rng.permuted(strata, axis=2) + rng.uniform(0.2, 0.8, strata.shape)) / m - 1
    pairs = [z[:, i : i + 1] * z[:, j : j + 1] for i in range(columns) for j in range(i + 1)]
    terms = np.concatenate([z, *pairs], axis=1)
    terms -= np.mean(terms, axis=2, keepdims=True)
    terms /= np.maximum(np.linalg.norm(terms, axis=2, keepdims=True), 1e-12)
    powers = np.column_stack([x**p for p in range(min(3, len(np.unique(x))))])
    Q, R = np.linalg.qr(powers)
    basis = (Q * np.where(np.diag(R) < 0, -1.0, 1.0))[:, 1:]  # of one sign whatever the sizes
    heads = terms[:, :columns]
    across = np.tril(heads @ np.swapaxes(heads, 1, 2), -1).reshape(_DESIGNS, -1)
    with_x = np.zeros((_DESIGNS, terms.shape[1], 2))
    with_x[..., : basis.shape[1]] = terms @ basis
    related = before + np.concatenate([with_x.reshape(_DESIGNS, -1), across], axis=1)
    best = int(np.argmin(np.sum(related**4, axis=1)))
    return z[best], related[best]


def _batches(e: Experiment) -> tuple[float, float]:
    """The units of the smallest and of the largest batch that a run can have."""
    return e.units_per_sample, max(e.tokens / FEWEST_STEPS, e.units_per_sample)


def _log_ratio(e: Experiment, name: str, laws: Mapping[str, RecipePowerLaw]) -> float:
    """How far a run's rate, batch or weight decay lies above the best that it could have had."""
    best = laws[name](e.params, e.tokens)
    if name == "batch_units":
        best = float(np.clip(best, *_batches(e)))
    if name == DECAY:  # of its own rate and batch: what counts is B/(η·λ·D)
        own = {n: e.hparams[n] / laws[n](e.params, e.tokens) for n in TUNED[:2]}
        best *= own["batch_units"] / own["lr"]
    return math.log(e.hparams[name] / best)


@dataclass(frozen=True)
class Climbed:
    """The runs of a sweep that tuned itself, in the order made, and a line for each decision."""

    runs: tuple[Run, ...]
    steps: tuple[str, ...]

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """What was carried out."""
        return tuple(run.experiment for run in self.runs)


@dataclass
class Climber:
    """Carries out a plan from its smallest budget to its largest, with rates and batches drawn as it goes.

    ``carry_out`` takes all experiments so far, and does not run finished ones again. ``prior`` is the
    valley's. ``decided`` are the rules of an earlier call by the losses that they follow from, and ``keep``
    is called with them when there is another. An adaptive sweep goes on beyond the plan, up to runs of
    ``top`` FLOPs and ``total`` in all.
    """

    plan: SweepPlan
    joint: Joint
    carry_out: CarryOut
    prior: ValleyPrior
    say: Callable[[str], None] = lambda line: None
    decided: dict[str, Rule] = field(default_factory=dict)
    keep: Callable[[Mapping[str, Rule]], None] = lambda decided: None
    top: float | None = None
    total: float | None = None
    runs: list[Run] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    rule: Rule = Rule()
    related: Floats | float = 0.0  # of the designs so far, to size
    _latest: tuple[Sequence[Run], RunTable, HParamRule | None] | None = None

    def tell(self, line: str) -> None:
        """Keep and show a decision."""
        self.lines.append(line)
        self.say(line)

    def __call__(self, experiments: Sequence[Experiment]) -> list[Run]:
        """The runs of all experiments so far."""
        self.runs = list(self.carry_out(experiments))
        return self.runs

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """What was carried out."""
        return self.done.experiments

    @property
    def done(self) -> Climbed:
        """What was done so far."""
        return Climbed(tuple(self.runs), tuple(self.lines))

    def climb(self) -> Climbed:
        """Carry out the plan."""
        budgets, share = self.plan.budgets, self.joint.share
        left = share / (1 - share) * self.plan.total_flops
        if self.total is not None:
            left = min(share * self.total, self.total - self.plan.total_flops)
        for i, budget in enumerate(budgets):
            cells = [e for e in self.plan.experiments if e.budget == budget]
            cost = sum(e.flops for e in cells)
            for again in range(_MOST_AGAIN + 1):
                self.tell(self._said(cells, again))
                self([*self.experiments, *self.drawn(cells, i, again)])
                if i == len(budgets) - 1 and cost > left:
                    break  # what these runs say no run needs
                self.rule = self.learnt(budget)
                if not self.rule.beyond or again == _MOST_AGAIN:
                    break
                if cost > left:
                    self.tell(
                        f"the best {self.rule.side} lies beyond the runs at {budget:.3g} FLOPs; the share "
                        f"of {share:.2g} has no room to make them again: give Tune('joint', share=...) more"
                    )
                    break
                left -= cost
        return self.done

    def adapt(self, design: Adaptive, sizes: Sequence[Size] | None = None) -> AdaptiveResult:
        """Carry out the plan as the pilot of an adaptive sweep, and the runs that follow from it."""
        factory = self.plan.require_planner("tune").factory
        check_pilot(self.plan.total_flops, design.max_flops)
        self.climb()
        oracle = Experimenter(factory, self.plan.flops, self, sizes, self.runs, self.around)
        made, evidence = oracle.known, self.evidence
        answer = run_adaptive(oracle, design, self.tell, made=made, evidence=evidence)
        return replace(answer, steps=self.done.steps)

    def around(self, chosen: Sequence[Experiment]) -> list[Experiment]:
        """Further runs of any N and D, around what all runs so far say."""
        self.rule = self.learnt()
        return self.drawn(chosen, len(self.runs))

    def evidence(self) -> Evidence:
        """What all runs so far say of the law, once freed of what their rates and batches cost."""
        table, rule = self._freed()
        return quick_fit(table, self.plan.flops, rule)

    def _freed(self) -> tuple[RunTable, HParamRule | None]:
        """All runs with the losses that they would have at their best, and the rule."""
        if self._latest is None or self._latest[0] is not self.runs:
            table = RunTable.from_runs(self.runs)
            self._latest = self.runs, *tuned_losses(table, self.prior, "total")
        return self._latest[1:]

    def spread(self, budget: float) -> float:
        """The factor within which runs of a budget are drawn."""
        (first, last), budgets = self.joint.spread, self.plan.budgets
        decades = math.log((self.top or budgets[-1]) / budgets[0])
        part = min(math.log(budget / budgets[0]) / decades, 1.0) if decades > 0 else 0.0
        return float(first ** (1 - part) * last**part)

    def _said(self, cells: Sequence[Experiment], again: int) -> str:
        rule = self.rule
        where = "around the recipe" if not rule.laws else "around the rule of all runs so far"
        if again:
            where = f"again {where}, as the best lies outside what was tried ({rule.side})"
        e = sorted(cells, key=lambda e: e.params.total)[len(cells) // 2]
        best = {n: law(e.params, e.tokens) for n, law in rule.laws.items()}
        shown = [f"lr {best['lr']:.2g}"] if "lr" in best else []
        shown += [f"batch {format_count(best['batch_units'])}"] if "batch_units" in best else []
        shown += [f"weight decay {best[DECAY]:.2g}"] if DECAY in best else []
        centre = f": {', '.join(shown)} at N = {format_count(e.params.total)}" if shown else ""
        within = f"within ×{self.spread(e.budget):.2g} {where}{centre}"
        return f"{e.budget:.3g} FLOPs: {len(cells)} runs {within}"

    def drawn(self, cells: Sequence[Experiment], number: int, again: int = 0) -> list[Experiment]:
        """The runs of one step with their own rates and batches; N, D and C stay as planned."""
        factory, names = self.plan.require_planner("tune").factory, self.joint.names
        rule = self.rule
        x = np.log([e.params.total for e in cells])
        rng = np.random.default_rng([abs(factory.seed), number, again])
        levels, self.related = latin(x - np.mean(x), len(names), rng, self.related)
        z = dict(zip(names, levels, strict=True))
        repeats = 1 + max(e.repeat for e in cells)
        out = []
        for j, e in enumerate(cells):
            base, spread = factory.recipe(e.params, e.tokens, e.unit), self.spread(e.budget)
            best = {n: law(e.params, e.tokens) for n, law in rule.laws.items()}
            best = {"lr": base.lr * rule.lower, **{n: base[n] for n in TUNED[1:]}, **best}
            lr, batch, decay = best.values()
            lr = lr * spread ** z["lr"][j] if "lr" in names else lr
            if "batch_units" in names:
                low, high = np.clip([batch / spread, batch * spread], *_batches(e))
                batch = float(low * (high / low) ** ((z["batch_units"][j] + 1) / 2))
            if DECAY in names:  # the memory B/(η·λ·D) is drawn around that of the best
                ratio = batch / best["batch_units"] / (lr / best["lr"])
                decay = float(f"{decay * ratio * spread ** -z[DECAY][j]:.4g}")
            named, lr = f"{base.recipe} + joint", float(f"{lr:.4g}")
            hparams = replace(base, lr=lr, batch_units=batch, weight_decay=decay, recipe=named)
            out.append(self._made(e, hparams, e.repeat + again * repeats))
        return out

    def _made(self, e: Experiment, hparams: HParams, repeat: int) -> Experiment:
        """The exact run, whose ``batch_units`` are those of its whole samples."""
        factory = self.plan.require_planner("tune").factory
        while True:
            try:
                made = replace(factory, recipe=Fixed(hparams)).make(e.budget, e.size, repeat)
            except UnmetBudgetError:
                if hparams.batch_units <= e.units_per_sample:
                    raise
                hparams = replace(hparams, batch_units=hparams.batch_units / 2)
                continue
            whole = made.batch_size * made.units_per_sample
            if made.hparams.batch_units == whole or "batch_units" not in self.joint.names:
                return made
            hparams = replace(hparams, batch_units=whole)

    def learnt(self, budget: float | None = None) -> Rule:
        """The rule of all runs so far; what was decided once on the same losses stays."""
        key = digest([f"{r.experiment.id} {r.state} {r.loss!r}" for r in self.runs])
        if key not in self.decided:
            self.decided[key] = self._fitted(budget)
            self.keep(self.decided)
        return self.decided[key]

    @one_blas_thread
    def _fitted(self, budget: float | None) -> Rule:
        before, known = self.rule, sum(r.measured is not None for r in self.runs)
        here = [r for r in self.runs if budget in (None, r.experiment.budget)]
        lost = sum(r.state in _LOST for r in here)
        if known < _FEWEST_LOSSES:
            if 2 * lost <= len(here):
                return replace(before, beyond={})
            lower = before.lower / self.spread(here[-1].experiment.budget) ** 2
            return replace(before, beyond={"lr": "below"}, lower=lower)
        try:
            found = self._freed()[1]
        except (FitError, TableError, np.linalg.LinAlgError) as error:
            self.tell(f"no rule can be fitted yet: {error}")
            return replace(before, beyond={})
        assert found is not None
        laws, beyond = found.laws, {}
        tried = [r.experiment for r in here if r.state in ("completed", *_LOST)]
        for name in laws:
            off = [_log_ratio(e, name, laws) for e in tried]
            if off and (max(off) < -_INSIDE or min(off) > _INSIDE):
                beyond[name] = "above" if max(off) < 0 else "below"
        return Rule(laws, beyond, before.lower)

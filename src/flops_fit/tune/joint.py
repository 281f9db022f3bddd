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

from flops_fit.errors import FitError, TableError
from flops_fit.fingerprint import digest
from flops_fit.fit.hparam_rule import TUNED, prior_for, tuned_losses
from flops_fit.fit.solver import one_blas_thread
from flops_fit.fit.valley import ValleyPrior
from flops_fit.flops.functions import Floats
from flops_fit.hparams import HParams
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
_WORDS = dict(zip(TUNED, ("learning rate", "batch"), strict=True))


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


@dataclass(frozen=True)
class Climbed:
    """The runs of a sweep that tuned itself, in the order made, and a line for each decision."""

    runs: tuple[Run, ...]
    steps: tuple[str, ...]

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """What was carried out."""
        return tuple(run.experiment for run in self.runs)


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
    basis = np.linalg.qr(powers)[0][:, 1:]
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


def _log_ratio(e: Experiment, name: str, best: float) -> float:
    """How far a run's rate or batch lies above the best that it could have had."""
    if name == "batch_units":
        best = float(np.clip(best, *_batches(e)))
    return math.log(e.hparams[name] / best)


@dataclass
class _Climb:
    """The runs so far, and what follows from them."""

    plan: SweepPlan
    joint: Joint
    carry_out: CarryOut  # takes all experiments so far, and does not run finished ones again
    say: Callable[[str], None]
    prior: ValleyPrior
    decided: dict[str, Rule]  # by the losses that decided
    keep: Callable[[Mapping[str, Rule]], None]
    runs: list[Run] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    related: Floats | float = 0.0  # of the designs so far, to size

    def tell(self, line: str) -> None:
        self.lines.append(line)
        self.say(line)

    def climb(self) -> None:
        budgets, share = self.plan.budgets, self.joint.share
        left = share / (1 - share) * self.plan.total_flops
        rule, (first, last) = Rule(), self.joint.spread
        for i, budget in enumerate(budgets):
            part = i / max(len(budgets) - 1, 1)
            spread = float(first ** (1 - part) * last**part)
            cells = [e for e in self.plan.experiments if e.budget == budget]
            cost = sum(e.flops for e in cells)
            for again in range(_MOST_AGAIN + 1):
                self.tell(self._said(cells, spread, rule, again))
                new = self.drawn(cells, rule, spread, [i, again])
                known = [run.experiment for run in self.runs]
                self.runs = list(self.carry_out([*known, *new]))
                if i == len(budgets) - 1 and cost > left:
                    return  # what these runs say no run needs
                rule = self.learnt(rule, budget, spread)
                if not rule.beyond or again == _MOST_AGAIN:
                    break
                if cost > left:
                    self.tell(
                        f"the best {rule.side} lies beyond the runs at {budget:.3g} FLOPs; the share of "
                        f"{share:.2g} has no room to make them again: give Tune('joint', share=...) more"
                    )
                    break
                left -= cost

    def _said(self, cells: Sequence[Experiment], spread: float, rule: Rule, again: int) -> str:
        where = "around the recipe" if not rule.laws else "around the rule of all runs so far"
        if again:
            where = f"again {where}, as the best lies outside what was tried ({rule.side})"
        e = sorted(cells, key=lambda e: e.params.total)[len(cells) // 2]
        best = {n: law(e.params, e.tokens) for n, law in rule.laws.items()}
        shown = [f"lr {best['lr']:.2g}"] if "lr" in best else []
        shown += [f"batch {format_count(best['batch_units'])}"] if "batch_units" in best else []
        centre = f": {', '.join(shown)} at N = {format_count(e.params.total)}" if shown else ""
        return f"{e.budget:.3g} FLOPs: {len(cells)} runs within ×{spread:.2g} {where}{centre}"

    def drawn(
        self, cells: Sequence[Experiment], rule: Rule, spread: float, key: Sequence[int]
    ) -> list[Experiment]:
        """The runs of one budget with their own rates and batches; N, D and C stay as planned."""
        factory, names = self.plan.require_planner("tune").factory, self.joint.names
        x = np.log([e.params.total for e in cells])
        rng = np.random.default_rng([abs(factory.seed), *key])
        levels, self.related = latin(x - np.mean(x), len(names), rng, self.related)
        z = dict(zip(names, levels, strict=True))
        repeats = 1 + max(e.repeat for e in cells)
        out = []
        for j, e in enumerate(cells):
            base = factory.recipe(e.params, e.tokens, e.unit)
            lr = rule.laws["lr"](e.params, e.tokens) if "lr" in rule.laws else base.lr * rule.lower
            lr = lr * spread ** z["lr"][j] if "lr" in names else lr
            batch = base.batch_units
            if "batch_units" in names:
                law = rule.laws.get("batch_units")
                middle = batch if law is None else law(e.params, e.tokens)
                low, high = np.clip([middle / spread, middle * spread], *_batches(e))
                batch = float(low * (high / low) ** ((z["batch_units"][j] + 1) / 2))
            hparams = replace(
                base, lr=float(f"{lr:.4g}"), batch_units=batch, recipe=f"{base.recipe} + joint"
            )
            out.append(self._made(e, hparams, e.repeat + key[-1] * repeats))
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

    def learnt(self, before: Rule, budget: float, spread: float) -> Rule:
        """The rule of all runs so far; what was decided once on the same losses stays."""
        key = digest([f"{r.experiment.id} {r.state} {r.loss!r}" for r in self.runs])
        if key not in self.decided:
            self.decided[key] = self._fitted(before, budget, spread)
            self.keep(self.decided)
        return self.decided[key]

    @one_blas_thread
    def _fitted(self, before: Rule, budget: float, spread: float) -> Rule:
        table = RunTable.from_runs(self.runs)
        here = [r for r in self.runs if r.experiment.budget == budget]
        lost = sum(r.state in _LOST for r in here)
        if len(table) < _FEWEST_LOSSES:
            if 2 * lost <= len(here):
                return replace(before, beyond={})
            return replace(before, beyond={"lr": "below"}, lower=before.lower / spread**2)
        try:
            found = tuned_losses(table, self.prior, "total")[1]
        except (FitError, TableError, np.linalg.LinAlgError) as error:
            self.tell(f"no rule can be fitted yet: {error}")
            return replace(before, beyond={})
        assert found is not None
        laws, beyond = found.laws, {}
        tried = [r.experiment for r in here if r.state in ("completed", *_LOST)]
        for name, law in laws.items():
            off = [_log_ratio(e, name, law(e.params, e.tokens)) for e in tried]
            if off and (max(off) < -_INSIDE or min(off) > _INSIDE):
                beyond[name] = "above" if max(off) < 0 else "below"
        return Rule(laws, beyond, before.lower)


def climb(
    plan: SweepPlan,
    joint: Joint,
    carry_out: CarryOut,
    say: Callable[[str], None] = lambda line: None,
    decided: dict[str, Rule] | None = None,
    keep: Callable[[Mapping[str, Rule]], None] = lambda decided: None,
    prior: ValleyPrior | None = None,
) -> Climbed:
    """Carry out a plan from its smallest budget to its largest, with rates and batches drawn as it goes.

    ``decided`` are the rules of an earlier call by the losses that they follow from, and ``keep`` is
    called with them when there is another. ``prior`` is the valley's, by default :func:`valley_prior`.
    """
    prior = valley_prior(plan, joint) if prior is None else prior
    sweep = _Climb(plan, joint, carry_out, say, prior, {} if decided is None else decided, keep)
    sweep.climb()
    return Climbed(tuple(sweep.runs), tuple(sweep.lines))

"""Which runs a law is fitted to, how much each counts, and which form of law is fitted to them.

Far arms are where the form of every law is least right and hyper-parameters are least tuned. The
window follows the *fitted* N*(C) of each run's own compute, its edge is soft, and fit and window are
iterated until they agree. The runs nearest to the question say most: a run weighs (C/C_max)^tilt.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from flops_fit.errors import InputError, TableError, check_choice
from flops_fit.fit.generic import GenericSolver
from flops_fit.fit.hparam_rule import HParamRule
from flops_fit.fit.intervals import Evidence
from flops_fit.fit.minima import Envelope
from flops_fit.fit.misfit import Tuned
from flops_fit.fit.misfit_mean import Known, MisfitPrior
from flops_fit.fit.solver import BoundKind, DeltaRule, Solution, finding, one_blas_thread
from flops_fit.fit.surface import Points, points_of
from flops_fit.fit.surface_solver import Choice, SurfaceSolver, choose
from flops_fit.flops.functions import Floats, FlopsFunction
from flops_fit.laws.kappa import Hoffmann, Kappa
from flops_fit.laws.law import Law
from flops_fit.laws.optimum import finite
from flops_fit.records import Diagnostic
from flops_fit.table.run_table import RunTable

WindowRule = Literal["auto"] | float | None

_AUTO_FACTOR, _AUTO_TILT = 5.0, 0.5
_SOFTNESS = np.log(1.5)
_FIRST_FACTOR, _NARROWING, _MOST_ROUNDS = 60.0, 0.6, 20
_SETTLED = 1e-3  # largest change of a weight
_MOST_EXACT = 1000  # runs whose N* is computed one by one; of more it is interpolated
_FEWEST_PER_BUDGET = 3.0
_SPARE_RUNS = 3


def run_weights(rule: Any, runs: RunTable, log: bool) -> Floats:
    """One weight a run, from ``"equal"``, ``"loss_se"`` or one number a run."""
    if isinstance(rule, str):
        check_choice("weights", rule, ("equal", "loss_se"))
        return np.ones(len(runs)) if rule == "equal" else _precision(runs, log)
    given = finite(rule, "weights, one number a run,")
    if given.shape != (len(runs),):
        raise InputError(
            f"expected one weight for each of the {len(runs)} usable runs; got the shape "
            f"{given.shape}. Leave out the weights of runs that cannot be used."
        )
    if np.any(given < 0) or not np.any(given > 0):
        raise InputError("expected weights that are finite and not negative, some above zero.")
    return given


def _precision(runs: RunTable, log: bool) -> Floats:
    """1/(τ² + se²); τ² is the scatter around a first fit less the median se², not below zero."""
    if runs.loss_se is None or not np.any(runs.loss_se > 0):
        raise TableError(
            "expected a column 'loss_se' for weights='loss_se'; the table has none. Add it, or use "
            "weights='equal'."
        )
    known = np.isfinite(runs.loss_se) & (runs.loss_se > 0)
    error = np.where(known, runs.loss_se, np.median(runs.loss_se[known]))
    points = points_of(runs, log)
    first = SurfaceSolver(Hoffmann, points).fit(np.ones(len(runs)), "mad")
    variance = (error / (runs.loss if points.log else points.scale)) ** 2
    scatter = max(first.residual_sd**2 - float(np.median(variance)), 0.0)
    precision = 1 / (scatter + variance)
    return np.asarray(precision / np.max(precision))


@dataclass(frozen=True)
class WindowReport:
    """What the window did, and N* at the largest run's compute, ``compute``, with and without it.

    A run of compute C counts (C/C_max)^tilt. ``automatic`` where the user named no factor.
    """

    factor: float | None
    tilt: float
    used: bool
    reason: str
    kept: int
    compute: float
    params_with: float | None
    params_without: float
    automatic: bool

    def diagnostics(self) -> list[Diagnostic]:
        """What the window did; nothing where none was asked for."""
        if self.factor is None:
            return []
        if self.params_with is None:
            return [finding("window_none", factor=self.factor, reason=self.reason)]
        ratio = self.params_with / self.params_without
        counting = ", each counting √(C/C_max)" if self.tilt else ""
        apart = max(ratio, 1 / ratio) > 2
        return [finding("window", None, apart, counting=counting, **vars(self))]


def window_weights(
    solution: Solution, runs: RunTable, flops: FlopsFunction, factor: float, tilt: float
) -> Floats:
    """(C/C_max)^tilt within ``factor`` of N*(C), falling (cosine in ln N) to 0 at 1.5 times that."""
    law, C = solution.law, runs.flops
    if len(C) <= _MOST_EXACT:
        best = np.log(law.optimal(C, flops).params)
    else:
        along = np.geomspace(np.min(C), np.max(C), _MOST_EXACT)
        best = np.interp(np.log(C), np.log(along), np.log(law.optimal(along, flops).params))
    distance = np.abs(np.log(runs.params) - best) - np.log(factor)
    edge = np.clip(distance / _SOFTNESS, 0.0, 1.0)
    inside = np.where(edge < 1, 0.5 + 0.5 * np.cos(np.pi * edge), 0.0)
    return np.asarray(inside * (C / np.max(C)) ** tilt)


class _NoWindowError(Exception):
    """Why the window cannot be used."""


def _check_window(weights: Floats, runs: RunTable, parameters: int) -> None:
    """Whether the window leaves enough runs to fit."""
    kept = weights > 0
    budgets, left = len(np.unique(runs.budget)), int(kept.sum())
    if left < _FEWEST_PER_BUDGET * budgets:
        few = f"fewer than {_FEWEST_PER_BUDGET:g} a budget"
        raise _NoWindowError(f"it would leave {left} runs, {few}")
    if left <= parameters + _SPARE_RUNS:
        raise _NoWindowError(f"it would leave {left} runs for {parameters} parameters")
    if np.max(runs.flops[kept]) < 0.5 * np.max(runs.flops):
        raise _NoWindowError("it would leave no run of the largest budget")
    logs = np.column_stack([np.ones(left), np.log(runs.params[kept]), np.log(runs.tokens[kept])])
    if np.linalg.matrix_rank(logs - logs.mean(axis=0) * [0, 1, 1], tol=1e-3) < 3:
        raise _NoWindowError("the runs it would leave do not tell N from D")


@dataclass(frozen=True)
class Fitted:
    """The chosen solution, the other forms at the same weights, and why it was chosen."""

    chosen: Solution
    others: tuple[Solution, ...]
    choice: Choice | None = None

    def diagnostics(self) -> list[Diagnostic]:
        """Why this form of law."""
        if self.choice is None:
            return []
        return [finding("law_choice", law=self.chosen.law.name, reason=self.choice.reason)]


@dataclass(frozen=True, eq=False)
class FitProblem:
    """A table ready to be fitted with one form of law; ``None`` chooses between two.

    ``delta`` is in units of the losses; ``base`` is how much each run counts before the window.
    """

    law: type[Law] | None
    table: RunTable
    flops: FlopsFunction
    points: Points
    delta: DeltaRule
    base: Floats
    known: Known = field(default_factory=Known)
    envelope: Envelope | None = None
    findings: tuple[Diagnostic, ...] = ()
    rule: HParamRule | None = None

    def fit(self, weights: Floats) -> Fitted:
        """The law of the problem, and the other forms; a law with covariates stands alone."""
        delta = self.delta if self.delta == "mad" else float(self.delta) / self.points.unit
        own = None
        if self.law not in (None, Hoffmann, Kappa):
            solver = GenericSolver(self.law, self.table, self.points, self.known.fixed)
            own = solver.fit(weights, delta)
            if own.law.covariates:
                return Fitted(own, ())
        other = Known() if own else self.known.of_any_form()
        known = self.known if self.law in (None, Hoffmann) else other
        additive = SurfaceSolver(Hoffmann, self.points, known).fit(weights, delta)
        kappa, choice = None, None
        if int(np.count_nonzero(weights)) > len(Kappa.parameters()):
            known = self.known if self.law in (None, Kappa) else other
            kappa = SurfaceSolver(Kappa, self.points, known).fit(weights, delta, additive)
        if self.law is None:
            few = Choice(False, "there are too few runs to fit κ")
            choice = choose(additive, kappa) if kappa else few
        joined = self.law is Kappa or (choice is not None and choice.kappa)
        chosen = own or (kappa if kappa and joined else additive)
        others = [s for s in (additive, kappa) if s and s is not chosen]
        return Fitted(chosen, tuple(others), choice)

    def evidence(self, solution: Solution, report: WindowReport) -> Evidence:
        """What the runs say beyond the law, counted near and far as the window was asked to."""
        prior = MisfitPrior()
        refused = not (report.automatic or report.used)
        if report.factor is None or solution.law.covariates or refused:
            prior = replace(prior, window=math.inf, tilt=0.0)
        elif not report.automatic:
            prior = replace(prior, window=report.factor, tilt=0.0)
        additive = self.law is Hoffmann
        ask = (solution, self.table, self.flops, self.base, additive, prior)
        if self.rule is None:
            return Evidence(*ask, self.known.belief())
        assert self.table.regret is not None
        left = self.table.regret - self.rule.shifts(self.table)
        return Evidence(*ask, self.known.belief(), Tuned(left, self.rule.valley.effective))

    @one_blas_thread
    def windowed(self, window: WindowRule) -> tuple[Fitted, WindowReport]:
        """Fit all runs, then those inside the window where it leaves enough."""
        everything = self.fit(self.base)
        chosen, compute = everything.chosen, float(np.max(self.table.flops))
        without = float(chosen.law.optimal(compute, self.flops).params)
        automatic = window == "auto"
        factor, tilt = (_AUTO_FACTOR, _AUTO_TILT) if window == "auto" else (window, 0.0)
        try:
            if factor is None:
                raise _NoWindowError("no window was asked for")
            if automatic and chosen.law.covariates:
                why = "one optimum says little about runs that differ beyond N and D"
                raise _NoWindowError(why)
            fitted = self._inside(everything, float(factor), tilt)
        except _NoWindowError as error:
            kept = len(self.base)
            answers = kept, compute, None, without, automatic
            return everything, WindowReport(factor, 0.0, False, str(error), *answers)
        kept = int(np.count_nonzero(fitted.chosen.weights))
        best = float(fitted.chosen.law.optimal(compute, self.flops).params)
        return fitted, WindowReport(factor, tilt, True, "", kept, compute, best, without, automatic)

    def _inside(self, fitted: Fitted, factor: float, tilt: float) -> Fitted:
        """The fit inside the window of its own optimum; once more where its form changes."""
        for _ in range(2):
            form = fitted.chosen
            fitted = self.fit(self._settled_weights(form, factor, tilt))
            if type(fitted.chosen.law) is type(form.law):
                break
        return fitted

    def _settled_weights(self, solution: Solution, factor: float, tilt: float) -> Floats:
        """Weights that agree with the fit made under them."""
        # The window starts wide: a fit to far arms can put its optimum where no runs are.
        weights, wide = self.base, _FIRST_FACTOR
        for step in range(_MOST_ROUNDS):
            values = solution.law.params
            vanished = any(b.kind is BoundKind.VANISHED for b in solution.bounds)
            if vanished or min(values.get("A", 1.0), values.get("B", 1.0)) <= 0:
                raise _NoWindowError("the fit has no optimum to centre a window on")
            wide = max(_NARROWING * wide, factor)
            new = self.base * window_weights(solution, self.table, self.flops, wide, tilt)
            _check_window(new, self.table, len(values))
            if wide == factor and step and np.max(np.abs(new - weights)) < _SETTLED:
                break
            weights = np.where(new > 0, 0.5 * (new + weights), 0.0) if step else new
            solution = solution.solver.fit(weights, solution.delta, solution)
        return weights

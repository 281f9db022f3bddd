"""The forms of law fitted to one table: all of them, inside the window, and which was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit._envelope import Envelope
from flops_fit.fit._generic import solve_generic
from flops_fit.fit._options import parameters_of
from flops_fit.fit._select import Choice, choose
from flops_fit.fit._solve import DeltaRule, Solution, solve_surface
from flops_fit.fit._surface import Points
from flops_fit.fit._window import WindowReport, settle_window
from flops_fit.flops import FlopsFunction
from flops_fit.laws import Hoffmann, Kappa, Law
from flops_fit.records import Diagnostic
from flops_fit.table import RunTable

__all__ = ["Fitted", "Task", "WindowRule"]

Floats = NDArray[np.float64]
WindowRule = Literal["auto"] | float | None

_WINDOW = 5.0
_TILT = 0.5


@dataclass(frozen=True)
class Fitted:
    """The chosen solution, the other forms at the same weights, and why."""

    chosen: Solution
    others: tuple[Solution, ...]
    choice: Choice | None

    @property
    def rival(self) -> Solution | None:
        """The κ fit that was not chosen and could be true: its intervals join the chosen law's."""
        if self.choice is None or self.choice.kappa or not self.others:
            return None
        kappa = self.others[0]
        return kappa if kappa.converged and not kappa.bounds and kappa.dof >= 3 else None


@dataclass(frozen=True)
class Task:
    """A table ready to be fitted, and how."""

    table: RunTable
    flops: FlopsFunction
    points: Points
    delta: DeltaRule
    base: Floats
    front: Envelope | None = None
    found: tuple[Diagnostic, ...] = ()

    def solve(
        self,
        kind: str | type[Law],
        weights: Floats,
        warm: Solution | None = None,
        additive: Solution | None = None,
    ) -> Solution:
        """One law at given weights; from ``warm`` at its δ, else searched from its own starts."""
        delta = warm.delta if warm else self.delta
        if delta != "mad" and not warm:
            delta = float(delta) / self.points.unit
        if isinstance(kind, type):
            return solve_generic(kind, self.table, self.points, weights, delta, warm)
        known = additive.full if additive else None
        return solve_surface(kind, self.points, weights, delta, warm.full if warm else None, known)

    def fit(self, kind: str | type[Law], weights: Floats) -> Fitted:
        """The law asked for, and the other forms; ``"auto"`` chooses.

        A law with covariates stands alone: forms that know N and D only would take what the
        covariates do for noise.
        """
        if isinstance(kind, type) and kind.covariates:
            return Fitted(self.solve(kind, weights), (), None)
        additive = self.solve(Hoffmann.name, weights)
        kappa = None
        if int(np.count_nonzero(weights)) > parameters_of(Kappa.name):
            kappa = self.solve(Kappa.name, weights, additive=additive)
        if isinstance(kind, type):
            own = self.solve(kind, weights)
            return Fitted(own, tuple(s for s in (additive, kappa) if s), None)
        choice = None
        if kind == "auto":
            choice = (
                choose(additive, kappa)
                if kappa
                else Choice(False, None, None, "there are too few runs to fit κ")
            )
        if kappa and (kind == Kappa.name or (choice is not None and choice.kappa)):
            return Fitted(kappa, (additive,), choice)
        return Fitted(additive, (kappa,) if kappa else (), choice)

    def windowed(self, kind: str | type[Law], window: WindowRule) -> tuple[Fitted, WindowReport]:
        """Fit all runs, then those inside the window where it leaves enough."""
        compute = float(np.max(self.table.flops))
        everything = self.fit(kind, self.base)
        without = float(everything.chosen.law.optimal(compute, self.flops).params)
        reason = "no window was asked for" if window is None else ""
        if window == "auto" and type(everything.chosen.law).covariates:
            reason = (
                "the optimum of fresh data is no measure for runs that differ in more than N and D"
            )
        factor, tilt = (_WINDOW, _TILT) if window in ("auto", None) else (float(window), 0.0)
        if window is None or reason:
            report = WindowReport(
                None if window is None else factor,
                0.0,
                False,
                reason,
                len(self.base),
                compute,
                None,
                without,
            )
            return everything, report
        fitted = everything
        for _ in range(2):
            form = fitted.chosen
            weights, reason = settle_window(
                form,
                lambda w, s: self.solve(_kind_of(s), w, s),
                self.table,
                self.flops,
                factor,
                tilt,
                self.base,
            )
            if weights is None:
                break
            fitted = self.fit(kind, weights)
            if type(fitted.chosen.law) is type(form.law):
                break
        if reason:
            report = WindowReport(
                factor, 0.0, False, reason, len(self.base), compute, None, without
            )
            return everything, report
        kept = int(np.count_nonzero(fitted.chosen.weights))
        with_it = float(fitted.chosen.law.optimal(compute, self.flops).params)
        return fitted, WindowReport(factor, tilt, True, "", kept, compute, with_it, without)


def _kind_of(solution: Solution) -> str | type[Law]:
    return solution.law.name if solution.full is not None else type(solution.law)

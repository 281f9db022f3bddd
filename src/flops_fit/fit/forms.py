"""The forms of law fitted to one table: all of them, inside the window, and which was chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.checks import is_number
from flops_fit.errors import InputError, InputTypeError, TableError
from flops_fit.fit.generic import solve_generic
from flops_fit.fit.minima import Envelope
from flops_fit.fit.newton import polish
from flops_fit.fit.sandwich import covariance
from flops_fit.fit.solver import DeltaRule, Solution, solve_surface
from flops_fit.fit.surface import Points
from flops_fit.fit.window import WindowReport, settle_window
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws import LAWS
from flops_fit.laws.kappa import Hoffmann, Kappa
from flops_fit.laws.law import Law
from flops_fit.records import Diagnostic
from flops_fit.table.run_table import RunTable


def known_law(law: str | type[Law]) -> str | type[Law]:
    """``"auto"``, the name of a law with a solver of its own, or the class of any other."""
    if isinstance(law, type) and issubclass(law, Law):
        return law.name if law in (Hoffmann, Kappa) else law
    if isinstance(law, str):
        if law in ("auto", Hoffmann.name, Kappa.name):
            return law
        if law in LAWS:
            return LAWS[law]
        raise InputError(f"expected law='auto', one of {list(LAWS)} or a Law class; got {law!r}.")
    raise InputTypeError(f"expected law as a name or a Law class; got {type(law).__name__}.")


def parameters_of(kind: str | type[Law]) -> int:
    """How many parameters have to be fitted at least."""
    law = kind if isinstance(kind, type) else LAWS[Hoffmann.name if kind == "auto" else kind]
    return len(law.parameters())


def check_options(delta: Any, loss_space: Any, window: Any, n: Any) -> None:
    """Refuse what no option can be."""
    if delta != "mad" and not (is_number(delta, infinite=True) and delta > 0):
        raise InputError(
            f"expected delta='mad' or a positive number (inf: least squares); got {delta!r}."
        )
    if loss_space not in ("log", "linear"):
        raise InputError(f"expected loss_space='log' or 'linear'; got {loss_space!r}.")
    if (
        window is not None
        and window != "auto"
        and not (is_number(window, infinite=True) and window > 1)
    ):
        raise InputError(f"expected window='auto', None or a factor above 1; got {window!r}.")
    if n not in ("total", "non_embedding"):
        raise InputError(f"expected n='total' or 'non_embedding'; got {n!r}.")


def with_convention(table: RunTable, n: str) -> RunTable:
    """The table with N counted as asked for."""
    if n == "total":
        return table
    if table.non_embedding is None:
        raise TableError(
            "expected a column of non-embedding parameters for n='non_embedding'; the table has "
            "none. Add a column 'non_embedding', or use n='total'."
        )
    return replace(table, params=table.non_embedding)


_LEVEL = 0.05
_SPARE_RUNS = 3


@dataclass(frozen=True)
class Choice:
    """Whether the κ-law was chosen, the p values of the tests and the reason in words."""

    kappa: bool
    wald_p: float | None
    tau_p: float | None
    reason: str


def choose(additive: Solution, kappa: Solution) -> Choice:
    """The κ-law where a test rejects κ = 1 at 5 %, else the additive law.

    Two tests: Wald's on ln κ with its HC3 error, and the robust τ-test (Ronchetti 1982;
    Hampel et al. 1986, §7.2), 2(Σρ_additive − Σρ_κ)/σ² against F(1, runs − 6), both sums at the
    δ and scale of the κ fit.
    """
    from scipy.special import fdtrc, stdtr

    if kappa.dof < _SPARE_RUNS:
        return Choice(False, None, None, f"{kappa.dof + 6} runs are too few to test κ")
    if not kappa.converged:
        return Choice(False, None, None, "the κ-law did not converge")
    if kappa.optimum_lost:
        words = ", ".join(map(str, kappa.bounds))
        return Choice(False, None, None, f"the κ-law ended on a bound ({words})")
    assert kappa.full is not None
    ln_kappa = float(kappa.full[5])
    if abs(ln_kappa) < 1e-6:
        return Choice(False, None, None, "κ is 1")
    tau_p = float(fdtrc(1, kappa.dof, _tau(additive, kappa)))
    cov = covariance(kappa)
    wald_p = None
    if cov.matrix is not None and "kappa" in kappa.names:
        i = kappa.names.index("kappa")
        error = float(np.sqrt(cov.matrix[i, i]))
        wald_p = float(2 * stdtr(cov.dof, -abs(ln_kappa) / max(error, 1e-300)))
    supported = tau_p < _LEVEL or (wald_p is not None and wald_p < _LEVEL)
    tests = f"τ-test p = {tau_p:.2g}"
    if wald_p is not None:
        tests = f"Wald p = {wald_p:.2g}, {tests}"
    word = "support" if supported else "do not support"
    return Choice(
        supported, wald_p, tau_p, f"the runs {word} κ ≠ 1 (κ = {np.exp(ln_kappa):.3g}; {tests})"
    )


def _tau(additive: Solution, kappa: Solution) -> float:
    """The τ statistic; both fits at the κ fit's δ."""
    assert additive.full is not None
    free = np.array([True] * 5 + [False])
    refit = polish(additive.full[None], kappa.points, kappa.weights, kappa.delta, free)
    w, r = kappa.weights, kappa.residuals
    drop = max(float(refit.objective[0]) - kappa.objective, 0.0)
    # E ψ² / E ψ′ takes the place of the variance, as in the asymptotics of M-estimators. Under
    # unequal weights a weighted sum of squares falls by Σw²/Σw of it per parameter.
    score = np.clip(r, -kappa.delta, kappa.delta)
    total = float(np.sum(w))
    spare = kappa.dof / int(np.count_nonzero(w))
    variance = float(np.sum((w * score) ** 2)) / total / spare
    bend = max(float(np.sum(w * (np.abs(r) <= kappa.delta))) / total, 0.05)
    return 2 * drop / max(variance / bend, 1e-300)


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
class FitProblem:
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

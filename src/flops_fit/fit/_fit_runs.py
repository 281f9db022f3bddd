"""From a table of runs to a fit: read, check, solve, window, choose, diagnose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.curves import Curves
from flops_fit.errors import FitError
from flops_fit.fit._check import check_runs
from flops_fit.fit._diagnose import diagnose, find_outliers
from flops_fit.fit._envelope import Envelope, envelope, envelope_diagnostics
from flops_fit.fit._fit import Alternative, Fit
from flops_fit.fit._flops import flops_of
from flops_fit.fit._generic import solve_generic, with_covariates
from flops_fit.fit._headline import choose_headline, headline_diagnostic
from flops_fit.fit._isoflop import IsoFLOP, isoflop
from flops_fit.fit._options import (
    check_options,
    known_law,
    parameters_of,
    with_convention,
)
from flops_fit.fit._repeated import (
    FEW_EPOCHS,
    epochs_of,
    repeat_findings,
    where_repetition_helps,
)
from flops_fit.fit._residuals import residual_diagnostics, residual_map
from flops_fit.fit._select import Choice, choose
from flops_fit.fit._sensitivity import sensitivity, sensitivity_diagnostics
from flops_fit.fit._solve import DeltaRule, Solution, solve_surface
from flops_fit.fit._surface import Points, points_of
from flops_fit.fit._weights import run_weights
from flops_fit.fit._window import WindowReport, settle_window
from flops_fit.flops import FlopsFunction
from flops_fit.laws import FlopsLike, Hoffmann, Kappa, Law, Muennighoff
from flops_fit.records import Diagnostic
from flops_fit.table import RunTable

__all__ = ["fit_runs"]

Floats = NDArray[np.float64]
WindowRule = Literal["auto"] | float | None

_WINDOW = 5.0
_TILT = 0.5


def fit_runs(
    runs: Any,
    law: str | type[Law] = "auto",
    *,
    delta: DeltaRule = "mad",
    loss_space: Literal["log", "linear"] = "log",
    window: WindowRule = "auto",
    weights: Literal["equal", "loss_se"] | ArrayLike = "equal",
    flops_per_unit: FlopsLike | None = None,
    n: Literal["total", "non_embedding"] = "total",
    columns: Mapping[str, str] | None = None,
    curves: Any = None,
) -> Fit:
    """Fit a scaling law L(N, D) to runs (approach 3), with approaches 1 and 2 beside it.

    Minimises Σ w·ρ_δ(ln L − ln L̂(N, D)), ρ_δ Huber's loss, from several starts with exact
    derivatives.

    Parameters
    ----------
    runs
        Anything :meth:`flops_fit.table.RunTable.read` accepts: a path, a DataFrame, dicts,
        runs of this library.
    law
        ``"auto"``: the κ-law where the runs tell κ from 1 (5 % level), else the additive law; the
        law of repeated data where runs of more than four epochs determine it.
        ``"hoffmann"``, ``"kappa"``, ``"kaplan"``, ``"muennighoff"`` (repeated data; needs a column
        ``unique_tokens``), or a class of your own, a :class:`flops_fit.laws.Law`.
    delta
        Huber's δ: ``"mad"`` takes 1.345 robust standard deviations of the residuals, a number
        fixes it (1e-3 reproduces Hoffmann et al. 2022), ``inf`` is least squares.
    loss_space
        Residuals of ln L, or of L.
    window
        ``"auto"`` fits runs within ×5 of the fitted N* of their own compute where enough remain,
        each counting √(C/C_max). A number sets the factor, and all inside count alike; ``None``
        fits all runs alike. Laws with covariates take all runs alike by default: the optimum of
        fresh data says little about where runs on repeated data should lie.
    weights
        How much each run counts inside the window: ``"equal"``; ``"loss_se"``, by the standard
        errors of the losses where they exceed what runs scatter by anyway; or one number a run.
    flops_per_unit
        F(N): a factor k, a function of N or a FlopsFunction. By default from the table.
    n
        Which count of parameters N is.
    columns
        Names of columns where they are unusual: ``{"params": "n_weights"}``.
    curves
        Training curves for approach 1: anything :meth:`flops_fit.curves.Curves.read` accepts, N
        counted as in the runs. They do not enter the surface.

    Returns
    -------
    Fit
        A poor fit is no error: read ``fit.status``, ``fit.trust`` and ``fit.diagnostics``.

    Raises
    ------
    FitError
        The runs determine no law; the message says which to add.
    TableError
        The table lacks a column, or holds text.

    Examples
    --------
    >>> from flops_fit import reference
    >>> fit = fit_runs(reference.runs("llama3_2024"))
    >>> fit.law.name
    'kappa'
    """
    kind = known_law(law)
    check_options(delta, loss_space, window, n)
    table = with_convention(RunTable.read(runs, columns), n)
    if isinstance(kind, type):
        table = with_covariates(table, kind)
    table = check_runs(table, parameters_of(kind))
    log = loss_space == "log"
    base = run_weights(weights, table, log)
    table = check_runs(table.select(base > 0, "its weight is zero"), parameters_of(kind))
    flops = flops_of(table, flops_per_unit)
    front = None if curves is None else envelope(Curves.read(curves), flops)
    task = _Task(table, flops, points_of(table, log), delta, base[base > 0], front)
    if kind is Muennighoff:
        return _fit_repeated(task, loss_space, window)
    fitted, report = task.windowed(kind, window)
    if kind == "auto":
        beyond = int(np.sum((fitted.chosen.weights > 0) & (epochs_of(table) > FEW_EPOCHS)))
        repeated = _if_repeats_count(beyond, task, loss_space)
        if repeated is not None:
            return repeated
    shape = isoflop(table, report.factor)
    return task.result(fitted, report, shape, loss_space)


def _fit_repeated(
    task: _Task,
    loss_space: Literal["log", "linear"],
    window: WindowRule = "auto",
    choice: Choice | None = None,
) -> Fit:
    """The law of repeated data, where repetition still helps."""
    helped, keep, hurt = where_repetition_helps(task.table)
    check_runs(helped, len(Muennighoff.parameters()))
    points = points_of(helped, loss_space == "log")
    found = (hurt,) if hurt else ()
    task = replace(task, table=helped, points=points, base=task.base[keep], found=found)
    fitted, report = task.windowed(Muennighoff, window)
    # Parabolas in N may join runs of one compute where none repeats its data much.
    shape = isoflop(helped.select(epochs_of(helped) <= FEW_EPOCHS), report.factor)
    return task.result(replace(fitted, choice=choice), report, shape, loss_space)


def _if_repeats_count(beyond: int, task: _Task, loss_space: Literal["log", "linear"]) -> Fit | None:
    """The law of repeated data where ``beyond`` runs of many epochs determine its R*_D."""
    if beyond == 0 or len(with_covariates(task.table, Muennighoff)) < len(task.table):
        return None
    reason = f"{beyond} runs of more than {FEW_EPOCHS:g} epochs carry weight, and determine R*_D"
    try:
        fit = _fit_repeated(task, loss_space, choice=Choice(False, None, None, reason))
    except FitError:
        return None
    codes = {d.code for d in fit.diagnostics}
    return fit if fit.status.usable and "R_D_identified" in codes else None


@dataclass(frozen=True)
class _Fitted:
    """The chosen solution, the other forms at the same weights, and why."""

    chosen: Solution
    others: tuple[Solution, ...]
    choice: Choice | None


@dataclass(frozen=True)
class _Task:
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

    def fit(self, kind: str | type[Law], weights: Floats) -> _Fitted:
        """The law asked for, and the other forms; ``"auto"`` chooses.

        A law with covariates stands alone: forms that know N and D only would take what the
        covariates do for noise.
        """
        if isinstance(kind, type) and kind.covariates:
            return _Fitted(self.solve(kind, weights), (), None)
        additive = self.solve(Hoffmann.name, weights)
        kappa = None
        if int(np.count_nonzero(weights)) > parameters_of(Kappa.name):
            kappa = self.solve(Kappa.name, weights, additive=additive)
        if isinstance(kind, type):
            own = self.solve(kind, weights)
            return _Fitted(own, tuple(s for s in (additive, kappa) if s), None)
        choice = None
        if kind == "auto":
            choice = (
                choose(additive, kappa)
                if kappa
                else Choice(False, None, None, "there are too few runs to fit κ")
            )
        if kappa and (kind == Kappa.name or (choice is not None and choice.kappa)):
            return _Fitted(kappa, (additive,), choice)
        return _Fitted(additive, (kappa,) if kappa else (), choice)

    def windowed(self, kind: str | type[Law], window: WindowRule) -> tuple[_Fitted, WindowReport]:
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

    def result(
        self,
        fitted: _Fitted,
        report: WindowReport,
        shape: IsoFLOP,
        loss_space: Literal["log", "linear"],
    ) -> Fit:
        """Everything about the fit in one value."""
        chosen, unit = fitted.chosen, self.points.unit
        kept = chosen.weights > 0
        found = [*self.found, *repeat_findings(chosen)]
        found += diagnose(chosen, self.table, shape, self.flops)
        found += _form_diagnostics(fitted, report)
        moved = sensitivity(chosen, self.table, self.flops, self._again(chosen))
        found += sensitivity_diagnostics(moved)
        residuals = residual_map(chosen, self.table, self.flops)
        found += residual_diagnostics(residuals, chosen, self.table)
        front = self.front
        headline = choose_headline(chosen, shape, front)
        found.append(headline_diagnostic(headline))
        found += envelope_diagnostics(front) if front else []
        reason = f"outside ×{report.factor:g} of the fitted optimum" if report.used else ""
        used = self.table.select(kept, reason)
        return Fit(
            law=chosen.law,
            objective=chosen.objective * unit**2,
            delta=chosen.delta * unit,
            loss_space=loss_space,
            status=chosen.status,
            diagnostics=tuple(found),
            runs=used,
            weights=chosen.weights[kept],
            residuals=chosen.residuals[kept] * unit,
            excluded=used.excluded,
            outliers=find_outliers(chosen, self.table),
            isoflop=shape,
            envelope=front,
            alternatives=tuple(
                Alternative(
                    s.law, s.objective * unit**2, s.delta * unit, s.residual_sd * unit, s.status
                )
                for s in fitted.others
            ),
            flops=self.flops,
            starts=chosen.starts,
            starts_agree=chosen.agree,
            residual_sd=chosen.residual_sd * unit,
            window=report,
            choice=fitted.choice,
            sensitivity=moved,
            residual_map=residuals,
            _solution=chosen,
            _headline=headline,
            _rival=_rival(fitted),
        )

    def _again(self, solution: Solution) -> Callable[[Floats, float], Solution]:
        """Refits of the same form from where it ended."""
        return lambda weights, delta: self.solve(
            _kind_of(solution), weights, replace(solution, delta=delta)
        )


def _rival(fitted: _Fitted) -> Solution | None:
    """The κ fit that was not chosen and could be true: its intervals join the chosen law's."""
    if fitted.choice is None or fitted.choice.kappa or not fitted.others:
        return None
    kappa = fitted.others[0]
    return kappa if kappa.converged and not kappa.bounds and kappa.dof >= 3 else None


def _kind_of(solution: Solution) -> str | type[Law]:
    return solution.law.name if solution.full is not None else type(solution.law)


def _form_diagnostics(fitted: _Fitted, report: WindowReport) -> list[Diagnostic]:
    found = []
    if fitted.choice is not None:
        found.append(
            Diagnostic("law_choice", "ok", f"{fitted.chosen.law.name} law: {fitted.choice.reason}")
        )
    if report.used and report.params_with is not None:
        ratio = report.params_with / report.params_without
        apart = max(ratio, 1 / ratio)
        found.append(
            Diagnostic(
                "window",
                "warning" if apart > 2 else "note",
                f"fitted to {report.kept} runs within ×{report.factor:g} of the optimum"
                f"{', counting √(C/C_max)' if report.tilt else ''}: at C = "
                f"{report.compute:.3g} N* = {report.params_with:.3g}, from all runs alike "
                f"{report.params_without:.3g}",
                "the far runs disagree with the near ones: look at both" if apart > 2 else "",
            )
        )
    elif report.factor is not None:
        text = f"no ×{report.factor:g} window around the optimum: {report.reason}"
        found.append(Diagnostic("window", "note", text))
    return found

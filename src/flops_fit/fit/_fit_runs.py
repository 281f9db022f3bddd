"""From a table of runs to a fit: read, check, solve, window, choose, diagnose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import InputError, InputTypeError, TableError
from flops_fit.fit._check import check_runs
from flops_fit.fit._diagnose import diagnose, find_outliers
from flops_fit.fit._fit import Alternative, Fit
from flops_fit.fit._flops import flops_of
from flops_fit.fit._generic import solve_generic
from flops_fit.fit._isoflop import isoflop
from flops_fit.fit._select import Choice, choose
from flops_fit.fit._solve import DeltaRule, Solution, solve_surface
from flops_fit.fit._surface import Points, centred
from flops_fit.fit._window import WindowReport, settle_window
from flops_fit.flops import FlopsFunction
from flops_fit.laws import LAWS, FlopsLike, Hoffmann, Kappa, Law
from flops_fit.records import Diagnostic, RunTable

__all__ = ["fit_runs"]

Floats = NDArray[np.float64]
WindowRule = Literal["auto"] | float | None

_WINDOW = 5.0


def fit_runs(
    runs: Any,
    law: str | type[Law] = "auto",
    *,
    delta: DeltaRule = "mad",
    loss_space: Literal["log", "linear"] = "log",
    window: WindowRule = "auto",
    flops_per_unit: FlopsLike | None = None,
    n: Literal["total", "non_embedding"] = "total",
    columns: Mapping[str, str] | None = None,
) -> Fit:
    """Fit a scaling law L(N, D) to runs (approach 3), with approach 2 beside it.

    Minimises Σ w·ρ_δ(ln L − ln L̂(N, D)), ρ_δ Huber's loss, from several starts with exact
    derivatives.

    Parameters
    ----------
    runs
        Anything :meth:`flops_fit.records.RunTable.read` accepts: a path, a DataFrame, dicts,
        runs of this library.
    law
        ``"auto"``: the κ-law where the runs tell κ from 1 (5 % level), else the additive law.
        ``"hoffmann"``, ``"kappa"``, or a class of your own, a :class:`flops_fit.laws.Law`.
    delta
        Huber's δ: ``"mad"`` takes 1.345 robust standard deviations of the residuals, a number
        fixes it (1e-3 reproduces Hoffmann et al. 2022), ``inf`` is least squares.
    loss_space
        Residuals of ln L, or of L.
    window
        ``"auto"`` fits runs within ×5 of the fitted N* of their own compute where enough remain, a
        number sets the factor, ``None`` fits all.
    flops_per_unit
        F(N): a factor k, a function of N or a FlopsFunction. By default from the table.
    n
        Which count of parameters N is.
    columns
        Names of columns where they are unusual: ``{"params": "n_weights"}``.

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
    >>> fit = fit_runs(reference.runs("llama3"))
    >>> fit.law.name
    'kappa'
    """
    kind = _law_name(law)
    _check_options(delta, loss_space, window, n)
    table = _with_convention(RunTable.read(runs, columns), n)
    table = check_runs(table, _parameters(kind))
    flops = flops_of(table, flops_per_unit)
    task = _Task(
        table, flops, centred(table.params, table.tokens, table.loss, loss_space == "log"), delta
    )
    fitted, report = task.windowed(kind, window)
    return task.result(fitted, report, loss_space)


def _parameters(kind: str | type[Law]) -> int:
    """How many parameters have to be fitted at least."""
    law = kind if isinstance(kind, type) else LAWS[Hoffmann.name if kind == "auto" else kind]
    return len(fields(law))


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

    def solve(
        self, kind: str | type[Law], weights: Floats, warm: Solution | None = None
    ) -> Solution:
        """One law at given weights; from ``warm`` at its δ, else searched from its own starts."""
        delta = warm.delta if warm else self.delta
        if isinstance(kind, type):
            return solve_generic(kind, self.table, self.points, weights, delta, warm)
        return solve_surface(kind, self.points, weights, delta, warm.full if warm else None)

    def fit(self, kind: str | type[Law], weights: Floats) -> _Fitted:
        """The law asked for, and the other forms; ``"auto"`` chooses."""
        additive = self.solve(Hoffmann.name, weights)
        kappa = None
        if int(np.count_nonzero(weights)) > _parameters(Kappa.name):
            kappa = self.solve(Kappa.name, weights)
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
        ones = np.ones(len(self.table))
        compute = float(np.max(self.table.flops))
        everything = self.fit(kind, ones)
        without = float(everything.chosen.law.optimal(compute, self.flops).params)
        if window is None:
            report = WindowReport(
                None, False, "no window was asked for", len(ones), compute, None, without
            )
            return everything, report
        factor = _WINDOW if window == "auto" else float(window)
        fitted, reason = everything, ""
        for _ in range(2):
            form = fitted.chosen
            weights, reason = settle_window(
                form, lambda w, s: self.solve(_kind_of(s), w, s), self.table, self.flops, factor
            )
            if weights is None:
                break
            fitted = self.fit(kind, weights)
            if type(fitted.chosen.law) is type(form.law):
                break
        if reason:
            report = WindowReport(factor, False, reason, len(ones), compute, None, without)
            return everything, report
        kept = int(np.count_nonzero(fitted.chosen.weights))
        with_it = float(fitted.chosen.law.optimal(compute, self.flops).params)
        return fitted, WindowReport(factor, True, "", kept, compute, with_it, without)

    def result(
        self, fitted: _Fitted, report: WindowReport, loss_space: Literal["log", "linear"]
    ) -> Fit:
        """Everything about the fit in one value."""
        chosen = fitted.chosen
        kept = chosen.weights > 0
        shape = isoflop(self.table)
        found = diagnose(chosen, self.table, shape, self.flops)
        found += _form_diagnostics(fitted, report)
        reason = f"outside ×{report.factor:g} of the fitted optimum" if report.used else ""
        used = self.table.select(kept, reason)
        return Fit(
            law=chosen.law,
            objective=chosen.objective,
            delta=chosen.delta,
            loss_space=loss_space,
            status=chosen.status,
            diagnostics=tuple(found),
            runs=used,
            weights=chosen.weights[kept],
            residuals=chosen.residuals[kept],
            excluded=used.excluded,
            outliers=find_outliers(chosen, self.table),
            isoflop=shape,
            alternatives=tuple(
                Alternative(s.law, s.objective, s.delta, s.residual_sd, s.status)
                for s in fitted.others
            ),
            flops=self.flops,
            starts=chosen.starts,
            starts_agree=chosen.agree,
            residual_sd=chosen.residual_sd,
            window=report,
            choice=fitted.choice,
            _solution=chosen,
            _rival=_rival(fitted),
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
                f"fitted to {report.kept} runs within ×{report.factor:g} of the optimum: at C = "
                f"{report.compute:.3g} N* = {report.params_with:.3g}, from all runs "
                f"{report.params_without:.3g}",
                "the far runs disagree with the near ones: look at both" if apart > 2 else "",
            )
        )
    elif report.factor is not None:
        text = f"no ×{report.factor:g} window around the optimum: {report.reason}"
        found.append(Diagnostic("window", "note", text))
    return found


def _law_name(law: str | type[Law]) -> str | type[Law]:
    if isinstance(law, type) and issubclass(law, Law):
        known = {cls: name for name, cls in LAWS.items()}
        return known.get(law, law)
    if isinstance(law, str):
        if law == "auto" or law in LAWS:
            return law
        raise InputError(f"expected law='auto', one of {list(LAWS)} or a Law class; got {law!r}.")
    raise InputTypeError(f"expected law as a name or a Law class; got {type(law).__name__}.")


def _check_options(delta: Any, loss_space: Any, window: Any, n: Any) -> None:
    if delta != "mad" and not _positive(delta):
        raise InputError(
            f"expected delta='mad' or a positive number (inf: least squares); got {delta!r}."
        )
    if loss_space not in ("log", "linear"):
        raise InputError(f"expected loss_space='log' or 'linear'; got {loss_space!r}.")
    if window is not None and window != "auto" and not (_positive(window) and window > 1):
        raise InputError(f"expected window='auto', None or a factor above 1; got {window!r}.")
    if n not in ("total", "non_embedding"):
        raise InputError(f"expected n='total' or 'non_embedding'; got {n!r}.")


def _positive(value: Any) -> bool:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return bool(number and value > 0)


def _with_convention(table: RunTable, n: str) -> RunTable:
    if n == "total":
        return table
    if table.non_embedding is None:
        raise TableError(
            "expected a column of non-embedding parameters for n='non_embedding'; the table has "
            "none. Add a column 'non_embedding', or use n='total'."
        )
    return replace(table, params=table.non_embedding)

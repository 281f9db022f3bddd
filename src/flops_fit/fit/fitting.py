"""From a table of runs to a fit: read, check, solve, window, choose, diagnose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.errors import FitError
from flops_fit.fit.checks import diagnose, find_outliers, residual_diagnostics, residual_map
from flops_fit.fit.estimate import Evidence
from flops_fit.fit.fit import Alternative, Fit
from flops_fit.fit.forms import (
    Choice,
    FitProblem,
    Fitted,
    WindowRule,
    check_options,
    known_law,
    parameters_of,
    with_convention,
)
from flops_fit.fit.generic import with_covariates
from flops_fit.fit.headline import choose_headline, headline_diagnostic
from flops_fit.fit.minima import IsoFLOP, envelope, isoflop
from flops_fit.fit.power import flops_of
from flops_fit.fit.repeated import (
    FEW_EPOCHS,
    determines_repeats,
    epochs_of,
    repeat_findings,
    where_repetition_helps,
)
from flops_fit.fit.sensitivity import sensitivity, sensitivity_diagnostics
from flops_fit.fit.solver import DeltaRule
from flops_fit.fit.surface import points_of
from flops_fit.fit.table_checks import check_runs
from flops_fit.fit.window import WindowReport, run_weights
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.law import FlopsLike, Law
from flops_fit.laws.muennighoff import Muennighoff
from flops_fit.records import Diagnostic
from flops_fit.table.curves import Curves
from flops_fit.table.run_table import RunTable


def quick_fit(runs: RunTable, flops: FlopsFunction, window: WindowRule = None) -> Evidence:
    """What :func:`flops_fit.fit.fit_runs` solves, without what it checks and tells.

    Forms, choice, window and intervals are the same; refits without parts of the runs, approaches
    1 and 2 and findings are left out, which are most of the time.
    """
    points = points_of(runs, log=True)
    task = FitProblem(runs, flops, points, "mad", np.ones(len(runs)))
    fitted, _ = task.windowed("auto", window)
    return Evidence(fitted.chosen, fitted.rival, runs, flops)


def assemble(
    task: FitProblem,
    fitted: Fitted,
    report: WindowReport,
    shape: IsoFLOP,
) -> Fit:
    """Everything about the fit in one value."""
    chosen, unit = fitted.chosen, task.points.unit
    kept = chosen.weights > 0
    found = [*task.found, *repeat_findings(chosen)]
    found += diagnose(chosen, task.table, shape, task.flops)
    found += _form_diagnostics(fitted, report)
    moved = sensitivity(chosen, task.table, task.flops)
    found += sensitivity_diagnostics(moved)
    residuals = residual_map(chosen, task.table, task.flops)
    found += residual_diagnostics(residuals, chosen, task.table)
    front = task.front
    headline = choose_headline(chosen, shape, front)
    found.append(headline_diagnostic(headline))
    found += front.diagnostics() if front else []
    reason = f"outside ×{report.factor:g} of the fitted optimum" if report.used else ""
    used = task.table.select(kept, reason)
    return Fit(
        law=chosen.law,
        objective=chosen.objective * unit**2,
        delta=chosen.delta * unit,
        loss_space="log" if task.points.log else "linear",
        status=chosen.status,
        diagnostics=tuple(found),
        runs=used,
        weights=chosen.weights[kept],
        residuals=chosen.residuals[kept] * unit,
        excluded=used.excluded,
        outliers=find_outliers(chosen, task.table),
        isoflop=shape,
        envelope=front,
        alternatives=tuple(
            Alternative(
                s.law, s.objective * unit**2, s.delta * unit, s.residual_sd * unit, s.status
            )
            for s in fitted.others
        ),
        flops=task.flops,
        starts=chosen.starts,
        starts_agree=chosen.agree,
        residual_sd=chosen.residual_sd * unit,
        window=report,
        choice=fitted.choice,
        sensitivity=moved,
        residual_map=residuals,
        _solution=chosen,
        _headline=headline,
        _rival=fitted.rival,
    )


def _form_diagnostics(fitted: Fitted, report: WindowReport) -> list[Diagnostic]:
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
        Training curves for approach 1: anything :meth:`flops_fit.table.Curves.read` accepts, N
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
    task = FitProblem(table, flops, points_of(table, log), delta, base[base > 0], front)
    if kind is Muennighoff:
        task = _where_repeats_help(task)
        return _assembled(task, *task.windowed(kind, window))
    fitted, report = task.windowed(kind, window)
    beyond = int(np.sum((fitted.chosen.weights > 0) & (epochs_of(table) > FEW_EPOCHS)))
    if kind == "auto" and beyond:
        repeated = _if_repeats_count(beyond, task)
        if repeated is not None:
            return repeated
    return _assembled(task, fitted, report)


def _assembled(task: FitProblem, fitted: Fitted, report: WindowReport) -> Fit:
    runs = task.table
    if fitted.chosen.law.covariates:
        # Parabolas in N may join runs of one compute where none repeats its data much.
        runs = runs.select(epochs_of(runs) <= FEW_EPOCHS)
    return assemble(task, fitted, report, isoflop(runs, report.factor))


def _where_repeats_help(task: FitProblem) -> FitProblem:
    """The runs that the law of repeated data can express."""
    helped, keep, hurt = where_repetition_helps(task.table)
    check_runs(helped, len(Muennighoff.parameters()))
    points = points_of(helped, task.points.log)
    return replace(task, table=helped, points=points, base=task.base[keep], found=tuple(hurt))


def _if_repeats_count(beyond: int, task: FitProblem) -> Fit | None:
    """The law of repeated data where ``beyond`` runs of many epochs determine its R*_D."""
    if len(with_covariates(task.table, Muennighoff)) < len(task.table):
        return None
    try:
        task = _where_repeats_help(task)
        fitted, report = task.windowed(Muennighoff, "auto")
    except FitError:
        return None
    if not determines_repeats(fitted.chosen):
        return None
    reason = f"{beyond} runs of more than {FEW_EPOCHS:g} epochs carry weight, and determine R*_D"
    return _assembled(task, replace(fitted, choice=Choice(False, None, None, reason)), report)

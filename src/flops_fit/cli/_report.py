"""``flops-fit report``: the answer as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import flops_fit
from flops_fit.cli._answer import Answer, Json
from flops_fit.cli._fit import budgets_of
from flops_fit.cli._source import Columns, Form, Runs, flops_number, read_runs, relied_on, summary
from flops_fit.cli._source import read_fit as fit_of

__all__ = ["report"]


def report(
    runs: Runs,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write.",
            show_default="report.html, in the sweep's folder or here",
        ),
    ] = None,
    predict: Annotated[
        list[float] | None,
        typer.Option(
            metavar="FLOPS",
            parser=flops_number,
            help="Training FLOPs to answer for, by default those of the runs; may be repeated.",
        ),
    ] = None,
    law: Form = "auto",
    column: Columns = None,
    curves: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Training curves for approach 1."),
    ] = None,
    as_json: Json = False,
) -> Answer:
    """Write the answer with its figures and findings as one HTML page."""
    fit = fit_of(runs, law, column, curves)
    predictions = [fit.predict(c) for c in predict or budgets_of(fit)]
    _, findings = summary(fit, predictions)
    default = runs / "report.html" if runs.is_dir() else Path("report.html")
    path = flops_fit.write_report(
        fit,
        output or default,
        predictions=predictions,
        diagnostics=findings,
        runs=read_runs(runs) or (),
    )
    good = relied_on(fit, findings)
    shown = [f"Report: {path}"]
    if not good:
        shown.append("Do not rely on this answer: the page says why.")
    return Answer(tuple(shown), {"report": str(path), "trust": fit.trust}, good)

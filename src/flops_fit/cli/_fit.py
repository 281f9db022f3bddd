"""``flops-fit fit``: a law from a table of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flops_fit
from flops_fit.cli._answer import Answer, Json
from flops_fit.cli._source import (
    Columns,
    Form,
    Runs,
    flops_number,
    law_line,
    read_fit,
    relied_on,
    summary,
)

if TYPE_CHECKING:
    from flops_fit.fit import Fit

__all__ = ["budgets_of", "fit"]

_MOST_ROWS = 10


def fit(
    runs: Runs,
    law: Form = "auto",
    predict: Annotated[
        list[float] | None,
        typer.Option(
            metavar="FLOPS",
            parser=flops_number,
            help="Training FLOPs to answer for, by default those of the runs; may be repeated.",
        ),
    ] = None,
    column: Columns = None,
    curves: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Training curves for approach 1: a table of run, parameters, tokens and loss.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write an HTML page here as well.")
    ] = None,
    as_json: Json = False,
) -> Answer:
    """Fit a law to runs trained elsewhere, or to those of a sweep, and answer."""
    found = read_fit(runs, law, column, curves)
    predictions = [found.predict(c) for c in predict or budgets_of(found)]
    words, findings = summary(found, predictions)
    shown = [
        flops_fit.report.chinchilla_table(predictions),
        "",
        f"{law_line(found.law)} {found.status}",
        "",
        flops_fit.report.approaches_table(found),
        "",
        words,
    ]
    document: dict[str, Any] = {
        "fit": found.to_dict(),
        "predictions": [p.to_dict() for p in predictions],
        "report": None,
    }
    if report is not None:
        path = flops_fit.write_report(found, report, predictions=predictions, diagnostics=findings)
        shown.append(f"\nReport: {path}")
        document["report"] = str(path)
    return Answer(tuple(shown), document, relied_on(found, findings))


def budgets_of(fit: Fit) -> list[float]:
    """The runs' own budgets, or a few across their range where there are many."""
    import numpy as np

    own = np.unique(fit.runs.budget)
    few = own if len(own) <= _MOST_ROWS else np.geomspace(own[0], own[-1], 5)
    return [float(c) for c in few]

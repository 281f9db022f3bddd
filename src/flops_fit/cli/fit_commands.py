"""``flops-fit report``: the answer as one HTML page."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flops_fit
from flops_fit.cli.answer import Answer, Json, markdown
from flops_fit.cli.source import (
    Columns,
    Form,
    Level,
    Runs,
    flops_number,
    law_line,
    read_fit,
    read_runs,
    relied_on,
    summary,
)
from flops_fit.cli.source import read_fit as fit_of
from flops_fit.errors import OutputError
from flops_fit.files import csv_text, write_output
from flops_fit.text import format_count, format_percent

if TYPE_CHECKING:
    from flops_fit.fit.fit import Fit


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


def next_(
    runs: Runs,
    target: Annotated[
        float,
        typer.Option(
            metavar="FLOPS",
            parser=flops_number,
            help="Training FLOPs of the run that the answer is for.",
        ),
    ],
    spend: Annotated[
        float,
        typer.Option(
            metavar="FLOPS", parser=flops_number, help="Training FLOPs of all runs of the batch."
        ),
    ],
    batch: Annotated[int, typer.Option(metavar="RUNS", min=1, help="How many runs at most.")] = 6,
    max_run: Annotated[
        float | None,
        typer.Option(
            metavar="FLOPS",
            parser=flops_number,
            help="Training FLOPs of one run at most.",
            show_default="a third of --spend",
        ),
    ] = None,
    law: Form = "auto",
    column: Columns = None,
    out: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write the runs to make as a table."),
    ] = None,
    as_json: Json = False,
) -> Answer:
    """Propose the next batch of runs: those that narrow the optimum at a target most."""
    fit = read_fit(runs, law, column)
    found = flops_fit.adaptive.next_experiments(
        fit, target_compute=target, budget_flops=spend, batch=batch, max_run_flops=max_run
    )
    unit = fit.runs.unit
    rows = [["FLOPs", "N (parameters)", f"D ({unit})", "D/N"]]
    for run in found.runs:
        N, D = run["params"], run["tokens"]
        rows.append([f"{run['flops']:.3g}", format_count(N), format_count(D), f"{D / N:.3g}"])
    shown = [
        markdown(rows),
        "",
        f"{found.cost:.3g} FLOPs in all. The 90 % interval of N* at {target:.3g} FLOPs: "
        f"{_width(found.now)} now, about {_width(found.after)} with these runs.",
        f"The law's {found.form}.",
    ]
    document = {
        "runs": list(found.runs),
        "unit": unit,
        "cost": found.cost,
        "target_compute": found.target_compute,
        "half_width_now": found.now,
        "half_width_after": found.after,
        "form": {"p_value": found.form.p_value, "doubtful": found.form.told},
        "trust": fit.trust,
    }
    if fit.trust == "no":
        shown.append("Do not rely on this fit: flops-fit fit says why.")
    if out is not None:
        _write(out, found.runs)
        shown.append(f"Runs: {out}")
    return Answer(tuple(shown), flops_fit.records.finite_json(document), relied_on(fit))


def _width(half: float) -> str:
    return format_percent(half) if math.isfinite(half) else "none"


def _write(path: Path, runs: tuple[dict[str, float], ...]) -> None:
    try:
        write_output(path, csv_text(runs, ["params", "tokens", "flops"]))
    except OSError as error:
        raise OutputError(f"--csv: {path} cannot be written ({error.strerror}).") from error


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="FIRST", help="The baseline: a table, or a sweep's folder.")
    ],
    second: Annotated[
        Path, typer.Argument(metavar="SECOND", help="What is compared with it, likewise.")
    ],
    at: Annotated[
        float | None,
        typer.Option(
            metavar="FLOPS",
            parser=flops_number,
            help="Training FLOPs to compare at.",
            show_default="the smaller of the two largest runs'",
        ),
    ] = None,
    level: Level = 0.9,
    law: Form = "auto",
    column: Columns = None,
    as_json: Json = False,
) -> Answer:
    """Say how much compute one recipe needs to reach the loss of another.

    Both have to be judged by the same held-out data, in the same unit.
    """
    baseline, other = (read_fit(path, law, column) for path in (first, second))
    found = flops_fit.compare(baseline, other, at, level=level)
    text = str(found).replace("the second", str(second), 1).replace("the first", str(first), 1)
    names = f"First: {first}, trust: {baseline.trust}. Second: {second}, trust: {other.trust}."
    document = flops_fit.records.finite_json(asdict(found))
    document |= {"first": str(first), "second": str(second)}
    findings = [f"  • {d}" for d in found.diagnostics]
    good = all(d.severity != "critical" for d in found.diagnostics)
    return Answer((text, names, *findings), document, good)


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

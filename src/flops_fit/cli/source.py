"""Runs that a command is asked about: a table, or the folder of a sweep."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flops_fit
from flops_fit.errors import InputError

if TYPE_CHECKING:
    import flops_fit.store
    from flops_fit.fit.fit import Fit
    from flops_fit.fit.prediction import Prediction
    from flops_fit.records import Diagnostic, Run


_HELP = "A CSV, JSONL or Parquet table with parameters, tokens and loss, or the folder of a sweep."
Runs = Annotated[Path, typer.Argument(metavar="RUNS", help=_HELP, show_default=False)]
Form = Annotated[
    str,
    typer.Option(
        metavar="FORM",
        help="The form of the law: auto, hoffmann, kappa, kaplan, or muennighoff for repeated data.",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME=HEADING",
        help="Where a heading is unusual, such as params=n_weights; may be repeated.",
    ),
]
Level = Annotated[
    float, typer.Option(metavar="SHARE", help="Level of the intervals, between 0 and 1.")
]


def flops_number(text: str) -> float:
    """Training FLOPs as they are typed; for typer's parser."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"expected a positive number such as 1e21; got {text!r}.")
    return value


def read_runs(source: Path) -> list[Run] | None:
    """The recorded runs of a sweep's folder; ``None`` for a table."""
    if not source.is_dir():
        return None
    runs = flops_fit.store.recorded_runs(source)
    if not runs:
        raise InputError(f"{source}: expected a sweep with finished runs; it has none yet.")
    return runs


def read_fit(
    source: Path,
    law: str = "auto",
    columns: Sequence[str] | None = None,
    curves: Path | None = None,
) -> Fit:
    """The fit of a table, or of what a sweep has recorded."""
    runs = read_runs(source)
    mapping = _mapping(columns or ())
    return flops_fit.fit_runs(runs or source, law, columns=mapping, curves=curves)


def _mapping(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise InputError(
                f"--column: expected name=heading, such as params=n_weights; got {pair!r}."
            )
    return dict(pair.split("=", 1) for pair in pairs)


def relied_on(fit: Fit, findings: Iterable[Diagnostic] = ()) -> bool:
    """Whether an answer may be relied on: nothing critical was found about the fit or about it."""
    return fit.trust != "no" and all(d.severity != "critical" for d in findings)


def law_line(law: Any) -> str:
    """A law with its constants."""
    constants = ", ".join(f"{k} = {v:.4g}" for k, v in law.params.items())
    return f"{law.formula}, with {constants}."


def summary(fit: Fit, predictions: Sequence[Prediction]) -> tuple[str, list[Diagnostic]]:
    """The last answer in words with all findings, and what was found about the answers alone."""
    unique = {str(d): d for p in predictions for d in p.diagnostics}
    findings = list(unique.values())
    text = flops_fit.report.answer_in_words(fit, predictions[-1], [*fit.diagnostics, *findings])
    return text, findings

"""What commands share: options, reading runs, and the answer that they return."""

from __future__ import annotations

import ast
import contextlib
import math
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flops_fit
from flops_fit.errors import InputError, TableError

if TYPE_CHECKING:
    import flops_fit.store
    from flops_fit.fit.fit import Fit
    from flops_fit.fit.prediction import Prediction
    from flops_fit.laws.law import Law
    from flops_fit.laws.optimum import OptimumOnly
    from flops_fit.records import Diagnostic, Run


@dataclass(frozen=True)
class Answer:
    """What to show, and the same for ``--json``; lines of a ``whole`` answer are never broken."""

    shown: tuple[Any, ...]
    document: Any
    good: bool = True
    whole: bool = False


@dataclass
class Settings:
    """Options of every command."""

    json: bool = False
    debug: bool = False


def _set_json(ctx: typer.Context, wanted: bool) -> bool:
    if wanted and isinstance(ctx.obj, Settings):
        ctx.obj.json = True
        ctx.with_resource(_only_stderr())  # until the command has returned its answer
    return wanted


@contextlib.contextmanager
def _only_stderr() -> Iterator[None]:
    """Send all that is printed to standard error, by this process and by those it starts."""
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def flops_number(text: str) -> float:
    """Training FLOPs from the command line."""
    value = number(text)
    if value is None or not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"expected a positive number such as 1e21; got {text!r}.")
    return value


def number(text: str) -> float | None:
    """A number, ``None`` if the text is none."""
    try:
        return float(text)
    except ValueError:
        return None


def option(metavar: str, description: str, *names: str, **more: Any) -> Any:
    """An option; a switch has an empty ``metavar``."""
    return typer.Option(*names, metavar=metavar, help=description, **more)


def flops_option(description: str, default: str | bool = True) -> Any:
    """An option in training FLOPs; ``default`` is shown in the help."""
    return option("FLOPS", description, parser=flops_number, show_default=default)


_RUNS = "A CSV, JSONL or Parquet table with parameters, tokens and loss, or the folder of a sweep."
_JSON = "Print one JSON document on standard output, and nothing else there."
_LAW = "The form of the law: auto, hoffmann, kappa, kaplan, or muennighoff for repeated data."
_COLUMN = "The heading of a column, if it is unusual, such as params=n_weights; may be repeated."
_CURVES = "Training curves for approach 1: a table of run, parameters, tokens and loss."
_PREDICT = "Training FLOPs to predict for, by default those of the runs; may be repeated."
_TABLE = "Write the runs as a table."

Json = Annotated[bool, option("", _JSON, "--json", callback=_set_json)]
Runs = Annotated[Path, typer.Argument(metavar="RUNS", help=_RUNS, show_default=False)]
Form = Annotated[str, option("FORM", _LAW)]
Columns = Annotated[list[str] | None, option("NAME=HEADING", _COLUMN, "--column")]
Curves = Annotated[Path | None, option("FILE", _CURVES)]
Predict = Annotated[list[float] | None, flops_option(_PREDICT)]
Csv = Annotated[Path | None, option("FILE", _TABLE, "--csv")]


def read_runs(source: Path) -> list[Run] | None:
    """The recorded runs of a sweep's folder; ``None`` for a table."""
    if not source.is_dir():
        return None
    runs = flops_fit.store.recorded_runs(source)
    if not runs:
        raise InputError(f"{source}: expected a sweep with finished runs; it has none yet.")
    return runs


def read_fit(
    source: Path, law: str, columns: Sequence[str] | None, curves: Path | None = None
) -> Fit:
    """The fit of a table, or of what a sweep has recorded."""
    runs, names = read_runs(source), column_names(columns)
    flops = flops_fit.store.recorded_flops(source, runs) if runs else None
    with says_options():
        return flops_fit.fit_runs(
            runs or source, law, columns=names, curves=curves, flops_per_unit=flops
        )


def column_names(columns: Sequence[str] | None) -> dict[str, str]:
    """The pairs of ``--column`` as a dict."""
    for pair in columns or ():
        if "=" not in pair:
            raise InputError(
                f"--column: expected name=heading, such as params=n_weights; got {pair!r}."
            )
    return dict(pair.split("=", 1) for pair in columns or ())


@contextlib.contextmanager
def says_options() -> Iterator[None]:
    """Let errors of a table name options of a terminal in place of arguments."""
    try:
        yield
    except TableError as error:
        said = re.sub(r"columns=(\{.*?\})", _as_options, str(error))
        raise TableError(said.replace("columns=", "--column")) from None


def _as_options(mapping: re.Match[str]) -> str:
    pairs = ast.literal_eval(mapping[1]).items()
    return " ".join(f"--column {shlex.quote(f'{name}={heading}')}" for name, heading in pairs)


def relied_on(fit: Fit, findings: Iterable[Diagnostic] = ()) -> bool:
    """Whether an answer can be relied on: no finding about the fit or about it is critical."""
    return fit.trust != "no" and all(d.severity != "critical" for d in findings)


def law_line(law: Law | OptimumOnly) -> str:
    """A law with its constants."""
    constants = ", ".join(f"{k} = {v:.4g}" for k, v in law.params.items())
    return f"{law.formula}, with {constants}."


def summary(fit: Fit, predictions: Sequence[Prediction]) -> tuple[str, list[Diagnostic]]:
    """The last answer in words with all findings, and the findings about the answers alone."""
    findings = list({str(d): d for p in predictions for d in p.diagnostics}.values())
    text = flops_fit.report.answer_in_words(fit, predictions[-1], [*fit.diagnostics, *findings])
    return text, findings

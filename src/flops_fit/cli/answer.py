"""What commands share: options, reading runs, and the answer that they return."""

from __future__ import annotations

import ast
import contextlib
import math
import os
import re
import shlex
import shutil
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flops_fit
from flops_fit.errors import InputError, OutputError
from flops_fit.text import constants

if TYPE_CHECKING:
    import flops_fit.store

WORDS = tomllib.loads(Path(__file__).with_name("options.toml").read_text(encoding="utf-8"))
SWEEP_KEYS: dict[str, list[str]] = WORDS["sweep_keys"]


@dataclass(frozen=True)
class Answer:
    """What to show, and the same for ``--json``; lines of a ``whole`` answer are never broken.

    ``unwritten`` is why a file beside it could not be written, which is told after the answer.
    """

    shown: tuple[Any, ...]
    document: Any
    good: bool = True
    whole: bool = False
    unwritten: OutputError | None = None


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
    """Training FLOPs, or another positive number, from the command line."""
    value = number(text) or math.nan
    if not 0 < value < math.inf:
        two = re.fullmatch(r"\d{1,3}[.,]\d{3}", text) is not None
        fix = " It may mean two numbers: write it without a comma." if two else ""
        if not two and len(parts := text.split(",")) > 1 and all(map(number, parts)):
            fix = " Give one at a time, as often as you like."
        raise typer.BadParameter(
            f"expected a positive number such as 1e21, 3x10^20 or 1.5T; got {text!r}.{fix}"
        )
    return value


def number(text: str) -> float | None:
    """A number, ``None`` if the text is none or may mean two."""
    from flops_fit.table.cells import read_number

    return read_number(text)


def option(name: str, *flags: str, kind: Any = typer.Option, **more: Any) -> Any:
    """An option, or an argument, in the words of ``options.toml``."""
    metavar, words, *default = SWEEP_KEYS.get(name) or WORDS[name]
    return kind(*flags, metavar=metavar, help=words, show_default=(*default, True)[0], **more)


def argument(name: str, **more: Any) -> Any:
    """An argument in the words of ``options.toml``."""
    return option(name, kind=typer.Argument, **more)


def output(param: typer.CallbackParam, path: Path | None) -> Path | None:
    """Refuse a file that could not be written, before any work is done."""
    if path is None:
        return None
    name = param.opts[0] if param.opts[0].startswith("-") else param.metavar
    special = os.path.exists(path) and not os.path.isfile(path)  # such as a pipe
    if os.path.isdir(path):
        why = "it is a folder. Add a name of a file"
    elif not os.path.isdir(path.parent):
        why = f"there is no folder {path.parent}. Create it, or choose another"
    elif not os.access(path if special else path.parent, os.W_OK):
        why = "it cannot be written. Choose another folder"
    else:
        return path
    raise InputError(f"{name}: expected a file to write; got {path}: {why}.")


def attempt(write: Callable[[], Any]) -> OutputError | None:
    """Why a file cannot be written, so that the answer is not lost with it."""
    try:
        write()
    except OutputError as error:
        return error
    return None


def flops_option(name: str) -> Any:
    """An option in training FLOPs."""
    return option(name, parser=flops_number)


def as_file(ctx: typer.Context, runs: Path | None) -> Path | None:
    """Standard input (``-``), or a shell's ``<(...)``, as a file that can be read twice."""
    piped = str(runs) == "-"
    if runs is None or not (piped or (str(runs.parent) == "/dev/fd" and os.path.exists(runs))):
        return runs
    path = Path(ctx.with_resource(tempfile.TemporaryDirectory(prefix="flops-fit-")), "stdin")
    with open(0 if piped else runs, "rb", closefd=not piped) as stream:
        path.write_bytes(stream.read())
    return path


Json = Annotated[bool, option("json", "--json", callback=_set_json)]
Runs = Annotated[Path, option("runs", kind=typer.Argument, callback=as_file)]
Form = Annotated[str, option("form")]
Columns = Annotated[list[str] | None, option("column", "--column")]
Curves = Annotated[Path | None, option("curves")]
Predict = Annotated[list[float] | None, flops_option("predict")]
TotalCap = Annotated[float | None, flops_option("max_total_params")]
Csv = Annotated[Path | None, option("csv", "--csv", callback=output)]
Page = Annotated[Path | None, option("page", callback=output)]


def read_runs(source: Path) -> list[flops_fit.Run] | None:
    """The recorded runs of a sweep's folder; ``None`` for a table."""
    if not os.path.isdir(source):
        return None
    runs = flops_fit.store.recorded_runs(source)
    if not runs:
        raise InputError(f"{source}: expected a sweep with finished runs; it has none yet.")
    return runs


def read_fit(
    source: Path, law: str, columns: Sequence[str] | None, curves: Path | None = None
) -> flops_fit.Fit:
    """The fit of a table, or of what a sweep has recorded; one answer for a sweep and its runs.csv."""
    folder = source if os.path.isdir(source) else source.parent
    table = flops_fit.RunTable.read(read_runs(source) or source, column_names(columns))
    # Of models with experts F is that of N_active, and was recorded as that of N.
    flops = None if law == "experts" else flops_fit.store.recorded_flops(folder, table)
    return flops_fit.fit_runs(table, law, curves=curves, flops_per_unit=flops)


def best_experts(
    fit: flops_fit.Fit, budgets: Iterable[float], cap: float | None, level: float = 0.9
) -> list[flops_fit.fit.BestExperts]:
    """How sparse a model is best at each budget, by a law of experts; nothing by another."""
    if isinstance(fit.law, flops_fit.laws.Experts):
        return [fit.best_experts(C, cap, level=level) for C in budgets]
    if cap is not None:
        raise InputError("--max-total-params: expected --law experts, which knows of N_total.")
    return []


def plan_findings(source: Path) -> list[flops_fit.Diagnostic]:
    """What was found about the plan of a sweep, from its folder or its runs.csv."""
    if not os.path.isdir(source) and source.name != "runs.csv":
        return []
    return flops_fit.store.recorded_findings(source if os.path.isdir(source) else source.parent)


def column_names(columns: Sequence[str] | None, flag: str = "--column") -> dict[str, str]:
    """The pairs of ``--column``, or of another flag, as a dict."""
    for pair in columns or ():
        if "=" not in pair:
            example = (
                "name=heading, such as params=n_weights" if flag == "--column" else "name=value"
            )
            raise InputError(f"{flag}: expected {example}; got {pair!r}.")
    return dict(pair.split("=", 1) for pair in columns or ())


def examples(command: str) -> list[str]:
    """Calls of a command that its help shows."""
    return [f"flops-fit {command} {words}".strip() for words in WORDS["examples"][command]]


_LIST = r"\[('[^'\]]*'(?:, '[^'\]]*')*)\]"  # of texts, as Python writes it


def in_options(text: str) -> str:
    """What the library says, with the options of a terminal in place of its arguments."""
    text = re.sub(_LIST, lambda names: names[1].replace("'", ""), text)
    for pattern, option in WORDS["in_options"].items():
        text = re.sub(pattern, option, text)
    return re.sub(r"columns=(\{.*?\})", _as_options, text).replace("columns=", "--column")


def _as_options(mapping: re.Match[str]) -> str:
    pairs = ast.literal_eval(mapping[1]).items()
    return " ".join(f"--column {shlex.quote(f'{name}={heading}')}" for name, heading in pairs)


def relied_on(
    fit: flops_fit.Fit | flops_fit.fit.MetricFit, findings: Iterable[flops_fit.Diagnostic] = ()
) -> bool:
    """Whether an answer can be relied on: no finding about the fit or about it is critical."""
    return fit.trust != "no" and all(d.severity != "critical" for d in findings)


def serious(
    fit: flops_fit.Fit, findings: Iterable[flops_fit.Diagnostic]
) -> list[flops_fit.Diagnostic]:
    """The warnings and critical findings of a fit and its answers."""
    every = (*fit.diagnostics, *findings)
    return [d for d in every if d.severity in ("warning", "critical")]


def law_line(law: flops_fit.laws.Law | flops_fit.laws.OptimumOnly) -> str:
    """A law with its constants."""
    return f"{law.formula}, with {constants(law.params)}."


def summary(
    fit: flops_fit.Fit,
    predictions: Sequence[flops_fit.Prediction],
    more: Iterable[flops_fit.Diagnostic] = (),
) -> tuple[str, list[flops_fit.Diagnostic]]:
    """The last answer in words with all findings, and those that are not of the fit, ``more`` first."""
    answers = (d for p in predictions for d in p.diagnostics)
    findings = list({str(d): d for d in (*more, *answers)}.values())
    text = flops_fit.report.answer_in_words(fit, predictions[-1], [*fit.diagnostics, *findings])
    return text, findings


def broken(line: str, width: int) -> str:
    """One line as several; they are indented to the text after a bullet or a name."""
    mark = re.match(r" *(?:[•-] |\S+ {2,})?", line)
    return textwrap.fill(
        line, width, subsequent_indent=" " * len(mark.group()) if mark else "",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def complain(text: str) -> None:
    """Write to standard error, broken between words on a terminal."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        text = "\n".join(broken(line, width) for line in text.split("\n"))
    typer.echo(text, err=True)

"""``flops-fit reference``: published laws and runs, with their sources."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import flops_fit
from flops_fit.cli.answer import Answer, Json
from flops_fit.cli.predict import constants, meaning
from flops_fit.errors import InputError
from flops_fit.files import csv_text
from flops_fit.text import format_count

reference = typer.Typer()


@reference.callback(invoke_without_command=True)
def _common(ctx: typer.Context) -> None:
    """List and show published laws and runs, with their sources."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit


@reference.command("list")
def list_(as_json: Json = False) -> Answer:
    """List the published laws and tables of runs."""
    laws = {n: flops_fit.reference.law_source(n) for n in flops_fit.reference.LAW_NAMES}
    runs = {n: flops_fit.reference.source(n) for n in flops_fit.reference.RUN_NAMES}
    shown = [
        "Laws, for flops-fit predict --law NAME:",
        _listed(laws),
        "Runs, for flops-fit reference show NAME --csv:",
        _listed(runs),
    ]
    document = {
        "laws": [{"name": n, "source": s} for n, s in laws.items()],
        "runs": [{"name": n, "source": s} for n, s in runs.items()],
    }
    return Answer(tuple(shown), document)


@reference.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a law or a table of runs.")],
    as_csv: Annotated[
        bool,
        typer.Option("--csv", metavar="", help="Write the runs as CSV on standard output."),
    ] = False,
    as_json: Json = False,
) -> Answer:
    """Show a published law, or published runs."""
    is_law, is_runs = name in flops_fit.reference.LAW_NAMES, name in flops_fit.reference.RUN_NAMES
    if not (is_law or is_runs):
        known = [*flops_fit.reference.LAW_NAMES, *flops_fit.reference.RUN_NAMES]
        flops_fit.checks.check_choice("NAME", name, list(dict.fromkeys(known)))
    if as_csv:
        return _csv(name)
    shown: list[Any] = []
    document: dict[str, Any] = {"name": name}
    if is_law:
        law = flops_fit.reference.law(name)
        values = [f"  {k} = {v:.6g}" for k, v in law.params.items()]
        text = flops_fit.reference.law_source(name)
        shown += [f"Law {name}: {law.formula}", *values, meaning(law), f"Source: {text}"]
        document["law"] = {**constants(law), "meaning": meaning(law), "source": text}
    if is_runs:
        shown += [""] if is_law else []
        told, found = _runs(name)
        shown += told
        document["runs"] = found
    return Answer(tuple(shown), flops_fit.records.finite_json(document))


def _listed(sources: dict[str, str]) -> str:
    width = max(map(len, sources))
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in sources.items()) + "\n"


def _runs(name: str) -> tuple[list[str], dict[str, Any]]:
    table = flops_fit.reference.runs(name)
    choices = flops_fit.reference.columns(name)
    text = flops_fit.reference.source(name)

    def span(values: Any) -> str:
        return f"{format_count(float(values.min()))} to {format_count(float(values.max()))}"

    shown = [
        f"Runs {name}: {len(table)} rows",
        f"  N: {span(table.params)} parameters",
        f"  D: {span(table.tokens)} {table.unit}",
        f"  C: {table.flops.min():.3g} to {table.flops.max():.3g} training FLOPs",
        f"  loss: {table.loss.min():.3f} to {table.loss.max():.3f}",
        *(f"  {column}: {', '.join(values)}" for column, values in choices.items()),
        f"Source: {text}",
        *(f"Note: {note}" for note in table.notes if not note.startswith("Source: ")),
    ]
    return shown, {
        "source": text,
        "rows": table.to_dicts(),
        "choices": {k: list(v) for k, v in choices.items()},
        "notes": list(table.notes),
    }


def _csv(name: str) -> Answer:
    if name not in flops_fit.reference.RUN_NAMES:
        raise InputError(
            f"--csv: expected a table of runs out of {', '.join(flops_fit.reference.RUN_NAMES)}; "
            f"{name} is a law."
        )
    rows = flops_fit.reference.runs(name).to_dicts()
    text = csv_text(rows, line_end="\n").rstrip("\n")
    return Answer((text,), {"name": name, "runs": {"rows": rows}}, whole=True)

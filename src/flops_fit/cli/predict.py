"""``predict``: optima of published laws and of fits; ``reference``: published laws and runs."""

from __future__ import annotations  # evaluated, they would import what --help does without

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import flops_fit
from flops_fit.cli import answer
from flops_fit.cli.answer import Answer, Json, law_line, option
from flops_fit.errors import InputError, check_choice, nearest_name
from flops_fit.text import format_count, markdown_table

_FLOPS_PER_PARAM = 6.0


@dataclass(frozen=True)
class Question:
    """What to predict: the optima at budgets and for losses, under limits."""

    targets: Sequence[float]
    losses: Sequence[float]
    caps: dict[str, float | None]  # the limits of one model
    inference_tokens: float | None
    unique_tokens: float | None
    max_total_params: float | None = None


def predict(
    ctx: typer.Context,
    words: Annotated[list[str] | None, answer.argument("words")] = None,
    law: Annotated[str, option("law")] = "auto",
    loss: Annotated[list[float] | None, option("loss")] = None,
    max_params: Annotated[float | None, answer.flops_option("max_params")] = None,
    max_tokens: Annotated[float | None, answer.flops_option("max_tokens")] = None,
    inference_tokens: Annotated[float | None, answer.flops_option("inference_tokens")] = None,
    unique_tokens: Annotated[float | None, answer.flops_option("unique_tokens")] = None,
    max_total_params: answer.TotalCap = None,
    level: Annotated[float | None, option("level")] = None,
    column: answer.Columns = None,
    as_json: Json = False,
) -> Answer:
    """Predict model size, data and loss for a compute budget, or the compute for a loss."""
    words = words or []
    first = [w for w in words[:1] if not w[:1].isdigit()]  # a file that is not there
    named = [w for w in words if os.path.exists(w)] or first
    path = next((w for w in named if answer.number(w) is None), None)
    source = answer.as_file(ctx, None if path is None else Path(path))
    targets = [answer.flops_number(word) for word in words if word != path]
    caps = {"max_params": max_params, "max_tokens": max_tokens}
    limits = (inference_tokens, unique_tokens, max_total_params)
    question = Question(targets, loss or [], caps, *limits)
    if not (targets or loss):
        raise InputError("predict: expected training FLOPs, such as 1e24, or --loss; got neither.")
    names = flops_fit.reference.LAW_NAMES
    law = "hoffmann2022" if law == "chinchilla" and source is None else law
    if law in names:
        if source is not None or level is not None or column:
            extra = f"the runs {source}" if source is not None else "--level or --column"
            raise InputError(
                f"--law: {law} is a published law and needs no runs; got {extra} as well. Leave one of "
                "the two out."
            )
        return _by_law(law, question)
    if source is None:
        raise InputError(
            "predict: expected runs (a table, or the folder of a sweep) or --law with one of "
            f"{', '.join(names)}; got {'neither' if law == 'auto' else f'--law {law}'}."
            f"{nearest_name(law, names)}"
        )
    fit = answer.read_fit(source, law, column)
    return _by_fit(fit, question, 0.9 if level is None else level, answer.plan_findings(source))


def _by_law(name: str, question: Question) -> Answer:
    law = flops_fit.reference.law(name)
    needed: list[float] = []
    served: list[flops_fit.laws.InferenceOptimum] = []
    if isinstance(law, flops_fit.laws.Law):
        if question.max_total_params is not None:
            raise InputError(
                "--max-total-params: expected runs and --law experts; got a published law."
            )
        if question.unique_tokens is not None:
            if not isinstance(law, flops_fit.laws.Muennighoff):
                raise InputError(
                    f"--unique-tokens: {name} counts repeated data as new. Use --law muennighoff2023."
                )
            law = law.with_unique(question.unique_tokens)
        needed = [law.compute_for(loss, _FLOPS_PER_PARAM) for loss in question.losses]
        for loss, C in zip(question.losses, needed, strict=True):
            if not math.isfinite(C):
                why = f": its floor is E = {law.params['E']:.4g}" if "E" in law.params else ""
                raise InputError(
                    f"--loss: no compute reaches {loss:g} by {name}{why}. Use a higher loss."
                )
        budgets = (*question.targets, *needed)
        optima = [law.optimal(C, _FLOPS_PER_PARAM, **question.caps) for C in budgets]
        if (demand := question.inference_tokens) is not None:
            goals = [best.loss for best in optima[: len(question.targets)]]
            served = [law.optimal_for_inference(x, demand) for x in (*goals, *question.losses)]
    else:
        asked = {"loss": question.losses, **question.caps, **vars(question)}
        for key, value in asked.items():
            if key not in ("targets", "losses", "caps") and value not in (None, []):
                raise InputError(
                    f"--{key.replace('_', '-')}: {name} gives N* and D* at a compute and no loss, so it "
                    "cannot answer that. Use a law with a loss, such as --law besiroglu2024."
                )
        optima = [law.optimal(C) for C in question.targets]
    cells = [["Compute Budget", "Optimal N", "Optimal D", "D/N Ratio", "Predicted Loss"]]
    rows: list[dict[str, Any]] = []
    for C, best in zip((*question.targets, *needed), optima, strict=True):
        N, D, loss = best.params, best.tokens, best.loss
        shown_loss = "–" if math.isnan(loss) else f"{loss:#.4g}"
        sizes = (format_count(v, zeros=True) for v in (N, D, D / N))
        cells.append([f"{C:.3g}", *sizes, shown_loss])
        row = {"target_compute": C, "training_compute": best.compute, "optimal_params": N}
        row |= {"optimal_tokens": D, "tokens_per_param": D / N, "expected_loss": loss}
        row |= {"intervals": None, "level": None, "unit": "tokens", "extrapolation": None}
        rows.append({**row, "binds": list(best.binds), "diagnostics": []})
    losses = [{"loss": loss, "value": C} for loss, C in zip(question.losses, needed, strict=True)]
    shown = [f"A loss of {r['loss']:g} takes at least {r['value']:.3g} FLOPs." for r in losses]
    shown += [*([""] if shown else []), markdown_table(cells), meaning(law), "", *map(str, served)]
    shown += [""] if served else []
    binding = sorted({cap for best in optima for cap in best.binds})
    shown += [f"--{cap.replace('_', '-')} limits the answer." for cap in binding]
    shown.append(
        f"{law_line(law)} {flops_fit.reference.law_source(name)} It holds for its authors' models and "
        "data, and has no intervals."
    )
    return Answer(tuple(shown), _document(name, law, rows, losses, served))


def _document(
    name: str,
    law: flops_fit.laws.Law | flops_fit.laws.OptimumOnly,
    rows: Sequence[Any],
    losses: Sequence[dict[str, Any]],
    inference: Sequence[flops_fit.laws.InferenceOptimum],
) -> dict[str, Any]:
    """The answer for JSON; the last ``rows`` are those at ``losses``."""
    targets = len(rows) - len(losses)
    reached = [{**loss, "at": row} for loss, row in zip(losses, rows[targets:], strict=True)]
    about = {"law": {"name": name, **constants(law)}, "predictions": rows[:targets]}
    return {**about, "losses": reached, "inference": inference}


def _by_fit(
    fit: flops_fit.Fit, question: Question, level: float, planned: Sequence[flops_fit.Diagnostic]
) -> Answer:
    """Answers of a fit, with intervals."""
    if question.unique_tokens is not None:
        fit = fit.with_unique(question.unique_tokens)
    needed = [fit.compute_for(loss, level) for loss in question.losses]
    budgets = (*question.targets, *(e.value for e in needed))
    predictions = [fit.predict(C, level, **question.caps) for C in budgets]
    reached = list(zip(question.losses, needed, strict=True))
    shown = [f"A loss of {loss:g} takes at least {e} training FLOPs." for loss, e in reached]
    shown += [*([""] if shown else []), flops_fit.report.chinchilla_table(predictions, fit.trust)]
    shown += ["", law_line(fit.law)]
    served = []
    if (demand := question.inference_tokens) is not None:
        goals = [p.expected_loss for p in predictions[: len(question.targets)]]
        served = [fit.optimal_for_inference(x, demand, level) for x in (*goals, *question.losses)]
        shown += ["", *map(str, served)]
    sparse = answer.best_experts(fit, budgets, question.max_total_params, level)
    shown += [f"\n{found}" for found in sparse]
    about = [d for estimates in (served, needed) for e in estimates for d in e.diagnostics]
    words, findings = answer.summary(fit, predictions, (*planned, *about))
    losses = [{"loss": loss, **vars(e)} for loss, e in reached]
    document = _document(fit.law.name, fit.law, predictions, losses, served)
    document |= {"trust": fit.trust, "findings": answer.serious(fit, findings)}
    document |= {"experts": sparse} if sparse else {}
    return Answer((*shown, "", words), document, answer.relied_on(fit, findings))


def metric(
    runs: answer.Runs,
    column: Annotated[str, answer.argument("metric")],
    compute: Annotated[
        list[float] | None,
        answer.option("at_compute", kind=typer.Argument, parser=answer.flops_number),
    ] = None,
    kind: Annotated[str, option("kind")] = "accuracy",
    chance: Annotated[float, option("chance")] = 0.0,
    loss: Annotated[str | None, option("first_loss")] = None,
    level: Annotated[float, option("level")] = 0.9,
    columns: answer.Columns = None,
    plot: Annotated[Path | None, option("figure", "--plot", callback=answer.output)] = None,
    as_json: Json = False,
) -> Answer:
    """Predict a benchmark's score at a compute budget, or say that it cannot be predicted."""
    if plot is not None and plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"--plot: expected a name that ends in .png, .svg or .pdf; got {plot}.")
    named = answer.column_names(columns)
    source = answer.read_runs(runs) or runs
    options: dict[str, Any] = {"chance": chance, "loss": loss, "columns": named}
    fit = flops_fit.fit.metric(source, column, kind, **options)  # type: ignore[arg-type]  # it is checked there
    largest = float(fit.runs.flops.max())
    predictions = [fit.predict(C, level) for C in compute or (10 * largest, 100 * largest)]
    shown = [fit.summary(), *(f"\n{p}" for p in predictions)]
    unwritten = None
    if plot is not None:
        unwritten = answer.attempt(lambda: _draw(fit, level, plot))
        shown += [f"\nFigure: {plot}"] if unwritten is None else []
    document = {"metric": fit, "predictions": predictions}
    findings = [d for p in predictions for d in p.diagnostics]
    return Answer(tuple(shown), document, answer.relied_on(fit, findings), unwritten=unwritten)


def _draw(fit: flops_fit.fit.MetricFit, level: float, plot: Path) -> None:
    with flops_fit.files.output_errors(plot, "--plot"):
        fit.plot(level=level).savefig(plot, dpi=300)


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
    shown: list[str] = []
    document, library = {}, flops_fit.reference
    for kind, use, names, source in (
        ("laws", "predict --law NAME:", library.LAW_NAMES, library.law_source),
        ("runs", "reference show NAME --csv:", library.RUN_NAMES, library.source),
    ):
        head = f"{kind.capitalize()}, for flops-fit {use}"
        document[kind] = [{"name": name, "source": source(name)} for name in names]
        width = max(map(len, names))
        shown += [head, *(f"  {r['name']:<{width}}  {r['source']}" for r in document[kind]), ""]
    return Answer(tuple(shown), document)


@reference.command()
def show(
    name: Annotated[str, answer.argument("published")],
    as_csv: Annotated[bool, option("show_csv", "--csv")] = False,
    as_json: Json = False,
) -> Answer:
    """Show a published law, or published runs."""
    laws, runs = flops_fit.reference.LAW_NAMES, flops_fit.reference.RUN_NAMES
    check_choice("NAME", name, list(dict.fromkeys([*laws, *runs])))
    if as_csv:
        if name not in runs:
            raise InputError(
                f"--csv: expected a table of runs out of {', '.join(runs)}; {name} is a law."
            )
        rows = flops_fit.reference.runs(name).to_dicts()
        text = flops_fit.files.csv_text(rows, line_end="\n").rstrip("\n")
        return Answer((text,), {"name": name, "runs": {"rows": rows}}, whole=True)
    shown: list[str] = []
    document: dict[str, Any] = {"name": name}
    if name in laws:
        law, source = flops_fit.reference.law(name), flops_fit.reference.law_source(name)
        values = [f"  {k} = {v:.6g}" for k, v in law.params.items()]
        shown += [f"Law {name}: {law.formula}", *values, meaning(law), f"Source: {source}"]
        document["law"] = {**constants(law), "meaning": meaning(law), "source": source}
    if name in runs:
        lines, document["runs"] = _runs(name)
        shown += [*([""] if shown else []), *lines]
    return Answer(tuple(shown), document)


def meaning(law: flops_fit.laws.Law | flops_fit.laws.OptimumOnly) -> str:
    """What N, D and C of a published law are."""
    if isinstance(law, flops_fit.laws.OptimumOnly):
        compute = law.compute if law.compute.startswith("C = ") else f"C: {law.compute}"
        return f"N: {law.size}. D: tokens. {compute}. C in training FLOPs."
    return "N: parameters. D: tokens. C: training FLOPs, with C = 6·N·D."


def constants(law: flops_fit.laws.Law | flops_fit.laws.OptimumOnly) -> dict[str, Any]:
    """A law's form and its constants as plain values."""
    return {"formula": law.formula, "params": law.params}


def _runs(name: str) -> tuple[list[str], dict[str, Any]]:
    table, source = flops_fit.reference.runs(name), flops_fit.reference.source(name)
    choices = flops_fit.reference.columns(name)
    N, D, C, L = table.params, table.tokens, table.flops, table.loss
    shown = [
        f"Runs {name}: {len(table)} rows",
        f"  N: {format_count(N.min())} to {format_count(N.max())} parameters",
        f"  D: {format_count(D.min())} to {format_count(D.max())} {table.unit}",
        f"  C: {C.min():.3g} to {C.max():.3g} training FLOPs",
        f"  loss: {L.min():.3f} to {L.max():.3f}",
        *(f"  {column}: {', '.join(values)}" for column, values in choices.items()),
        f"Source: {source}",
        *(f"Note: {note}" for note in table.notes if not note.startswith("Source: ")),
    ]
    document = {"source": source, "rows": table.to_dicts(), "notes": list(table.notes)}
    return shown, {**document, "choices": {k: list(v) for k, v in choices.items()}}

"""``flops-fit predict``: a calculator for published laws and for runs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flops_fit
from flops_fit.cli.answer import Answer, Json, markdown
from flops_fit.cli.source import Columns, law_line, read_fit, relied_on, summary
from flops_fit.errors import InputError
from flops_fit.text import format_count

if TYPE_CHECKING:
    from flops_fit.fit.fit import Fit
    from flops_fit.laws.law import Law
    from flops_fit.laws.optimum import OptimumOnly


_FLOPS_PER_PARAM = 6.0


@dataclass(frozen=True)
class Question:
    """What is asked of a law: budgets and losses, under which limits."""

    targets: tuple[float, ...]
    losses: tuple[float, ...]
    max_params: float | None = None
    max_tokens: float | None = None
    inference_tokens: float | None = None
    unique_tokens: float | None = None


def answer(name: str, question: Question) -> Answer:
    """The optima of a published law."""
    law = flops_fit.reference.law(name)
    if not isinstance(law, flops_fit.laws.Law):
        return _of_lines(name, law, question)
    if question.unique_tokens is not None:
        if not isinstance(law, flops_fit.laws.Muennighoff):
            raise InputError(
                f"--unique-tokens: {name} counts repeated data as new. Ask --law muennighoff2023."
            )
        law = law.with_unique(question.unique_tokens)
    needed = [_compute_for(name, law, loss) for loss in question.losses]
    caps = {"max_params": question.max_params, "max_tokens": question.max_tokens}
    rows = []
    for C in (*question.targets, *needed):
        best = law.optimal(C, _FLOPS_PER_PARAM, **caps)
        rows.append(
            {
                "target_compute": C,
                "training_compute": best.compute,
                "optimal_params": best.params,
                "optimal_tokens": best.tokens,
                "tokens_per_param": best.tokens / best.params,
                "expected_loss": best.loss,
                "binds": list(best.binds),
            }
        )
    losses = list(zip(question.losses, needed, strict=True))
    shown = [f"Loss {loss:g} takes {C:.3g} training FLOPs at least." for loss, C in losses]
    lives = []
    if question.inference_tokens is not None:
        goals = [r["expected_loss"] for r in rows[: len(question.targets)]] + list(question.losses)
        lives = [law.optimal_for_inference(goal, question.inference_tokens) for goal in goals]
    bound = sorted({b for r in rows for b in r["binds"]})
    shown += [*([""] if shown else []), _table(rows, "N", "D"), meaning(law), ""]
    shown += [*map(str, lives), ""] if lives else []
    shown += [f"--{b.replace('_', '-')} binds." for b in bound]
    shown.append(_credit(name, law))
    document = {
        "law": {"name": name, **constants(law)},
        "predictions": rows[: len(question.targets)],
        "losses": [
            {"loss": loss, "value": C, "at": row}
            for (loss, C), row in zip(losses, rows[len(question.targets) :], strict=True)
        ],
        "inference": [vars(life) for life in lives],
    }
    return Answer(tuple(shown), flops_fit.records.finite_json(document))


def meaning(law: Law | OptimumOnly) -> str:
    """What N, D and C of a published law are."""
    if isinstance(law, flops_fit.laws.OptimumOnly):
        compute = law.compute if law.compute.startswith("C = ") else f"C: {law.compute}"
        return f"N: {law.size}. D: tokens. {compute}. C in training FLOPs."
    return "N: parameters. D: tokens. C: training FLOPs, with C = 6·N·D."


def constants(law: Law | OptimumOnly) -> dict[str, Any]:
    """A law's form and its constants as plain values."""
    return {"formula": law.formula, "params": law.params}


def _of_lines(name: str, law: OptimumOnly, question: Question) -> Answer:
    """A law that knows the optimum alone."""
    asked: Mapping[str, Any] = {
        "--loss": question.losses,
        "--max-params": question.max_params,
        "--max-tokens": question.max_tokens,
        "--inference-tokens": question.inference_tokens,
        "--unique-tokens": question.unique_tokens,
    }
    for option, value in asked.items():
        if value not in (None, ()):
            raise InputError(
                f"{option}: {name} gives N* and D* at a compute and no loss, so it cannot answer that. "
                "Ask a law with a loss, such as --law besiroglu2024."
            )
    rows = []
    for C in question.targets:
        best = law.optimal(C)
        rows.append(
            {
                "target_compute": C,
                "optimal_params": best.params,
                "optimal_tokens": best.tokens,
                "tokens_per_param": best.tokens / best.params,
                "expected_loss": None,
            }
        )
    shown = (_table(rows, "N", "D"), meaning(law), "", _credit(name, law))
    return Answer(
        shown,
        {
            "law": {"name": name, **constants(law)},
            "predictions": rows,
            "losses": [],
            "inference": [],
        },
    )


def _table(rows: list[dict[str, Any]], size: str, units: str) -> str:
    heads = ["Compute Budget", f"Optimal {size}", f"Optimal {units}", f"{units}/{size} Ratio"]
    cells = [[*heads, "Predicted Loss"]]
    for row in rows:
        loss = row["expected_loss"]
        cells.append(
            [
                f"{row['target_compute']:.3g}",
                format_count(row["optimal_params"]),
                format_count(row["optimal_tokens"]),
                f"{row['tokens_per_param']:.3g}",
                "–" if loss is None else f"{loss:#.4g}",
            ]
        )
    return markdown(cells)


def _compute_for(name: str, law: Law, loss: float) -> float:
    C = law.compute_for(loss, _FLOPS_PER_PARAM)
    if not math.isfinite(C):
        floor = law.params.get("E")
        told = "" if floor is None else f": its floor is E = {floor:.4g}"
        raise InputError(
            f"--loss: no compute reaches {loss:g} by {name}{told}. Ask for a higher one."
        )
    return C


def _credit(name: str, law: Law | OptimumOnly) -> str:
    text = ", ".join(f"{k} = {v:.4g}" for k, v in law.params.items())
    return (
        f"{law.formula}, with {text}. {flops_fit.reference.law_source(name)} It holds for its authors' "
        "models and data, and has no intervals."
    )


def predict(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUNS|FLOPS",
            help="A table of runs or the folder of a sweep, unless --law names a published law; then "
            "training FLOPs, such as 1e24.",
            show_default=False,
        ),
    ] = None,
    law: Annotated[
        str,
        typer.Option(
            metavar="LAW",
            help="A published law such as hoffmann2022 (flops-fit reference list), or the form to fit "
            "to RUNS.",
        ),
    ] = "auto",
    loss: Annotated[
        list[float] | None,
        typer.Option(
            metavar="LOSS", help="A loss to reach: answers with the compute; may be repeated."
        ),
    ] = None,
    max_params: Annotated[
        float | None, typer.Option(metavar="N", help="The largest model, in parameters.")
    ] = None,
    max_tokens: Annotated[
        float | None, typer.Option(metavar="D", help="The most data, in tokens (or samples).")
    ] = None,
    inference_tokens: Annotated[
        float | None,
        typer.Option(
            metavar="D",
            help="Tokens to be processed in use: also the model of the same loss that is cheapest to "
            "train and use.",
        ),
    ] = None,
    unique_tokens: Annotated[
        float | None,
        typer.Option(metavar="U", help="Different tokens there are, for a law of repeated data."),
    ] = None,
    level: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Level of the intervals, between 0 and 1.",
            show_default="0.9",
        ),
    ] = None,
    column: Columns = None,
    as_json: Json = False,
) -> Answer:
    """Say how big a model, on how much data, and at what loss, for a compute; or what a loss takes."""
    source, targets = _split(words or [])
    question = Question(
        tuple(targets), tuple(loss or ()), max_params, max_tokens, inference_tokens, unique_tokens
    )
    if not (targets or loss):
        raise InputError("predict: expected training FLOPs, such as 1e24, or --loss; got neither.")
    if law in flops_fit.reference.LAW_NAMES:
        if source is not None or level is not None or column:
            what = f"the runs {source}" if source is not None else "--level or --column"
            raise InputError(
                f"--law: {law} is a published law and needs no runs; got {what} as well. Leave one of "
                "the two out."
            )
        return answer(law, question)
    if source is None:
        names = flops_fit.reference.LAW_NAMES
        near = difflib.get_close_matches(law, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            "predict: expected runs (a table, or the folder of a sweep) or --law with one of "
            f"{', '.join(names)}; got --law {law}.{hint}"
        )
    return _by_fit(read_fit(source, law, column), question, 0.9 if level is None else level)


def _split(words: Sequence[str]) -> tuple[Path | None, list[float]]:
    """The runs, if the first word is no number, and the training FLOPs."""
    source = Path(words[0]) if words and _number(words[0]) is None else None
    numbers = []
    for word in words[source is not None :]:
        value = _number(word)
        if value is None or not (math.isfinite(value) and value > 0):
            raise InputError(
                f"predict: expected training FLOPs as a positive number, such as 1e24; got {word!r}."
            )
        numbers.append(value)
    return source, numbers


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _by_fit(fit: Fit, question: Question, level: float) -> Answer:
    """Answers of a fit, with intervals."""
    if question.unique_tokens is not None:
        fit = fit.with_unique(question.unique_tokens)
    caps = {"max_params": question.max_params, "max_tokens": question.max_tokens}
    reached = [fit.compute_for(loss, level) for loss in question.losses]
    at_losses = [e.value for e in reached]
    predictions = [fit.predict(c, level, **caps) for c in (*question.targets, *at_losses)]
    shown: list[Any] = []
    for loss, estimate in zip(question.losses, reached, strict=True):
        shown.append(f"Loss {loss:g} takes {estimate} training FLOPs at least.")
    shown += [""] if shown else []
    shown += [flops_fit.report.chinchilla_table(predictions), "", law_line(fit.law)]
    words, findings = summary(fit, predictions)
    lives = []
    if question.inference_tokens is not None:
        goals = [p.expected_loss for p in predictions[: len(question.targets)]]
        for goal in (*goals, *question.losses):
            life = fit.optimal_for_inference(goal, question.inference_tokens, level)
            findings += [d for d in life.diagnostics if d not in findings]
            lives.append(life)
        shown += ["", *map(str, lives)]
    findings += [d for e in reached for d in e.diagnostics if d not in findings]
    document = {
        "law": {"name": fit.law.name, "formula": fit.law.formula, "params": fit.law.params},
        "trust": fit.trust,
        "predictions": [p.to_dict() for p in predictions[: len(question.targets)]],
        "losses": [
            {"loss": loss, **vars(e), "diagnostics": [vars(d) for d in e.diagnostics]} | {"at": p}
            for loss, e, p in zip(
                question.losses,
                reached,
                [p.to_dict() for p in predictions[len(question.targets) :]],
                strict=True,
            )
        ],
        "inference": [
            {**vars(life), "diagnostics": [vars(d) for d in life.diagnostics]} for life in lives
        ],
    }
    shown += ["", words]
    return Answer(tuple(shown), flops_fit.records.finite_json(document), relied_on(fit, findings))

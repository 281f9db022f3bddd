"""``flops-fit predict``: a calculator for published laws and for runs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flops_fit
from flops_fit.cli import _published
from flops_fit.cli._answer import Answer, Json
from flops_fit.cli._published import Question
from flops_fit.cli._source import Columns, law_line, read_fit, relied_on, summary
from flops_fit.errors import InputError

if TYPE_CHECKING:
    from flops_fit.fit import Fit

__all__ = ["predict"]


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
        return _published.answer(law, question)
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

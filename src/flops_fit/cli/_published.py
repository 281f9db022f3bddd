"""Published laws as a calculator: no runs, no intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flops_fit
from flops_fit.cli._answer import Answer
from flops_fit.cli._screen import markdown
from flops_fit.errors import InputError
from flops_fit.text import count

if TYPE_CHECKING:
    from flops_fit.laws import Law, OptimumOnly

__all__ = ["Question", "answer", "constants", "meaning"]

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
                count(row["optimal_params"]),
                count(row["optimal_tokens"]),
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

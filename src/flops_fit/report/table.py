"""The Chinchilla table, and the answer in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from flops_fit.fit.approaches import Approach
from flops_fit.fit.fit import Fit
from flops_fit.fit.prediction import Prediction
from flops_fit.records import Diagnostic
from flops_fit.text import card, format_count

_COLUMNS: tuple[tuple[str, Callable[[Prediction], str], str | None], ...] = (
    ("Compute Budget", lambda p: f"{p.target_compute:.3g}", None),
    ("Optimal N", lambda p: format_count(p.optimal_params), "optimal_params"),
    ("Optimal D", lambda p: format_count(p.optimal_tokens), "optimal_tokens"),
    ("D/N Ratio", lambda p: f"{p.tokens_per_param:.3g}", "tokens_per_param"),
    ("Predicted Loss", lambda p: _loss(p.expected_loss), "expected_loss"),
)
_TRUST = {
    "ok": "Nothing was found that speaks against this fit.",
    "caution": "Use this fit with caution:",
    "no": "Do not rely on this fit:",
    "far": "Do not rely on this answer:",
}


def span(prediction: Prediction, quantity: str) -> str:
    """An interval in brackets, ``(none)`` where no honest one exists."""
    interval = prediction.intervals[quantity]
    if interval is None:
        return "(none)"
    low, high = interval
    if quantity == "expected_loss":
        return f"({low:#.4g}–{high:#.4g})"
    if quantity == "tokens_per_param":
        return f"({low:.3g}–{high:.3g})"
    return f"({format_count(low)}–{format_count(high)})"


def chinchilla_table(predictions: Sequence[Prediction]) -> str:
    """N*, D*, D/N and the loss at each budget with intervals, as a Markdown table."""
    lines = _markdown(_rows(predictions))
    level = f"{100 * predictions[0].level:g} %" if predictions else ""
    unit = predictions[0].unit if predictions else "tokens"
    return "\n".join(
        [*lines, f"In brackets: {level} intervals. N: parameters. D: {unit}. C: training FLOPs."]
    )


def _rows(predictions: Sequence[Prediction]) -> list[list[str]]:
    rows = [[name for name, _, _ in _COLUMNS]]
    for p in predictions:
        rows.append([f"{show(p)} {span(p, key)}" if key else show(p) for _, show, key in _COLUMNS])
    return rows


def answer_card(
    fit: Fit, predictions: Sequence[Prediction], diagnostics: Iterable[Diagnostic]
) -> str:
    """The table and the answer in words as a small piece of HTML, for notebooks."""
    words = answer_in_words(fit, predictions[-1], diagnostics).splitlines()
    return card("Compute-optimal training", _rows(predictions), words)


def approaches_table(fit: Fit) -> str:
    """What approaches 1, 2 and 3 say, and which of them answers, as a Markdown table."""
    rows = [["Approach", "a", "b", "N*", "D*", "Loss", "Standing"]]
    rows += [_approach_row(a, number) for number, a in enumerate(fit.approaches, start=1)]
    interval = " (in brackets its 90 % interval)" if fit.approaches[2].a_interval else ""
    note = (
        f"N* ∝ C^a{interval}, D* ∝ C^b; N*, D* and loss at C = {fit.largest_compute:.3g}, the "
        "largest run's compute."
    )
    return "\n".join([*_markdown(rows), note])


def _approach_row(found: Approach, number: int) -> list[str]:
    exponents = ["–" if v is None else f"{v:.3f}" for v in (found.a, found.b)]
    if found.a_interval is not None:
        exponents[0] += f" ({found.a_interval[0]:.3f}–{found.a_interval[1]:.3f})"
    counts = [
        "–" if v is None else format_count(v) for v in (found.optimal_params, found.optimal_tokens)
    ]
    standing = "headline" if found.headline else "check" if found.usable else found.reason
    return [f"{number} {found.name}", *exponents, *counts, _loss(found.expected_loss), standing]


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned lines of a table, the first row its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return lines


def _loss(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:#.4g}"


def answer_in_words(fit: Fit, prediction: Prediction, diagnostics: Iterable[Diagnostic]) -> str:
    """What the table means, and what to trust."""
    p = prediction
    lines = [
        f"With {p.target_compute:.3g} FLOPs, train about {format_count(p.optimal_params)} parameters"
        f"{_bracket(p, 'optimal_params')} on {format_count(p.optimal_tokens)} {p.unit}"
        f"{_bracket(p, 'optimal_tokens')}; {_expected(p)}.",
        _growth(fit),
        _noise(fit),
    ]
    spread = p.form_spread.get("optimal_params")
    if spread is not None and spread[1] > spread[0]:
        lines.append(
            f"The intervals hold if the form of the law does. Over the forms that were fitted, N* "
            f"there ranges over {format_count(spread[0])}–{format_count(spread[1])}."
        )
    told = [d for d in diagnostics if d.severity in ("warning", "critical")]
    lines.append(_TRUST[verdict(fit, told)])
    lines += [f"  • {d.message}" + (f" → {d.action}" if d.action else "") for d in told]
    return "\n".join(line for line in lines if line)


def verdict(fit: Fit, diagnostics: Iterable[Diagnostic]) -> str:
    """``ok``, ``caution``, ``no``, or ``far`` where the answer has findings worse than the fit's own."""
    told = [d for d in diagnostics if d.severity in ("warning", "critical")]
    if fit.trust != "no" and any(d.severity == "critical" for d in told):
        return "far"
    return "caution" if told and fit.trust == "ok" else fit.trust


def _expected(p: Prediction) -> str:
    if p.expected_loss != p.expected_loss:
        return "no loss can be predicted"
    return f"expect a held-out loss of {p.expected_loss:.3f}{_bracket(p, 'expected_loss')}"


def _bracket(p: Prediction, quantity: str) -> str:
    """An interval after its number; nothing where there is none, which a finding says."""
    return "" if p.intervals[quantity] is None else f" {span(p, quantity)}"


def _growth(fit: Fit) -> str:
    lines = next((a for a in fit.approaches[:2] if a.headline), None)
    if lines is not None and lines.a is not None and lines.b is not None:
        a, b = lines.a, lines.b
    else:
        try:
            a, b = fit.exponents
        except AttributeError:
            return ""
    return (
        f"Ten times the compute wants {10**a:.2g} times the parameters and {10**b:.2g} times the "
        f"{fit.runs.unit} (exponents {a:.2f} and {b:.2f}, where FLOPs per unit grow as N)."
    )


def _noise(fit: Fit) -> str:
    line = f"{len(fit.runs)} runs were fitted; they scatter {100 * fit.residual_sd:.2g} % around the law."
    if fit.isoflop.n_r2 is not None and fit.isoflop.d_r2 is not None:
        line += (
            f" The IsoFLOP minima lie on power laws with R² = {fit.isoflop.n_r2:.3f} (N) and "
            f"{fit.isoflop.d_r2:.3f} (D), which alone proves little."
        )
    return line

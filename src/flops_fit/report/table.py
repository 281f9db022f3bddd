"""Tables and words of the answer, as Markdown for terminals and as HTML for page and notebook."""

import html
import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from flops_fit.fit.checks import trust_worth
from flops_fit.fit.fit import Fit
from flops_fit.fit.hparam_rule import BestHParams
from flops_fit.fit.prediction import Prediction
from flops_fit.flops.functions import Floats
from flops_fit.laws.experts import Experts
from flops_fit.records import SIMULATED, Diagnostic
from flops_fit.text import card, markdown_table, shown_count


def asset(name: str) -> str:
    """A file that the page is made of."""
    return (files("flops_fit.report") / "assets" / name).read_text(encoding="utf-8")


WORDS: dict[str, str] = tomllib.loads(asset("words.toml"))
# Notes that stand beside "ok": a fit with one of them is not without a finding.
_NOTED = ("residual_pattern", "outliers", "window")
_REACH = 1e3  # times the sizes of the runs
_TALL = 15  # rows: a longer table of the page scrolls in a box


@dataclass(frozen=True)
class TextTable:
    """Rows of text, the first one its head, with a name for screen readers and a note below."""

    name: str
    rows: Sequence[Sequence[str]]
    note: str

    def markdown(self) -> str:
        """As an aligned Markdown table; the note is its last line."""
        return f"{markdown_table(self.rows)}\n{self.note}"

    def html(self) -> str:
        """As an HTML table."""
        head, *rows = self.rows
        cells = ([Cell(c) for c in row] for row in rows)
        return html_table(head, cells, self.note, self.name)


def chinchilla_table(predictions: Sequence[Prediction], trust: str = "ok") -> str:
    """N*, D*, D/N and the loss at each budget with intervals, as a Markdown table.

    The loss has two intervals: of the mean of runs of that size, and of one run. Where ``trust`` is ``"no"``
    the table's head says so, wherever it is copied.
    """
    return optima(predictions, trust).markdown()


def optima(predictions: Sequence[Prediction], trust: str = "ok") -> TextTable:
    """N*, D*, D/N and the loss at each budget with intervals, marked where they are not to be trusted."""
    budget = "Compute Budget (trust: no)" if trust == "no" else "Compute Budget"
    heads = (budget, "Optimal N", "Optimal D", "D/N Ratio")
    rows = [[*heads, "Predicted Loss, Mean of Runs", "Loss, One Run"]]
    for p in predictions:
        cells = [
            f"{shown_count(p.optimal_params)} {_span(p, 'optimal_params')}",
            f"{shown_count(p.optimal_tokens)} {_span(p, 'optimal_tokens')}",
            f"{shown_count(p.tokens_per_param)} {_span(p, 'tokens_per_param')}",
            f"{_loss(p.expected_loss)} {_span(p, 'expected_loss')}",
        ]
        alone = trust != "no" and any(d.severity == "critical" for d in p.diagnostics)
        budget = f"{p.target_compute:.3g}{' (trust: no)' if alone else ''}"
        rows.append([budget, *cells, _span(p, "run_loss").strip("()")])
    level, unit = "", "tokens"
    if predictions:
        level, unit = f"{100 * predictions[0].level:g} %", predictions[0].unit
    note = f"In brackets, and for one run: {level} intervals. N: parameters. D: {unit}. C: training FLOPs."
    return TextTable("Optima at each budget", rows, note)


def told_optima(
    fit: Fit, predictions: Sequence[Prediction], findings: Iterable[Diagnostic]
) -> TextTable:
    """The optima: critical findings about one answer mark its row, any others the head."""
    own = {d for p in predictions for d in p.diagnostics}
    return optima(predictions, verdict(fit, [d for d in findings if d not in own]))


def _span(prediction: Prediction, quantity: str) -> str:
    """An interval in brackets, ``(none)`` if there is no reliable one."""
    interval = prediction.intervals[quantity]
    if interval is None:
        return "(none)"
    formats = {"expected_loss": _loss, "run_loss": _loss, "tokens_per_param": shown_count}
    low, high = (formats.get(quantity, shown_count)(v) for v in interval)
    return f"({low}–{high})"


def _loss(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:#.4g}"


def approaches_table(fit: Fit) -> str:
    """What approaches 1, 2 and 3 say, and which of them answers, as a Markdown table."""
    return approaches(fit).markdown()


def approaches(fit: Fit) -> TextTable:
    """What approaches 1, 2 and 3 say, and which of them answers."""
    rows = [["Approach", "a", "b", "N*", "D*", "Loss", "Standing"]]
    for number, a in enumerate(fit.approaches, start=1):
        exponents = ["–" if v is None else f"{v:.3f}" for v in (a.a, a.b)]
        if a.a_interval is not None:
            exponents[0] += f" ({a.a_interval[0]:.3f}–{a.a_interval[1]:.3f})"
        optimum = (a.optimal_params, a.optimal_tokens)
        sizes = ["–" if v is None else shown_count(v) for v in optimum]
        standing = "headline" if a.headline else "check" if a.usable else a.reason
        rows.append([f"{number} {a.name}", *exponents, *sizes, _loss(a.expected_loss), standing])
    interval = " (in brackets its 90 % interval)" if fit.approaches[2].a_interval else ""
    note = WORDS["approaches"].format(interval=interval, compute=fit.largest_compute)
    return TextTable("Three approaches", rows, note)


def answer_card(
    fit: Fit, predictions: Sequence[Prediction], diagnostics: Iterable[Diagnostic]
) -> str:
    """The table and the answer in words as a small piece of HTML, for notebooks."""
    findings = tuple(diagnostics)
    words = answer_in_words(fit, predictions[-1], findings).splitlines()
    rows = told_optima(fit, predictions, findings).rows
    return card("Compute-optimal training", rows, words)


def within_reach(fit: Fit, params: float | Floats) -> bool:
    """Whether sizes lie within a factor of a thousand of those of the runs: others mean no optimum."""
    sizes, given = fit.runs.params, np.asarray(params, np.float64)
    given = given[np.isfinite(given)]
    return bool(np.all((given > sizes.min() / _REACH) & (given < sizes.max() * _REACH)))


def answer_in_words(fit: Fit, prediction: Prediction, diagnostics: Iterable[Diagnostic]) -> str:
    """What the table means, and whether to rely on it."""
    p = prediction
    names = ("optimal_params", "optimal_tokens", "expected_loss")
    size, data, loss = ("" if p.intervals[n] is None else f" {_span(p, n)}" for n in names)
    expected = "no loss can be predicted"
    diagnostics = list(diagnostics)
    problems = [d for d in diagnostics if d.severity in ("warning", "critical")]
    trust = verdict(fit, problems)
    order, near = trust != "no", within_reach(fit, p.optimal_params)
    if p.expected_loss == p.expected_loss:
        verb = "expect" if order else "it predicts"
        expected = f"{verb} a held-out loss of {_loss(p.expected_loss)}{loss}"
        if p.intervals["run_loss"] is not None:
            one_run = _span(p, "run_loss").strip("()")
            expected += f" in the mean of runs, and {one_run} of one run"
    if isinstance(law := fit.law, Experts):
        S = float(law.at(p.optimal_params))
        size += " of a dense model" if S == 1 else f", {S:.3g} times as many in all,"
    N, D = shown_count(p.optimal_params), shown_count(p.optimal_tokens)
    left = f", {len(fit.excluded):,} left out" if fit.excluded else ""
    lines = [
        WORDS["lead" if order else "not_determined" if near else "no_optimum"].format(
            p=p, N=N, D=D, size=size, data=data, expected=expected
        ),
        _training(fit, p) if order else "",
        _growth(fit) if order else "",
        f"{len(fit.runs):,} runs were fitted{left}; they scatter {100 * fit.residual_sd:.2g} % around "
        "the law.",
    ]
    if fit.isoflop.n_r2 is not None and fit.isoflop.d_r2 is not None:
        lines[-1] += " " + WORDS["minima"].format(isoflop=fit.isoflop)
    spread = p.form_spread.get("optimal_params")
    if spread is not None and spread[1] > spread[0]:
        ends = " to ".join(dict.fromkeys(map(shown_count, spread)))
        lines.append(WORDS["forms"].format(ends=ends))
    noted = [d for d in diagnostics if d.severity == "note" and d.code in _NOTED and d.action]
    about = "answer" if fit.trust != "no" and trust == "no" else "fit"
    fine = "Noted, and no reason for larger errors:"
    if not noted:
        fine = "No problems were found with this fit."
    worth = trust_worth(trust)
    if SIMULATED in diagnostics:
        lines.insert(0, WORDS["simulated"])
        worth = "Of simulated runs it says nothing about your model."
    limits = {"caution": "Use this fit with caution:", "no": f"Do not rely on this {about}:"}
    lines += [f"Trust: {trust}. {worth}", limits.get(trust, fine)]
    shown = problems or noted
    lines += [f"  • {d.message}" + (f" → {d.action}" if d.action else "") for d in shown]
    return "\n".join(line for line in lines if line)


def _training(fit: Fit, p: Prediction) -> str:
    """How to train the best model, where runs said so."""
    if fit.hparams is None:
        return ""
    best = fit.hparams.optimal(p.optimal_params, p.optimal_tokens, p.level)
    lr, batch, decay = best_settings(best, "{:#.2g}")
    said = [f"a learning rate of {lr}"] if lr else []
    said += [f"batches of {batch} {fit.hparams.batch_unit}"] if batch else []
    said += [f"a weight decay of {decay}"] if decay else []
    return f"Train it with {' and '.join([', '.join(said[:-1]), said[-1]] if said[1:] else said)}."


def best_settings(best: BestHParams, rate: str) -> list[str]:
    """Learning rate, batch and weight decay with their intervals, empty where not known."""
    batch = (best.batch_units, best.batch_interval, shown_count)
    decay = (best.weight_decay, best.decay_interval, rate.format)
    return [
        "" if value is None or span is None else f"{show(value)} ({show(span[0])}–{show(span[1])})"
        for value, span, show in ((best.lr, best.lr_interval, rate.format), batch, decay)
    ]


def verdict(fit: Fit, diagnostics: Iterable[Diagnostic]) -> str:
    """``ok``, ``caution`` or ``no``: the fit's trust, or worse if findings about the answer are."""
    severities = {d.severity for d in diagnostics}
    if fit.trust == "no" or "critical" in severities:
        return "no"
    return "caution" if "warning" in severities else fit.trust


def _growth(fit: Fit) -> str:
    """What ten times the compute changes, from the optima at the smallest and largest budget."""
    budgets = float(fit.runs.budget.min()), float(fit.runs.budget.max())
    if budgets[1] < 2 * budgets[0]:
        return ""
    ends = [fit.predict(C) for C in budgets]
    sizes = [[p.target_compute, p.optimal_params, p.optimal_tokens] for p in ends]
    decades, more, longer = (math.log10(b / a) for a, b in zip(*sizes, strict=True))
    a, b = more / decades, longer / decades
    words = {"low": budgets[0], "high": budgets[1], "unit": fit.runs.unit, "a": a, "b": b}
    return WORDS["growth"].format(params=10**a, units=10**b, **words)


@dataclass(frozen=True)
class Cell:
    """Text of a cell, what is in brackets smaller; it sorts by ``value``, and ``wide`` text wraps."""

    text: str
    value: float | None = None
    wide: bool = False

    def html(self) -> str:
        """The cell as an element."""
        attributes = "" if self.value is None else f' data-v="{self.value!r}"'
        attributes += ' class="text"' if self.wide else ""
        text, bracket, interval = self.text.partition(" (")
        small = f" <small>({html.escape(interval)}</small>" if bracket else ""
        return f"<td{attributes}>{html.escape(text)}{small}</td>"


def html_table(
    head: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    caption: str,
    name: str = "",
    sortable: bool = False,
) -> str:
    """A table in a box that scrolls; ``name``, by default the caption's start, is for screen readers."""
    button = '<th scope="col" aria-sort="none"><button type="button">{}</button></th>'
    cell = button if sortable else '<th scope="col">{}</th>'
    columns = "".join(cell.format(html.escape(h)) for h in head)
    lines = ["<tr>" + "".join(c.html() for c in row) + "</tr>" for row in rows]
    tall = " tall" if len(lines) > _TALL else ""
    label = html.escape(name or caption.split(".")[0], quote=True)
    return (
        f'<div class="scroll{tall}" role="region" tabindex="0" aria-label="{label}">'
        f"<table><caption><span>{html.escape(caption)}</span></caption><thead><tr>{columns}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph, of a class if one is given."""
    opening = f'<p class="{kind}">' if kind else "<p>"
    return f"{opening}{html.escape(text)}</p>"

"""One self-contained HTML page: the answer, a panel of what-ifs, figures, findings and sources."""

import html
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from flops_fit._version import __version__
from flops_fit.files import output_errors, write_output
from flops_fit.fit.export import export_fit
from flops_fit.fit.fit import Fit
from flops_fit.fit.prediction import Prediction
from flops_fit.plan.cost import ASSUMED_MFU, DEVICES, find_peak
from flops_fit.records import SIMULATED, Diagnostic, Run, finite_json
from flops_fit.report import table
from flops_fit.report.figures import Drawn, ReportData
from flops_fit.report.provenance import excluded_list, methods_section, provenance, runs_table
from flops_fit.report.style import dark_colour, drawn_runs, inline_svg
from flops_fit.report.table import asset, paragraph, verdict
from flops_fit.report.tuning import rule_table, tuning_table
from flops_fit.store.read import TrainingCurve
from flops_fit.text import anonymous, constants, format_count, sentence, visible
from flops_fit.tune.effects import Collapse
from flops_fit.tune.tuning import Tuning

_DEVICE = "H100"  # that the panel starts with
_PRICE = 2.0  # dollars an hour: an example to be typed over
_TRUST = {"ok": "ok", "caution": "warning", "no": "critical"}  # as severities
_BESIDE = "isoflop"  # the figure beside the answer
_ANSWER_FINDINGS = 2  # beside the answer
_MOST_DATA = 500_000  # characters behind a figure, so that the page stays below 6 MB
_SEVERITIES = ("critical", "warning", "note", "ok")


def write_report(
    fit: Fit,
    path: str | Path,
    *,
    predictions: Sequence[Prediction] | None = None,
    diagnostics: Iterable[Diagnostic] = (),
    runs: Sequence[Run] = (),
    level: float = 0.9,
    title: str | None = None,
    provenance: Mapping[str, str] | None = None,
    tuning: Tuning | None = None,
    collapse: Collapse | None = None,
    curves: Sequence[TrainingCurve] = (),
) -> Path:
    """The answer, what-ifs, figures, findings and runs as one page without external files.

    It makes no request. Its what-if panel computes in the page what :meth:`flops_fit.fit.Fit.predict`
    does. OutputError if ``path`` cannot be written; the other arguments are what the page shows, as in
    :class:`flops_fit.report.ReportData`.
    """
    data = ReportData(
        fit, level, predictions, tuple(diagnostics), runs, title, provenance, tuning, collapse, curves
    )  # fmt: skip
    return write_page(data, path)


def write_page(data: ReportData, path: str | Path) -> Path:
    """Write :func:`page` to a file."""
    path = Path(path)
    with output_errors(path, "report"):
        write_output(path, page(data))
    return path


def page(m: ReportData) -> str:
    """The page as text: every section that has something to say, and links to them."""
    sections = ((s.name, s.title, s.render(m)) for s in SECTIONS)
    return document(m.title or "Compute-optimal training", sections)


def document(title: str, sections: Iterable[tuple[str, str, str]]) -> str:
    """A page of sections, each a name, a title and HTML; empty ones are left out."""
    shown = [(name, html.escape(head), text) for name, head, text in sections if text]
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}-head">'
        f'<h2 id="{name}-head">{head}</h2>{text}</section>'
        for name, head, text in shown
    )
    whole = Template(asset("page.html")).substitute(
        title=html.escape(title),
        style=_style(body),
        links="".join(f'<li><a href="#{name}">{head}</a></li>' for name, head, _ in shown),
        body=body,
        version=__version__,
        script=asset("law.js") + asset("figures.js") + asset("page.js"),
    )
    return anonymous(visible(whole))


def _style(body: str) -> str:
    """The style sheet, with the figures' colours for light and for dark paper."""
    codes = sorted(set(re.findall(r"var\(--c([0-9a-f]{6}),", body + asset("figures.js"))))
    colours = {code: dark_colour(code) for code in codes}
    light = "".join(f"--c{code}:#{code};" for code in colours)
    before, _, rest = asset("page.css").partition("DARK {")
    own, _, after = rest.partition("}")
    own = own.strip() + "".join(f"--c{code}:{dark};" for code, dark in colours.items())
    auto = f"@media screen and (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ {own} }} }}"
    chosen = f"@media screen {{ :root[data-theme=dark] {{ {own} }} }}"
    return f":root {{ {light} }}\n{before}{auto}\n{chosen}{after}"


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, and the title above it and in the list of contents.

    ``render`` goes from the report's data to HTML. If that is empty, the page leaves the section out.
    """

    name: str
    title: str
    render: Callable[[ReportData], str]


def answer(m: ReportData) -> str:
    """The answer in two sentences with the worst two findings, beside the curves it rests on."""
    lines = table.answer_in_words(m.fit, m.answers[-1], m.findings).splitlines()
    banner = paragraph(lines.pop(0), "banner critical") if SIMULATED in m.findings else ""
    said = [line for line in lines if not line.startswith("  •")]
    trust = verdict(m.fit, m.findings)
    badge = f'<p><span class="trust {_TRUST[trust]}">Trust in this answer: {trust}</span></p>'
    problems = [d for d in _ordered(m.findings) if d.severity in ("critical", "warning")]
    more = '<p><a href="#findings">All findings</a></p>' if len(problems) > _ANSWER_FINDINGS else ""
    words = (
        f"{paragraph(said[0], 'answer lead')}{badge}{paragraph(said[1], 'answer')}"
        f"{_list(problems[:_ANSWER_FINDINGS]) if problems else ''}{more}<details><summary>More about "
        f"this answer</summary>{paragraph(chr(10).join(said[2:]), 'answer')}</details>"
    )
    drawn = "".join(figure_html(d) for d in m.drawn if d.kind.name == _BESIDE)
    return f'{banner}<div class="beside"><div>{words}</div>{drawn}</div>'


_WORDS = tomllib.loads(asset("panel.toml"))


def panel(m: ReportData) -> str:
    """Inputs, an empty table that the page fills, and the law's numbers."""
    values = export_fit(m.fit, m.level)
    smallest, reach = values["smallest"] / 10, values["reach"]
    trust = verdict(m.fit, m.findings)
    warning = "" if trust == "ok" else paragraph(_WORDS["trust"][trust], _TRUST[trust])
    note = _WORDS["notes"][values["form"]].format(
        budgets=len(values.get("log_compute", ())), error=100 * values.get("error", 0.0)
    )
    options, peaks = "", {name: _peak(name) for name in DEVICES}
    for name, (peak, kind) in peaks.items():
        chosen = " selected" if name == _DEVICE else ""
        options += f'<option value="{peak:g}"{chosen}>{name} ({peak:g} TFLOP/s {kind})</option>'
    ends = {"low": smallest, "high": reach, "largest": m.fit.largest_compute}
    shown = {name: f"{value:.3g}" for name, value in ends.items()}
    start = f"{min(max(m.answers[-1].target_compute, smallest), reach):.6g}"
    return Template(asset("panel.html")).substitute(
        shown, start=start,
        devices=options, peak=f"{peaks[_DEVICE][0]:g}", utilisation=f"{100 * ASSUMED_MFU:g}",
        price=f"{_PRICE:g}", unit=html.escape(m.fit.runs.unit), level=f"{100 * m.level:g}",
        use='value="0"' if values["form"] == "draws" else 'value="" disabled',
        notes=warning + paragraph(note, "note"), data=_json("fit", finite_json(values)),
    )  # fmt: skip


def _peak(device: str) -> tuple[float, str]:
    """TFLOP/s of dense matrix products, and their number format."""
    peak = find_peak(device)
    assert peak is not None
    return peak.bf16 or peak.tf32 or peak.fp32 or 0.0, "bf16" if peak.bf16 else "fp32"


def figures(m: ReportData) -> str:
    """Every figure with its caption and its data, and what the page says of each run in them."""
    runs, words = m.fit.runs, {}
    for i in sorted(set().union(*(drawn_runs(d.figure) for d in m.drawn))):
        sizes = (
            f"N = {format_count(runs.params[i])}, D = {format_count(runs.tokens[i])} {runs.unit}"
        )
        words[i] = f"{runs.labels[i]}\n{sizes}\nC = {runs.flops[i]:.3g}, loss {runs.loss[i]:.4f}"
    others = figure_list(d for d in m.drawn if d.kind.name != _BESIDE)
    return f"{others}{_json('run-words', words)}"


def figure_list(drawn: Iterable[Drawn]) -> str:
    """Figures in a grid."""
    return f'<div class="figures">{"".join(map(figure_html, drawn))}</div>'


def figure_html(d: Drawn) -> str:
    """A figure with its title, caption and data, or where these are if they are too many for a page."""
    title, caption = html.escape(d.kind.title), html.escape(d.kind.caption)
    svg = inline_svg(d.figure, d.kind.title, d.kind.caption)
    rows = _json(f"csv-{d.kind.name}", d.csv())
    if len(rows) > _MOST_DATA:
        rows, caption = "", f"{caption} {table.WORDS['no_data']}"
    return f"<figure><h3>{title}</h3>{svg}<figcaption>{caption}</figcaption>{rows}</figure>"


def _json(name: str, values: Any) -> str:
    """Values for the page's script."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def tuning(m: ReportData) -> str:
    """What was tried before the sweep: each size and length with its best rate and regrets."""
    t = m.tuning
    return "" if t is None else paragraph(t.in_words()) + tuning_table(t).html()


def rule(m: ReportData) -> str:
    """The best learning rate and batch at each budget, where runs vary them."""
    table = rule_table(m.fit, m.answers, m.level)
    said = [paragraph(sentence(d.message)) for d in m.findings if d.code == "without_tuning"]
    return table.html() + "".join(said) if table else ""


def law(m: ReportData) -> str:
    """The law with its constants."""
    fit = m.fit
    residuals = "log residuals" if fit.loss_space == "log" else "residuals"
    status = str(fit.status).rstrip(".")
    words = table.WORDS["law"].format(
        fit=fit, constants=constants(fit.law.params), status=status, residuals=residuals
    )
    return paragraph(words)


def findings_list(found: Iterable[Diagnostic]) -> str:
    """Every finding with what to do next, the worst first; passed checks are folded away."""
    ordered = _ordered(found)
    problems = [d for d in ordered if d.severity != "ok"]
    passed = ordered[len(problems) :]
    text = _list(problems) if problems else paragraph("No problems were found.")
    if passed:
        word = "check" if len(passed) == 1 else "checks"
        text += f"<details><summary>{len(passed)} {word} passed</summary>{_list(passed)}</details>"
    return text


def _ordered(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    return sorted(diagnostics, key=lambda d: _SEVERITIES.index(d.severity))


def _list(diagnostics: Sequence[Diagnostic]) -> str:
    items = ""
    for d in diagnostics:
        action = f'<span class="do">→ {html.escape(d.action)}</span>' if d.action else ""
        text = f"<b>{d.severity}</b> <span>{html.escape(d.message)}</span>{action}"
        items += f'<li class="{d.severity}">{text}</li>'
    return f'<ul class="findings">{items}</ul>'


# To add a section, add an entry; a section that renders nothing is left out with its link.
SECTIONS: tuple[Section, ...] = (
    Section("answer", "Answer", answer),
    Section(
        "table",
        "Optima at each budget",
        lambda m: table.told_optima(m.fit, m.answers, m.findings).html(),
    ),
    Section("what-if", "What if", panel),
    Section("figures", "Figures", figures),
    Section("tuning", "Hyper-parameters", tuning),
    Section("rule", "Learning rate and batch", rule),
    Section("law", "The law", law),
    Section("approaches", "Three approaches", lambda m: table.approaches(m.fit).html()),
    Section("findings", "Findings", lambda m: findings_list(m.findings)),
    Section("runs", "Runs", runs_table),
    Section("excluded", "Runs left out of the fit", excluded_list),
    Section("methods", "Methods", methods_section),
    Section("provenance", "Provenance", provenance),
)

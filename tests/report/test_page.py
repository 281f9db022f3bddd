"""The page stands alone, says everything, and escapes what users wrote."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import flops_fit
from flops_fit import RunTable, report
from flops_fit.records import Diagnostic, Run
from flops_fit.report.page import page
from flops_fit.report.provenance import bibtex, methods, papers
from flops_fit.store import write_runs
from flops_fit.table.left_out import Excluded
from tests.conftest import make_experiment
from tests.report.conftest import law_runs

VOID = {"meta", "link", "input", "br"}


class Outline(HTMLParser):
    """Checks that elements close in order, and gathers ids and references to them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.wanted: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("for", "aria-labelledby", "aria-describedby", "data-copy"):
                self.wanted |= set((value or "").split())

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text(sound: flops_fit.Fit) -> str:
    return page(report.ReportData(sound))


def test_elements_close_and_names_are_unique_and_found(text: str) -> None:
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.wanted <= set(outline.ids)


def test_a_page_can_load_nothing(text: str) -> None:
    assert "default-src 'none'" in text
    assert not re.search(r'\b(?:src|href)="(?!#|data:,)', text)
    assert not re.search(r"url\((?!#)", text)


def test_sections_stand_in_order_and_are_linked(text: str) -> None:
    links = re.findall(r'<li><a href="#([\w-]+)">', text)
    assert links == re.findall(r'<section id="([\w-]+)"', text)
    left_out = ("excluded", "tuning", "rule")  # all runs are fitted, none was tuned, one rate each
    assert links == [s.name for s in report.SECTIONS if s.name not in left_out]


def test_a_section_or_figure_more_is_an_entry_more(
    sound: flops_fit.Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flops_fit.report import figures
    from flops_fit.report import page as page_module

    section = report.Section("extra", "One more", lambda m: f"<p>{len(m.runs)} runs of mine</p>")
    loss = next(k for k in report.FIGURES if k.name == "loss")
    monkeypatch.setattr(page_module, "SECTIONS", (*report.SECTIONS, section))
    monkeypatch.setattr(figures, "FIGURES", (loss, replace(loss, name="again")))
    text = page(report.ReportData(sound))
    assert '<section id="extra"' in text
    assert "0 runs of mine" in text
    assert text.count("<svg") == 2


def test_what_users_named_is_escaped_everywhere(sound: flops_fit.Fit) -> None:
    nasty = "</script><b>&\"'"
    runs = replace(sound.runs, labels=tuple(nasty for _ in sound.runs.labels), unit=nasty)
    fit = replace(sound, runs=runs, excluded=(Excluded(nasty, nasty),))
    ran = Run(make_experiment(model=nasty), "failed", reason=nasty, device=nasty)
    text = page(report.ReportData(fit, runs=[ran], title=nasty, provenance={nasty: nasty}))
    assert nasty not in text
    assert "</script><b>" not in text
    assert "&lt;/script&gt;&lt;b&gt;" in text


def test_what_is_published_names_neither_user_nor_host(
    sound: flops_fit.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths below the user's folder and the holder of a lease stand in reasons and notes."""
    monkeypatch.setenv("HOME", "/home/quentin")
    reason = "it is being made by process 12 on node7.lab; its log is /home/quentin/x/log.err"
    ran = Run(make_experiment(), "running", reason=reason)
    fit = replace(sound, runs=replace(sound.runs, notes=(reason,)))
    table = write_runs([ran], tmp_path / "runs.csv").read_text()
    left_out = flops_fit.RunTable.from_runs([ran]).excluded[0].reason
    for text in (page(report.ReportData(fit, runs=[ran])), table, left_out):
        assert "it is being made by process 12; its log is ~/x/log.err" in text
        assert "quentin" not in text
        assert "node7" not in text


def test_the_panel_carries_the_fits_numbers(text: str, sound: flops_fit.Fit) -> None:
    found = re.search(r'<script type="application/json" id="fit">(.*?)</script>', text)
    assert found is not None
    values = json.loads(found[1])
    assert values["law"][0] == sound.law.params["E"]
    assert values["largest"] == sound.largest_compute


def test_every_run_has_its_state_seed_and_id(sound: flops_fit.Fit) -> None:
    runs = [
        Run(make_experiment(seed=7), "completed", loss=2.0, tokens=400, flops=1e6),
        Run(make_experiment(seed=8), "diverged", reason="loss is nan"),
    ]
    text = page(report.ReportData(sound, runs=runs))
    for run in runs:
        assert run.experiment.id[:12] in text
    assert "diverged: loss is nan" in text
    assert "1 completed; 1 diverged" in text


def test_rows_of_a_table_stand_with_how_they_fared(text: str, sound: flops_fit.Fit) -> None:
    assert text.count("<td>fitted</td>") + text.count("<td>outlier</td>") == len(sound.runs)


def test_equal_reasons_are_told_once(sound: flops_fit.Fit) -> None:
    excluded = tuple(Excluded(f"run {i}", "flops is nan") for i in range(150))
    text = page(report.ReportData(replace(sound, excluded=excluded)))
    assert text.count("flops is nan") == 1
    assert "run 99 and 50 more" in text


def test_methods_cite_what_was_used_and_nothing_else(
    sound: flops_fit.Fit, lost: flops_fit.Fit
) -> None:
    told, keys = methods(report.ReportData(sound))
    assert {"hoffmann2022", "huber1964", "kennedy2001"} <= set(keys)
    assert "400 surfaces" in told
    assert set(re.findall(r"\[(\w+)\]", told)) == {*keys, "flopsfit"}
    told, keys = methods(report.ReportData(lost))
    assert "kennedy2001" not in keys
    assert "No interval is given." in told
    assert "approach 2" in told


def test_bibtex_entries_are_balanced_and_named_by_their_key() -> None:
    for key, entry in papers().items():
        assert re.match(rf"@\w+\{{{key},", entry)
    whole = bibtex(tuple(papers()))
    assert whole.count("{") == whole.count("}")
    assert len(re.findall(r"^@", whole, re.MULTILINE)) == len(papers()) + 1


def test_the_same_fit_gives_the_same_figures(text: str, sound: flops_fit.Fit) -> None:
    pages = (text, page(report.ReportData(sound)))
    first, second = (re.findall(r"<svg.*?</svg>", p) for p in pages)
    assert first == second


def test_a_law_without_a_surface_says_so_in_its_panel(lost: flops_fit.Fit) -> None:
    text = page(report.ReportData(lost))
    assert "no intervals, and inference cannot be counted" in re.sub(r"\s+", " ", text)
    assert re.search(r'id="use"[^>]* disabled', text)


def test_an_answer_not_to_be_trusted_is_no_order(lost: flops_fit.Fit) -> None:
    text = page(report.ReportData(lost))
    answer = text[text.index('id="answer"') : text.index('id="table"')]
    assert "Do not train by this fit" in answer
    assert "train about" not in answer
    assert "With 10× the compute" not in answer


def test_the_answer_has_two_sentences_its_curves_and_the_worst_two_findings(
    sound: flops_fit.Fit,
) -> None:
    graded = enumerate(("warning", "ok", "critical", "warning"))
    found = [Diagnostic(f"x{i}", severity, f"number {i}") for i, severity in graded]
    text = page(report.ReportData(sound, diagnostics=found))
    answer = text[text.index('id="answer"') : text.index("<details>")]
    assert answer.count('<p class="answer') == 2
    assert re.findall("number .", answer) == ["number 2", "number 0"]
    assert "Loss against size at each budget" in text[: text.index('id="table"')]


def test_an_answer_far_beyond_the_runs_is_no_order_wherever_it_stands(sound: flops_fit.Fit) -> None:
    data = report.ReportData(sound, predictions=[sound.predict(C) for C in (1e20, 1e26)])
    text = page(data)
    assert "Do not train by this fit" in text
    assert "<td>1e+26 <small>(trust: no)</small>" in text
    assert "<td>1e+20</td>" in text
    assert "Do not train by this fit" not in page(report.ReportData(sound))


def test_ten_times_the_compute_is_read_off_the_table(sound: flops_fit.Fit) -> None:
    text = page(report.ReportData(sound))
    said = re.search(r"use ([\d.]+)× the parameters.*?as between 1e\+18 and 1e\+20", text)
    assert said is not None
    ends = [sound.predict(C).optimal_params for C in (1e18, 1e20)]
    assert float(said[1]) == pytest.approx((ends[1] / ends[0]) ** 0.5, rel=0.02)


def test_two_fits_are_compared_on_a_page(sound: flops_fit.Fit, tmp_path: Path) -> None:
    better = replace(
        RunTable.read(law_runs((1e18, 3e18, 1e19, 3e19, 1e20))), loss=sound.runs.loss - 0.1
    )
    other, names = flops_fit.fit_runs(better), ("<b>", "new")
    at = flops_fit.compare(sound, other)
    text = report.write_comparison(sound, other, tmp_path / "two.html", names=names).read_text()
    assert "new needs less compute" in text
    assert f"{at.compute_multiplier:.3g} times (" in text
    assert "<b>" not in re.sub(r"<li.*?</li>", "", text)
    assert text.count("<svg") == 2
    long = (f"/{'a' * 300}/runs.csv", f"/{'b' * 300}/runs.csv")
    text = report.write_comparison(sound, sound, tmp_path / "same.html", names=long).read_text()
    assert "…aaa" in text
    text = report.write_comparison(sound, sound, tmp_path / "same.html").read_text()
    assert "The runs do not decide which needs less compute" in text
    bits = replace(better, loss=better.loss / 10)  # of another unit
    text = report.write_comparison(
        sound, flops_fit.fit_runs(bits), tmp_path / "far.html"
    ).read_text()
    assert "The second would need less than a billionth of the compute" in text
    assert "under 1e-9" in text


def test_the_page_of_many_runs_stays_small_and_names_those_it_draws() -> None:
    rows = law_runs((1e18, 3e18, 1e19, 3e19, 1e20), sizes=1600)
    text = page(report.ReportData(flops_fit.fit_runs(rows)))
    assert len(text.encode()) < 6e6
    words = re.search(r'id="run-words">(.*?)</script>', text)
    tips = re.findall(r'data-tips="\[([\d, ]+)\]"', text)
    assert words is not None
    assert set(json.loads(words[1])) == {i for tip in tips for i in tip.split(", ")}
    assert 'id="csv-residuals"' not in text
    assert "too many for this page" in text


def test_runs_without_an_optimum_give_no_number_and_no_axis_far_from_them() -> None:
    rows = law_runs((1e18, 1e19, 1e20), noise=0.0)
    for i, row in enumerate(rows):  # at each budget the largest model is the best, more and more
        row["loss"] = 3 - 0.1 * math.log10(row["params"] / 1e8) + 0.001 * (-1) ** i
    fit = flops_fit.fit_runs(rows)
    data = report.ReportData(fit)
    assert not data.has_optimum
    assert "no best size" in page(data)
    assert {"params", "tokens", "residual_map"}.isdisjoint(d.kind.name for d in data.drawn)

"""What a notebook shows: small, whole and escaped."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

import flops_fit
from flops_fit.records import Diagnostic
from flops_fit.text import card
from tests.conftest import MLP


class Text(HTMLParser):
    """The text of a piece of HTML, and whether all of it closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> flops_fit.Result:
    return flops_fit.find_optimal(
        MLP,
        "width",
        compute_budgets=[2e5, 4e5, 8e5],
        sizes=[4, 6, 8, 12],
        mode="mock",
        output_dir=tmp_path_factory.mktemp("mock"),
        progress=False,
    )


def test_every_stage_shows_itself(result: flops_fit.Result) -> None:
    prediction = result.predict(4e6)
    shown = {
        "plan": Text(result.plan._repr_html_()).cells,
        "fit": Text(result.fit._repr_html_()).cells,
        "prediction": Text(prediction._repr_html_()).cells,
        "result": Text(result._repr_html_()).cells,
    }
    assert f"{len(result.plan)} runs" in shown["plan"][0]
    assert f"{result.fit.law.params['alpha']:.4g}" in shown["fit"]
    assert f"trust: {result.fit.trust}" in shown["fit"][0]
    assert f"{prediction.expected_loss:#.4g}" in shown["prediction"]
    assert {"loss, mean of runs", "loss, one run"} <= set(shown["prediction"])
    assert "Loss, One Run" in shown["result"]
    assert result.summary().splitlines()[0] in shown["result"]
    for html in (result._repr_html_(), result.plan._repr_html_()):
        assert len(html) < 20_000
        assert "<script" not in html
        assert "<style" not in html


def test_findings_are_escaped(result: flops_fit.Result) -> None:
    nasty = Diagnostic("x", "critical", "<img src=x onerror=alert(1)>")
    fit = replace(result.fit, diagnostics=(nasty,))
    prediction = replace(result.predict(4e6), diagnostics=(nasty,), unit="<i>")
    plan = replace(result.plan, diagnostics=(nasty,))
    for thing in (fit, prediction, plan, replace(result, fit=fit)):
        html = thing._repr_html_()
        assert "<img" not in html
        assert "&lt;img" in html
    assert "<i>" not in prediction._repr_html_()


def test_a_card_without_rows_has_no_table() -> None:
    assert "<table" not in card("nothing & more", [])
    assert "nothing &amp; more" in card("nothing & more", [])

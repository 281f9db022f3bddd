"""Tables, words, figures and pages say what the fit says."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import flops_fit
from flops_fit.errors import OutputError
from flops_fit.laws import Hoffmann
from flops_fit.records import Diagnostic, Run
from flops_fit.report import (
    ReportData,
    answer_in_words,
    chinchilla_table,
    draw_figures,
    isoflop_data,
    write_report,
)
from flops_fit.report.optima import optimal_path
from flops_fit.table import RunTable
from tests.conftest import make_experiment
from tests.report._kinds import OF_A_FIT


@pytest.fixture(scope="module")
def fit() -> flops_fit.Fit:
    law = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)
    rng = np.random.default_rng(0)
    rows = []
    for budget in (1e18, 3e18, 1e19, 3e19, 1e20):
        best = float(law.optimal(budget).params)
        for ratio in np.geomspace(0.2, 5, 7):
            N = best * ratio
            D = budget / (6 * N)
            loss = float(law.loss(N, D)) * float(np.exp(0.003 * rng.standard_normal()))
            rows.append({"params": N, "tokens": D, "flops": budget, "loss": loss})
    return flops_fit.fit_runs(rows)


def test_the_table_holds_the_predictions(fit: flops_fit.Fit) -> None:
    predictions = [fit.predict(c) for c in (1e20, 1e21)]
    lines = chinchilla_table(predictions).splitlines()
    assert re.sub(r" +", " ", lines[0]) == (
        "| Compute Budget | Optimal N | Optimal D | D/N Ratio "
        "| Predicted Loss, Mean of Runs | Loss, One Run |"
    )
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[2].startswith("| 1e+20")
    assert f"{predictions[0].expected_loss:#.4g} (" in lines[2]
    low, high = predictions[0].intervals["run_loss"] or (0, 0)
    assert f"| {low:#.4g}–{high:#.4g} " in lines[2]
    assert "90 % intervals" in lines[-1]


def test_a_missing_interval_is_called_missing(fit: flops_fit.Fit) -> None:
    bare = replace(fit.predict(1e20), intervals=dict.fromkeys(fit.predict(1e20).intervals))
    told = chinchilla_table([bare])
    assert told.count("(none)") == 4
    assert chinchilla_table([bare], "no").startswith("| Compute Budget (trust: no) |")
    assert "| none " in told


def test_the_answer_in_words_warns_where_the_fit_does(fit: flops_fit.Fit) -> None:
    told = answer_in_words(fit, fit.predict(1e20), fit.diagnostics)
    assert "With 1e+20 FLOPs, train about" in told
    assert "No problems were found with this fit." in told
    warned = answer_in_words(
        fit, fit.predict(1e20), [Diagnostic("x", "warning", "the grid is small", "add runs")]
    )
    assert "• the grid is small → add runs" in warned
    assert "No problems" not in warned


@pytest.mark.parametrize(
    ("spread", "told"), [((1.001e9, 1.004e9), "is 1.00B."), ((1e9, 2e9), "is 1.00B to 2.00B.")]
)
def test_forms_that_agree_to_all_digits_shown_have_one_number(
    fit: flops_fit.Fit, spread: tuple[float, float], told: str
) -> None:
    answer = replace(fit.predict(1e20), form_spread={"optimal_params": spread})
    assert f"N* at this budget {told}" in answer_in_words(fit, answer, ())


def test_figures_are_drawn_without_pyplot(fit: flops_fit.Fit) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figures = [drawn.figure for drawn in draw_figures(ReportData(fit))]
    assert [f.get_label() for f in figures] == [kind.name for kind in OF_A_FIT]
    assert plt.get_fignums() == before


def test_the_curves_are_the_laws_own(fit: flops_fit.Fit) -> None:
    for curve in isoflop_data(fit).curves:
        D = curve.budget / fit.flops(curve.curve_params)
        np.testing.assert_allclose(curve.curve_loss, fit.law.loss(curve.curve_params, D))
        assert curve.best_loss <= curve.curve_loss.min() * (1 + 1e-12)


def test_the_path_holds_its_interval(fit: flops_fit.Fit) -> None:
    for path in optimal_path(fit).values():
        assert np.all((path.low <= path.value) & (path.value <= path.high))


def test_the_page_stands_alone_and_holds_everything(fit: flops_fit.Fit, tmp_path: Path) -> None:
    page = write_report(
        fit, tmp_path / "r.html", diagnostics=[Diagnostic("x", "note", "<b>odd</b>")]
    ).read_text()
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == len(OF_A_FIT)
    assert not re.search(r'(src|href)="https?:', page)
    assert "&lt;b&gt;odd&lt;/b&gt;" in page
    assert f"{fit.law.params['alpha']:.4g}" in page
    assert ">Three approaches</h2>" in page
    assert "<td>3 surface</td>" in page
    assert "<td>headline</td>" in page


def test_flops_that_runs_share_are_counted_once(fit: flops_fit.Fit, tmp_path: Path) -> None:
    """1 and 3 EFLOP, of which the second run had 0.8 from the first."""
    first = Run(make_experiment(), "completed", loss=3.0, flops=1e18)
    second = Run(make_experiment(seed=2), "completed", loss=2.5, flops=3e18, flops_shared=8e17)
    page = write_report(fit, tmp_path / "r.html", runs=[first, second]).read_text()
    assert "3.2e+18 FLOPs in all, each counted once" in page
    assert ">3e+18</td>" in page
    assert ">2.2e+18</td>" in page


def test_left_out_runs_are_listed(tmp_path: Path, fit: flops_fit.Fit) -> None:
    table = RunTable.read(
        [
            *fit.runs.to_dicts(),
            {"params": 1, "tokens": 1, "flops": 6, "loss": math.nan, "label": "odd one"},
        ]
    )
    page = write_report(flops_fit.fit_runs(table), tmp_path / "r.html").read_text()
    assert "odd one: loss is nan" in page


def test_an_unwritable_page_is_told(fit: flops_fit.Fit, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(fit, tmp_path / "missing" / "r.html")


def test_the_page_shows_facts_of_runs_where_there_are_any(
    tmp_path: Path, fit: flops_fit.Fit
) -> None:
    """Epochs, speed and utilisation are columns as soon as one run has them."""
    run = Run(make_experiment(epochs=None), "completed", loss=2.0, tokens=400)
    page = write_report(fit, tmp_path / "a.html", runs=[run]).read_text()
    assert not any(f">{name}</button></th>" in page for name in ("epochs", "units/s", "MFU"))
    known = replace(run, experiment=make_experiment(epochs=2.5), units_per_second=1.2e4, mfu=0.4132)
    page = write_report(fit, tmp_path / "b.html", runs=[run, known]).read_text()
    assert re.search(r">2\.5</td><td[^>]*>12k</td><td[^>]*>41\.3 %</td>", page)
    assert "<td>–</td><td>–</td><td>–</td>" in page

"""Figures of hyper-parameters show what was tried, what it gave and what is used."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from flops_fit.fit import fit_runs
from flops_fit.reference import runs as published_runs
from flops_fit.report import (
    ReportData,
    draw_collapse,
    draw_figures,
    draw_trials,
    trials_data,
    write_report,
)
from flops_fit.tune import collapse
from tests.tune.test_effects import curve
from tests.tune.test_run import BASE, Truth, tune


@pytest.fixture(scope="module")
def tuning():
    return tune(Truth(lambda N, D: BASE * (N / 2500) ** -0.4, batch=30, noise=0.003))


@pytest.fixture(scope="module")
def curves():
    ordinary = [curve(s, 3 - s / 20, power=0.4 + 0.001 * s) for s in range(2, 20, 2)]
    return collapse([*ordinary, curve(40, 2.0, power=0.8)], floor=1.0)


def test_each_cell_shows_its_trials_and_the_rate_that_is_used(tuning):
    data = trials_data(tuning, "lr")
    for shown, cell in zip(data.cells, tuning.cells, strict=True):
        assert shown.value.tolist() == pytest.approx([f * cell.lr for f, _ in cell.lrs])
        assert shown.excess.min() == 0
        assert shown.used == pytest.approx(cell.lr * tuning.factor(cell.params))
        lowest = shown.curve_value[np.argmin(shown.curve_excess)]
        assert lowest == pytest.approx(shown.used, rel=0.05)
    assert len(data.rows()) == sum(len(c.lrs) for c in tuning.cells)


def test_batches_are_in_units_with_their_noise_scales(tuning):
    data = trials_data(tuning, "batch")
    for shown, cell in zip(data.cells, tuning.cells, strict=True):
        assert shown.recipe == cell.batch_units
        assert shown.used == pytest.approx(cell.batch_units * tuning.recipe.batch)
        assert shown.noise_scale == 500.0
    assert {row["noise_scale"] for row in data.rows()} == {500.0}


def test_there_is_no_figure_of_what_was_not_tried(tuning):
    assert trials_data(None, "lr") is None
    assert trials_data(None, "batch") is None
    untried = tune(Truth(lambda N, D: BASE), batch=False)
    assert trials_data(untried, "batch") is None


def test_they_are_drawn_into_axes_of_ones_own(tuning, curves):
    figure = Figure()
    left, middle, right = figure.subplots(1, 3)
    for data, ax in ((trials_data(tuning, "lr"), left), (trials_data(tuning, "batch"), middle)):
        assert draw_trials(data, ax) is figure
    assert draw_collapse(curves, right) is figure
    assert right.get_ylabel() == "(L − E) / (L₁ − E)"
    figure.draw_without_rendering()


def test_a_run_apart_is_named_in_the_figure(curves):
    figure = draw_collapse(curves)
    told = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert f"apart: {curves.odd[0]}" in told


def test_page_and_figures_of_a_sweep_hold_them(tuning, curves, tmp_path):
    fit = fit_runs(published_runs("marin2026_dclm"))
    drawn = draw_figures(ReportData(fit, tuning=tuning, collapse=curves))
    assert [d.kind.name for d in drawn][-3:] == ["rates", "batches", "collapse"]
    text = write_report(fit, tmp_path / "page.html", tuning=tuning, collapse=curves).read_text()
    assert "Where hyper-parameters were tried" in text
    assert "How much the learning rate matters" in text
    assert "Hyper-parameters were tuned (pilot)" in text
    assert "Where hyper-parameters" not in write_report(fit, tmp_path / "b.html").read_text()

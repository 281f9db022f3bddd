"""Figures show their data, fit into any axes, and leave matplotlib as it was."""

from __future__ import annotations

import csv
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import flops_fit
from flops_fit import reference, report
from flops_fit.errors import OutputError
from flops_fit.fit import backtest
from flops_fit.report.isoflop import Isoflop, Residuals
from flops_fit.report.optima import OptimumCurve
from flops_fit.report.style import (
    DARK_PAPER,
    contrast,
    dark_colour,
    exponents,
    inline_svg,
    loss_name,
)
from tests.report._kinds import OF_A_FIT
from tests.report.conftest import law_runs

FITS = ("sound", "few", "lost")


@pytest.fixture(params=FITS)
def fit(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def texts_of(figure: Figure) -> list[Any]:
    """All visible text that is drawn, with where it stands."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    found = []
    for ax in figure.axes:
        legend = ax.get_legend()
        candidates = [*ax.texts, ax.xaxis.label, ax.yaxis.label]
        candidates += [t for axis in (ax.xaxis, ax.yaxis) for t in axis.get_majorticklabels()]
        candidates += legend.get_texts() if legend else []
        found += [(t.get_text(), t.get_window_extent(renderer)) for t in candidates if t.get_text()]
    return found


def test_no_text_touches_another_or_leaves_the_figure(fit: flops_fit.Fit) -> None:
    for drawn in report.draw_figures(report.ReportData(fit)):
        if drawn.kind.name == "surface":
            continue  # labels on contours are turned, their boxes are wider than they
        found = texts_of(drawn.figure)
        width, height = drawn.figure.canvas.get_width_height()
        for i, (text, box) in enumerate(found):
            assert box.x0 >= 0, (drawn.kind.name, text)
            assert box.y0 >= 0, (drawn.kind.name, text)
            assert box.x1 <= width + 1, (drawn.kind.name, text)
            assert box.y1 <= height + 1, (drawn.kind.name, text)
            for other, place in found[:i]:
                assert not box.overlaps(place), (drawn.kind.name, text, other)


@pytest.mark.parametrize("dpi", [100, 300])
def test_keys_stay_in_the_figure_at_any_resolution(fit: flops_fit.Fit, dpi: int) -> None:
    """Texts are up to 7 % wider at some than at others."""
    for drawn in report.draw_figures(report.ReportData(fit)):
        if legend := drawn.figure.axes[0].get_legend():
            drawn.figure.set_dpi(dpi)
            drawn.figure.draw_without_rendering()
            box = legend.get_window_extent()
            assert box.x0 >= 0, drawn.kind.name
            assert box.x1 <= drawn.figure.bbox.x1, drawn.kind.name


def test_every_drawing_takes_axes_and_returns_their_figure(sound: flops_fit.Fit) -> None:
    material = report.ReportData(sound)
    for kind in OF_A_FIT:
        figure = Figure()
        left, right = figure.subplots(1, 2)
        assert kind.draw(kind.data(material), ax=right) is figure
        assert right.has_data()
        assert not left.has_data()
        assert isinstance(kind.draw(kind.data(material)), Figure)


def test_nothing_global_is_changed(sound: flops_fit.Fit, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    report.save_figures(report.draw_figures(report.ReportData(sound)), tmp_path, ("svg",))
    assert dict(matplotlib.rcParams) == before


def test_each_figure_is_saved_with_its_data(sound: flops_fit.Fit, tmp_path: Path) -> None:
    drawn = report.draw_figures(report.ReportData(sound))
    paths = report.save_figures(drawn, tmp_path / "plots", ("png", "pdf"))
    assert {p.name for p in paths} == {
        f"{k.name}.{ending}" for k in OF_A_FIT for ending in ("png", "pdf", "csv")
    }
    with (tmp_path / "plots" / "isoflop.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["kind"] == "run"]
    assert len(rows) == len(sound.runs)
    np.testing.assert_array_equal(sorted(float(r["loss"]) for r in rows), np.sort(sound.runs.loss))


def test_text_stays_text_in_vectors(sound: flops_fit.Fit, tmp_path: Path) -> None:
    drawn = [d for d in report.draw_figures(report.ReportData(sound)) if d.kind.name == "loss"]
    report.save_figures(drawn, tmp_path, ("svg", "pdf"))
    assert "Held-out loss at the optimum</text>" in (tmp_path / "loss.svg").read_text()
    assert b"/Type3" not in (tmp_path / "loss.pdf").read_bytes()


def test_a_folder_that_cannot_be_written_is_told(sound: flops_fit.Fit, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        report.save_figures([], tmp_path / "taken")


def test_units_are_those_of_the_runs() -> None:
    table = replace(flops_fit.RunTable.read(law_runs((1e15, 1e16, 1e17, 1e18))), unit="samples")
    data = report.optimum_data(flops_fit.fit_runs(table), "tokens")
    ax = report.draw_optimum(data).axes[0]
    assert ax.get_ylabel() == "Optimal samples D*"


@pytest.mark.parametrize("name", ["hoffmann2022_epoch", "marin2026_dclm"])
def test_published_runs_are_drawn_without_a_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = report.ReportData(flops_fit.fit_runs(reference.runs(name)))
        figures = [drawn.figure for drawn in data.drawn]
        for figure in figures:
            figure.canvas.draw()
    assert len(figures) == len(OF_A_FIT)


def test_many_budgets_get_a_curve_each_only_as_far_as_they_can_be_told_apart() -> None:
    fit = flops_fit.fit_runs(reference.runs("hoffmann2022_epoch"))
    data = report.isoflop_data(fit)
    ax = report.draw_isoflop(data).axes[0]
    assert len(data.curves) > 50
    assert 5 <= sum(len(line.get_xdata()) > 60 for line in ax.lines) <= 12


def test_budgets_of_one_run_each_get_curves_too(sound: flops_fit.Fit) -> None:
    data = report.isoflop_data(sound)
    one = data.curves[0]
    curves = [
        replace(one, budget=C, params=one.params[:1], loss=np.array([3 + 1e18 / C]))
        for C in np.geomspace(1e18, 1e21, 20)
    ]
    ax = report.draw_isoflop(replace(data, curves=tuple(curves))).axes[0]
    assert len(ax.texts) == 12


def test_the_largest_budget_has_a_curve_however_many_there_are(sound: flops_fit.Fit) -> None:
    data = report.isoflop_data(sound)
    curves = tuple(replace(data.curves[0], budget=C) for C in np.geomspace(1e18, 1e21, 14))
    ax = report.draw_isoflop(replace(data, curves=curves)).axes[0]
    assert "10²¹" in [text.get_text().removeprefix("C = ") for text in ax.texts]


def test_a_curve_does_not_follow_the_law_far_from_its_runs(lost: flops_fit.Fit) -> None:
    data: Isoflop = report.isoflop_data(lost)
    for curve in data.curves:
        assert curve.curve_params[0] > curve.params[0] / 12
        assert curve.curve_params[-1] < curve.params[-1] * 12


def test_the_path_is_dashed_beyond_the_runs(sound: flops_fit.Fit) -> None:
    data: OptimumCurve = report.optimum_data(sound, "params")
    dashed = [line for line in report.draw_optimum(data).axes[0].lines if line.is_dashed()]
    assert len(dashed) == 1
    assert dashed[0].get_xdata()[0] == pytest.approx(sound.largest_compute)


def test_contours_are_round_losses_of_optima_at_even_budgets(sound: flops_fit.Fit) -> None:
    data = report.surface_data(sound)
    C = [sound.law.compute_for(float(level), sound.flops) for level in data.levels]
    np.testing.assert_allclose(np.diff(np.log(C)), np.mean(np.diff(np.log(C))), rtol=0.35)
    assert [float(f"{level:.2f}") for level in data.levels] == data.levels.tolist()


def test_backtests_are_of_the_fit_that_is_shown() -> None:
    rows = flops_fit.reference.runs("llama3_2024")
    asked = {"window": None, "loss_space": "linear", "fixed": {"E": 0.4}, "law": "hoffmann"}
    fit = flops_fit.fit_runs(rows, weights=np.linspace(1, 2, len(rows)), **asked)
    tests = report.ReportData(fit).backtests
    assert tests
    for test in tests:
        assert test.fit.window.factor is None
        assert test.fit.loss_space == "linear"
        assert test.fit.law.params["E"] == 0.4
        assert test.fit.weights.max() > 1.5


def test_backtests_with_intervals_can_be_drawn(sound: flops_fit.Fit) -> None:
    test = backtest(sound.runs, law="hoffmann")
    rows = report.backtest_data(sound, (test,)).rows()
    assert len(rows) == 1
    assert rows[0]["low"] < rows[0]["predicted_loss"] < rows[0]["high"]
    assert report.backtest_data(sound, (test,)) is not None


def test_two_budgets_have_no_backtest(few: flops_fit.Fit) -> None:
    assert report.backtest_data(few) is None
    assert "backtest" not in [drawn.kind.name for drawn in report.ReportData(few).drawn]


def test_the_answer_is_what_approaches_are_divided_by(lost: flops_fit.Fit) -> None:
    data = report.approaches_data(lost)
    assert data.answer == "2 parabolas"
    assert "3 surface" in data.lines
    at = len(data.compute) // 2
    C = float(data.compute[at])
    expected = lost.law.optimal(C, lost.flops).params / lost.predict(C).optimal_params
    assert data.lines["3 surface"][at] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("loss", "Held-out loss"),
        ("val_bpb", "Held-out loss, bits a byte"),
        ("val loss (nats/token)", "Held-out loss, nats"),
        ("train_loss", "Training loss"),
    ],
)
def test_axes_say_the_unit_of_the_loss_that_its_heading_says(heading: str, name: str) -> None:
    rows = [{"N": 1e8, "D": 2e9, heading: 3.0}]
    assert loss_name(flops_fit.RunTable.read(rows)) == name


@pytest.mark.parametrize(
    ("value", "text"), [(1e18, "10¹⁸"), (6e18, "6×10¹⁸"), (1.25e-3, "1.25×10⁻³"), (9.999e9, "10¹⁰")]
)
def test_large_numbers_read_as_written_by_hand(value: float, text: str) -> None:
    assert exponents(value) == text


@pytest.mark.parametrize("code", ["0072b2", "d55e00", "007d5a", "440154", "222222", "767676"])
def test_colours_can_be_read_in_the_dark(code: str) -> None:
    dark = dark_colour(code)
    rgb = tuple(int(dark[i : i + 2], 16) for i in (1, 3, 5))
    assert contrast(rgb) >= 4.5


def test_white_becomes_the_paper_in_the_dark() -> None:
    assert dark_colour("ffffff") == "#" + "".join(f"{c:02x}" for c in DARK_PAPER)


def test_figures_of_one_page_share_no_names(sound: flops_fit.Fit) -> None:
    import re

    svgs = [
        inline_svg(d.figure, d.kind.title, d.kind.caption)
        for d in report.draw_figures(report.ReportData(sound))
    ]
    names = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in svgs]
    assert len(set.union(*names)) == sum(map(len, names))
    for svg, own in zip(svgs, names, strict=True):
        assert set(re.findall(r'href="#([^"]+)"', svg)) <= own


def test_numbers_of_labels_keep_their_digits_in_the_page(sound: flops_fit.Fit) -> None:
    figure = report.draw_isoflop(report.isoflop_data(sound))
    figure.axes[0].set_title("0.00034567")
    assert ">0.00034567</text>" in inline_svg(figure, "", "")


def test_keys_read_from_left_to_right(sound: flops_fit.Fit) -> None:
    legend = report.draw_isoflop(report.isoflop_data(sound)).axes[0].get_legend()
    legend.figure.draw_without_rendering()
    boxes = [(t.get_window_extent(), t.get_text()) for t in legend.get_texts()]
    read = [text for _, text in sorted(boxes, key=lambda b: (-round(b[0].y0, -1), b[0].x0))]
    assert read == legend.axes.get_legend_handles_labels()[1]


def test_many_outliers_leave_the_figure_and_are_counted(sound: flops_fit.Fit) -> None:
    data = report.isoflop_data(sound)
    top = max(curve.loss.max() for curve in data.curves)
    far = replace(data.curves[0], loss=np.append(data.curves[0].loss[:-1], 10 * top))
    flagged = np.full((31, 2), [float(far.params[-1]), 10 * top])
    data = replace(data, curves=(far, *data.curves[1:]), flagged=flagged)
    ax = report.draw_isoflop(data).axes[0]
    assert ax.get_ylim()[1] < 1.2 * top
    assert "outlier, 31 off the figure" in ax.get_legend_handles_labels()[1]


def test_margins_set_once_are_those_of_a_tight_layout(sound: flops_fit.Fit) -> None:
    (once,) = [d for d in report.ReportData(sound).drawn if d.kind.name == "loss"]
    engine = report.draw_optimum(once.data)
    engine.draw_without_rendering()
    for side in ("left", "right", "bottom", "top"):
        expected = getattr(engine.subplotpars, side)
        assert getattr(once.figure.subplotpars, side) == pytest.approx(expected, abs=0.005)


def test_files_and_page_show_figures_that_are_drawn_once(sound: flops_fit.Fit) -> None:
    data = report.ReportData(sound)
    assert [d.kind.name for d in data.drawn] == [k.name for k in OF_A_FIT]
    assert data.drawn is data.drawn


def test_every_curve_is_labelled_with_its_budget(sound: flops_fit.Fit) -> None:
    ax = report.draw_isoflop(report.isoflop_data(sound)).axes[0]
    assert {text.get_text().removeprefix("C = ") for text in ax.texts} == {
        exponents(float(budget)) for budget in np.unique(sound.runs.budget)
    }


def test_thousands_of_runs_are_drawn_thinned_and_kept_in_the_data() -> None:
    rng, count = np.random.default_rng(0), 3000
    x, budget = rng.uniform(0, 2, (2, count)), rng.integers(0, 9, count)
    labels = tuple(map(str, range(count)))
    where = 10 ** budget.astype(float), 10 ** budget.astype(float), 10 ** x[0], 10 ** x[1]
    data = Residuals(labels, *where, rng.standard_normal(count) * 0.1 + 3, in_percent=True)
    assert len(data.rows()) == count
    marks = sum(len(line.get_xdata()) for line in report.draw_residuals(data).axes[0].lines)
    assert 400 < marks < count
    ax = report.draw_residual_map(data).axes[0]
    assert sum(len(c.get_offsets()) for c in ax.collections) <= 24 * 16


def test_budgets_predicted_twice_share_a_tick(sound: flops_fit.Fit) -> None:
    data = report.ReportData(sound)
    ax = report.draw_backtest(report.backtest_data(sound, data.backtests)).axes[0]
    ticks = [tick.get_text() for tick in ax.get_xticklabels()]
    assert ticks == ["3×10¹⁹", "10²⁰"]
    assert all(held.run_interval for test in data.backtests for held in test.held_out)

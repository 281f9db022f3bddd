"""The valley and the rule are shown where they were fitted."""

import re

import numpy as np
import pytest

from flops_fit import fit_runs, reference
from flops_fit.report import FIGURES, ReportData, draw_figures, rule_table
from flops_fit.report.page import rule as section
from flops_fit.report.table import answer_in_words
from tests.cli._calls import called
from tests.fit._valley import sweep

OWN = ("lr_valley", "batch_valley", "lr_rule", "batch_rule")


@pytest.fixture(scope="module")
def fit():
    return fit_runs(sweep())


def test_each_figure_is_drawn_from_its_rows(fit):
    kinds = {kind.name: kind for kind in FIGURES if kind.name in OWN}
    data = {name: kind.data(ReportData(fit)) for name, kind in kinds.items()}
    for name, kind in kinds.items():
        assert kind.draw(data[name]).axes[0].lines
    runs = [r for r in data["lr_valley"].rows() if r["kind"] == "run"]
    curve = [r for r in data["lr_valley"].rows() if r["kind"] == "curve"]
    assert len(runs) == len(fit.runs)
    assert min(r["excess"] for r in curve) == pytest.approx(0, abs=1e-4)
    assert all(r["low"] <= r["excess"] <= r["high"] for r in curve)
    lie = np.interp(
        [r["ratio"] for r in runs], *([r[n] for r in curve] for n in ("ratio", "excess"))
    )
    missed = np.log1p([r["excess"] for r in runs]) - np.log1p(lie)
    np.testing.assert_allclose(missed, fit.residuals, atol=3e-4)
    told = [r for r in data["lr_rule"].rows() if r["kind"] == "fitted"]
    assert told[0]["low"] < told[0]["value"] < told[0]["high"]
    assert told[0]["value"] > told[-1]["value"]
    assert {r["budget"] for r in runs} == set(fit.runs.budget)
    assert {r["kind"] for r in data["batch_rule"].rows()} >= {"fitted", "run", "steplaw2025"}


def test_the_page_has_the_rule_only_where_there_is_one(fit):
    assert "Learning rate" in section(ReportData(fit))
    words = answer_in_words(fit, fit.predict(1e21), ())
    assert re.search(
        r"Train it with a learning rate of \S+ \(.*\) and batches of \S+ \(.*\) tokens\.", words
    )
    plain = ReportData(fit_runs(reference.runs("llama3_2024")))
    assert section(plain) == ""
    assert not {d.kind.name for d in draw_figures(plain)} & set(OWN)


def test_a_varied_weight_decay_has_figures_and_a_column_of_its_own():
    fit = fit_runs(sweep(decay=0.1))
    kinds = {kind.name: kind for kind in FIGURES if kind.name in ("decay_valley", "decay_rule")}
    rows = {name: kind.data(ReportData(fit)).rows() for name, kind in kinds.items()}
    for kind in kinds.values():
        assert "Weight decay" in "".join(
            axis.get_text()
            for ax in kind.draw(kind.data(ReportData(fit))).axes
            for axis in (ax.xaxis.label, ax.yaxis.label)
        )
    runs = [r for r in rows["decay_valley"] if r["kind"] == "run"]
    assert min(r["ratio"] for r in runs) < 0.5 < 2 < max(r["ratio"] for r in runs)
    fitted = [r for r in rows["decay_rule"] if r["kind"] == "fitted"]
    assert all(r["low"] < r["value"] < r["high"] for r in fitted)
    assert "Learning rate, batch and weight decay" in section(ReportData(fit))
    data = ReportData(fit)
    assert "a weight decay of" in answer_in_words(fit, data.answers[-1], data.findings)


def test_the_command_says_the_rule(tmp_path, fit, capsys):
    runs = sweep()
    rows = zip(*[np.char.mod("%.17g", column) for column in runs.values()], strict=True)
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([",".join(runs), *map(",".join, rows)]))
    told = called(capsys, "fit", path, "--predict", "1e21")
    table = rule_table(fit, [fit.predict(1e21)])
    assert table is not None
    assert table.markdown() in told.out
    assert "lr ∝ N^" in told.out

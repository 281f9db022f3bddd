"""A fit on disk is made again from its own runs; a fit prints as a summary that fits a screen."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest

import flops_fit
from flops_fit import fit_runs, load_fit, reference
from flops_fit.errors import InputError, TableError
from flops_fit.fit import ValleyPrior
from flops_fit.fit.solver import finding
from flops_fit.laws import Hoffmann
from flops_fit.records import SIMULATED, as_record


@dataclass(frozen=True)
class Own(Hoffmann):
    name = "own"

    @classmethod
    def starts(cls, N, D, loss):
        return [{"E": 0.5, "A": 200.0, "B": 500.0, "alpha": 0.3, "beta": 0.3}]


@pytest.fixture(scope="module")
def runs():
    return reference.runs("llama3_2024")


def close(one, other):
    """Whether plain values have the same names and words, and numbers to nine digits."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == (pytest.approx(other, rel=1e-9) if isinstance(other, float) else other)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"law": "hoffmann", "delta": np.inf, "window": None},
        {"law": "kappa", "fixed": {"E": 0.5}, "prior": {"alpha": (0.4, 0.1)}},
        {"law": "chinchilla"},
        {"law": "search"},
        {"loss_space": "linear", "flops_per_unit": lambda N: 6.1 * np.asarray(N)},
    ],
    ids=["default", "least squares", "known constants", "other name", "search", "own flops"],
)
def test_a_saved_fit_comes_back_with_every_answer(runs, options, tmp_path):
    fit = fit_runs(runs, **options)
    again = load_fit(fit.save(tmp_path / "fit.json"))
    assert again.params == fit.params
    # A function of one's own is kept as values, so its logarithms round otherwise.
    assert close(again.predict(1e23).to_dict(), fit.predict(1e23).to_dict())
    assert again.diagnostics == fit.diagnostics
    assert again.excluded == fit.excluded
    assert json.loads((tmp_path / "fit.json").read_text())["law"] == fit.law.name


def test_a_fit_of_an_earlier_version_is_read(runs, tmp_path):
    path = fit_runs(runs).save(tmp_path / "fit.json")
    content = json.loads(path.read_text())
    del content["made_of"]["table"]["mup"]
    path.write_text(json.dumps(content))
    assert load_fit(path).runs.mup is False


def test_weights_and_left_out_runs_come_back(runs, tmp_path):
    rows = runs.to_dicts()
    rows[3]["loss"] = float("nan")
    weights = np.linspace(1, 2, len(rows) - 1)
    fit = fit_runs(rows, weights=weights)
    again = load_fit(fit.save(tmp_path / "fit.json"))
    assert again.params == fit.params
    assert again.excluded == fit.excluded


def test_runs_that_diverged_come_back(runs, tmp_path):
    """Of their losses no bound is known, and JSON has no NaN."""
    rows = [{**row, "lr": 1e-3, "batch_tokens": 1e6} for row in runs.to_dicts()]
    lost = {"loss": float("nan"), "state": "diverged"}
    rows = [{**row, "state": "finished"} for row in rows] + [{**rows[-1], **lost, "label": "lost"}]
    fit = fit_runs(rows)
    path = fit.save(tmp_path / "fit.json")
    assert json.loads(path.read_text())["made_of"]["table"]["censored"][0][-1] is None
    again = load_fit(path)
    assert again.params == fit.params
    assert again.excluded == fit.excluded
    np.testing.assert_array_equal(again.runs.censored, fit.runs.censored)


def test_a_law_of_ones_own_has_to_be_given(runs, tmp_path):
    fit = fit_runs(runs, Own)
    path = fit.save(tmp_path / "fit.json")
    with pytest.raises(InputError, match="expected law= with the class 'own'"):
        load_fit(path)
    assert load_fit(path, Own).params == fit.params


def test_what_cannot_be_loaded_is_said(runs, tmp_path):
    path = tmp_path / "fit.json"
    for text in ("", "{}", "[1]", '{"made_of": {}}'):
        path.write_text(text)
        with pytest.raises(TableError, match=r"expected a fit that Fit.save\(\) or a sweep wrote"):
            load_fit(path)
    rows = [{**row, "corpus": "ab"[i % 2]} for i, row in enumerate(runs.to_dicts())]
    one = fit_runs(rows, group="corpus")["a"]
    with pytest.raises(TableError, match="it has no runs of its own"):
        load_fit(one.save(path))


def test_other_constants_than_were_saved_are_said(runs, tmp_path):
    path = fit_runs(runs).save(tmp_path / "fit.json")
    content = json.loads(path.read_text())
    content["params"]["E"] *= 1.01
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="fits other constants to these runs"):
        load_fit(path)


def test_a_fit_prints_as_a_summary(runs):
    fit = fit_runs(runs)
    text = str(fit)
    assert text == fit.summary()
    lines = text.splitlines()
    assert len(lines) < 20
    for word in ("Law:", "Runs:", "R² = 0.99", f"Trust: {fit.trust}", "90 % interval", *fit.params):
        assert word in text
    low, high = fit.estimate(lambda law: law.exponent).interval
    assert f"{low:#.4g} to {high:#.4g}" in next(line for line in lines if line.startswith("a "))
    assert "50 % interval" in fit.summary(0.5)
    digits = r"\d\.\d+e[+-]\d\d|[\d.]+"  # of a standard deviation: two, with their zeros
    told = [re.split(r"  +", line)[2] for line in lines if line.startswith(tuple(fit.params))]
    assert all(re.fullmatch(digits, sd) for sd in told)
    assert all(len(sd.strip("0.").replace(".", "")) <= 2 for sd in told if "e" not in sd)
    assert len(repr(fit)) < 80
    assert len(repr(fit.runs)) < 80
    assert fit.params == fit.law.params


def test_a_fit_draws_its_figures_and_its_page(runs, tmp_path):
    fit = fit_runs(runs)
    assert fit.plot().axes
    assert fit.plot("residuals").axes
    with pytest.raises(InputError, match="expected a figure among"):
        fit.plot("pie")
    with pytest.raises(InputError, match="expected a fit with the data of the figure 'rates'"):
        fit.plot("rates")
    assert "<title>" in fit.report(tmp_path / "page.html").read_text()


def test_several_budgets_are_answered_at_once(runs):
    fit = fit_runs(runs)
    answers = fit.predict([1e21, 1e22])
    assert list(answers) == [fit.predict(1e21), fit.predict(1e22)]
    frame = answers.to_pandas()
    assert frame["optimal_params"].tolist() == [p.optimal_params for p in answers]
    assert frame["run_loss_high"].tolist() == [p.intervals["run_loss"][1] for p in answers]
    assert answers.to_polars().columns == frame.columns.tolist()
    assert "1e+22" in str(answers)
    assert fit.runs.to_pandas()["loss"].tolist() == fit.runs.loss.tolist()
    short = str(answers[0])
    assert "1e+21" in short
    assert len(short.splitlines()) < 9
    with pytest.raises(InputError, match="expected a compute budget"):
        fit.predict([1e21, -1])
    assert flops_fit.load_fit is load_fit


def test_a_summary_of_simulated_runs_says_so_and_names_what_is_wrong(runs):
    fit = fit_runs(runs)
    poor = finding("poor_fit", name="first")
    text = replace(fit, diagnostics=(SIMULATED, poor)).summary()
    assert f"Trust: none: {SIMULATED.message}" in text
    assert text.splitlines()[-1].startswith("• ")
    assert "more in fit.diagnostics" not in text
    assert "• 2 more in fit.diagnostics" in replace(fit, diagnostics=(poor,) * 6).summary()


def test_options_without_plain_values_are_not_saved(runs, tmp_path):
    made_of = fit_runs(runs, "hoffmann", window=None)._question
    prior = ValleyPrior()
    saved = replace(made_of, options={**made_of.options, "hparams": prior}).to_dict()
    assert as_record(json.loads(json.dumps(saved))["options"]["hparams"], ValleyPrior, "") == prior
    with pytest.raises(InputError, match="expected a fit without curves= to save"):
        replace(made_of, options={**made_of.options, "curves": object()}).to_dict()


def test_a_prior_of_ones_own_comes_back(runs, tmp_path):
    """It decides nothing where no rate was varied, and is kept."""
    fit = fit_runs(runs, "hoffmann", window=None, hparams=replace(ValleyPrior(), form=0.2))
    again = load_fit(fit.save(tmp_path / "fit.json"))
    assert again.params == fit.params
    assert again._question.options["hparams"] == replace(ValleyPrior(), form=0.2)


def test_a_function_of_flops_is_kept_beyond_the_runs(tmp_path):
    """A saved fit answers far off as it did, also where F(N) is a function of the user's."""
    fit = fit_runs(reference.runs("llama3_2024"), flops_per_unit=lambda N: 6 * N + 2e4 * np.sqrt(N))
    again = load_fit(fit.save(tmp_path / "fit.json"))
    for C in (1e21, 1e24):
        assert again.predict(C).optimal_tokens == pytest.approx(
            fit.predict(C).optimal_tokens, rel=2e-3
        )

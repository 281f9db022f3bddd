"""fit_runs and Fit: choices, windows, intervals, predictions, refusals and findings."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from flops_fit.errors import FitError, InputError, InputTypeError, TableError
from flops_fit.fit import Fit, fit_runs
from flops_fit.fit.power import flops_of
from flops_fit.flops import LinearFlops, SmoothFlops
from flops_fit.laws import Hoffmann, Kappa, Law
from flops_fit.table import RunTable
from tests.fit._runs import chinchilla, llama, sweep

ADDITIVE = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)
JOINED = Kappa(E=1.7, A=9e4, B=2e6, alpha=0.7, beta=0.8, kappa=0.5)
SYMMETRIC = Hoffmann(E=1.7, A=400.0, B=400.0, alpha=0.34, beta=0.34)
FOUR = ("optimal_params", "optimal_tokens", "expected_loss", "tokens_per_param")


def codes(fit: Fit, severity: str | None = None) -> set[str]:
    return {d.code for d in fit.diagnostics if severity in (None, d.severity)}


# --- the law and the runs it is fitted to


def test_auto_keeps_the_additive_law_where_it_holds():
    """With κ = 1 in truth the additive law is chosen, the reason given, the other form kept."""
    fit = fit_runs(sweep(ADDITIVE, sd=0.005, seed=2))
    assert fit.law.name == "hoffmann"
    assert "do not support" in fit.choice.reason
    assert [a.law.name for a in fit.alternatives] == ["kappa"]
    assert "law_choice" in codes(fit, "ok")


def test_a_law_can_be_asked_for_by_name_or_class():
    """Name and class give the same fit; a subclass with starts is fitted from them."""
    runs = sweep(ADDITIVE, sd=0.003)
    assert fit_runs(runs, Hoffmann).law == fit_runs(runs, "hoffmann").law

    @dataclass(frozen=True)
    class Mine(Law):
        E: float
        A: float
        B: float
        alpha: float
        beta: float
        name: ClassVar[str] = "mine"

        def loss(self, N: Any, D: Any) -> Any:
            return (
                self.E
                + self.A * np.asarray(N) ** -self.alpha
                + self.B * np.asarray(D) ** -self.beta
            )

        @classmethod
        def starts(cls, N: Any, D: Any, loss: Any) -> list[dict[str, float]]:
            return [{"E": 1.5, "A": 300.0, "B": 800.0, "alpha": 0.3, "beta": 0.35}]

    mine, known = fit_runs(runs, Mine, window=None), fit_runs(runs, "hoffmann", window=None)
    assert mine.objective == pytest.approx(known.objective, rel=1e-3)
    ours, theirs = mine.predict(1e22), known.predict(1e22)
    assert ours.optimal_params == pytest.approx(theirs.optimal_params, rel=2e-2)
    assert ours.intervals["optimal_params"] == pytest.approx(
        theirs.intervals["optimal_params"], rel=5e-2
    )
    assert mine.bootstrap(3).shape == (3, 5)


def test_the_window_leaves_far_arms_out_and_says_so():
    """Arms that follow no law (too few steps, say) do not move a windowed fit."""
    runs = sweep(ADDITIVE, sizes=11, reach=30.0, sd=0.002, centre=1.0, seed=1)
    best = ADDITIVE.optimal(runs["flops"]).params
    far = np.abs(np.log(runs["params"] / best)) > np.log(12)
    runs["loss"] = runs["loss"] * np.where(far, 1.15, 1.0)
    windowed, everything = fit_runs(runs, "hoffmann"), fit_runs(runs, "hoffmann", window=None)
    assert windowed.window.used
    assert not everything.window.used
    assert len(windowed.runs) < len(everything.runs) == 55
    assert any("of the fitted optimum" in e.reason for e in windowed.excluded)
    assert windowed.window.params_without == pytest.approx(
        everything.law.optimal(1e20).params, rel=1e-6
    )
    truth = ADDITIVE.optimal(1e22).params
    errors = [abs(np.log(f.predict(1e22).optimal_params / truth)) for f in (windowed, everything)]
    assert errors[0] < 0.15
    assert "window" in codes(windowed)


def test_a_window_that_leaves_too_little_is_not_used():
    """Three sizes over a factor of 400: all runs are fitted, and the reason is told."""
    fit = fit_runs(sweep(ADDITIVE, sizes=3, reach=20.0, sd=0.002), "hoffmann")
    assert not fit.window.used
    assert len(fit.runs) == 15
    assert "would leave" in fit.window.reason


def test_non_embedding_parameters_on_request():
    """n= picks the count of parameters; a table without it is refused."""
    runs = sweep(ADDITIVE)
    runs["non_embedding"] = 0.8 * runs["params"]
    fit = fit_runs(runs, n="non_embedding", window=None)
    np.testing.assert_allclose(fit.runs.params, 0.8 * runs["params"])
    with pytest.raises(TableError, match="non_embedding"):
        fit_runs(sweep(ADDITIVE), n="non_embedding")


# --- F(N)


def test_flops_come_from_the_table():
    """C/(N·D) constant is a factor; C that carries attention tends to one."""
    runs = sweep(ADDITIVE)
    linear = fit_runs(runs).flops
    assert isinstance(linear, LinearFlops)
    assert linear.k == pytest.approx(6.0)
    runs["flops"] = runs["tokens"] * (6 * runs["params"] + 3e4 * runs["params"] ** 0.5)
    smooth = fit_runs(runs).flops
    assert isinstance(smooth, SmoothFlops)
    assert smooth.k == pytest.approx(6.0, rel=1e-3)
    assert smooth.misfit < 1e-3


@pytest.mark.parametrize(
    "ratio",
    [lambda x: 6 + 30 / x**0.5, lambda x: 6 / x**1.8, lambda x: 6 - 5.2 / x**0.3, lambda x: x**0.4],
    ids=["attention", "steeper than any", "rising to a limit", "rising"],
)
def test_flops_stay_positive_from_a_tenth_of_the_smallest_size_to_any(ratio):
    """F(N) is asked for beyond the runs; where no smooth form is positive, their median is k."""
    runs = sweep(ADDITIVE)
    x = runs["params"] / np.min(runs["params"])
    runs["flops"] = runs["params"] * runs["tokens"] * ratio(x)
    found = flops_of(RunTable.read(runs), None)
    N = np.geomspace(0.1 * np.min(runs["params"]), 1e9 * np.max(runs["params"]), 200)
    assert np.all(found(N) > 0)
    if isinstance(found, LinearFlops):
        assert found.k == pytest.approx(np.median(ratio(x)))


def test_one_size_tells_nothing_of_how_flops_grow_with_size():
    """Contexts of several lengths make C/(N·D) vary all the same."""
    ratio = np.linspace(6, 8, 9)
    rows = {
        "params": np.full(9, 1e8),
        "tokens": np.geomspace(1e9, 1e10, 9),
        "loss": np.full(9, 3.0),
    }
    table = RunTable.read({**rows, "flops": 1e8 * rows["tokens"] * ratio})
    assert flops_of(table, None) == LinearFlops(7.0)


@pytest.mark.parametrize("given", [None, 6.0, 7, lambda N: 6 * N + 2e9, LinearFlops(5.0)])
def test_predictions_spend_their_compute(given):
    """C = F(N*)·D* whatever F is."""
    fit = fit_runs(sweep(JOINED, sd=0.003), flops_per_unit=given)
    for C in (1e18, 1e20, 1e22):
        p = fit.predict(C)
        assert float(fit.flops(p.optimal_params)) * p.optimal_tokens == pytest.approx(C, rel=1e-9)
        assert p.tokens_per_param == pytest.approx(p.optimal_tokens / p.optimal_params, rel=1e-9)


# --- predictions


def test_a_prediction_is_a_mapping_of_its_attributes():
    """dict(p), p["..."] and p.… agree, and all of it is JSON."""
    p = fit_runs(sweep(JOINED, sd=0.005)).predict(1e21)
    assert dict(p)["optimal_params"] == p["optimal_params"] == p.optimal_params
    assert set(p.intervals) == {*FOUR, "run_loss"}
    assert set(p.form_spread) == set(FOUR)
    for name in FOUR:
        low, high = p.intervals[name]
        assert low < p[name] < high
        assert p.form_spread[name][0] <= p[name] <= p.form_spread[name][1]
    assert json.loads(json.dumps(p.to_dict(), allow_nan=False))["level"] == 0.9
    with pytest.raises(KeyError):
        p["params"]


def test_intervals_widen_with_level_and_distance():
    """99 % is wider than 90 %, and 100× further is wider than here."""
    fit = fit_runs(sweep(ADDITIVE, sd=0.005))

    def width(C: float, level: float) -> float:
        low, high = fit.predict(C, level).intervals["optimal_params"]
        return float(np.log(high / low))

    assert width(1e20, 0.9) < width(1e20, 0.99)
    assert width(1e20, 0.9) < width(1e22, 0.9)


@pytest.mark.parametrize("delta", ["mad", 1e-4])
def test_a_path_says_what_predictions_say_one_by_one(delta):
    """Values and intervals along compute are those of predict, but for rounding."""
    fit = fit_runs(sweep(ADDITIVE, sd=0.005), delta=delta)
    compute = np.geomspace(1e18, 1e21, 4)
    for c, at in zip(compute, np.moveaxis(fit.predict_path(compute), 2, 0), strict=True):
        p = fit.predict(float(c))
        losses = [p.expected_loss, *p.intervals["run_loss"]]
        expected = [*([p[q], *p.intervals[q]] for q in FOUR), losses]
        np.testing.assert_allclose(at, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("times", "severity"), [(1, None), (5, "note"), (50, "warning"), (500, "critical")]
)
def test_extrapolation_is_qualified(times, severity):
    """A note beyond the runs' compute, a warning beyond 10×, critical beyond 100×, both ways."""
    fit = fit_runs(sweep(ADDITIVE, sd=0.003))
    assert fit.predict(1e20 * times).extrapolation == pytest.approx(times)
    for target in (1e20 * times, 1e18 / times):
        notes = fit.predict(target).diagnostics
        found = [d.severity for d in notes if d.code == "extrapolation"]
        assert found == ([severity] if severity else [])


@pytest.mark.parametrize("name", ["N", "D"])
@pytest.mark.parametrize("side", ["above", "below"])
def test_a_size_or_length_beyond_the_runs_is_named(name, side):
    """At a compute inside the sweep, N and D of a question may still lie far outside."""
    fit = fit_runs(sweep(ADDITIVE, sd=0.003))
    runs = fit.runs
    own = runs.params if name == "N" else runs.tokens
    value = 30 * np.max(own) if side == "above" else np.min(own) / 30
    other = 1e19 / (6 * value)
    notes = fit.loss_at(*((value, other) if name == "N" else (other, value))).diagnostics
    (found,) = [d for d in notes if d.code == "extrapolation"]
    assert found.severity == "critical"
    assert f"{name}" in found.message
    assert ("below the smallest" if side == "below" else "the largest") in found.message


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize("law", [ADDITIVE, JOINED])
def test_intervals_grow_with_distance_both_ways(law, upwards):
    """Half-widths of N* and of the loss over three decades of compute beyond the runs."""
    fit = fit_runs(sweep(law, sd=0.005))
    ends = 1e20 * np.geomspace(1, 1e3, 7) if upwards else 1e18 / np.geomspace(1, 1e3, 7)
    path = np.log(fit.predict_path(np.sort(ends)))
    half = (path[:, 2] - path[:, 1])[[0, 2]]
    steps = np.diff(half if upwards else half[:, ::-1], axis=1)
    assert np.all(steps > 0)


@pytest.mark.parametrize("factor", [10.0, 0.1])
@pytest.mark.parametrize("name", ["N", "D"])
def test_the_interval_of_a_loss_grows_with_distance_in_each_direction(name, factor):
    """More or fewer parameters alone, more or less data alone, over three decades."""
    fit = fit_runs(sweep(JOINED, sd=0.005))
    edge = np.max if factor > 1 else np.min
    middle = {"N": float(np.median(fit.runs.params)), "D": float(np.median(fit.runs.tokens))}
    start = {"N": float(edge(fit.runs.params)), "D": float(edge(fit.runs.tokens))}[name]
    half = []
    for decade in range(4):
        at = {**middle, name: start * factor**decade}
        low, high = fit.loss_at(at["N"], at["D"]).interval
        half.append(np.log(high / low))
    assert np.all(np.diff(half) > 0)


@pytest.mark.parametrize("C", [0, -1e20, float("nan"), float("inf"), "1e20", True, None])
def test_targets_that_cannot_be_meant(C):
    """One positive finite number is expected."""
    with pytest.raises(InputError, match="compute budget"):
        fit_runs(sweep(ADDITIVE)).predict(C)


@pytest.mark.parametrize("level", [0, 1, 90])
def test_levels_lie_between_zero_and_one(level):
    """90 is not 0.9."""
    with pytest.raises(InputError, match="level"):
        fit_runs(sweep(ADDITIVE)).predict(1e21, level)


def test_no_interval_where_a_term_vanishes():
    """Losses that do not depend on data: no interval, and critical."""
    runs = sweep(ADDITIVE)
    runs["loss"] = 1.5 + 400 / runs["params"] ** 0.34
    fit = fit_runs(runs)
    assert fit.trust == "no"
    assert all(v is None for v in fit.predict(1e21).intervals.values())
    assert fit.predict(1e21).interval_method == "none"


# --- findings


def test_good_runs_raise_no_alarm():
    """Five budgets, seven sizes, little noise: nothing beyond notes."""
    fit = fit_runs(sweep(ADDITIVE, sd=0.003))
    assert fit.trust == "ok"
    assert not [d for d in fit.diagnostics if d.severity in ("warning", "critical")]


def test_two_budgets_complete_with_a_warning():
    """Two budgets of seven sizes are fitted, and called too few."""
    fit = fit_runs(sweep(ADDITIVE, budgets=(1e18, 1e19), sd=0.003))
    assert "few_budgets" in codes(fit, "critical")
    assert fit.trust == "no"
    assert "2 budgets" in next(d.message for d in fit.diagnostics if d.code == "few_budgets")
    assert fit.predict(1e20).optimal_params > 0


def test_few_sizes_are_noticed():
    """Four sizes a budget do not bracket the optimum reliably."""
    assert "few_sizes" in codes(fit_runs(sweep(ADDITIVE, sizes=4, sd=0.002)), "warning")


def test_one_outlier_is_named_and_hardly_moves_the_fit():
    """A run 20 % too high is flagged by its label, and N* moves by less than 2 %."""
    runs: dict[str, Any] = sweep(ADDITIVE, sd=0.003)
    clean = fit_runs(runs)
    runs["loss"] = runs["loss"].copy()
    runs["loss"][17] *= 1.2
    runs["label"] = [f"job {i}" for i in range(35)]
    fit = fit_runs(runs)
    assert [o.label for o in fit.outliers] == ["job 17"]
    assert fit.outliers[0].standardized > 20
    assert "job 17" in next(d.message for d in fit.diagnostics if d.code == "outliers")
    assert fit.predict(1e20).optimal_params == pytest.approx(
        clean.predict(1e20).optimal_params, rel=0.02
    )


def test_runs_on_one_side_of_the_optimum_are_noticed():
    """Two sizes a budget make no parabola; with one on either side there is nothing to say."""
    for sizes, said in (([4, 5], True), ([1, 5], False)):
        runs = sweep(ADDITIVE, sizes=7, reach=4.0, sd=0.001)
        picked = np.isin(np.arange(len(runs["loss"])) % 7, sizes)
        fit = fit_runs({name: column[picked] for name, column in runs.items()})
        assert ("one_sided" in codes(fit, "warning")) == said


def test_weak_curvature_is_noticed():
    """Sizes within 1.4× of the optimum under 1 % noise show no bowl."""
    assert "weak_curvature" in codes(fit_runs(sweep(ADDITIVE, reach=1.4, sd=0.01)), "warning")


@pytest.mark.parametrize(("epochs", "severity"), [(2, "note"), (8, "warning"), (40, "critical")])
def test_repeated_data_is_noticed(epochs, severity):
    """Repeats are counted as new data by these laws: from four epochs on that is said louder."""
    runs = sweep(ADDITIVE, sd=0.003)
    runs["unique_tokens"] = runs["tokens"] / epochs
    assert "repeated_data" in codes(fit_runs(runs), severity)


def test_excluded_runs_are_listed():
    """A diverged run is left out with its reason, in the fit and in its findings."""
    runs = sweep(ADDITIVE, sd=0.003)
    runs["loss"][3] = np.nan
    fit = fit_runs(runs)
    assert [e.label for e in fit.excluded if "loss" in e.reason] == ["run 4"]
    assert "excluded" in codes(fit)


def test_unidentified_constants_are_called_that():
    """Over one decade of compute with 2 % noise E and κ mean nothing."""
    runs = sweep(JOINED, budgets=np.geomspace(1e18, 1e19, 4), sizes=9, sd=0.02)
    assert codes(fit_runs(runs, "kappa")) & {"E_unidentified", "kappa_unidentified"}


def test_a_fit_is_json():
    """to_dict holds nothing that JSON cannot."""
    fit = fit_runs(sweep(JOINED, sd=0.005), delta=np.inf)
    data = json.loads(json.dumps(fit.to_dict(), allow_nan=False))
    assert data["law"] == "kappa"
    assert data["params"] == fit.law.params
    assert len(data["runs"]) == len(fit.runs)
    assert data["delta"] == "inf"


def test_runs_that_share_noise_count_once():
    """Each run entered twice as one cluster: the interval of the single runs, not a narrower one."""
    runs: dict[str, Any] = sweep(ADDITIVE, sd=0.005)
    twice: dict[str, Any] = {name: np.repeat(column, 2) for name, column in runs.items()}
    twice["loss"] = twice["loss"] * np.tile([1, 1 + 1e-9], 35)  # equal rows would count once
    clustered = {**twice, "cluster": [f"seed {i // 2}" for i in range(70)]}

    def width(table: dict[str, Any]) -> float:
        fit = fit_runs(table, "hoffmann", delta=np.inf, window=None)
        low, high = fit.predict(1e21).intervals["optimal_params"]
        return float(np.log(high / low))

    assert width(clustered) == pytest.approx(width(runs), rel=0.5)


def test_a_fit_survives_pickling():
    """A fit made in another process predicts the same."""
    fit = fit_runs(sweep(JOINED, sd=0.005))
    assert pickle.loads(pickle.dumps(fit)).predict(1e21) == fit.predict(1e21)


def test_importing_the_fit_leaves_scipy_alone():
    """scipy comes at first use: importing it would double the import time."""
    code = "import sys, flops_fit.fit; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- refusals


def test_too_few_runs_say_how_many_to_add():
    """Three points determine no law of five parameters."""
    runs = {name: column[:3] for name, column in sweep(ADDITIVE).items()}
    with pytest.raises(FitError, match="Add 3 or more runs"):
        fit_runs(runs)


def test_identical_rows_are_one_run():
    """A row repeated ten times is one point."""
    with pytest.raises(FitError, match="1 different"):
        fit_runs([{"params": 1e8, "tokens": 2e9, "loss": 3.0}] * 10)


def test_one_budget_cannot_tell_n_from_d():
    """Nine sizes at one budget."""
    with pytest.raises(FitError, match="other budgets"):
        fit_runs(sweep(ADDITIVE, budgets=(1e19,), sizes=9))


def test_one_size_cannot_show_what_size_does():
    """Ten lengths of training of one model."""
    D = np.geomspace(1e9, 1e11, 10)
    with pytest.raises(FitError, match="other sizes"):
        fit_runs({"params": np.full(10, 1e8), "tokens": D, "loss": ADDITIVE.loss(1e8, D)})


def test_tokens_tied_to_size_are_refused():
    """Twenty tokens per parameter throughout."""
    N = np.geomspace(1e7, 1e10, 12)
    with pytest.raises(FitError, match="vary independently"):
        fit_runs({"params": N, "tokens": 20 * N, "loss": ADDITIVE.loss(N, 20 * N)})


def test_equal_losses_are_refused():
    """Nothing to fit."""
    runs = sweep(ADDITIVE)
    runs["loss"] = np.full(35, 2.5)
    with pytest.raises(FitError, match="losses that differ"):
        fit_runs(runs)


def test_nothing_usable_is_a_table_error():
    """All losses missing."""
    runs = sweep(ADDITIVE)
    runs["loss"] = np.full(35, np.nan)
    with pytest.raises(TableError, match="none is left"):
        fit_runs(runs)


@pytest.mark.parametrize("seed", range(6))
def test_garbage_is_never_trusted(seed):
    """Random losses, losses that rise with everything: an answer with "no" or a caution, no crash."""
    rng = np.random.default_rng(seed)
    runs = sweep(ADDITIVE)
    rising = 1 + 1e-3 * np.log(runs["params"]) + 0.1 * np.log(runs["tokens"])
    runs["loss"] = rising if seed == 0 else rng.uniform(1, 5, 35)
    fit = fit_runs(runs)
    assert fit.trust == ("no" if seed == 0 else fit.trust)
    assert fit.trust != "ok"
    json.dumps({**fit.to_dict(), **fit.predict(1e21).to_dict()}, allow_nan=False)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"law": "hofman"}, InputError, "'hoffmann'"),
        ({"law": 3}, InputTypeError, "Law class"),
        ({"delta": 0}, InputError, "'mad'"),
        ({"delta": "huber"}, InputError, "'mad'"),
        ({"loss_space": "sqrt"}, InputError, "'linear'"),
        ({"window": 0.5}, InputError, "factor above 1"),
        ({"n": "all"}, InputError, "'non_embedding'"),
        ({"flops_per_unit": -6}, InputError, "positive number"),
    ],
)
def test_wrong_options_name_the_right_ones(options, error, match):
    """Each refusal lists what would do."""
    with pytest.raises(error, match=match):
        fit_runs(sweep(ADDITIVE), **options)


@pytest.mark.parametrize("table", [llama, chinchilla], ids=["llama", "chinchilla"])
def test_published_runs_are_fitted_by_default(table):
    """The defaults on real runs: an interval for all four, and no critical finding."""
    fit = fit_runs(table())
    assert fit.trust != "no"
    assert all(v is not None for v in fit.predict(3e23).intervals.values())

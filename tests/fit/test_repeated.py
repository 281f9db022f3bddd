"""The law of repeated data, fitted: recovery, what is left out, what is not determined."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

import flops_fit
from flops_fit import reference
from flops_fit.errors import InputError, TableError
from flops_fit.fit import Fit, backtest, fit_runs
from flops_fit.fit.repeated import run_noise, where_repetition_helps
from flops_fit.fit.solver import huber
from flops_fit.laws import Hoffmann, Law, Muennighoff
from flops_fit.table import RunTable
from tests.fit._runs import sweep

PUBLISHED = reference.law("muennighoff2023")
ADDITIVE = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)


def codes(fit: Fit, severity: str | None = None) -> set[str]:
    return {d.code for d in fit.diagnostics if severity in (None, d.severity)}


def message(fit: Fit, code: str) -> str:
    return next(str(d) for d in fit.diagnostics if d.code == code)


def grid(law: Muennighoff, sd: float = 0.0, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Six sizes on three supplies for 1 to 60 epochs."""
    N, U, epochs = (
        a.ravel()
        for a in np.meshgrid(
            np.geomspace(2e7, 2e9, 6), [1e9, 5e9, 2e10], [1.0, 2.0, 4.0, 8.0, 20.0, 60.0]
        )
    )
    noise = np.exp(sd * np.random.default_rng(seed).normal(size=len(N)))
    loss = law.loss(N, epochs * U, U) * noise
    return {"params": N, "tokens": epochs * U, "unique_tokens": U, "loss": loss, **changes}


@pytest.fixture(scope="module")
def c4() -> Fit:
    return fit_runs(reference.runs("muennighoff2023_c4"), "muennighoff")


# --- recovery


def test_seven_constants_return_from_exact_losses():
    """The published law at its own 295 runs, without noise: 1e-6 for each of the seven."""
    runs = reference.runs("muennighoff2023_c4")
    exact = PUBLISHED.loss(runs.params, runs.tokens, runs.unique_tokens)
    fit = fit_runs(replace(runs, loss=exact), "muennighoff")
    assert not codes(fit) & {"repetition_hurts"}
    for name, value in PUBLISHED.params.items():
        assert fit.law.params[name] == pytest.approx(value, rel=1e-6)


def test_noise_leaves_the_truth_inside_the_intervals():
    """With half a per cent of noise R*_D and R*_N keep their order, predictions their intervals."""
    fit = fit_runs(grid(PUBLISHED, 0.005), "muennighoff")
    assert fit.law.params["R_D"] == pytest.approx(PUBLISHED.R_D, rel=0.15)
    assert fit.law.params["R_N"] == pytest.approx(PUBLISHED.R_N, rel=0.4)
    assert {"R_D_identified", "R_N_identified"} <= codes(fit, "ok")
    low, high = fit.predict(1e22, 0.99).intervals["expected_loss"]
    assert low < PUBLISHED.optimal(1e22).loss < high


def test_units_change_nothing():
    """In thousands of parameters and billions of tokens R*_D and R*_N stay as they are."""
    runs = grid(PUBLISHED, 0.005)
    there = {
        "params": runs["params"] / 1e3,
        "tokens": runs["tokens"] / 1e9,
        "unique_tokens": runs["unique_tokens"] / 1e9,
        "loss": runs["loss"] * 1e3,
    }
    here, scaled = (fit_runs(r, "muennighoff").law for r in (runs, there))
    assert scaled.params["R_D"] == pytest.approx(here.R_D, rel=1e-3)
    assert scaled.params["R_N"] == pytest.approx(here.R_N, rel=1e-3)


# --- what is not determined


def test_runs_without_repeats_determine_no_repetition():
    """One epoch each and sizes at most N*(U): both constants are held at ∞, and it is said."""
    runs = sweep(ADDITIVE, reach=4.0, centre=0.2, sd=0.002)
    fit = fit_runs({**runs, "unique_tokens": runs["tokens"]}, "muennighoff")
    assert fit.law.params["R_D"] == np.inf
    assert "held at ∞" in message(fit, "R_D_unidentified")
    assert fit.predict(1e21).intervals["optimal_params"] is not None


def test_small_models_do_not_determine_what_large_ones_waste():
    """Sizes below N*(U): R*_N is held at ∞, R*_D is found all the same."""
    law = replace(PUBLISHED, R_N=5.0)
    runs = grid(law)
    runs["params"] = (
        0.3
        * law.size_for(runs["unique_tokens"])
        * np.tile(np.geomspace(0.03, 1, 6), len(runs["loss"]) // 6)
    )
    runs["loss"] = law.loss(runs["params"], runs["tokens"], runs["unique_tokens"])
    fit = fit_runs(runs, "muennighoff")
    assert fit.law.params["R_N"] == np.inf
    assert fit.law.params["R_D"] == pytest.approx(law.R_D, rel=1e-5)
    assert "R_N_unidentified" in codes(fit, "note")
    scarce = fit.predict(1e22, unique_tokens=1e9)
    assert "scarcity_unknown" in {d.code for d in scarce.diagnostics}


def test_repeats_as_good_as_new_bound_the_constant():
    """Up to 8 epochs worth as much as fresh data: R*_D is held at ∞ and said to be large."""
    runs = grid(replace(PUBLISHED, R_D=np.inf), 0.002)
    keep = runs["tokens"] < 9 * runs["unique_tokens"]
    fit = fit_runs({name: column[keep] for name, column in runs.items()}, "muennighoff")
    found = message(fit, "R_D_unidentified")
    assert float(found.split("above ")[1].split(" at 95")[0]) > 50


# --- where repetition hurts


def test_runs_after_the_lowest_loss_are_left_out():
    """Over-fitted runs of one (N, U) are listed with their reason; the constants return."""
    runs = grid(PUBLISHED, label=[f"job {i}" for i in range(108)])
    spoilt = (runs["params"] > 1e9) & (runs["unique_tokens"] < 2e9) & (runs["tokens"] > 5e9)
    runs["loss"] = runs["loss"] * np.where(spoilt, 1 + 0.02 * runs["tokens"] / 1e9, 1.0)
    fit = fit_runs(runs, "muennighoff")
    names = {f"job {i}" for i in np.flatnonzero(spoilt)}
    assert {e.label for e in fit.excluded} == names
    assert all("above that of fewer repeats" in e.reason for e in fit.excluded)
    text = message(fit, "repetition_hurts")
    assert text.startswith(f"[warning] {len(names)} runs")
    assert "N = 2B on U = 1B after 4 epochs" in text
    assert fit.trust == "caution"
    assert fit.law.params["R_D"] == pytest.approx(PUBLISHED.R_D, rel=1e-5)


def test_rises_within_the_noise_stay():
    """Seeds of the same run scatter by 1 %: a rise of 1 % leaves nothing out, one of 5 % does."""
    rng = np.random.default_rng(0)
    rows = [
        {"params": 1e8 * n, "tokens": u * e, "unique_tokens": u, "loss": 3 * np.exp(0.01 * z)}
        for n in (1, 2)
        for u in (1e9, 2e9)
        for e in (1.0, 2.0)
        for z in rng.normal(size=5)
    ]
    noise = run_noise(RunTable.read(rows))
    assert 0.005 < noise < 0.015
    assert run_noise(RunTable.read(rows[::5])) == 0.004


def test_published_runs_leave_out_where_they_rise(c4):
    """Of 295 runs on C4 45 have a loss above that of fewer repeats, up to 9,000 epochs."""
    assert len(c4.runs) + len(c4.excluded) == 295
    assert len(c4.excluded) == 45
    assert "45 runs" in message(c4, "repetition_hurts")
    assert c4.trust == "no"
    assert "known within a factor of" in message(c4, "width_ahead")
    assert c4.status.usable


def test_published_runs_against_published_constants(c4):
    """On the same runs the fit lies below the published constants, in the same order of magnitude.

    R*_D comes out near 57 (33 to 100) and R*_N near 19 (7 to 49), where the authors found 15.4 and 5.3
    on an earlier and smaller set of runs with α = β: runs of hundreds of epochs, which saturate late,
    decide R*_D. Their constants are 8 % below this table's losses throughout; freed of that factor they still
    have a larger objective.
    """
    assert 25 < c4.law.R_D < 110
    assert 5 < c4.law.R_N < 60
    runs = c4.runs
    theirs = np.log(runs.loss / PUBLISHED.loss(runs.params, runs.tokens, runs.unique_tokens))
    assert np.median(theirs) == pytest.approx(0.085, abs=0.005)
    assert c4.objective < 0.5 * float(np.sum(huber(theirs, c4.delta)))
    assert c4.objective < 0.85 * float(np.sum(huber(theirs - np.median(theirs), c4.delta)))


def test_the_constants_depend_on_which_runs_are_fitted():
    """Up to 60 epochs, without the smallest supply and at δ = 1e-3: R*_D = 11, R*_N = 4.0.

    All runs that repetition helps give R*_D of 50 and more; the authors' own selection gave 15.4.
    """
    runs = reference.runs("muennighoff2023_c4")
    keep = (runs.tokens <= 60 * runs.unique_tokens) & (runs.unique_tokens > 1e8)
    fit = fit_runs(runs.select(keep), "muennighoff", delta=1e-3)
    assert fit.status.usable
    assert fit.law.params["R_D"] == pytest.approx(11.0, rel=0.02)
    assert fit.law.params["R_N"] == pytest.approx(4.0, rel=0.02)


# --- which law, which question


def test_auto_takes_the_law_where_many_epochs_carry_weight():
    """Runs of 60 epochs that follow the law: it is chosen, and the choice says why."""
    fit = fit_runs(grid(PUBLISHED, 0.003))
    assert isinstance(fit.law, Muennighoff)
    assert "more than 4 epochs" in fit.choice.reason
    assert "repeated_data" not in codes(fit)
    assert not fit.window.used
    assert "beyond N and D" in fit.window.reason


def test_auto_keeps_the_additive_law_where_repeats_say_nothing():
    """Forty epochs throughout tell nothing about repetition: the finding stays."""
    runs = sweep(ADDITIVE, sd=0.003)
    fit = fit_runs({**runs, "unique_tokens": runs["tokens"] / 40})
    assert fit.law.name == "hoffmann"
    assert "repeated_data" in codes(fit, "critical")


def test_auto_makes_no_law_of_repeats_out_of_a_few_runs():
    """Three of sixty runs may determine R*_D, and be wrong: misfit of the form looks like repeats."""
    values = sweep(ADDITIVE, (1e18, 3e18, 1e19, 3e19, 1e20, 3e20), 10, sd=0.003)
    values["unique_tokens"] = values["tokens"].copy()
    often = np.argsort(values["tokens"] / values["params"])[[-15, -9, -3]]
    values["unique_tokens"][often] /= 6
    worn = Muennighoff(**ADDITIVE.params, R_D=0.7, R_N=1e6)
    columns = (values[name][often] for name in ("params", "tokens", "unique_tokens"))
    values["loss"][often] = worn.loss(*columns)
    fit = fit_runs(values)
    assert not isinstance(fit.law, Muennighoff)
    assert "repeated_data" in codes(fit)
    law = fit_runs(values, "muennighoff").law
    assert law.params["R_D"] == pytest.approx(0.7, rel=0.3)


def test_predictions_are_for_fresh_data_unless_told(c4):
    """Without a supply the answer is for fresh data and says so; a supply costs loss and size."""
    free, scarce = c4.predict(1e22), c4.predict(1e22, unique_tokens=1e10)
    low, high = free.intervals["optimal_params"]
    assert low < c4.law.fresh.optimal(1e22).params < high
    assert "fresh_data" in {d.code for d in free.diagnostics}
    assert "fresh_data" not in {d.code for d in scarce.diagnostics}
    assert scarce.expected_loss > free.expected_loss
    assert scarce.expected_loss == pytest.approx(
        c4.law.with_unique(1e10).optimal(1e22).loss, rel=0.05
    )
    low, high = scarce.intervals["expected_loss"]
    assert low < scarce.expected_loss < high
    assert c4.with_unique(1e10).predict(1e22) == scarce


def test_laws_without_repeats_have_no_supply():
    """The additive law cannot answer for scarce data, and says which can."""
    with pytest.raises(InputError, match='law="muennighoff"'):
        fit_runs(sweep(ADDITIVE)).predict(1e21, unique_tokens=1e9)


def test_refits_know_the_supply():
    """The bootstrap holds the seven constants about the fit, U staying what it was."""
    fit = fit_runs(grid(PUBLISHED, 0.005), "muennighoff")
    draws = fit.with_unique(1e9).bootstrap(20)
    assert draws.shape == (20, 7)
    assert np.median(draws[:, 5]) == pytest.approx(fit.law.R_D, rel=0.1)


# --- laws with columns of their own


@dataclass(frozen=True)
class Wasteful(Law):
    """Unlike the built-in law it may rise with the epochs."""

    E: float
    A: float
    B: float
    alpha: float
    harm: float

    name: ClassVar[str] = "wasteful"
    covariates: ClassVar[tuple[str, ...]] = ("unique_tokens",)

    def loss(self, N: Any, D: Any, U: Any = np.inf) -> Any:
        harm = self.harm * np.maximum(np.asarray(D) / U - 1, 0)
        return self.E + self.A * np.asarray(N) ** -self.alpha + self.B / np.asarray(D) ** 0.3 + harm

    @classmethod
    def starts(cls, N: Any, D: Any, loss: Any, U: Any = None) -> list[dict[str, float]]:
        assert U is not None
        return [{"E": 1.0, "A": 100.0, "B": 100.0, "alpha": 0.3, "harm": 0.01}]


def test_a_law_of_ones_own_may_need_a_column():
    """It names the column, gets it in loss and starts, and its constants return."""
    truth = Wasteful(1.5, 300.0, 500.0, 0.33, 0.003)
    runs = grid(PUBLISHED)
    runs["loss"] = truth.loss(runs["params"], runs["tokens"], runs["unique_tokens"])
    fit = fit_runs(runs, Wasteful)
    assert fit.excluded == ()
    for name, value in truth.params.items():
        assert fit.law.params[name] == pytest.approx(value, rel=1e-6)
    assert fit.predict(1e21).optimal_params == pytest.approx(truth.optimal(1e21).params, rel=1e-4)
    assert fit.bootstrap(3, "wild").shape == (3, 5)


@dataclass(frozen=True)
class Vocabulary(Law):
    """A column that no table has of itself."""

    E: float
    A: float
    B: float
    G: float

    name: ClassVar[str] = "vocabulary"
    covariates: ClassVar[tuple[str, ...]] = ("vocab",)

    def loss(self, N: Any, D: Any, vocab: Any = 32_000.0) -> Any:
        rest = self.B / np.asarray(D) ** 0.3 + self.G / np.asarray(vocab) ** 0.5
        return self.E + self.A * np.asarray(N) ** -0.3 + rest

    @classmethod
    def starts(cls, N: Any, D: Any, loss: Any, vocab: Any = None) -> list[dict[str, float]]:
        assert vocab is not None
        return [{"E": 1.0, "A": 100.0, "B": 100.0, "G": 1.0}]


def with_vocab(values):
    runs = {name: column for name, column in grid(PUBLISHED).items() if name != "unique_tokens"}
    runs["vocab"] = np.resize(values, len(runs["params"]))
    truth = Vocabulary(1.5, 300.0, 500.0, 9.0)
    runs["loss"] = truth.loss(runs["params"], runs["tokens"], runs["vocab"])
    return runs, truth


def test_a_law_may_need_a_column_that_no_table_knows(tmp_path):
    """By its heading, by a mapping, from a RunTable, in a back-test, and read again from a file."""
    runs, truth = with_vocab([4096.0, 9001.5, 12345.0, 32768.0, 50000.0, 65536.0, 70001.0])
    plain = fit_runs(runs, Vocabulary)
    other = {**runs, "V": runs["vocab"]}
    del other["vocab"]
    mapped = fit_runs(other, Vocabulary, columns={"vocab": "V"})
    read = fit_runs(RunTable.read(runs, metrics=["vocab"]), Vocabulary)
    plain.save(tmp_path / "fit.json")
    saved = flops_fit.load_fit(tmp_path / "fit.json", law=Vocabulary)
    for fit in (plain, mapped, read, saved, backtest(runs, law=Vocabulary).fit):
        assert fit.law.params == pytest.approx(truth.params, rel=1e-5)
    with pytest.raises(TableError, match="expected a column 'vocab'"):
        fit_runs(other, Vocabulary)


def test_a_column_that_splits_the_runs_is_one_of_numbers_too():
    """Runs of a sweep hold their further arguments as texts."""
    runs, truth = with_vocab([4096.0, 32768.0, 65536.0])
    table = RunTable.read(runs)
    assert "vocab" in table.texts
    assert fit_runs(table, Vocabulary).law.params == pytest.approx(truth.params, rel=1e-5)
    table = replace(table, texts={"vocab": ("large",) * len(table)})
    with pytest.raises(TableError, match="expected a column 'vocab'"):
        fit_runs(table, Vocabulary)


def test_a_missing_column_is_named():
    """The refusal says which column, for which law, and how to point to it."""
    for law in ("muennighoff", Muennighoff, Wasteful):
        with pytest.raises(TableError, match="'unique_tokens'"):
            fit_runs(reference.runs("llama3_2024"), law)


def test_runs_without_a_number_in_the_column_are_left_out():
    """A supply that is not known leaves its run out, with the reason; none known is refused."""
    runs = grid(PUBLISHED)
    runs["unique_tokens"][5] = np.nan
    fit = fit_runs(runs, "muennighoff")
    assert [e.reason for e in fit.excluded] == ["unique_tokens is not a positive finite number"]
    runs["unique_tokens"][:] = np.nan
    with pytest.raises(TableError, match="has none"):
        fit_runs(runs, "muennighoff")


def test_auto_needs_the_supply_of_every_run():
    """One run without it: no run is left out for a law of repeated data that was not asked for."""
    runs = grid(PUBLISHED, 0.003)
    runs["unique_tokens"] = np.where(
        np.arange(len(runs["loss"])) == 7, np.nan, runs["unique_tokens"]
    )
    fit = fit_runs(runs, window=None)
    assert not isinstance(fit.law, Muennighoff)
    assert len(fit.runs) == len(runs["loss"])


def test_runs_whose_losses_have_no_logarithm_all_stay():
    rows = [{"params": 1e8, "tokens": 1e9, "loss": -1.0 - 0.1 * i} for i in range(9)]
    runs = RunTable.read(rows)
    kept, keep, findings = where_repetition_helps(runs)
    assert kept is runs
    assert keep.all()
    assert findings == []


def test_a_supply_of_no_run_is_refused():
    with pytest.raises(TableError, match="expected positive numbers in the column 'unique_tokens'"):
        fit_runs({**sweep(ADDITIVE), "unique_tokens": np.full(35, -1.0)}, "muennighoff")


def test_what_is_known_of_repeats_is_no_finding():
    """R*_D is given, so that only R*_N is said to be found, and a given infinity is not held."""
    runs = grid(PUBLISHED, 0.003)
    fit = fit_runs(runs, "muennighoff", fixed={"R_D": PUBLISHED.R_D})
    assert "R_N_identified" in codes(fit)
    assert not [code for code in codes(fit) if code.startswith("R_D")]
    assert fit._evidence.solution.held == {}


def test_unique_tokens_in_billions_are_told() -> None:
    columns = grid(PUBLISHED)
    columns["unique_tokens"] = columns["unique_tokens"] / 1e9
    fit = fit_runs(columns, "muennighoff")
    assert any("unique tokens in millions or billions" in d.action for d in fit.diagnostics)


def test_epochs_without_unique_tokens_say_what_to_give() -> None:
    columns = grid(PUBLISHED)
    columns["epochs"] = columns["tokens"] / columns.pop("unique_tokens")
    columns.pop("flops", None)
    with pytest.raises(TableError, match="Or give tokens seen and unique_tokens"):
        fit_runs(columns, "overfit")

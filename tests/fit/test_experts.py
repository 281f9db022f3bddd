"""Mixtures of experts, fitted: recovery, the best sparsity at a budget, a cap, findings, tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flops_fit import reference
from flops_fit.errors import FitError, InputError, TableError
from flops_fit.fit import Fit, backtest, fit_runs, load_fit
from flops_fit.fit.experts import by_active
from flops_fit.laws import Experts, Law
from flops_fit.report import answer_in_words, isoflop_data
from flops_fit.table import RunTable
from tests.fit._experts import LAW, SHARE, rows
from tests.fit._runs import unconverged


@pytest.fixture(scope="module")
def noisy() -> Fit:
    return fit_runs(rows(0.003), "experts")


def codes(fit: Fit) -> dict[str, str]:
    return {d.code: str(d) for d in fit.diagnostics}


# --- recovery


def test_seven_constants_return_from_exact_losses() -> None:
    fit = fit_runs(rows(), "experts")
    for name, value in LAW.params.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-4), name


def test_compute_is_that_of_active_parameters(noisy: Fit) -> None:
    """C = 6·N_active·D, so N of the law is N_active, and N_total returns as it was read."""
    assert noisy.flops(1e9) == pytest.approx(6e9)
    assert noisy.runs.sparsity is not None
    assert sorted(set(np.round(noisy.runs.sparsity, 6))) == [1.0, 2.8, 10.0]
    assert np.allclose(noisy.runs.flops, 6 * noisy.runs.params * noisy.runs.tokens)
    again = RunTable.read(noisy.runs.to_dicts())
    assert sorted(again.params) == pytest.approx(sorted(r["params"] for r in rows()))
    assert fit_runs(again, "experts").params == pytest.approx(noisy.params, rel=1e-6)


def test_intervals_of_the_gain_hold_the_truth_nine_times_in_ten() -> None:
    """Gain over dense and loss at ten times the largest run, N_active under a cap, q and r, in 40 sweeps."""
    C, S = 3e20, 10.0
    dense, sparse = LAW.optimal(C).loss, LAW.with_experts(S).optimal(C).loss
    inside = {"loss": 0, "gain": 0, "q": 0, "r": 0, "capped": 0}
    capped = LAW.with_experts(S, 1e10).optimal(C, max_params=1e10).params
    for seed in range(40):
        fit = fit_runs(rows(0.003, seed), "experts")
        best = fit.best_experts(C).best
        spans = {"loss": best.loss_interval, "gain": best.gain_interval}
        spans["capped"] = fit.best_experts(C, 1e10).best.params_interval
        spans |= {n: fit.estimate(lambda law, n=n: law.params[n]).interval for n in "qr"}
        truth = {
            "capped": capped,
            "loss": sparse,
            "gain": 1 - sparse / dense,
            "q": LAW.q,
            "r": LAW.r,
        }
        for name, span in spans.items():
            assert span is not None
            inside[name] += span[0] <= truth[name] <= span[1]
    assert all(32 <= n <= 40 for n in inside.values()), inside


# --- answers


def test_more_experts_are_better_until_the_runs_end(noisy: Fit) -> None:
    found = noisy.best_experts(1e20)
    assert [row.sparsity for row in found.rows] == pytest.approx([1, 2, 4, 8, 10])
    assert found.best is found.rows[-1]
    assert not found.binds
    truth = 1 - LAW.with_experts(10).optimal(1e20).loss / LAW.optimal(1e20).loss
    low, high = found.best.gain_interval or (np.nan, np.nan)
    assert low < truth < high
    assert found.best.experts == pytest.approx(16, rel=1e-6)
    assert "Best: N_active" in str(found)
    assert list(found.to_pandas()["sparsity"]) == [row.sparsity for row in found.rows]


def test_a_dense_model_needs_the_compute_that_is_said(noisy: Fit) -> None:
    best = noisy.best_experts(1e20).best
    truth = LAW.compute_for(LAW.with_experts(10).optimal(1e20).loss) / 1e20
    low, high = best.compute_ratio_interval or (np.nan, np.nan)
    assert low < truth < high
    assert low < best.compute_ratio < high


def test_a_cap_on_memory_binds_and_costs() -> None:
    """As the true law has it under the same cap; a cap that does not bind changes nothing."""
    fit, C = fit_runs(rows(), "experts"), 1e20
    free, wide = fit.best_experts(C), fit.best_experts(C, 1e12)
    assert [row.loss for row in wide.rows] == pytest.approx(
        [row.loss for row in free.rows], rel=1e-4
    )
    assert wide.best.params == pytest.approx(free.best.params, rel=0.02)
    assert "does not bind" in str(wide)
    cap = 5e9
    found, truth = fit.best_experts(C, cap), LAW.with_experts(10, cap).optimal(C, max_params=cap)
    assert found.binds
    assert found.best.total_params == pytest.approx(cap)
    assert found.best.loss == pytest.approx(truth.loss, rel=1e-4)
    assert found.best.params == pytest.approx(truth.params, rel=0.1)
    assert found.rows[0].loss > found.best.loss > free.best.loss


def test_a_cap_below_the_best_dense_model_holds_dense_models_too(noisy: Fit) -> None:
    cap = 0.5 * noisy.predict(1e20).optimal_params
    found = noisy.best_experts(1e20, cap)
    assert found.rows[0].params == pytest.approx(cap)
    assert all(row.total_params <= cap * (1 + 1e-9) for row in found.rows)


def test_beyond_the_runs_an_answer_warns(noisy: Fit) -> None:
    found = noisy.best_experts(1e20, sparsity=40)
    assert found.best.sparsity == 40
    assert any(d.code == "experts_beyond" for d in found.diagnostics)
    assert not any(d.code == "experts_beyond" for d in noisy.best_experts(1e20).diagnostics)


def test_other_questions_follow_the_sparsity(noisy: Fit) -> None:
    sparse = noisy.with_experts(10)
    assert sparse.loss_at(1e9, 2e10).value == pytest.approx(LAW.loss(1e9, 2e10, 10.0), rel=0.005)
    assert sparse.predict(1e20).expected_loss < noisy.predict(1e20).expected_loss
    assert any(d.code == "dense_answer" for d in noisy.predict(1e20).diagnostics)


def test_experts_that_do_not_pay_are_said_not_to() -> None:
    """Where q = r = 1 the gain's interval holds zero."""
    rng = np.random.default_rng(1)
    dense = [
        {**row, "loss": float(LAW.loss(row["active_params"], row["tokens"]) * np.exp(e))}
        for row, e in zip(rows(), 0.003 * rng.standard_normal(72), strict=True)
    ]
    fit = fit_runs(dense, "experts")
    last = fit.best_experts(1e20).rows[-1]
    low, high = last.gain_interval or (np.nan, np.nan)
    assert low < 0 < high
    assert abs(last.gain) < 0.005


def test_words_and_figures_are_of_the_models_that_are_asked_about(noisy: Fit) -> None:
    """An answer says that it is dense, or of how many parameters in all; runs lie about the curve."""
    dense, sparse = noisy, noisy.with_experts(10)
    assert "of a dense model on" in answer_in_words(dense, dense.predict(1e19), [])
    assert ", 10 times as many in all, on" in answer_in_words(sparse, sparse.predict(1e19), [])
    for fit in (dense, sparse):
        for curve in isoflop_data(fit).curves:
            expected = fit.law.loss(curve.params, curve.budget / fit.flops(curve.params))
            assert np.max(np.abs(np.log(curve.loss / expected))) < 0.012


def test_a_held_out_budget_is_judged_as_dense() -> None:
    (held,) = backtest(rows(0.003), law="experts").held_out
    assert held.loss_inside
    assert held.runs == 18


def test_a_fit_is_saved_and_made_again(noisy: Fit, tmp_path: Any) -> None:
    assert load_fit(noisy.save(tmp_path / "fit.json")).params == pytest.approx(noisy.params)


def test_thousands_of_runs_of_one_size_keep_their_experts_apart() -> None:
    """Pooled runs of one N and D still tell what experts gain."""
    many = [row for seed in range(25) for row in rows(0.003, seed)]
    fit = fit_runs(many, "experts")
    low, high = fit.estimate(lambda law: law.params["q"]).interval or (np.nan, np.nan)
    assert low < LAW.q < high
    assert high - low < 0.01


# --- findings


def test_a_law_that_does_not_know_experts_says_so() -> None:
    told = codes(fit_runs(rows(0.003)))
    assert 'law="experts"' in told["experts_vary"]
    assert "from 1 to 10" in told["experts_vary"]
    assert "experts_vary" in codes(fit_runs(rows(0.003), n="active"))
    unnamed = [{k: v for k, v in row.items() if k != "experts"} for row in rows(0.003)]
    assert "experts_vary" in codes(fit_runs(unnamed))


def test_one_number_of_experts_is_no_finding() -> None:
    assert "experts_vary" not in codes(fit_runs(rows(0.003, experts=(4,))))
    assert "experts_vary" not in codes(fit_runs(rows(0.003), "experts"))
    assert "experts_vary" not in codes(fit_runs(reference.runs("llama3_2024")))


def test_without_dense_runs_the_dense_answer_is_said_to_lie_beyond() -> None:
    told = codes(fit_runs(rows(0.003, experts=(4, 16)), "experts"))
    assert "2.8 or more" in told["no_dense_runs"]


# --- what is refused


def test_experts_that_follow_the_size_are_refused() -> None:
    with pytest.raises(FitError, match="vary independently"):
        fit_runs(rows(experts=(4,)), "experts")
    one_total = [{**row, "params": 1e10} for row in rows(experts=(1,))]
    with pytest.raises(FitError, match="one follows from the other"):
        fit_runs(one_total, "experts")


def test_both_counts_are_needed() -> None:
    for law in ("experts", "hoffmann"):
        with pytest.raises(TableError, match="N_total and N_active"):
            fit_runs(reference.runs("llama3_2024"), law, n="active")
    with pytest.raises(InputError, match="non_embedding"):
        fit_runs(rows(), "experts", n="non_embedding")


def test_a_run_with_more_active_than_all_is_left_out() -> None:
    wrong = [*rows(0.003), {"params": 1e8, "active_params": 2e8, "tokens": 1e9, "loss": 3.0}]
    fit = fit_runs(wrong, "experts")
    (left,) = fit.excluded
    assert "at most N_total" in left.reason


def test_sizes_of_labels_are_rounded() -> None:
    """N_total of a dense model may then lie a little below its N_active."""
    written = [{**row, "params": f"{row['params'] / 1e6:.3g}M"} for row in rows(0.003)]
    fit = fit_runs(written, "experts")
    assert fit.excluded == ()
    assert np.sum(fit.runs.sparsity == 1) >= 10


@pytest.mark.parametrize("factor", [1e-9, -1])
def test_swapped_columns_and_other_units_are_told(factor: float) -> None:
    wrong = [
        {**row, "params": row["params"] * 1e-9}
        if factor > 0
        else {**row, "params": row["active_params"], "active_params": row["params"]}
        for row in rows(0.003)
    ]
    with pytest.raises(TableError, match="swapped, or one in millions"):
        fit_runs(wrong, "experts")


@pytest.mark.parametrize("law", ["hoffmann", "muennighoff"])
def test_other_laws_have_no_experts(law: str) -> None:
    fit = fit_runs(reference.runs("muennighoff2023_c4"), law)
    for ask in (lambda: fit.with_experts(2), lambda: fit.best_experts(1e21)):
        with pytest.raises(InputError, match='law="experts"'):
            ask()


@pytest.mark.parametrize("cap", [0, -1.0, float("nan")])
def test_a_cap_is_positive(noisy: Fit, cap: float) -> None:
    with pytest.raises(InputError, match="max_total_params"):
        noisy.best_experts(1e20, cap)


# --- tables


@pytest.mark.parametrize(
    ("total", "active", "number", "visited"),
    [
        ("n_total", "n_active", "num_experts", "top_k"),
        ("params", "activated_params", "n_routed_experts", "num_experts_per_tok"),
        ("Params (M)", "Active Params (M)", "experts", "moe_router_topk"),
        ("config.total_params", "config.active_params", "config.num_local_experts", "config.topk"),
    ],
)
def test_usual_headings_are_read(total: str, active: str, number: str, visited: str) -> None:
    unit = 1e6 if "(M)" in total else 1.0
    table = RunTable.read(
        [
            {
                total: row["params"] / unit, active: row["active_params"] / unit, number: 2 * row["experts"],
                visited: 2, "tokens": row["tokens"], "loss": row["loss"], "granularity": 2 + i % 2,
            }
            for i, row in enumerate(rows())
        ]
    )  # fmt: skip
    assert table.active_params is not None
    assert table.experts is not None
    assert sorted(set(table.experts)) == [1, 4, 16]
    assert table.params / table.active_params == pytest.approx(1 + SHARE * (table.experts - 1))
    assert set(table.texts["granularity"]) == {"2", "3"}
    assert np.allclose(table.flops, 6 * table.active_params * table.tokens)


def test_granularity_is_judged_as_any_further_argument() -> None:
    table = [{**row, "granularity": 1 + i % 2} for i, row in enumerate(rows(0.003))]
    for row in table:
        row["loss"] *= 1.02 - 0.02 * (row["granularity"] == 2)
    effect = fit_runs(table, "experts").axis("granularity")
    assert effect.best == 2
    assert effect.excess[1.0][0] == pytest.approx(0.02, abs=0.004)


def test_a_dense_row_needs_not_say_its_active_parameters() -> None:
    some = [
        {k: v for k, v in r.items() if k != "active_params" or r["experts"] > 1} for r in rows()
    ]
    columns = {
        k: [r.get(k) for r in some]
        for k in ("params", "active_params", "tokens", "loss", "experts")
    }
    table = RunTable.read(columns)
    assert len(fit_runs(table, "experts").runs) == 72


def test_a_law_of_ones_own_may_take_the_sparsity() -> None:
    class Own(Experts):
        name = "own"

    fit = fit_runs(rows(), Own)
    assert isinstance(fit.law, Law)
    assert fit.params["q"] == pytest.approx(LAW.q, rel=1e-3)


def test_a_table_by_active_parameters_stays_one(noisy: Fit) -> None:
    """The runs of a fit are fitted again as they are."""
    assert by_active(noisy.runs) is noisy.runs


def test_experts_are_not_counted_where_the_runs_do_not_say_them(noisy: Fit) -> None:
    lost = unconverged(replace(noisy, runs=replace(noisy.runs, experts=None)))
    found = lost.best_experts(1e20)
    assert {row.experts for row in found.rows} == {None}
    assert "| –" in str(found)


def test_a_law_that_did_not_converge_has_a_best_sparsity_without_intervals(noisy: Fit) -> None:
    best, law = unconverged(noisy).best_experts(1e20).best, noisy.law
    assert isinstance(law, Experts)
    sparse, dense = law.with_experts(best.sparsity), law.with_experts(1.0)
    loss = float(sparse.optimal(1e20, noisy.flops).loss)
    assert best.gain == pytest.approx(1 - loss / float(dense.optimal(1e20, noisy.flops).loss))
    assert best.compute_ratio == pytest.approx(dense.compute_for(loss, noisy.flops) / 1e20)
    assert (best.gain_interval, best.compute_ratio_interval, best.loss_interval) == (None,) * 3

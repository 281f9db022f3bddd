"""Columns that tell how runs were made are used, or named in a finding of the right severity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flops_fit.fit import fit_runs
from flops_fit.laws import Hoffmann
from flops_fit.table import RunTable
from tests.fit._runs import sweep

LAW = Hoffmann(E=1.8, A=400.0, B=400.0, alpha=0.34, beta=0.28)
SWEEP = sweep(LAW, budgets=(1e17, 3e17, 1e18, 3e18), sizes=6, reach=3.0, sd=0.001)
N, D, LOSS = SWEEP["params"], SWEEP["tokens"], SWEEP["loss"]
ROWS = len(N)


def table(**columns: Any) -> dict[str, Any]:
    """A sound sweep without its compute, with more columns."""
    return {"params": N, "tokens": D, "loss": LOSS, **columns}


def codes(source: Any) -> dict[str, str]:
    """The severity of each finding of a table."""
    return {d.code: d.severity for d in RunTable.read(source).findings}


def test_epochs_are_asked_for_where_nothing_tells_what_d_counts() -> None:
    """Compute, unique tokens or the heading tell; then they are used."""
    source = table(epochs=np.full(ROWS, 8.0), tokens=D / 8)
    assert (
        codes(source)
        == codes(table(passes=np.full(ROWS, 8.0), tokens=D / 8))
        == {"epochs": "warning"}
    )
    assert fit_runs(source).trust != "ok"
    spent = RunTable.read({**source, "flops": 6 * N * D})
    np.testing.assert_allclose(spent.tokens, D)
    np.testing.assert_allclose(spent.unique_tokens, D / 8)
    seen = {k: v for k, v in source.items() if k != "tokens"} | {"tokens_seen": D}
    np.testing.assert_allclose(RunTable.read(seen).unique_tokens, D / 8)
    assert codes({**source, "epochs": np.full(ROWS, 1.0)}) == {}


def test_active_parameters_make_the_compute() -> None:
    """C = 6·N_active·D, and N stays that of all experts."""
    source = {"total_params": 8 * N, "active_params": N, "tokens": D, "loss": LOSS}
    read = RunTable.read(source)
    np.testing.assert_allclose(read.flops, 6 * N * D)
    np.testing.assert_allclose(read.params, 8 * N)
    assert "6·N_active·D" in read.notes[0]


def test_experts_without_their_active_parameters_are_asked_for() -> None:
    """C = 6·N·D would count all of them for each token; FLOPs or the active parameters tell."""
    source = table(params=8 * N, num_experts=np.full(ROWS, 64))
    assert codes(source) == {"experts": "warning"}
    assert codes({**source, "flops": 6 * N * D}) == codes({**source, "active_params": N}) == {}
    assert codes(table(num_experts=np.full(ROWS, 1))) == {}


def test_the_flops_of_a_token_make_the_compute() -> None:
    """Where they are those of training, and not of a forward pass."""
    np.testing.assert_allclose(RunTable.read(table(flops_per_token=7 * N)).flops, 7 * N * D)
    np.testing.assert_allclose(RunTable.read(table(flops_per_token=2 * N)).flops, 6 * N * D)


def test_rates_that_follow_no_rule_are_named() -> None:
    """Each N and D once, at a rate drawn at random."""
    rates = 10 ** np.random.default_rng(0).uniform(-4, -2, ROWS)
    assert codes(table(lr=rates)) == {"rates_differ": "note"}
    assert codes(table(lr=0.1 * N**-0.3 * D**0.1)) == {}


def test_equal_steps_of_d_are_a_log_of_steps() -> None:
    """With or without names; a sweep's sizes are spaced by factors."""
    log = {"params": np.repeat(N[:6], 9), "tokens": np.tile(np.arange(1, 10) * 1e9, 6)}
    log["loss"] = LAW.loss(log["params"], log["tokens"])
    assert codes(log) == {"names_repeat": "warning"}
    assert codes({**log, "name": np.repeat(list("abcdef"), 9)}) == {"names_repeat": "warning"}
    assert codes({**log, "tokens": np.tile(np.geomspace(1e9, 1e10, 9), 6)}) == {}


def test_a_number_that_splits_the_runs_is_named_and_one_that_grows_with_them_is_not() -> None:
    """Two architectures as 0 and 1; a depth is what the law explains."""
    twice = {k: np.tile(v, 2) for k, v in table().items()}
    arch, depth = np.repeat([0, 1], ROWS), np.digitize(twice["params"], np.quantile(N, [0.3, 0.7]))
    mixed = fit_runs({**twice, "arch": arch, "loss": twice["loss"] * (1 + 0.1 * arch)})
    assert "column 'arch'" in {d.code: d.message for d in mixed.diagnostics}["groups_mixed"]
    rough = 1 + 0.01 * (depth == 1)
    fit = fit_runs({**twice, "depth": depth, "loss": twice["loss"] * rough})
    assert "groups_mixed" not in {d.code for d in fit.diagnostics}


def test_a_text_that_changes_with_the_compute_is_named() -> None:
    """One optimizer for the small budgets, another for the large ones."""
    fit = fit_runs(table(optimizer=np.repeat(["adam", "muon"], ROWS // 2)))
    assert "groups_follow" in {d.code for d in fit.diagnostics}
    sizes = fit_runs(table(label_of_budget=np.repeat(list("abcd"), ROWS // 4)))
    assert "groups_follow" not in {d.code for d in sizes.diagnostics}


def test_a_budget_is_the_compute_where_there_is_none() -> None:
    """Not where it is no number of FLOPs beside N and D."""
    read = RunTable.read(table(flops_budget=6 * N * D / 1.8))
    np.testing.assert_allclose(read.flops, 6 * N * D / 1.8)
    assert "planned compute, 'flops_budget'" in read.notes[-1]
    for budget in (np.arange(ROWS) % 4 + 1.0, ["small", "large"] * (ROWS // 2)):
        np.testing.assert_allclose(RunTable.read(table(budget=budget)).flops, 6 * N * D)


def test_settings_that_differ_at_one_n_and_d_are_named() -> None:
    """A sweep of the learning rate is no sweep of sizes; equal losses are a note."""
    twice = {k: np.tile(v, 2) for k, v in table().items()}
    lr = np.repeat([1e-3, 4e-3], ROWS)
    assert codes({**twice, "lr": lr, "loss": twice["loss"] * np.where(lr > 2e-3, 1.05, 1)}) == {
        "settings_differ": "warning"
    }
    assert codes({**twice, "lr": lr, "loss": twice["loss"] * np.where(lr > 2e-3, 1.001, 1)}) == {
        "settings_differ": "note"
    }
    assert codes(table(lr=0.1 / np.sqrt(N))) == {}


def test_names_that_repeat_are_a_log_of_steps_where_steps_grow() -> None:
    """Without steps they may be sizes."""
    names = [f"run {n:.3g}" for n in np.repeat(N[:6], 4)]
    log = {"name": names, "params": np.repeat(N[:6], 4), "tokens": np.tile(D[:4], 6), "loss": LOSS}
    assert codes({**log, "step": np.tile([1, 2, 3, 4], 6)}) == {"names_repeat": "warning"}
    assert codes(log) == {"names_repeat": "note"}


def test_a_limit_of_steps_that_most_runs_reach_is_their_schedule() -> None:
    """Runs short of it were interrupted; where hardly one reaches it, it is a limit and no more."""
    steps = np.round(D / 2**19)
    came = np.where(np.arange(ROWS) < 3, 0.4, 1.0) * steps
    read = RunTable.read(table(global_step=came, max_steps=steps))
    assert len(read) == ROWS - 3
    assert "before its schedule ended at max_steps" in read.excluded[0].reason
    for most in (1e9, -1):
        assert len(RunTable.read(table(global_step=steps, max_steps=np.full(ROWS, most)))) == ROWS


UNITS: list[tuple[str, dict[str, Any]]] = [
    ("swapped", {"params": D, "tokens": N}),
    ("millions of both", {"params": N / 1e6, "tokens": D / 1e6}),
    ("billions of both", {"params": N / 1e9, "tokens": D / 1e9}),
    ("millions and billions", {"params": N / 1e6, "tokens": D / 1e9}),
    ("N in millions", {"params": N / 1e6}),
    ("N in billions", {"params": N / 1e9}),
    ("D in millions", {"tokens": D / 1e6}),
    ("D in billions", {"tokens": D / 1e9}),
    ("steps", {"tokens": D / 2**19}),
    ("GFLOPs", {"flops": 6 * N * D / 1e9}),
    ("PF-days", {"flops": 6 * N * D / 8.64e19}),
    ("thousands", {"flops": 6 * N * D / 1e3}),
    ("C alone", {"tokens": [None] * ROWS, "flops": 6 * N * D / 1e9}),
    ("perplexity", {"loss": np.exp(LOSS)}),
]


@pytest.mark.parametrize(("name", "changed"), UNITS, ids=[u[0] for u in UNITS])
def test_units_are_doubted_at_the_runs_own_compute(name: str, changed: dict[str, Any]) -> None:
    """By ratios: none of these is answered with ok."""
    fit = fit_runs(table(**changed))
    doubts = {d.code: d.severity for d in fit.diagnostics if d.severity in ("warning", "critical")}
    assert doubts.keys() & {"implausible_units", "flops_implausible"}
    assert fit.trust != "ok"


def test_a_sound_sweep_has_no_findings() -> None:
    """Nothing is doubted where nothing is wrong."""
    fit = fit_runs(table())
    assert not {"implausible_units", "flops_implausible"} & {d.code for d in fit.diagnostics}
    assert RunTable.read(table()).findings == ()


def test_the_unit_of_d_is_read_and_not_that_of_the_loss() -> None:
    """Patches of an image pass each weight: C is 65·6·N·D, and no unit is doubted."""
    many = table(flops=65 * 6 * N * D)
    doubted = {d.code for d in fit_runs(many).diagnostics}
    assert "flops_implausible" in doubted
    for said in ({"unit": ["samples"] * ROWS}, {"unit": ["nats"] * ROWS}):
        read = RunTable.read({**many, **said})
        assert read.unit == ("samples" if said["unit"][0] == "samples" else "tokens")
    samples = fit_runs({**many, "unit": ["samples"] * ROWS})
    assert "flops_implausible" not in {d.code for d in samples.diagnostics}


def test_a_log_whose_last_step_is_off_its_grid_is_a_log() -> None:
    """As most end: the last evaluation is at the end of the run, not at a multiple."""
    steps = [*range(1, 11), 10.5]
    rows = [
        {"experiment": f"run-{N}", "N": N, "D": 1e9 * s, "step": s, "val_loss": 3 + 1 / s + 1e8 / N}
        for N in (1e8, 2e8, 3e8)
        for s in steps
    ]
    assert {d.code: d.severity for d in RunTable.read(rows).findings} == {"names_repeat": "warning"}
    unnamed = [{k: v for k, v in row.items() if k not in ("experiment", "step")} for row in rows]
    assert "names_repeat" in {d.code for d in RunTable.read(unnamed).findings}


MEANS = [
    ({"size": "125M"}, ["0", "1", "mean", "std"]),
    ({}, ["a", "b", "a mean", "a std"]),
]


@pytest.mark.parametrize(("more", "last"), MEANS)
def test_rows_that_sum_up_seeds_are_no_runs(more, last) -> None:
    """A word for a mean in the column of seeds, or at the end of a label."""
    name = "seed" if more else "run"
    losses = [3.2, 3.22, 3.21, 0.01]
    rows = [
        {**more, name: cell, "N": 1e8, "D": 2e9, "loss": x}
        for cell, x in zip(last, losses, strict=True)
    ]
    assert RunTable.read(rows).loss.tolist() == [3.2, 3.22]


def test_a_table_of_means_keeps_its_means() -> None:
    """There are no other runs."""
    rows = [
        {"N": N, "D": 2e9, "stat": stat, "loss": x}
        for N in (1e8, 2e8)
        for stat, x in (("mean", 3.2), ("std", 0.01))
    ]
    assert RunTable.read(rows).loss.tolist() == [3.2, 3.2]


def test_a_run_in_the_middle_of_the_others_is_a_run() -> None:
    """The centre of a design has the mean N and D of the rest, and a loss of its own."""
    N, D = [1e8, 1e8, 3e8, 3e8, 2e8], [1e9, 3e9, 1e9, 3e9, 2e9]
    assert len(RunTable.read({"N": N, "D": D, "loss": [3.6, 3.3, 3.4, 3.0, 3.2]})) == 5
    assert len(RunTable.read({"N": N, "D": D, "loss": [3.6, 3.3, 3.4, 3.0, 3.325]})) == 4


@pytest.mark.parametrize("names", [[0, 0, 1, 1], [1, 1, 2, 2], [12.5, 12.5, 40.0, 40.0]])
def test_budgets_that_are_no_flops_name_the_groups(names) -> None:
    """An index, or hours: approach 2 takes the mean compute of each."""
    N, C = np.array([1e8, 2e8, 2e8, 4e8]), np.array([1e18, 1e18, 4e18, 4e18])
    columns = {"N": N, "D": C / (6 * N), "budget": names, "flops": C, "loss": [3.6, 3.3, 3.1, 3.0]}
    assert RunTable.read(columns).budget == pytest.approx(C)


def test_budgets_that_name_seeds_are_not_used() -> None:
    """Runs of one group then differ in compute."""
    N, C = np.array([1e8, 2e8, 1e8, 2e8]), np.array([1e18, 4e18, 1e18, 4e18])
    columns = {"N": N, "D": C / (6 * N), "budget": [1, 1, 2, 2], "loss": [3.6, 3.3, 3.1, 3.0]}
    assert RunTable.read(columns).budget == pytest.approx(C)


def test_sizes_are_not_filled_down_over_other_widths() -> None:
    """N was not logged there."""
    rows = [
        {"Name": name, "n_params": N, "d_model": width, "tokens": 2e9, "val_loss": 3.0}
        for name, N, width in (
            ("a", 1e8, 512),
            ("b", 2e8, 768),
            ("c", None, 1024),
            ("d", None, 1536),
        )
    ]
    assert RunTable.read(rows).params.tolist() == [1e8, 2e8]


@pytest.mark.parametrize(("heading", "severity"), [("trial_id", "warning"), ("model", "note")])
def test_the_name_of_a_run_in_several_rows_is_a_log_and_that_of_a_model_may_not_be(
    heading: str, severity: str
) -> None:
    """A model of one size is trained on several D."""
    rows = {"params": np.repeat(N[:6], 3), "tokens": np.tile([1e9, 3e9, 1e10], 6)}
    rows["loss"] = LAW.loss(rows["params"], rows["tokens"])
    assert codes({**rows, heading: np.repeat(list("abcdef"), 3)}) == {"names_repeat": severity}


def test_columns_without_a_value_among_the_runs_that_are_kept_tell_nothing() -> None:
    rows = [
        {"params": 1e6 * 2**i, "tokens": 2e7, "loss": 3.5 - 0.1 * i, "epochs": "n/a (kept)"}
        for i in range(6)
    ]
    rows[0] |= {"epochs": 3, "loss": None}
    table = RunTable.read(rows)
    assert len(table) == 5
    assert "epochs" not in {d.code for d in table.findings}
    apart = [
        {**r, "steps": 100 if i == 0 else None, "batch_tokens": 2e5} for i, r in enumerate(rows)
    ]
    apart[0]["tokens"] = None
    assert all("nan" not in d.message for d in RunTable.read(apart).findings)


def test_budgets_that_only_name_groups_may_be_missing_or_have_no_compute() -> None:
    rows = [
        {"params": 1e6 * 2**i, "tokens": 2e7 * 2 ** (j - i), "loss": 3.5 - 0.1 * i, "budget": j + 1}
        for j in range(3)
        for i in range(3)
    ]
    rows[0]["budget"] = None
    rows += [{"params": None, "tokens": 1e7, "loss": 3.0, "budget": 9}]
    table = RunTable.read(rows)
    assert len(table) == 8
    assert len(np.unique(table.budget)) == 3

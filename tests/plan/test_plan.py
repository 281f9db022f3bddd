"""A plan meets its budgets in whole steps and says what it assumed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flops_fit import Grid, plan_sweep
from flops_fit.errors import BudgetError, InputError, InputTypeError, ModelError, PlanError
from flops_fit.plan.planner import check_budgets
from tests.conftest import MLP, Blobs, cross_entropy

ARGUMENTS: dict[str, Any] = {
    "model_cls": MLP,
    "model_size_param": "width",
    "dataset": Blobs(),
    "loss_fn": cross_entropy,
}


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(3e6, 1e9), min_size=1, max_size=4, unique=True))
def test_every_run_costs_its_budget_within_a_percent(budgets: list[float]) -> None:
    plan = plan_sweep(**ARGUMENTS, compute_budgets=budgets)
    for e in plan.experiments:
        assert e.flops == pytest.approx(e.budget, rel=0.01)
        assert e.tokens == e.steps * e.batch_size
        assert e.flops_per_unit == 6 * e.params.total - 2 * 16 * e.size


def test_sizes_spread_around_twenty_units_a_parameter() -> None:
    plan = plan_sweep(**ARGUMENTS, compute_budgets=[1e9])
    sizes = [e.params.total for e in plan.experiments]
    centre = (1e9 / (4.4 * 20)) ** 0.5  # F = 4.4·N, see tests/conftest.py
    assert len(sizes) == 7
    assert sizes[0] == pytest.approx(centre / 6, rel=0.1)
    assert sizes[-1] == pytest.approx(centre * 6, rel=0.1)


def test_refused_sizes_are_skipped_and_reported() -> None:
    plan = plan_sweep(**ARGUMENTS, compute_budgets=[1e8])
    assert all(e.size % 2 == 0 for e in plan.experiments)
    assert any("refused by the constructor" in d.message for d in plan.diagnostics)


def test_every_run_has_a_seed_and_an_id_of_its_own() -> None:
    plan = plan_sweep(**ARGUMENTS, compute_budgets=[1e7, 1e8], design=Grid(repeats=3))
    assert (
        len({e.id for e in plan.experiments})
        == len(plan)
        == len({e.seed for e in plan.experiments})
    )


def test_named_sizes_may_be_repeated() -> None:
    plan = plan_sweep(**ARGUMENTS, compute_budgets=[1e7], sizes=[4, 8], design=Grid(repeats=2))
    assert sorted((e.size, e.repeat) for e in plan.experiments) == [(4, 0), (4, 1), (8, 0), (8, 1)]


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([4, 8, 8], r"distinct sizes; 8 is given twice at 1e\+07.*Grid\(repeats=2\)"),
        ({1e7: [4, 8], 1e8: [{"width": 4}, {"width": 4}]}, "is given twice at 1e.08"),
        ({1e7: [4], 1e8: [8], 1e9: [4]}, r"among compute_budgets, .*; got \[1000000000.0\] too"),
    ],
)
def test_sizes_given_twice_or_for_no_budget_are_refused(sizes: Any, told: str) -> None:
    with pytest.raises(PlanError, match=told):
        plan_sweep(**ARGUMENTS, compute_budgets=[1e7, 1e8], sizes=sizes)


def test_another_budget_keeps_the_ids_of_the_runs_that_stay() -> None:
    few = plan_sweep(**ARGUMENTS, compute_budgets=[1e7, 1e8])
    more = plan_sweep(**ARGUMENTS, compute_budgets=[1e7, 3e7, 1e8])
    assert {e.id for e in few.experiments} < {e.id for e in more.experiments}


def _other_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 2 * nn.functional.cross_entropy(logits, targets)


def deaf(width: int) -> MLP:
    """A factory that forgets the size."""
    return MLP(8)


class _OtherMLP(MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(x)))


@pytest.mark.parametrize(
    "change",
    [
        {"loss_fn": _other_loss},
        {"model_cls": _OtherMLP},
        {"dataset": Blobs(seed=1)},
        {"eval_dataset": Blobs(100, seed=2)},
        {"hparams": {"lr": 0.5}},
        {"batch_size": 5},
        {"seed": 1},
    ],
)
def test_whatever_changes_the_outcome_changes_every_id(change: dict[str, Any]) -> None:
    base = plan_sweep(**ARGUMENTS, compute_budgets=[1e7])
    other = plan_sweep(**{**ARGUMENTS, **change}, compute_budgets=[1e7])
    assert not {e.id for e in base.experiments} & {e.id for e in other.experiments}


def test_the_same_call_makes_the_same_plan() -> None:
    first, second = (plan_sweep(**ARGUMENTS, compute_budgets=[1e7, 3e7]) for _ in range(2))
    assert [e.id for e in first.experiments] == [e.id for e in second.experiments]


def test_without_data_flops_are_6nd_and_the_plan_says_so() -> None:
    plan = plan_sweep(MLP, "width", compute_budgets=[1e8])
    assert plan.experiments[0].flops_per_unit == 6 * plan.experiments[0].params.total
    assert any("FLOPs are 6·N" in d.message for d in plan.diagnostics)
    assert plan.task is None


def test_an_example_batch_counts_without_data() -> None:
    batch = (torch.zeros(3, 16), torch.zeros(3, dtype=torch.int64))
    plan = plan_sweep(
        MLP, "width", loss_fn=cross_entropy, compute_budgets=[1e8], example_batch=batch
    )
    e = plan.experiments[0]
    assert e.flops_per_unit == 6 * e.params.total - 2 * 16 * e.size


def test_the_table_shows_what_will_be_spent() -> None:
    text = str(plan_sweep(**ARGUMENTS, compute_budgets=[1e7]))
    for word in (
        "FLOPs",
        "size",
        "N",
        "D (samples)",
        "steps",
        "epochs",
        "est. time",
        "1e+07",
        "of training",
    ):
        assert word in text


def test_repeated_data_and_short_runs_are_reported() -> None:
    plan = plan_sweep(**{**ARGUMENTS, "dataset": Blobs(100)}, compute_budgets=[1e7], sizes=[2, 200])
    codes = {d.code: d for d in plan.diagnostics}
    assert codes["repeated_data"].severity == "warning"
    assert "few_steps" in codes
    assert "small_grid" in codes


def test_6nd_is_what_it_says() -> None:
    plan = plan_sweep(**ARGUMENTS, compute_budgets=[1e7], flops="6nd")
    assert all(e.flops_per_unit == 6 * e.params.total for e in plan.experiments)


def test_6nd_is_refused_where_weights_are_used_at_many_positions() -> None:
    def convolutional(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 4, 4)),
            nn.Conv2d(1, width, 3),
            nn.Flatten(),
            nn.Linear(4 * width, 4),
        )

    with pytest.raises(
        InputError, match="flops='6nd': Conv2d applies its weights at many positions"
    ):
        plan_sweep(
            **{**ARGUMENTS, "model_cls": convolutional},
            compute_budgets=[1e7],
            flops="6nd",
            sizes=[2],
        )


def test_a_users_count_is_used() -> None:
    plan = plan_sweep(**ARGUMENTS, compute_budgets=[1e7], flops=lambda model: 1000.0)
    assert {e.flops_per_unit for e in plan.experiments} == {1000.0}


def test_a_loss_that_reads_values_is_counted_by_the_models_output() -> None:
    def masked(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits[targets >= 0], targets[targets >= 0])

    plan = plan_sweep(**{**ARGUMENTS, "loss_fn": masked}, compute_budgets=[1e7])
    assert (
        plan.experiments[0].flops_per_unit
        == 6 * plan.experiments[0].params.total - 32 * plan.experiments[0].size
    )


def test_sizes_may_be_dicts_or_differ_by_budget() -> None:
    both = plan_sweep(**ARGUMENTS, compute_budgets=[1e7, 1e8], sizes={1e7: [4], 1e8: [8, 16]})
    assert [(e.budget, e.size) for e in both.experiments] == [(1e7, 4), (1e8, 8), (1e8, 16)]
    dicts = plan_sweep(
        MLP, dataset=Blobs(), loss_fn=cross_entropy, compute_budgets=[1e7], sizes=[{"width": 4}]
    )
    assert dicts.experiments[0].params.total == 80


def test_predictions_count_the_model_at_sizes_nobody_planned() -> None:
    plan = plan_sweep(**ARGUMENTS, compute_budgets=[1e7])
    # N = 20·width and F = 6N − 32·width = 4.4·N at every width.
    assert float(plan.flops(2e9)) == pytest.approx(4.4 * 2e9, rel=1e-9)


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        (None, "got None"),
        ([], "the list is empty"),
        ("1e9", "got '1e9'"),
        (1e9, "got 1000000000.0"),
        ([1e9, -1.0], "got -1.0"),
        ([0], "got 0"),
        ([float("nan")], "got nan"),
        ([float("inf")], "got inf"),
        (["1e9"], "got '1e9'"),
        ([True], "got True"),
        ([None], "got None"),
        ([1e9, 1e9], "is given twice"),
        ([10**400], "got 1000"),
    ],
)
def test_unusable_budgets_are_reported(budgets: Any, words: str) -> None:
    with pytest.raises(BudgetError, match=words):
        check_budgets(budgets)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model_cls": None}, InputError, "model_cls: expected"),
        ({"model_cls": 3}, InputTypeError, "model_cls: expected a class"),
        ({"model_kwargs": [1]}, InputTypeError, "model_kwargs: expected a dict"),
        ({"model_size_param": "depth"}, ModelError, "takes no argument 'depth'"),
        ({"model_size_param": None}, ModelError, "model_size_param: expected"),
        ({"sizes": []}, PlanError, "at least one size"),
        ({"sizes": "8"}, InputTypeError, "sizes: expected a list"),
        ({"sizes": [3]}, ModelError, "refuses {'width': 3}: ValueError: width must be even"),
        ({"sizes": {1e9: [4]}}, PlanError, "no sizes for the budget"),
        ({"model_cls": deaf, "sizes": [4, 8]}, PlanError, "has 160 parameters at each of 4, 8"),
        ({"batch_size": 0}, InputError, "batch_size: expected a positive"),
        ({"batch_size": "big"}, InputTypeError, "batch_size: expected"),
        ({"batch_size": 5000}, InputError, "at least one batch of 5000 samples"),
        ({"seed": "x"}, InputTypeError, "seed: expected a whole number"),
        ({"flops": "6n"}, InputError, "flops: expected 'measured'"),
        ({"flops": 6}, InputTypeError, "flops: expected 'measured'"),
        ({"flops": lambda model: -1}, InputError, "the function returned"),
        ({"design": "adaptativ"}, InputError, "design: expected one of"),
        ({"mode": "loca"}, InputError, "Did you mean 'local'"),
        ({"device": "tpu"}, InputError, "device: expected .*'tpu' cannot be used"),
        ({"compute_budgets": [10.0]}, PlanError, "no run fits a budget of 10 FLOPs"),
    ],
)
def test_bad_input_is_one_clear_error(
    change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        plan_sweep(**{**ARGUMENTS, "compute_budgets": [1e7], **change})

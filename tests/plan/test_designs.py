"""A design puts its sizes around a prior with a width, drops nothing silently, and says all that."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flops_fit import TrainingConfig, fit_runs, plan_sweep, reference
from flops_fit.errors import InputError, InputTypeError
from flops_fit.flops import LinearFlops
from flops_fit.laws import Hoffmann
from flops_fit.plan.designs import Grid, Rectangular, Tapered, resolve_prior
from tests.conftest import MLP, Blobs, cross_entropy

ARGUMENTS: dict[str, Any] = {
    "model_cls": MLP,
    "model_size_param": "width",
    "dataset": Blobs(),
    "loss_fn": cross_entropy,
}
BUDGETS = [1e8, 2e8, 4e8, 8e8, 1.6e9]
BRANCH = TrainingConfig(branch=True)
PER_PARAM = 4.4  # F/N of the MLP at every width
WSD = {"schedule": "wsd", "batch_units": 16, "warmup_units": 200}


def sizes(plan: Any) -> list[list[int]]:
    return [
        sorted(e.params.total for e in plan.experiments if e.budget == budget)
        for budget in plan.budgets
    ]


def diagnostics(plan: Any) -> dict[str, str]:
    return {d.code: d.message for d in plan.diagnostics}


def test_a_tapered_design_has_12_9_6_4_2_sizes_within_a_factor_of_ten() -> None:
    plan = plan_sweep(**ARGUMENTS, compute_budgets=BUDGETS, design="tapered")
    assert list(map(len, sizes(plan))) == [12, 9, 6, 4, 2]
    for budget, here in zip(BUDGETS, sizes(plan), strict=True):
        centre = (budget / (PER_PARAM * 20)) ** 0.5
        assert here[0] == pytest.approx(centre / 10, rel=0.2)  # widths are even, N = 20·width
        assert here[-1] == pytest.approx(centre * 10, rel=0.01)


@pytest.mark.parametrize(
    ("budgets", "expected"),
    [
        (1, (12,)),
        (2, (12, 2)),
        (3, (12, 6, 2)),
        (5, (12, 9, 6, 4, 2)),
        (9, (12, 10, 9, 8, 6, 5, 4, 3, 2)),
    ],
)
def test_a_taper_is_stretched_to_other_numbers_of_budgets(
    budgets: int, expected: tuple[int, ...]
) -> None:
    layout = Tapered().layout([10.0**i for i in range(budgets)])
    assert layout.sizes_per_budget == expected


@given(st.integers(1, 12), st.integers(2, 40))
def test_a_taper_never_rises_and_ends_at_two_or_more(budgets: int, most: int) -> None:
    counts = Tapered(sizes_per_budget=most).layout(list(range(1, budgets + 1)))
    assert counts.sizes_per_budget[0] == most
    assert list(counts.sizes_per_budget) == sorted(counts.sizes_per_budget, reverse=True)
    assert counts.sizes_per_budget[-1] >= 2


def test_a_rectangle_has_the_same_sizes_at_all_budgets() -> None:
    plan = plan_sweep(**ARGUMENTS, compute_budgets=BUDGETS, design="rectangular")
    assert len({tuple(here) for here in sizes(plan)}) == 1
    low, high = ((b / (PER_PARAM * 20)) ** 0.5 for b in (BUDGETS[0], BUDGETS[-1]))
    assert sizes(plan)[0][0] == pytest.approx(low / 3, rel=0.1)
    assert sizes(plan)[0][-1] == pytest.approx(high * 3, rel=0.02)


def test_a_rectangle_branches_into_one_trunk_a_size() -> None:
    plan = plan_sweep(
        **ARGUMENTS,
        compute_budgets=BUDGETS[:3],
        design="rectangular",
        training=TrainingConfig(branch=True),
        hparams=WSD,
    )
    assert len({e.trunk for e in plan.experiments}) == 7
    assert plan.total_flops < 0.75 * sum(e.flops for e in plan.experiments)


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(["grid", "tapered", "rectangular"]),
    st.lists(st.floats(2e7, 2e9), min_size=2, max_size=3, unique=True),
)
def test_every_design_meets_its_budgets_and_names_every_size_that_it_lost(
    design: Any, budgets: list[float]
) -> None:
    plan = plan_sweep(MLP, "width", compute_budgets=budgets, design=design)
    for e in plan.experiments:
        assert e.flops == pytest.approx(e.budget, rel=0.01)
    assert plan.layout is not None
    wanted = sum(plan.layout.sizes_per_budget)
    message = diagnostics(plan).get("left_out", "0 ")
    assert wanted == len(plan) + int(message.split()[0])
    assert message.count(" FLOPs: ") == wanted - len(plan)


@pytest.mark.parametrize("design", ["grid", "tapered", "rectangular"])
def test_every_design_holds_epochs_against_the_data(design: Any) -> None:
    plan = plan_sweep(**{**ARGUMENTS, "dataset": Blobs(400)}, compute_budgets=[2e8], design=design)
    result = next(d for d in plan.diagnostics if d.code == "repeated_data")
    assert result.severity == "warning"
    assert max(e.epochs or 0 for e in plan.experiments) > 4


def test_the_plan_says_its_prior_and_its_width() -> None:
    plan = plan_sweep(MLP, "width", compute_budgets=[1e8], design=Grid("hoffmann2022", 4, 5))
    message = diagnostics(plan)["design"]
    assert message == (
        "design 'grid': 5 sizes at each budget, from 1/4 to 4 times N* by the law 'hoffmann2022'"
    )
    assert message in str(plan)


def test_the_default_prior_spends_the_budget_at_twenty_units_a_parameter() -> None:
    """Under the model's own F(N): a convolution passes a weight many times a sample."""

    def convolutional(channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 4, 4)),
            nn.Conv2d(1, channels, 3),
            nn.Flatten(),
            nn.Linear(4 * channels, 4),
        )

    plan = plan_sweep(
        **{**ARGUMENTS, "model_cls": convolutional, "model_size_param": "channels"},
        compute_budgets=[1e9],
        design=Grid(sizes_per_budget=1),
    )
    e = plan.experiments[0]
    assert e.flops_per_unit > 1.2 * PER_PARAM * e.params.total
    assert e.tokens / e.params.total == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("k", [2.0, 6.0, 50.0])
def test_a_law_as_prior_is_evaluated_with_the_models_own_flops(k: float) -> None:
    law = Hoffmann(E=1.7, A=400.0, B=2000.0, alpha=0.35, beta=0.37)
    result = resolve_prior(law).optimum(1e18, LinearFlops(k))
    assert result == pytest.approx(law.optimal(1e18, k).params)


def test_a_fit_as_prior_centres_on_its_own_optimum() -> None:
    fit = fit_runs(reference.runs("llama3_2024"))
    prior = resolve_prior(fit)
    assert prior.optimum(1e20, fit.flops) == pytest.approx(fit.predict(1e20).optimal_params)
    assert prior.optimum(1e20, fit.flops) == fit.optimal(1e20).params
    assert "fit of runs up to 1e+22 FLOPs" in prior.description


def test_an_optimum_without_surface_is_a_prior() -> None:
    prior = resolve_prior("llama3_2024")
    expected = reference.law("llama3_2024").optimal(1e20).params
    assert prior.optimum(1e20, LinearFlops(6.0)) == expected
    assert "non-embedding" in resolve_prior("kaplan2020").description


def test_without_a_prior_a_parameter_gets_twenty_units() -> None:
    """C = 6·N·20·N, so N = √(C/120)."""
    prior = resolve_prior(None)
    assert prior.description == "20 units a parameter"
    assert prior.optimum(1.2e20, LinearFlops(6.0)) == pytest.approx(1e9, rel=1e-9)


def test_another_number_of_units_a_parameter_moves_the_centre() -> None:
    flops = LinearFlops(6.0)
    twenty, eighty = (resolve_prior(r).optimum(1e20, flops) for r in (20, 80))
    assert twenty == pytest.approx((1e20 / 120) ** 0.5)
    assert twenty / eighty == pytest.approx(2.0)


def test_sizes_in_even_steps_of_ln_n() -> None:
    plan = plan_sweep(MLP, "width", compute_budgets=[1e12])
    steps = np.diff(np.log(sizes(plan)[0]))
    np.testing.assert_allclose(steps, np.log(36) / 6, rtol=0.01)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"design": "tappered"}, InputError, "Did you mean 'tapered'"),
        ({"design": 3}, InputTypeError, r"design: expected a name or one of Grid\(...\)"),
        ({"prior": "hofmann"}, InputError, "prior: expected one of"),
        ({"prior": "deepseek2024"}, InputError, "counts non-embedding FLOPs per token"),
        ({"prior": -1.0}, InputError, "positive number of units a parameter"),
        ({"prior": object()}, InputTypeError, "prior: expected the name"),
        ({"prior": Hoffmann}, InputTypeError, "prior: expected the name"),
        ({"width": 1.0}, InputError, "width: expected a factor above 1"),
        ({"width": "6"}, InputTypeError, "width: expected a factor"),
        ({"sizes_per_budget": 0}, InputError, "1 or more"),
        ({"sizes_per_budget": 2.5}, InputError, "whole numbers"),
        ({"sizes_per_budget": [3]}, InputError, "one for each of 2 budgets"),
        ({"repeats": 0}, InputError, "repeats: expected a positive whole number"),
        ({"design": Rectangular(sizes_per_budget=[3, 4])}, InputError, "the same sizes"),
        ({"sizes": [4, 8], "width": 3.0}, InputError, "design: it would have no effect"),
        ({"sizes": [4, 8], "design": "tapered"}, InputError, "design: it would have no effect"),
    ],
)
def test_what_cannot_lay_out_a_sweep_is_reported(
    change: dict[str, Any], error: type[Exception], words: str
) -> None:
    def plan() -> Any:
        names = {f.name for f in fields(Grid)}
        settings = {name: value for name, value in change.items() if name in names}
        others = {name: value for name, value in change.items() if name not in names}
        design = {"design": Grid(**settings)} if settings else {}
        return plan_sweep(MLP, "width", **{"compute_budgets": [1e8, 1e9], **design, **others})

    with pytest.raises(error, match=words):
        plan()


def test_a_size_that_cannot_be_had_is_named() -> None:
    class Capped(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            if width > 40:
                raise ValueError("at most 40")
            self.layer = nn.Linear(20, width, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    plan = plan_sweep(Capped, "width", compute_budgets=[1e8])
    message = diagnostics(plan)["left_out"]
    assert "the constructor accepts no size near it" in message
    assert "the nearest size, 40, is already used for" in message

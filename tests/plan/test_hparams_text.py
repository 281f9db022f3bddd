"""A plan prints what its recipe chose: by run where runs differ, in one line where they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flops_fit import SweepPlan, plan_sweep
from flops_fit.examples.gpt import GPT, gpt_loss_fn
from flops_fit.flops import LinearFlops
from flops_fit.plan.io import differing_columns, shared_line
from flops_fit.text import render
from tests.conftest import MLP, Blobs, cross_entropy, make_experiment


def planned(hparams: Any, **changes: Any) -> SweepPlan:
    arguments: dict[str, Any] = {
        "model_cls": MLP,
        "model_size_param": "width",
        "dataset": Blobs(400),
        "loss_fn": cross_entropy,
        "compute_budgets": [5e5, 1e6],
        "sizes": [4, 8],
        "hparams": hparams,
    }
    return plan_sweep(**{**arguments, **changes})


def unpriced(hparams: Any) -> SweepPlan:
    """Plans of a GPT without data."""
    return plan_sweep(
        GPT,
        "d_model",
        compute_budgets=[1e12, 4e12],
        sizes=[16, 32, 64],
        flops="6nd",
        hparams=hparams,
    )


def test_what_all_runs_share_stands_beneath_the_table() -> None:
    plan = planned("default")
    assert (
        "Recipe default-1: weight decay 0.1, β 0.9/0.98, warmup 10 %, cosine to 0, clip 1."
        in render(plan)
    )
    assert not {"decay", "β", "warmup", "schedule", "ends at"} & set(columns(plan))


def columns(plan: SweepPlan) -> list[str]:
    return [str(column.header) for column in plan.__rich__().columns]


@pytest.mark.parametrize(
    ("recipe", "differing", "line"),
    [
        ("steplaw2025", ["ends at"], "weight decay 0.1, β 0.9/0.95, warmup 10 %, cosine, clip 1."),
        ("deepseek2024", [], "weight decay 0.1, β 0.9/0.95, warmup 10 %, wsd, last 20 % to 10 %, clip 1."),
        ("porian2024", ["decay", "warmup"], "β 0.9/0.99, constant rate, clip 1."),
        ("constant", [], "weight decay 0.01, β 0.9/0.999, warmup 10 %, cosine to 0, clip 1."),
    ],
)  # fmt: skip
def test_what_differs_has_a_column_and_leaves_the_line(
    recipe: str, differing: list[str], line: str
) -> None:
    plan = unpriced(recipe)
    assert columns(plan) == [
        *("FLOPs", "size", "N", "D (units)", "D/N", "C/6ND", "steps", "batch", "epochs", "lr"),
        *differing,
        "est. time",
    ]
    assert shared_line(plan.experiments) == f"Recipe {recipe}-1: {line}"


def test_no_cell_is_cut_at_the_width_that_plans_print_in() -> None:
    """Up to two columns more than the usual ones."""
    for recipe in ("default", "steplaw2025", "porian2024"):
        assert "…" not in render(unpriced(recipe), 120)


def test_each_cell_is_that_of_its_run() -> None:
    a = make_experiment()
    b = replace(a, hparams=replace(a.hparams, schedule="wsd", beta2=0.999, weight_decay=0.0))
    c = replace(a, hparams=replace(a.hparams, warmup_units=2500.0, clip=0.25, recipe="mine"))
    assert differing_columns([a, b, c]) == {
        "decay": ["0.1", "0", "0.1"],
        "β": ["0.9/0.95", "0.9/0.999", "0.9/0.95"],
        "warmup": ["10 %", "10 %", "2.5k samples"],
        "schedule": ["cosine", "wsd, last 20 %", "cosine"],
    }
    assert shared_line([a, b, c]) == "Recipes test, mine."


def test_rules_for_text_applied_to_samples_are_reported() -> None:
    plan = planned({"recipe": "steplaw2025", "clip": 0.5})
    finding = next(d for d in plan.diagnostics if d.code == "recipe_units")
    assert finding.severity == "warning"
    assert "'steplaw2025' was fitted on tokens of text, and D counts samples" in finding.message
    assert "recipe_units" in planned("porian2024").to_json()


@pytest.mark.parametrize(
    "hparams",
    ["default", "constant", {"lr": 0.1}, {"recipe": "porian2024", "lr": 0.1, "batch_units": 4}],
)
def test_nothing_is_reported_where_no_rule_for_text_decides(hparams: Any) -> None:
    assert "recipe_units" not in {d.code for d in planned(hparams).diagnostics}


def test_nothing_is_reported_where_tokens_are_counted() -> None:
    plan = plan_sweep(
        GPT, "d_model", dataset=tokens(), loss_fn=gpt_loss_fn,
        compute_budgets=[1e8, 2e8], sizes=[16], hparams="steplaw2025",
    )  # fmt: skip
    assert plan.unit == "tokens"
    assert "recipe_units" not in {d.code for d in plan.diagnostics}


def tokens() -> torch.utils.data.TensorDataset:
    x = torch.randint(256, (400, 17), generator=torch.Generator().manual_seed(0))
    return torch.utils.data.TensorDataset(x[:, :-1], x[:, 1:])


def test_a_table_of_the_users_own_reaches_the_plan(tmp_path: Path) -> None:
    """With the width that was counted on the model."""
    file = tmp_path / "lab.toml"
    file.write_text('name = "lab-3"\nbase = "default"\n[lr]\ncoefficient = 0.8\nwidth = -1.0\n')
    plan = unpriced(str(file))
    assert {e.hparams.lr for e in plan.experiments} == {0.8 / 16, 0.8 / 32, 0.8 / 64}
    assert "Recipe lab-3: " in str(plan)


def test_a_plan_of_nothing_prints() -> None:
    assert "0 runs" in render(SweepPlan((), "tokens", LinearFlops(6.0)))

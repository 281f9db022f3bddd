"""The coordinate check passes where one learning rate serves all widths, and fails where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import flops_fit
from flops_fit.api import width_check
from flops_fit.errors import InputError
from flops_fit.examples import GPT, VisionTransformer, gpt_loss_fn, vit_loss_fn
from flops_fit.mup import Coordinate, CoordinateCheck, Mup
from tests.conftest import MLP, Blobs, cross_entropy


def sentences() -> Any:
    """Bytes that depend on the one before."""
    start = torch.randint(256, (60, 1), generator=torch.Generator().manual_seed(0))
    rows = (start + 7 * torch.arange(65)) % 256
    return torch.utils.data.TensorDataset(rows[:, :-1], rows[:, 1:])


def images() -> Any:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(10, (200,), generator=generator)
    x = torch.randn(10, 3, 16, 16, generator=generator)[y]
    return torch.utils.data.TensorDataset(x + torch.randn(x.shape, generator=generator), y)


GPT_CALL: dict[str, Any] = {
    "model_cls": GPT,
    "model_size_param": "d_model",
    "model_kwargs": {"mup_attention": True},
    "dataset": sentences(),
    "loss_fn": gpt_loss_fn,
    "sizes": [16, 32, 64, 128],
    "samples": 4,
}
VIT_CALL: dict[str, Any] = {
    "model_cls": VisionTransformer,
    "model_size_param": "embed_dim",
    "model_kwargs": {"image_size": 16},
    "dataset": images(),
    "loss_fn": vit_loss_fn,
    "sizes": [32, 64, 128, 256],
    "lr": 0.001,
}


@pytest.mark.parametrize("call", [GPT_CALL, VIT_CALL], ids=["gpt", "vit"])
@pytest.mark.parametrize("parametrization", ["mup", "standard"])
def test_the_bundled_models_pass_in_mup_and_fail_without(
    call: dict[str, Any], parametrization: Any
) -> None:
    check = flops_fit.coordinate_check(**call, parametrization=parametrization)
    assert check.verdict == ("passed" if parametrization == "mup" else "failed"), str(check)
    assert check.widths == (1, 2, 4, 8)
    steepest = max(c.slope for c in check.coordinates)
    assert steepest < 0.15 if parametrization == "mup" else steepest > 0.5
    text = str(check)
    assert all(c.name in text for c in check.coordinates)
    if parametrization == "standard":
        assert f"{check.outside[0].name} moves faster the wider the model is" in check.reason


def test_a_tied_readout_fails_alone_and_passes_multiplied() -> None:
    class Tied(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table = nn.Embedding(64, width)
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, 64, bias=False)
            self.head.weight = self.table.weight
            nn.init.normal_(self.table.weight, std=0.02)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.table(x)))

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    rows = (torch.arange(60)[:, None] + 5 * torch.arange(9)) % 64
    data = torch.utils.data.TensorDataset(rows[:, :-1], rows[:, 1:])
    call: Any = {"sizes": [32, 64, 128, 256], "lr": 0.003}
    alone, multiplied = (
        flops_fit.coordinate_check(
            Tied, "width", {}, data, loss, parametrization=Mup(readout=readout), **call
        )
        for readout in (False, True)
    )
    assert alone.verdict == "failed"
    assert alone.outside[0].name in ("head", "(whole model)")
    assert multiplied.passed, str(multiplied)


def test_the_same_seed_gives_the_same_check_and_moves_no_generator() -> None:
    call: Any = {"sizes": [8, 16, 32], "steps": 2, "seeds": 2}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = (
        flops_fit.coordinate_check(MLP, "width", {}, Blobs(200), cross_entropy, **call)
        for _ in range(2)
    )
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


def test_sizes_are_doubled_from_the_base_as_far_as_seconds_reach() -> None:
    check = flops_fit.coordinate_check(
        MLP, "width", {}, Blobs(200), cross_entropy, parametrization=Mup(base=8), steps=1, seeds=2
    )
    assert check.sizes == (32, 64, 128, 256)
    assert check.widths == (4, 8, 16, 32)


def test_a_base_that_is_too_dear_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    call: dict[str, Any] = {**GPT_CALL, "sizes": None, "steps": 1, "seeds": 2}
    monkeypatch.setattr(width_check, "_FLOPS", 2e9)
    check = flops_fit.coordinate_check(**call, parametrization=Mup(base=512))
    assert check.sizes == (16, 32, 64)
    assert check.widths == (1 / 32, 1 / 16, 1 / 8)


def test_sizes_of_one_width_are_not_compared() -> None:
    class Layers(MLP):
        def __init__(self, number: int) -> None:
            super().__init__(8)
            self.more = nn.ModuleList(nn.Linear(4, 4) for _ in range(number))

    checked = plan(model_cls=Layers, model_size_param="number", sizes=[1, 2])
    assert checked.coordinates is None
    assert "do not differ in width" in told(checked).message


def test_a_verdict_rests_on_the_error_over_seeds() -> None:
    def check(slope: float, error: float) -> CoordinateCheck:
        coordinate = Coordinate("head", (1.0, 1.0), (1.0, 1.0), slope, error)
        still = Coordinate("still", (0.0, 0.0), (1.0, 1.0), 3.0, 0.0, moves=False)
        return CoordinateCheck((8, 16), (1.0, 2.0), (coordinate, still), 8, 3, 0.01, "mup")

    assert check(0.1, 0.01).verdict == "passed"
    assert check(0.6, 0.01).verdict == "failed"
    assert check(0.6, 0.5).verdict == "unclear"
    assert "Give more seeds" in check(0.6, 0.5).reason
    assert "moves slower the wider" in check(-0.6, 0.01).reason
    assert check(-0.3, 0.01).passed
    assert check(float("nan"), 0.1).verdict == "failed"
    assert "diverged" in check(float("nan"), 0.1).reason
    nothing = replace(check(0, 0), coordinates=check(0, 0).coordinates[1:])
    assert nothing.verdict == "unclear"
    assert "no activation moved" in nothing.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": [8, 16]}, "three different widths or more; got .* which differ in 2"),
        ({"sizes": None}, "three sizes or more, or a base"),
        ({"dataset": None}, "dataset: .* got none"),
        ({"seeds": 1}, "seeds: expected a whole number from 2 to 5"),
        ({"steps": 0}, "steps: expected"),
    ],
)
def test_what_cannot_be_checked_is_told(change: dict[str, Any], words: str) -> None:
    call: dict[str, Any] = {"dataset": Blobs(200), "loss_fn": cross_entropy, "sizes": [8, 16, 32]}
    with pytest.raises(InputError, match=words):
        flops_fit.coordinate_check(MLP, "width", {}, **{**call, **change})


def plan(**change: Any) -> flops_fit.SweepPlan:
    return flops_fit.plan_sweep(
        **{
            "model_cls": MLP,
            "model_size_param": "width",
            "dataset": Blobs(400),
            "loss_fn": cross_entropy,
            "compute_budgets": [5e5],
            "sizes": [8, 16, 32],
            "batch_size": 4,
            "training": flops_fit.TrainingConfig(parametrization="mup"),
            **change,
        }
    )


def told(plan: flops_fit.SweepPlan) -> Any:
    return next(d for d in plan.diagnostics if d.code == "coordinates")


def test_a_plan_in_mup_has_its_check_and_the_verdict() -> None:
    checked = plan(training=flops_fit.TrainingConfig(parametrization=Mup(init=True)))
    assert checked.coordinates.passed
    assert told(checked).severity == "note"
    assert "one learning rate serves all widths" in told(checked).message
    assert plan(training=flops_fit.TrainingConfig()).coordinates is None


class Odd(MLP):
    """Its output grows with its width, whatever rates do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = super().forward(x) * self.up.weight.shape[0]
        return out


def test_a_plan_whose_check_fails_warns_with_the_reason_and_the_way_out() -> None:
    warned = told(plan(model_cls=Odd))
    assert warned.severity == "warning"
    assert "moves faster" in warned.message
    assert "Mup(init=True)" in warned.action
    assert 'tune="per-size"' in warned.action


def test_a_plan_says_why_no_check_was_made() -> None:
    refused = plan(sizes=[{"width": 8}, {"width": 16}], model_size_param=None)
    assert refused.coordinates is None
    assert "fewer than 3 widths" in told(refused).message

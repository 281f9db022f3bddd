"""What cannot train is found out before the sweep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from flops_fit import plan_sweep
from flops_fit.errors import FlopsFitError, LossError, ModelError
from flops_fit.train import memory
from tests.conftest import MLP, Blobs, cross_entropy


class NaNModel(MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float("nan")


class Raises(MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")


def plan(**change: Any):
    arguments = {
        "model_cls": MLP,
        "model_size_param": "width",
        "dataset": Blobs(200),
        "loss_fn": cross_entropy,
        "compute_budgets": [1e7],
    }
    return plan_sweep(**{**arguments, **change})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model_cls": NaNModel}, LossError, "untrained model's loss on the first batch is nan"),
        ({"model_cls": Raises}, FlopsFitError, "shapes do not fit"),
        (
            {"loss_fn": lambda o, t: nn.functional.cross_entropy(o, t, reduction="none")},
            LossError,
            "shape",
        ),
        (
            {"loss_fn": lambda o, t: nn.functional.cross_entropy(o, t, reduction="sum")},
            LossError,
            "mean over",
        ),
        ({"loss_fn": lambda o, t: cross_entropy(o.detach(), t)}, LossError, "no gradient"),
        ({"loss_fn": lambda o, t: 1.0}, LossError, "got float"),
        ({"loss_fn": lambda o: o.sum()}, ModelError, "TypeError"),
    ],
)
def test_what_cannot_train_is_reported(
    change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        plan(**change)


def test_speed_is_measured_and_gives_a_time_to_every_run() -> None:
    probed = plan()
    assert probed.speed is not None
    assert all(times.flops_per_second > 0 for times in probed.speed.steps)
    assert probed.seconds() == pytest.approx(
        sum(probed.speed.seconds(e) for e in probed.experiments)
    )


class Large(MLP):
    """Has memory for so many samples in training."""

    room = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "meta" and self.training and len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


class Larger(Large):
    room = 1


def test_a_batch_that_does_not_fit_is_timed_in_part() -> None:
    speed = plan(model_cls=Large, batch_size=32).speed
    assert speed is not None
    assert all(times.flops_per_second > 0 for times in speed.steps)


def test_nothing_is_timed_where_not_even_two_samples_fit() -> None:
    planned = plan(model_cls=Larger)
    assert planned.speed is None
    [told] = [d for d in planned.diagnostics if d.code == "memory"]
    assert "no memory for two samples" in told.message


def test_nothing_is_built_that_the_device_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "device_bytes", lambda device: 100.0)
    planned = plan(metrics={"none": lambda model, batches: 1.0})
    assert planned.speed is None
    [first, *_] = planned.experiments
    assert planned.task is not None
    assert planned.task(first).state == "oom"


def test_probing_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    plan()
    assert torch.equal(torch.rand(1), expected)


def test_steps_are_timed_with_all_threads_and_with_one() -> None:
    """As runs side by side have them; the threads are given back."""
    torch.set_num_threads(2)
    try:
        probed = plan(sizes=[8])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert probed.speed is not None
    assert probed.speed.threads == 2
    assert len(probed.speed.alone) == len(probed.speed.steps) > 0


class Rescaled(MLP):
    """Weights are halved in place for evaluation, and doubled for training."""

    def train(self, mode: bool = True) -> Rescaled:
        if mode != self.training:
            with torch.no_grad():
                for weight in self.parameters():
                    weight.mul_(2.0 if mode else 0.5)
        return super().train(mode)


def test_a_model_that_changes_its_weights_between_the_modes_is_planned() -> None:
    assert plan(model_cls=Rescaled).speed is not None

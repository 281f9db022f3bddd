"""Batches are cut along their samples, wherever a collation puts these."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from flops_fit import TrainingConfig, plan_sweep
from flops_fit.batches import batch_length, sample_axes, split_batch
from flops_fit.data.spec import split_data
from flops_fit.errors import DataError

TIMES = 10
X = torch.randn(300, TIMES, 8, generator=torch.Generator().manual_seed(0))
STEPS = TensorDataset(X, (X @ torch.randn(8, 4)).argmax(-1))
ROWS = TensorDataset(X, (X.sum(1) @ torch.randn(8, 4)).argmax(-1))


def time_first(samples: list[Any]) -> tuple[Tensor, Tensor]:
    x = torch.stack([s[0] for s in samples], 1)
    y = [s[1] for s in samples]
    return x, torch.stack(y, 1 if y[0].dim() else 0)


class Recurrent(nn.Module):
    def __init__(self, width: int, last: bool) -> None:
        super().__init__()
        self.layer, self.head, self.last = nn.GRU(8, width), nn.Linear(width, 4), last

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)[0]
        logits: Tensor = self.head(out[-1] if self.last else out)
        return logits


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())


def plan(data: Any, **more: Any) -> Any:
    return plan_sweep(
        Recurrent, "width", {"last": data is ROWS}, DataLoader(data, collate_fn=time_first), loss,
        [4e7], sizes=[16], batch_size=12, hparams={"lr": 0.01}, device="cpu", **more,
    )  # fmt: skip


@pytest.mark.parametrize("data", [STEPS, ROWS])
def test_a_batch_with_time_first_trains_the_same_in_parts(data: Any) -> None:
    whole, parts = plan(data), plan(data, training=TrainingConfig(microbatch=5))
    assert parts.planner.task.divisible
    runs = [p.planner.task(p.experiments[0]) for p in (whole, parts)]
    assert [r.state for r in runs] == ["completed"] * 2
    assert runs[1].microbatch == 5
    assert runs[0].train_loss == pytest.approx(runs[1].train_loss, rel=1e-4)


def test_each_tensor_is_cut_along_its_own_samples() -> None:
    data, _ = split_data(DataLoader(ROWS, collate_fn=time_first))
    batch = data.first_batch(7)
    assert data.sample_axes == (1, 0)
    assert (data.length(batch), batch_length(batch)) == (7, TIMES)
    parts = list(data.cut(batch, 3))
    assert [tuple(x.shape) for x, _ in parts] == [(TIMES, 3, 8), (TIMES, 3, 8), (TIMES, 1, 8)]
    assert torch.equal(torch.cat([x for x, _ in parts], 1), batch[0])
    assert torch.equal(torch.cat([y for _, y in parts]), batch[1])
    with pytest.raises(DataError, match="7 samples along dimension 1"):
        list(split_batch((batch[0], batch[0].transpose(0, 1)), 3, (1, 1)))


def test_what_does_not_grow_with_samples_is_cut_along_its_first_dimension() -> None:
    pair = {"x": torch.zeros(2, 5), "mask": torch.zeros(5, 5)}
    triple = {"x": torch.zeros(3, 5), "mask": torch.zeros(5, 5)}
    assert sample_axes(pair, triple) == (0, 0)
    assert sample_axes([torch.zeros(4)] * 2, [torch.zeros(4)] * 3) == ()
    packed = split_data(DataLoader(STEPS, collate_fn=lambda s: torch.cat([x for x, _ in s])))[0]
    assert packed.sample_axes == (0,)


def test_a_collation_that_refuses_a_sample_twice_is_cut_along_the_first_dimension() -> None:
    def collate(samples: list[Any]) -> tuple[Tensor, Tensor]:
        if len({id(s) for s in samples}) < len(samples):
            raise ValueError("twice")
        return time_first(samples)

    data, _ = split_data(DataLoader(STEPS, collate_fn=collate))
    assert data.sample_axes == ()


class Flat(nn.Module):
    """Mixes times, of rows that hold all samples at one time and then those at the next."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(8, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x.unflatten(0, (2, -1)))
        logits: Tensor = self.head(hidden + hidden.flip(0))
        return logits


def test_the_cut_that_training_makes_is_tried() -> None:
    """Parts that are collated add up, and those that are cut do not."""

    def collate(samples: list[Any]) -> tuple[Tensor, Tensor]:
        x, y = time_first(samples)
        return x[:2].flatten(0, 1), y[:2].flatten(0, 1)

    made = plan_sweep(
        Flat, "width", None, DataLoader(STEPS, collate_fn=collate), loss, [4e7], sizes=[16],
        batch_size=12, hparams={"lr": 0.01}, device="cpu",
    )  # fmt: skip
    assert made.planner.task.data.sample_axes == (0, 0)
    assert made.planner.task.judged_on is None
    assert not made.planner.task.divisible

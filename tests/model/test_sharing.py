"""What a factory puts into every model stays as the user gave it, and no run changes it for another."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from flops_fit import plan_sweep
from flops_fit.errors import ModelError
from flops_fit.model import ModelSpec
from tests.conftest import cross_entropy

X = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
LABELLED = TensorDataset(X, (X @ torch.randn(8, 4)).argmax(1))
TABLE = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))


class Student(nn.Module):
    def __init__(self, width: int, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.inner, self.head = nn.Linear(8, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.inner(self.encoder(x)).relu())
        return out


class ByValues(Student):
    """Looks at the values of its input, so that it is traced with them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.abs().max() < 1e3 else self.head(self.inner(x))


def pretrained(width: int) -> nn.Module:
    table = nn.Embedding.from_pretrained(TABLE, freeze=False)
    layer = nn.Linear(8, 8, bias=False)
    layer.weight = table.weight
    return Student(width, nn.Sequential(layer))


def plan(model: Callable[..., Any], **more: Any) -> Any:
    settings: dict[str, Any] = {"batch_size": 8, "hparams": {"lr": 0.02}, "device": "cpu"} | more
    return plan_sweep(
        model, "width", dataset=LABELLED, loss_fn=cross_entropy,
        compute_budgets=[3e5, 6e5], sizes=[8, 16], **settings,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [Student, ByValues])
@pytest.mark.parametrize("by_closure", [False, True])
def test_a_module_of_the_users_keeps_its_device_and_its_weights(
    kind: type[Student], by_closure: bool
) -> None:
    encoder = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    before = copy.deepcopy(encoder.state_dict())
    if by_closure:
        planned = plan(lambda width: kind(width, encoder))
    else:
        planned = plan(kind, model_kwargs={"encoder": encoder})
    assert planned.planner.task(planned.experiments[0]).state == "completed"
    after = encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert encoder[0].weight.grad is None


def test_a_run_comes_out_the_same_alone_and_after_others() -> None:
    before = TABLE.clone()
    planned = plan(pretrained)
    last = planned.experiments[-1]
    losses = [planned.planner.task(e).loss for e in (*planned.experiments, last)]
    alone = pickle.loads(pickle.dumps(planned.planner.task))(last).loss
    assert losses[-1] == losses[-2] == alone
    assert torch.equal(before, TABLE)


def test_what_is_shared_is_copied_once_and_keeps_its_ties() -> None:
    shared = nn.Linear(8, 8)

    class Tied(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.second, self.own = shared, nn.Linear(8, 8), nn.Linear(8, width)
            self.second.weight = shared.weight
            self.third = nn.Parameter(shared.weight.detach())
            self.register_buffer("mask", shared.bias.detach())

    spec = ModelSpec(Tied, "width")
    built, again = spec.build(4), spec.build(4)
    assert isinstance(built, Tied)
    assert built.first is not shared
    assert built.second.weight is built.first.weight
    assert built.third.data_ptr() == built.first.weight.data_ptr() != shared.weight.data_ptr()
    assert torch.equal(built.mask, shared.bias)
    assert {p.data_ptr() for p in built.parameters()}.isdisjoint(
        p.data_ptr() for p in (*again.parameters(), *shared.parameters())
    )
    assert all(p.is_meta for p in spec.build_meta(4).parameters())
    assert not any(p.is_meta for p in shared.parameters())


def test_a_model_that_shares_nothing_is_not_copied() -> None:
    made: list[nn.Module] = []

    def build(width: int) -> nn.Module:
        made.append(nn.LSTM(8, width))
        return made[-1]

    built = ModelSpec(build, "width").build(4)
    assert built is made[-1]
    made.clear()


def test_one_model_for_each_size_is_copied_whole() -> None:
    models = {8: nn.LSTM(8, 8), 16: nn.LSTM(8, 16)}
    spec = ModelSpec(lambda width: models[width], "width")
    built = spec.build(16)
    assert built is not models[16]
    assert built(X[None])[0].shape == (1, 400, 16)


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    encoder: Any = nn.Linear(8, 8)
    encoder.lock = threading.Lock()
    with pytest.raises(ModelError, match="copy of it, which TypeError prevents"):
        ModelSpec(Student, "width", {"encoder": encoder}).build(4)

"""FLOPs per unit of the user's model: what is frozen, routed, recomputed or cannot be traced."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from flops_fit import plan_sweep
from flops_fit.examples import GPT
from flops_fit.flops.trace import trace_flops
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective
from flops_fit.plan.counting import FlopsCounter

B, T, V = 2, 6, 20
IDS = torch.zeros(B, T, dtype=torch.long)


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def counter(factory: Any, **objective: Any) -> FlopsCounter:
    target = Objective(**(objective or {"loss_fn": token_loss}))
    unit = "tokens"
    return FlopsCounter.from_batch(ModelSpec(factory, "d"), target, "measured", (IDS, IDS), unit)[0]


class Routed(nn.Module):
    """Each token to one of four experts, by its values; or all to all where ``dense``."""

    def __init__(self, d: int, dense: bool, declares: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(V, d)
        self.router = nn.Linear(d, 4, bias=False)
        self.experts = nn.ModuleList(nn.Linear(d, d, bias=False) for _ in range(4))
        self.head = nn.Linear(d, V, bias=False)
        self.dense = dense
        if declares:
            self.active_params = lambda: V * d + 4 * d + d * d + V * d

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        weights = self.router(x).softmax(-1)
        if self.dense:
            y = sum(weights[..., i : i + 1] * e(x) for i, e in enumerate(self.experts))
        else:
            y = torch.zeros_like(x)
            for i, expert in enumerate(self.experts):
                rows = (weights.argmax(-1) == i).nonzero(as_tuple=True)
                y[rows] += expert(x[rows])
        logits: Tensor = self.head(y)
        return logits


def test_routing_by_values_is_counted_on_the_real_batch() -> None:
    """Each token passes the router, one expert of four and the head."""
    d = 8
    counted = counter(lambda d: Routed(d, False, False))
    assert (
        counted.per_unit(d) == 6 * (4 * d + d * d + V * d) - 4 * 4 * d
    )  # no gradient of an argmax
    assert "4, of which a position passes 1)" in counted.notes[0]
    assert "Declare active_params()" in counted.notes[0]


def test_declared_active_parameters_stand_for_what_is_too_large_to_be_traced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    routed = counter(lambda d: Routed(d, False, False)).per_unit(8)
    assert counter(lambda d: Routed(d, False, True)).per_unit(8) == routed
    monkeypatch.setattr("flops_fit.plan.tracing._MOST_TRACED", 10)
    counted = counter(lambda d: Routed(d, False, True))
    assert counted.per_unit(8) == 6 * (2 * V * 8 + 4 * 8 + 8 * 8)
    assert "6·N of the active parameters" in counted.notes[0]


def test_experts_that_every_token_passes_are_all_counted_and_none_is_left_out() -> None:
    counted = counter(lambda d: Routed(d, True, False))
    d = 8
    assert counted.per_unit(d) == 6 * (4 * d + 4 * d * d + V * d)
    declared = counter(lambda d: Routed(d, True, True))
    assert declared.per_unit(d) == counted.per_unit(d)
    assert declared.notes == counted.notes == []


class Distilled(nn.Module):
    """A student, a frozen teacher within the same module."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Embedding(V, d), nn.Linear(d, V, bias=False))
        self.teacher = nn.Sequential(nn.Embedding(V, 2 * d), nn.Linear(2 * d, V, bias=False))
        self.teacher.requires_grad_(False)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.student(ids), self.teacher(ids)


def distil_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
    student, teacher = model(batch[0])
    return functional.mse_loss(student, teacher, reduction="sum"), batch[1].numel()


def test_a_frozen_teacher_in_a_step_of_the_users_own_costs_its_forward_pass() -> None:
    """Per token 6·V·d of the student and 2·V·2d of the teacher."""
    counted = counter(Distilled, step_fn=distil_step)
    assert counted.per_unit(8) == 6 * V * 8 + 2 * V * 16
    assert counted.notes == []


def test_a_plan_tells_that_the_constructor_allocates() -> None:
    class Reads(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 4))
            self.scale = float(self.layers[0].weight.std())

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layers(x)
            return out

    from tests.conftest import Blobs, cross_entropy

    plan = plan_sweep(
        model_cls=Reads,
        model_size_param="width",
        dataset=Blobs(),
        loss_fn=cross_entropy,
        compute_budgets=[1e7],
    )
    assert any("allocates memory even where none is needed" in d.message for d in plan.diagnostics)


class Stack(nn.Module):
    """Two layers, the hidden one ``hidden(d)`` wide, applied ``passes(d)`` times."""

    def __init__(self, d: int, hidden: Any, passes: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(V, d)
        self.up, self.down = nn.Linear(d, hidden(d)), nn.Linear(hidden(d), d)
        self.head = nn.Linear(d, V)
        self.passes = passes(d)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for _ in range(self.passes):
            x = self.down(self.up(x))
        logits: Tensor = self.head(x)
        return logits


def traces_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each trace from now on."""
    traces: list[int] = []

    def counted(*args: Any) -> Any:
        traces.append(1)
        return trace_flops(*args)

    monkeypatch.setattr("flops_fit.plan.tracing.trace_flops", counted)
    return traces


SIZES = [8, 12, 16, 20, 24, 40, 56, 100, 150, 300, 500]


@pytest.mark.parametrize(
    ("hidden", "passes", "most"),
    [
        (lambda d: 4 * d, lambda d: 1, 7),
        (lambda d: -(-8 * d // 3 // 16) * 16, lambda d: 1, 11),  # rounded up
        (lambda d: 4 * d, lambda d: 1 + d // 64, 11),  # more work, with nothing to see in the model
        (lambda d: 4 if d < 50 else d, lambda d: 1, 11),
    ],
)
def test_few_sizes_are_traced_and_all_are_counted_exactly(
    monkeypatch: pytest.MonkeyPatch, hidden: Any, passes: Any, most: int
) -> None:
    def make(d: int) -> Stack:
        return Stack(d, hidden, passes)

    exact = [counter(make).per_unit(d) for d in SIZES]
    traces = traces_of(monkeypatch)
    together = counter(make)
    together.function(SIZES)
    assert [together.per_unit(d) for d in SIZES] == exact
    assert len(traces) <= most


class Hidden(nn.Module):
    """Steps or heads that change with the width, ``told`` by a number of the model or in its pass alone."""

    def __init__(self, d: int, kind: str, told: bool) -> None:
        super().__init__()
        self.table, self.mix, self.head = nn.Embedding(V, d), nn.Linear(d, d), nn.Linear(d, V)
        self.kind = kind
        self.own = {"steps": [max(1, d // 32)]} if told else {}

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        d = x.shape[-1]
        if self.kind == "steps":
            for _ in range(self.own.get("steps", [max(1, d // 32)])[0]):
                x = x + self.mix(x).relu()
        else:
            heads = self.mix(x).view(*x.shape[:2], max(1, d // 64), -1).transpose(1, 2)
            x = x + (heads @ (heads.mT @ heads)).transpose(1, 2).reshape(x.shape)
        logits: Tensor = self.head(x)
        return logits


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("steps", [8, 16, 24, 28, 30, 31, 64, 96, 120]),
        ("heads", [16, 24, 32, 40, 48, 56, 128, 192]),
    ],
)
def test_sizes_beyond_a_change_of_the_rule_are_counted_exactly(
    kind: str, sizes: list[int], told: bool
) -> None:
    def make(d: int) -> Hidden:
        return Hidden(d, kind, told)

    exact = [counter(make).per_unit(d) for d in sizes]
    in_order, outside_in = counter(make), counter(make)
    assert [in_order.per_unit(d) for d in sizes] == exact
    outside_in.function(sizes)
    assert [outside_in.per_unit(d) for d in sizes] == exact
    # A number of the model's own that leaves what was traced is seen inside these sizes too.
    if told and kind == "steps":
        assert in_order.per_unit(48) == counter(make).per_unit(48)


def test_a_search_that_trusted_too_much_is_made_again() -> None:
    """The planned sizes refute the polynomial of the small ones; the sizes are those of exact counts."""

    def plan(model: Any, **more: Any) -> Any:
        return plan_sweep(
            model, "d", loss_fn=token_loss, mode="mock", example_batch=(IDS, IDS),
            compute_budgets=[1e9, 3e9, 1e10, 3e10], batch_size=4, **more,
        )  # fmt: skip

    def make(d: int) -> Hidden:
        return Hidden(d, "steps", False)

    def exactly(model: nn.Module) -> float:
        d = model.mix.in_features
        return 6.0 * d * d * max(1, d // 32) + 6 * d * V

    found, known = plan(make), plan(make, flops=exactly)
    assert [e.flops_per_unit for e in found.experiments] == pytest.approx(
        [exactly(make(e.size)) for e in found.experiments]
    )
    assert [e.size for e in found.experiments] == [e.size for e in known.experiments]


def test_layers_as_the_size_are_counted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(d: int) -> GPT:
        return GPT(d_model=16, num_layers=d, vocab_size=V)

    def loss(output: Any, targets: Tensor) -> Tensor:
        return token_loss(output[0], targets)

    traces = traces_of(monkeypatch)
    together = counter(make, loss_fn=loss)
    config = GPT(d_model=16, vocab_size=V).config
    together.function([1, 2, 3, 4, 5, 6, 10, 20])
    for layers in (1, 2, 3, 4, 5, 6, 10, 20):
        shape = dataclasses.replace(config, num_layers=layers)
        assert together.per_unit(layers) == shape.flops_per_token(T)
    assert len(traces) <= 5

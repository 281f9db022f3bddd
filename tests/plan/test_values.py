"""FLOPs of models that look at the values of a batch: counted on the batch itself, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from flops_fit.errors import InputError
from flops_fit.model.spec import ModelSpec
from flops_fit.objective import Objective
from flops_fit.plan.counting import FlopsCounter

X = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))
Y = torch.zeros(6, 5, 1)


class Base(nn.Module):
    """Two layers, the second after what a subclass does."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(4, d, bias=False), nn.Linear(d, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.between(self.inner(x), x))
        return out

    def between(self, h: Tensor, x: Tensor) -> Tensor:
        return h


class Branches(Base):
    def between(self, h: Tensor, x: Tensor) -> Tensor:
        return h if bool((x < 100).all()) else h * x[..., :1]


class PerGraph(Base):
    def between(self, h: Tensor, x: Tensor) -> Tensor:
        index = (x[:, 0, 0] > 0).long()
        rows = torch.zeros(int(index.max()) + 1, *h.shape[1:]).index_add(0, index, h)
        return rows[index]


class DrawsOnTheHost(Base):
    def between(self, h: Tensor, x: Tensor) -> Tensor:
        return h * (1 - torch.rand(len(x), 1, 1))


class Recurrent(Base):
    def __init__(self, d: int) -> None:
        super().__init__(d)
        self.rnn = nn.LSTM(d, d, batch_first=True)

    def between(self, h: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.rnn(h)[0]
        return out if x.sum() < 1e9 else h


class Adjacent(Base):
    """One sparse product of five numbers that are not zero, per sample."""

    def between(self, h: Tensor, x: Tensor) -> Tensor:
        n = h.shape[0] * h.shape[1]
        graph = torch.eye(n, device=h.device).to_sparse()
        return torch.sparse.mm(graph, h.flatten(0, 1)).view_as(h)


def per_sample(factory: Any, **objective: Any) -> tuple[float, list[str]]:
    target = Objective(**(objective or {"loss_fn": functional.mse_loss}))
    counted, _ = FlopsCounter.from_batch(
        ModelSpec(factory, "d"), target, "measured", (X, Y), "samples"
    )
    return counted.per_unit(8), counted.notes


BASE = 5 * (2 * 2 * 4 * 8 + 3 * 2 * 8)  # the first layer's inputs need no gradient
LSTM = 3 * 5 * 2 * 4 * 8 * 16 - 2 * 4 * 8 * 8  # nor does the first state


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        (Base, BASE),
        (Branches, BASE),
        (PerGraph, BASE),
        (DrawsOnTheHost, BASE),
        (Recurrent, BASE + LSTM),
        (Adjacent, BASE + 2 * 2 * 5 * 8),
    ],
)
def test_what_looks_at_values_costs_its_closed_form(kind: Any, flops: float) -> None:
    assert per_sample(kind) == (flops, [])


def test_counting_leaves_the_random_numbers_as_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    per_sample(Branches)
    assert torch.equal(torch.rand(3), expected)


def test_a_step_that_draws_on_the_host_is_counted() -> None:
    def step(model: Any, batch: Any) -> tuple[Tensor, int]:
        x, y = batch
        noise = torch.rand(len(x), 1, 1)
        return functional.mse_loss(model(x * noise), y) * len(x), len(x)

    assert per_sample(Base, step_fn=step) == (BASE, [])


NETWORK = nn.Linear(1, 1, bias=False).requires_grad_(False)
SCALE = torch.ones(())


def held_by_a_step(model: Any, batch: Any) -> tuple[Tensor, int]:
    """A network of the step's own, which it moves to where the batch is."""
    x, y = batch
    with torch.no_grad():
        taught = NETWORK.to(x.device)(y)
    return functional.mse_loss(model(x), taught) * len(x), len(x)


def seen_twice(model: Any, batch: Any) -> tuple[Tensor, int]:
    """A mask on the CPU, without which the model would be counted once."""
    x, y = batch
    out = model(x) + model(2 * x)
    return (out - y).masked_fill(torch.eye(5, 1).bool(), 0.0).square().mean() * len(x), len(x)


def held_by_a_loss(out: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(NETWORK(out), NETWORK(y))


@pytest.mark.parametrize(
    ("objective", "flops"),
    [
        ({"step_fn": held_by_a_step}, BASE + 5 * 2),
        ({"step_fn": seen_twice}, 2 * BASE),
        ({"loss_fn": held_by_a_loss}, BASE + 5 * (2 * 2 + 2)),
        ({"loss_fn": lambda out, y: functional.mse_loss(out * SCALE, y)}, BASE),
    ],
    ids=["network of a step", "step with a mask", "network of a loss", "loss with a tensor"],
)
def test_networks_beside_the_model_are_counted(objective: Any, flops: float) -> None:
    assert per_sample(Base, **objective) == (flops, [])
    assert not NETWORK.weight.is_meta


class Skips(Base):
    """One to three passes of a layer, drawn each time."""

    def __init__(self, d: int) -> None:
        super().__init__(d)
        self.middle = nn.Linear(d, d, bias=False)

    def between(self, h: Tensor, x: Tensor) -> Tensor:
        for _ in range(int(torch.randint(1, 4, ()))):
            h = self.middle(h)
        return h


def test_flops_that_are_drawn_are_counted_in_the_mean() -> None:
    """Two passes, ± 0.82 of one, which 128 draws that are evenly spread know as well as 10,000 others."""
    each = 5 * 3 * 2 * 8 * 8
    flops, notes = per_sample(Skips)
    assert flops == pytest.approx(BASE + 2 * each, rel=0.01)
    assert [note for note in notes if "draws how much it computes" in note] == notes
    assert "the mean of 128 draws, within 0." in notes[0]
    assert "vary by 31%, so C holds in the mean of many: within 1.0% for 1,000 steps" in notes[0]


class Unlike(nn.Module):
    """Layers of two kinds, each left out half the time, with dropout between them; ``d`` is the width."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, d, bias=False), nn.Linear(d, 1, bias=False)
        self.wide = nn.ModuleList(nn.Linear(d, d, bias=False) for _ in range(3))
        self.narrow = nn.ModuleList(nn.Linear(d, 4, bias=False) for _ in range(3))
        self.back = nn.Linear(4, d, bias=False)
        self.looks = False

    def forward(self, x: Tensor) -> Any:
        h = self.first(x)
        if self.looks and bool(h.abs().max() > 1e9):
            return self.last(h)
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            h = functional.dropout(h, 0.1, self.training)
            h = wide(h) if torch.rand(()) < 0.5 else h
            h = self.back(narrow(h)) if torch.rand(()) < 0.5 else h
        return self.last(h)


class UnlikeByValues(Unlike):
    def __init__(self, d: int) -> None:
        super().__init__(d)
        self.looks = True


@pytest.mark.parametrize("model", [Unlike, UnlikeByValues])
def test_few_draws_stand_for_many_at_every_size(model: Any) -> None:
    """The mean is linear in what a layer of each kind costs, which grows differently with the size."""
    target = Objective(functional.mse_loss)
    x = torch.zeros(5, 3)
    batch, unit = (x, x[:, :1]), "samples"
    counter, _ = FlopsCounter.from_batch(ModelSpec(model, "d"), target, "measured", batch, unit)
    d = np.array([8, 12, 64])
    counted = [counter.per_unit(int(size)) for size in d]
    layers = np.transpose([6 * d * d, 48 * d])  # FLOPs of a wide one and a narrow one
    often, *_ = np.linalg.lstsq(layers, counted - 18 * d, rcond=None)
    np.testing.assert_allclose(often, 1.5, rtol=0.01)  # 128 independent draws: 0.05
    np.testing.assert_allclose(layers @ often + 18 * d, counted, rtol=1e-9)


class Leaves(Base):
    """A second layer that is left out where the first says much."""

    def __init__(self, d: int) -> None:
        super().__init__(d)
        self.middle = nn.Linear(d, d, bias=False)

    def between(self, h: Tensor, x: Tensor) -> Tensor:
        return h if h.abs().max() < 1e-3 else self.middle(h)


def test_flops_that_follow_the_weights_are_told() -> None:
    """There is nothing to leave at zero weights but an early way out."""

    def make(d: int) -> nn.Module:
        model = Leaves(d)
        nn.init.zeros_(model.inner.weight)
        return model

    flops, notes = per_sample(make)
    assert flops == BASE
    assert "C is that of new weights" in notes[0]
    assert per_sample(Leaves) == (BASE + 5 * 3 * 2 * 8 * 8, [])


class Broken(Base):
    def between(self, h: Tensor, x: Tensor) -> Tensor:
        return h.reshape(7, -1)  # the line that is named


def test_a_model_that_fails_is_named_with_its_line() -> None:
    with pytest.raises(
        InputError, match=r"shape '\[7, -1\]' is invalid .*\(test_values.py, line "
    ) as e:
        per_sample(Broken)
    assert "h.reshape(7, -1)  # the line that is named" in str(e.value)


def test_a_model_too_large_for_the_cpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flops_fit.plan.tracing._MOST_TRACED", 10)
    with pytest.raises(InputError, match=r"looks at values.*return h if bool.*Give smaller sizes"):
        per_sample(Branches)


def test_draws_of_a_model_that_is_dear_to_draw_are_whole_traces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many as the strata, whose mean is that of many others."""
    monkeypatch.setattr("flops_fit.plan.tracing._DRAWN_FLOPS", 1.0)
    flops, notes = per_sample(Skips)
    assert flops == pytest.approx(BASE + 2 * 5 * 3 * 2 * 8 * 8, rel=0.02)
    assert "the mean of 32 draws" in notes[0]


def test_nested_tensors_are_refused_in_words() -> None:
    ragged = torch.nested.nested_tensor([X[0], X[1, :3]], layout=torch.jagged)
    spec, target = ModelSpec(Base, "d"), Objective(functional.mse_loss)
    counter, _ = FlopsCounter.from_batch(spec, target, "measured", (ragged, Y), "samples", 6)
    with pytest.raises(InputError, match="a batch holds nested tensors.*Pad or pack samples"):
        counter.per_unit(8)


class SkipsMoreWithValues(Skips):
    """Twice as many passes where there are values to see."""

    def between(self, h: Tensor, x: Tensor) -> Tensor:
        h = super().between(h, x)
        return h if h.is_meta else super().between(h, x)


def test_where_draws_with_values_differ_those_that_are_traced_count() -> None:
    """All draws of the strata alike: their mean is two passes, of which the traces had no values."""
    flops, _ = per_sample(SkipsMoreWithValues)
    assert flops == pytest.approx(BASE + 2 * 5 * 3 * 2 * 8 * 8, rel=0.02)

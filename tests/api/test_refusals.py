"""Ways in which people write models and batches: each works, or is refused with what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from flops_fit import plan_sweep
from flops_fit.errors import FlopsFitError

X, Y = torch.randn(400, 4), torch.randn(400, 1)
PAIRS = TensorDataset(X, Y)
mse = functional.mse_loss


class Returns(nn.Module):
    """Returns its prediction and, given targets, its loss, as many scripts do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        out = self.layers(x)
        return out, None if y is None else mse(out, y)


class OnlyLoss(Returns):
    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x, y)[1]


class Several(Returns):
    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        loss = super().forward(x, y)[1]
        return loss, loss.detach().sqrt()


class Plain(Returns):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return self.layers(x)


class Modes(Returns):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return {"out": self.layers(x)} if self.training else [self.layers(x)]


class Config:
    width = 4


def plan(model: Any, data: Any, loss: Any = None, sizes: Any = (8,), **others: Any) -> Any:
    return plan_sweep(
        model,
        "width",
        dataset=data,
        loss_fn=loss,
        sizes=list(sizes),
        compute_budgets=[1e6],
        batch_size=16,
        hparams={"lr": 0.01},
        **others,
    )


def named(**columns: Tensor) -> list[dict[str, Tensor]]:
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


class Tempered(nn.Module):
    """A loss that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, out: Tensor, target: Tensor) -> Any:
        return mse(out * self.temperature, target)


@pytest.mark.parametrize("frozen", [False, True])
def test_parameters_of_a_loss_that_no_optimizer_gets_are_told(frozen: bool) -> None:
    made = plan(Plain, PAIRS, Tempered().requires_grad_(not frozen))
    told = [d.message for d in made.diagnostics if d.code == "untrained_loss"]
    assert told == [] if frozen else "loss_fn has parameters of its own (temperature)" in told[0]


@pytest.mark.parametrize(
    ("model", "data", "loss", "says"),
    [
        (Plain, PAIRS, None, r"\(Tensor\) carries no .loss, nor one scalar.*give step_fn="),
        (Several, PAIRS, None, r"\(tuple\) carries no .loss, nor one scalar.*give step_fn="),
        (Plain, named(x=X), None, "where a batch has labels; this one has x"),
        (Returns, PAIRS, lambda o, t: o[1], "called without its targets.*give step_fn="),
        (OnlyLoss, PAIRS, mse, "missing a required argument: 'y'.*step_fn="),
        (Plain, TensorDataset(X, X, Y), mse, "too many positional arguments.*step_fn="),
        (Plain, named(x=X, label=Y, index=Y), mse, r"takes \(x\).*got label, index besides"),
        (Plain, PAIRS, nn.MSELoss, r"loss_fn: got the class MSELoss; give MSELoss\(\)"),
        (Plain, (X, Y), mse, r"a tuple of 2 arrays. Give torch.utils.data.TensorDataset\("),
        (Plain, {"x": X, "y": Y}, mse, r"got dict. Give torch.utils.data.TensorDataset\("),
        (Plain, PAIRS, lambda model, batch: model(batch), r"as loss_fn\(model output, targets\)"),
        (Modes, PAIRS, lambda o, t: mse(o["out"], t), r"after model.eval\(\), .*the same in both"),
        (Plain(4), PAIRS, mse, "got a Plain that is built already.*model_cls=Plain"),
    ],
)
def test_a_refusal_is_about_what_was_given(model: Any, data: Any, loss: Any, says: Any) -> None:
    with pytest.raises(FlopsFitError, match=says):
        plan(model, data, loss)


@pytest.mark.parametrize("model", [Returns, OnlyLoss])
def test_a_model_that_returns_its_loss_needs_none(model: Any) -> None:
    """Its plan is that of the same model with the loss apart, but for the code of the model."""
    own, apart = (plan(*given).experiments[0] for given in ((model, PAIRS), (Plain, PAIRS, mse)))
    assert (own.tokens, own.flops_per_unit) == (apart.tokens, apart.flops_per_unit)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (lambda model, batch: (mse(model(batch[0])[0], batch[1]),) * 3, "got tuple"),
        (lambda model, batch: ((1.0, 2.0), 2), "a first value of tuple.*each with an optimizer"),
        (lambda model, batch: {"loss": mse(model(batch[0])[0], batch[1])}, "got dict"),
        (lambda model, batch: mse(model(batch[0])[0], batch[1]), "got Tensor"),
        (lambda model, x, y: (mse(model(x)[0], y), len(x)), "missing a required argument: 'y'"),
    ],
)
def test_a_step_that_is_none_is_told(step: Any, says: str) -> None:
    with pytest.raises(FlopsFitError, match=rf"step_fn: expected .*{says}"):
        plan(Returns, PAIRS, step_fn=step)


@pytest.mark.parametrize("model", [Returns, OnlyLoss])
def test_the_step_that_is_advised_works(model: Any) -> None:
    def step(model: Any, batch: Any) -> tuple[Tensor, int]:
        out = model(*batch)
        loss = out[1] if isinstance(out, tuple) else out
        return loss * len(batch[0]), len(batch[0])

    assert plan(model, PAIRS, step_fn=step).experiments


@pytest.mark.parametrize("name", ["label", "y", "price"])
def test_the_name_that_a_model_does_not_take_is_the_targets(name: str) -> None:
    by_name = plan(Plain, named(x=X, **{name: Y}), mse).experiments[0]
    assert by_name.flops_per_unit == plan(Plain, PAIRS, mse).experiments[0].flops_per_unit


def test_targets_by_name_are_counted() -> None:
    """Three classes to a sample, one of them masked: two units each."""
    classes = torch.tensor([1, 0, -100]).expand(400, 3)

    def loss(out: Tensor, targets: Tensor) -> Tensor:
        logits = torch.stack([out, -out], 1).expand(-1, -1, 3)
        return functional.cross_entropy(logits.reshape(len(out), 2, 3), targets)

    (experiment,) = plan(Plain, named(x=X, gold=classes), loss).experiments
    assert experiment.units_per_sample == 2


def test_objects_are_no_sizes() -> None:
    def make(width: Any) -> nn.Module:
        return Plain(width.width)

    for size in (Config(), {"width": Config()}):
        with pytest.raises(FlopsFitError, match=r"numbers, words or dicts.*object of Config"):
            plan(make, PAIRS, mse, [size])


@pytest.mark.parametrize("layer", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_gradients_are_refused_in_one_line(layer: Any) -> None:
    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table, self.out = layer(50, width, sparse=True), nn.Linear(width, 1)

        def forward(self, i: Tensor) -> Tensor:
            out: Tensor = self.out(self.table(i).view(len(i), -1))
            return out

    shape = (400,) if layer is nn.Embedding else (400, 1)
    data = TensorDataset(torch.randint(50, shape), Y)
    with pytest.raises(FlopsFitError, match=r"table.weight are sparse.*sparse=False") as caught:
        plan(Model, data, mse)
    assert "\n" not in str(caught.value)

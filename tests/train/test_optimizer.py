"""Every parameter is trained once, at the rate and with the decay that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import flops_fit
from flops_fit.errors import FlopsFitError, InputError, InputTypeError
from flops_fit.hparams import HParams
from flops_fit.train.optimizer import decay_groups, make_optimizer, set_learning_rate
from tests.conftest import MLP, Blobs, cross_entropy

HPARAMS = HParams(lr=0.01, batch_units=8)


class Tied(nn.Module):
    """An embedding that is the output head too."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.table(x)))


def decays(model: nn.Module) -> dict[str, float]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: g["weight_decay"] for g in decay_groups(model, HPARAMS) for p in g["params"]
    }


def halves(model: nn.Module, hparams: Mapping[str, Any]) -> list[dict[str, Any]]:
    first, *rest = model.parameters()
    return [{"params": [first], "lr_scale": 0.5}, {"params": rest}]


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    model = nn.ModuleDict(
        {
            "table": nn.Embedding(5, 4),
            "linear": nn.Linear(4, 4),
            "convolution": nn.Conv2d(3, 4, 3),
            "norm": nn.LayerNorm([4, 4]),  # its scale is a matrix
            "batch": nn.BatchNorm1d(4),
            "attention": nn.MultiheadAttention(4, 2, add_bias_kv=True),  # biases of 3 dimensions
        }
    )
    decayed = {name for name, decay in decays(model).items() if decay}
    assert decayed == {
        "linear.weight",
        "convolution.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }


def test_a_tied_weight_is_one_parameter_and_an_embedding() -> None:
    assert decays(Tied()) == {"table.weight": 0.0, "body.weight": 0.1, "body.bias": 0.0}
    held = [p for g in make_optimizer(Tied(), HPARAMS).param_groups for p in g["params"]]
    assert len(held) == 3


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert set(decays(model)) == {"1.weight", "1.bias"}
    with pytest.raises(InputError, match="at least one parameter"):
        make_optimizer(model.requires_grad_(False), HPARAMS)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_step_is_that_of_adamw_with_decoupled_decay(steps: int) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, in plain arithmetic."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    w, b = (p.detach().clone() for p in model.parameters())
    x = torch.randn(8, 3, dtype=torch.float64)
    optimizer = make_optimizer(model, HPARAMS)
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    mb, vb = torch.zeros_like(b), torch.zeros_like(b)
    for t in range(1, steps + 1):
        rate = 0.01 / t
        set_learning_rate(optimizer, rate)
        model(x).square().mean().backward()
        optimizer.step()
        gw, gb = (p.grad for p in model.parameters())
        m, v = 0.9 * m + 0.1 * gw, 0.95 * v + 0.05 * gw**2
        mb, vb = 0.9 * mb + 0.1 * gb, 0.95 * vb + 0.05 * gb**2
        c, d = 1 - 0.9**t, 1 - 0.95**t
        w = w - rate * 0.1 * w - rate * (m / c) / ((v / d).sqrt() + 1e-8)
        b = b - rate * (mb / c) / ((vb / d).sqrt() + 1e-8)
        optimizer.zero_grad()
    assert torch.allclose(model.weight, w, rtol=1e-12)
    assert torch.allclose(model.bias, b, rtol=1e-12)


def test_adamw_is_fused_only_where_every_parameter_can_be() -> None:
    assert make_optimizer(nn.Linear(2, 2), HPARAMS).defaults["fused"]
    mixed = nn.ParameterList([torch.zeros(2, 2), torch.zeros(2, dtype=torch.complex64)])
    assert not make_optimizer(mixed, HPARAMS).defaults["fused"]


def test_each_group_follows_the_schedule_at_its_own_scale() -> None:
    optimizer = make_optimizer(nn.Linear(2, 2), HPARAMS, param_groups=halves)
    assert [g["lr"] for g in optimizer.param_groups] == [0.005, 0.01]
    set_learning_rate(optimizer, 0.002)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.001, 0.002])
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.1]


def test_an_lr_in_a_group_is_its_peak() -> None:
    def groups(model: nn.Module, hparams: Any) -> list[dict[str, Any]]:
        return [{"params": model.parameters(), "lr": 0.03}]  # an iterator, as torch takes it

    (group,) = make_optimizer(nn.Linear(2, 2), HPARAMS, param_groups=groups).param_groups
    assert group["lr_scale"] == pytest.approx(3)


def test_the_lr_that_a_factory_chose_is_its_peak() -> None:
    def factory(groups: Any, hparams: Mapping[str, Any]) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for g in groups for p in g["params"]], lr=0.1, momentum=0.9)

    optimizer = make_optimizer(nn.Linear(2, 2), HPARAMS, factory)
    set_learning_rate(optimizer, 0.005)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05])


def test_scales_survive_a_checkpoint() -> None:
    saved = make_optimizer(nn.Linear(2, 2), HPARAMS, param_groups=halves).state_dict()
    again = make_optimizer(nn.Linear(2, 2), HPARAMS, param_groups=halves)
    again.load_state_dict(saved)
    set_learning_rate(again, 0.004)
    assert [g["lr"] for g in again.param_groups] == pytest.approx([0.002, 0.004])


def test_a_rate_that_is_a_tensor_is_changed_in_place() -> None:
    rate = torch.tensor(0.01)
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters(), lr=rate)
    set_learning_rate(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == 0.5


@pytest.mark.parametrize(
    "kind", [torch.optim.SGD, torch.optim.Adafactor, torch.optim.NAdam, torch.optim.Adam]
)
def test_a_class_is_made_with_the_groups_the_rate_and_where_it_takes_them_the_betas(
    kind: Any,
) -> None:
    optimizer = make_optimizer(nn.Linear(2, 2), HPARAMS, kind)
    assert type(optimizer) is kind
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (0.01, 0.1),
        (0.01, 0.0),
    ]
    assert optimizer.defaults.get("betas", (0.9, 0.95)) == (0.9, 0.95)


def test_a_class_without_decay_is_refused_where_decay_is_asked_for() -> None:
    with pytest.raises(InputError, match="Rprop has no weight decay"):
        make_optimizer(nn.Linear(2, 2), HPARAMS, torch.optim.Rprop)
    make_optimizer(nn.Linear(2, 2), replace(HPARAMS, weight_decay=0.0), torch.optim.Rprop)


def test_a_class_that_refuses_the_groups_is_told_in_its_own_words() -> None:
    with pytest.raises(InputError, match="LBFGS cannot be made .*per-parameter options"):
        make_optimizer(nn.Linear(2, 2), HPARAMS, torch.optim.LBFGS)


class Both(torch.optim.Optimizer):
    """Momentum for matrices and Adam for the rest, as one."""

    def __init__(self, groups: list[dict[str, Any]], hparams: Mapping[str, Any]) -> None:
        matrices = [p for g in groups for p in g["params"] if p.dim() == 2]
        rest = [p for g in groups for p in g["params"] if p.dim() != 2]
        self.parts = (
            torch.optim.SGD(matrices, lr=10 * hparams["lr"], momentum=0.9),
            torch.optim.AdamW(rest, lr=hparams["lr"]),
        )
        super().__init__([g for part in self.parts for g in part.param_groups], {})
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups = [group]

    def step(self, closure: Any = None) -> None:
        for part in self.parts:
            part.step()


def test_two_optimizers_in_one_follow_one_schedule() -> None:
    model = nn.Linear(2, 2)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = make_optimizer(model, HPARAMS, lambda groups, hparams: Both(groups, hparams))
    set_learning_rate(optimizer, 0.002)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    weight, bias = (b - p for b, p in zip(before, model.parameters(), strict=True))
    assert torch.allclose(weight, torch.full((2, 2), 0.02))  # ten times the rate, gradient 1
    assert torch.allclose(bias, torch.full((2,), 0.002), atol=1e-4)  # Adam's first step is the rate


LINEAR = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([{"params": [LINEAR.weight]}], "1 are in none: bias"),
        ([{"params": [LINEAR.weight, LINEAR.bias]}, {"params": LINEAR.bias}], "'bias' is in two"),
        (
            [{"params": [*LINEAR.parameters(), nn.Parameter(torch.ones(3))]}],
            "another one, of shape .3,.",
        ),
        ([{"params": LINEAR.parameters(), "lr_scale": 0}], "group 0: lr_scale: expected a pos"),
        ([{"params": LINEAR.parameters(), "lr_scale": "x"}], "lr_scale: expected a pos"),
        ([{"params": LINEAR.parameters(), "lr_scale": 1, "lr": 1}], "got both"),
        ([{"params": LINEAR.parameters(), "lr": -1.0}], "group 0: lr: expected a pos"),
    ],
)
def test_unusable_groups_are_told(groups: Any, words: str) -> None:
    def made(groups: Any, hparams: Any) -> torch.optim.Optimizer:
        raise AssertionError("the groups are judged before anything is made of them")

    with pytest.raises((InputError, InputTypeError), match=words):
        make_optimizer(LINEAR, HPARAMS, made, lambda model, hparams: groups)


@pytest.mark.parametrize("groups", [None, {"params": []}, "ab", [[LINEAR.weight]], [{}]])
def test_what_are_no_groups_is_a_type_error(groups: Any) -> None:
    with pytest.raises(InputTypeError, match="param_groups: .*expected a"):
        make_optimizer(LINEAR, HPARAMS, param_groups=lambda model, hparams: groups)


@pytest.mark.parametrize(
    "optimizer",
    [3, lambda groups, hparams: None, torch.optim.SGD(LINEAR.parameters(), lr=0.1)],
)
def test_what_makes_no_optimizer_is_a_type_error(optimizer: Any) -> None:
    with pytest.raises(InputTypeError, match="optimizer: expected a"):
        make_optimizer(LINEAR, HPARAMS, optimizer)


def test_a_factory_that_forgets_a_parameter_is_told_which() -> None:
    def factory(groups: Any, hparams: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups[:1], lr=0.1)

    with pytest.raises(InputError, match="optimizer: .* 1 are in none: bias"):
        make_optimizer(LINEAR, HPARAMS, factory)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": "adam"}, "got str"),
        ({"optimizer": torch.optim.LBFGS, "hparams": {"weight_decay": 0.0}}, "without a closure"),
        ({"optimizer": lambda groups, hparams: torch.optim.SGD(groups, speed=1)}, "speed"),
        ({"param_groups": lambda model, hparams: []}, "param_groups"),
    ],
)
def test_an_optimizer_that_no_run_could_use_is_refused_at_planning(
    change: dict[str, Any], words: str
) -> None:
    """Not as the first two runs of a sweep that fail alike."""
    config = {name: value for name, value in change.items() if name != "hparams"}
    sweep = {"sizes": [8], "batch_size": 4, "hparams": change.get("hparams", "default")}
    sweep["training"] = flops_fit.TrainingConfig(**config)
    with pytest.raises(FlopsFitError, match=words):
        flops_fit.plan_sweep(MLP, "width", {}, Blobs(400), cross_entropy, [1e6], **sweep)

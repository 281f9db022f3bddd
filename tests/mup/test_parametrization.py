"""Roles follow from shapes and from the forward pass, rates from roles: Yang et al. 2022, tables 3 and 8."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flops_fit
from flops_fit import TrainingConfig
from flops_fit.data import split_data
from flops_fit.errors import InputError, InputTypeError, ModelError
from flops_fit.examples import GPT, VisionTransformer, gpt_loss_fn
from flops_fit.model import ModelSpec
from flops_fit.mup import Mup, Parametrization
from flops_fit.mup.parametrization import parametrize
from flops_fit.mup.roles import trace_uses
from flops_fit.objective import Objective
from flops_fit.recipes import HParams
from flops_fit.train import Trainer
from flops_fit.train.optimizer import decay_groups, make_optimizer
from tests.conftest import MLP, Blobs, cross_entropy, make_experiment, with_changes

HPARAMS = HParams(lr=0.01, batch_units=8, weight_decay=0.1)
TOKENS = torch.zeros(2, 8, dtype=torch.int64)
POINTS = (torch.zeros(2, 16), torch.zeros(2, dtype=torch.int64))


def found(
    model: Callable[..., Any],
    batch: Any,
    sizes: Sequence[Any] = (16, 32, 64),
    param: str | None = "width",
    **options: Any,
) -> Parametrization:
    return parametrize(ModelSpec(model, param), Objective(), batch, sizes, Mup(**options))


def roles(made: Parametrization) -> dict[str, str]:
    return {kind.name: kind.role for kind in made.roles}


class Raw(nn.Module):
    """Matrices that no layer holds, multiplied from either side, cut, copied and cast."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.right = nn.Parameter(torch.randn(16, width))  # x @ W
        self.left = nn.Parameter(torch.randn(3 * width, width))  # W @ x, in three parts
        self.shift = nn.Parameter(torch.zeros(1, width))
        self.normed = nn.Parameter(torch.randn(width, width))
        self.read = nn.Parameter(torch.randn(5, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x @ self.right + self.shift
        for part in self.left.chunk(3):
            x = (part @ x.T).T
        x = x @ (self.normed / self.normed.norm(dim=1, keepdim=True)).t().contiguous()
        return (x.bfloat16() @ self.read.bfloat16().T).float()


class Convolutions(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Conv2d(3, width, 3)
        self.deep = nn.Conv2d(width, 2 * width, 3)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, groups=2 * width)
        self.back = nn.ConvTranspose2d(2 * width, width, 2)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.back(self.depthwise(self.deep(self.into(x))))
        return self.head(self.norm(x).mean(dim=(2, 3)))


class Tied(nn.Module):
    """A table that is the output layer too, in a layer of its own or not."""

    def __init__(self, width: int, layer: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(7, width)
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, 7, bias=False) if layer else None
        if self.head is not None:
            self.head.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(self.table(x))
        return x @ self.table.weight.T if self.head is None else self.head(x)


class Recurrent(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(7, width)
        self.recurrent = nn.LSTM(width, width, batch_first=True)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.product = nn.Bilinear(width, width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.recurrent(self.table(x))[0]
        x = self.attention(x, x, x)[0]
        return self.product(x, x)


class Deep(nn.Module):
    """As deep as an eighth of its width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(16, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in range(width // 8)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Stack(nn.Sequential):
    """Layers of which the last changes its number with the depth."""

    def __init__(self, width: int) -> None:
        inner = [nn.Linear(width, width) for _ in range(width // 16)]
        super().__init__(nn.Linear(16, width), *inner, nn.Linear(width, 4))


def test_roles_of_the_bundled_gpt() -> None:
    kinds = roles(found(GPT, (TOKENS, TOKENS), param="d_model"))
    assert kinds["embed.weight"] == "input"
    assert kinds["head.weight"] == "output"
    assert {role for name, role in kinds.items() if name.startswith("blocks")} == {"hidden"}


def test_roles_of_the_bundled_vision_transformer() -> None:
    batch = (torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64))
    made = found(VisionTransformer, batch, param="embed_dim")
    kinds = roles(made)
    assert made.notes == ()
    assert kinds["patch.weight"] == "input"
    assert kinds["head.weight"] == "output"
    assert kinds["head.bias"] == "fixed"
    vectors = {name for name, role in kinds.items() if role == "vector"}
    assert {"positions", "cls_token", "norm.weight", "patch.bias"} <= vectors
    hidden = {name for name, role in kinds.items() if role == "hidden"}
    assert hidden == {
        f"blocks.{i}.{n}.weight" for i in (0, 1) for n in ("qkv", "proj", "up", "down")
    }


def test_the_contracted_side_of_a_raw_matrix_is_found_by_its_strides() -> None:
    made = found(Raw, POINTS)
    assert {k.name: (k.role, k.inputs) for k in made.roles} == {
        "right": ("input", (0,)),
        "left": ("hidden", (1,)),
        "shift": ("vector", ()),
        "normed": ("hidden", (1,)),
        "read": ("output", (1,)),
    }
    assert made.notes == ()


def test_kernels_and_groups_count_in_the_fan_in_of_convolutions() -> None:
    made = found(Convolutions, (torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)))
    assert {k.name: (k.role, k.inputs) for k in made.roles if k.name.endswith("weight")} == {
        "into.weight": ("input", (1, 2, 3)),
        "deep.weight": ("hidden", (1, 2, 3)),
        "depthwise.weight": ("input", (2, 3)),  # each channel has one input at any width
        "back.weight": ("hidden", (0, 2, 3)),
        "norm.weight": ("vector", ()),
        "head.weight": ("output", (1,)),
    }


def test_recurrent_attention_and_bilinear_layers_are_seen_in_operations() -> None:
    made = found(Recurrent, (TOKENS, TOKENS))
    assert made.notes == ()
    kinds = {k.name: (k.role, k.inputs) for k in made.roles}
    for name in ("recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "attention.in_proj_weight"):
        assert kinds[name] == ("hidden", (1,))
    assert kinds["product.weight"] == ("hidden", (1, 2))
    assert kinds["attention.out_proj.weight"] == ("hidden", (1,))
    assert kinds["table.weight"] == ("input", ())


def test_a_tied_table_needs_a_multiplier_and_says_so() -> None:
    made = found(Tied, (TOKENS, TOKENS))
    assert roles(made)["table.weight"] == "tied"
    assert "readout=True" in made.notes[0]
    assert found(Tied, (TOKENS, TOKENS), readout=True).notes == ()


def test_a_readout_without_a_layer_of_its_own_is_refused() -> None:
    spec = ModelSpec(Tied, "width", {"layer": False})
    with pytest.raises(ModelError, match=r"table\.weight in a layer of its own"):
        parametrize(spec, Objective(), (TOKENS, TOKENS), [16, 32], Mup(readout=True))


@pytest.mark.parametrize("batch", [None, (torch.zeros(3, 5, 5), torch.zeros(3))])
def test_without_a_trace_roles_are_those_of_torchs_layers_and_that_is_told(batch: Any) -> None:
    made = found(MLP, batch)
    assert roles(made) == {"up.weight": "input", "down.weight": "output"}
    assert "torch's layers" in made.notes[0]


def test_weights_of_nobodys_layer_that_no_trace_saw_are_told() -> None:
    made = found(Raw, None)
    assert roles(made)["left"] == "vector"
    assert any("right, left, shift and 2 more are not known" in note for note in made.notes)


def test_a_matrix_that_is_stored_as_a_vector_is_told() -> None:
    class Flat(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.width, self.w = width, nn.Parameter(torch.randn(16 * width))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.w.view(16, self.width)

    made = found(Flat, POINTS)
    assert roles(made) == {"w": "vector"}
    assert "w are not known" in made.notes[0]


def test_models_that_grow_in_depth_are_compared_with_their_numbers_replaced() -> None:
    made = found(Deep, POINTS)
    kinds = roles(made)
    assert (kinds["blocks.*.0.weight"], kinds["blocks.*.1.weight"]) == ("vector", "hidden")
    assert (kinds["head.1.weight"], kinds["head.2.weight"]) == ("hidden", "output")
    assert made.rate("blocks.11.1.weight", (96, 96)) == 1 / 6  # of a size that nobody built
    shallow = found(Deep, POINTS, (16, 17))  # of one depth
    assert shallow.rate("blocks.11.1.weight", (96, 96)) == 1 / 6


def test_a_number_that_names_other_things_at_other_depths_is_refused() -> None:
    with pytest.raises(ModelError, match=r"number of \*\.weight changes .* is \(16, 16\) and"):
        found(Stack, POINTS)


def test_a_parameter_of_an_unknown_kind_is_refused() -> None:
    made = found(MLP, POINTS)
    with pytest.raises(ModelError, match="more of shape"):
        made.rate("more", (3,))


def test_one_size_alone_shows_nothing() -> None:
    with pytest.raises(InputError, match="two sizes or more"):
        found(MLP, POINTS, [16])
    assert found(MLP, POINTS, [16], base=8).base == "width=8"


def test_scales_are_those_of_table_3() -> None:
    """By hand: a 16 → w → w → 4 network at one, two and six times the base."""

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a, self.b, self.c = (
                nn.Linear(16, width),
                nn.Linear(width, width),
                nn.Linear(width, 4),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.b(self.a(x)))

    made = found(Net, POINTS, (8, 16, 48))
    for width, m in ((8, 1), (16, 2), (48, 6)):
        model = Net(width)
        optimizer = make_optimizer(model, HPARAMS, parametrization=made)
        names = {id(p): name for name, p in model.named_parameters()}
        rates = {
            names[id(p)]: (g["lr_scale"], g["weight_decay"])
            for g in optimizer.param_groups
            for p in g["params"]
        }
        slow = (pytest.approx(1 / m), pytest.approx(0.1 * m))
        assert rates == {
            "a.weight": (1, 0.1),
            "b.weight": slow,
            "c.weight": slow,
            **dict.fromkeys(("a.bias", "b.bias", "c.bias"), (1, 0)),
        }
        assert len(optimizer.param_groups) == (2 if m == 1 else 3)


@pytest.mark.parametrize(
    ("model", "batch"),
    [(Raw, POINTS), (Tied, (TOKENS, TOKENS)), (Recurrent, (TOKENS, TOKENS)), (Deep, POINTS)],
)
def test_groups_cover_every_parameter_and_decay_by_as_much_at_every_width(
    model: Any, batch: Any
) -> None:
    made = found(model, batch)
    big = model(64)
    decays = {id(p): g["weight_decay"] for g in decay_groups(big, HPARAMS) for p in g["params"]}
    optimizer = make_optimizer(
        big, HPARAMS, parametrization=made
    )  # refuses what is left out or twice in it
    assert {g["lr_scale"] for g in optimizer.param_groups} >= {0.25, 1}
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert group["lr"] * group["weight_decay"] == pytest.approx(0.01 * decays[id(p)])


def test_initial_weights_follow_the_width_by_role() -> None:
    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a, self.b, self.c = (
                nn.Linear(16, width),
                nn.Linear(width, width),
                nn.Linear(width, 4),
            )
            self.gain, self.zero = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
            nn.init.normal_(self.b.weight, std=0.02)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.b(self.a(x)) * self.gain + self.zero)

    made = found(Net, POINTS, (32, 128), init=True)
    torch.manual_seed(3)
    model = Net(128)
    made.apply(model)
    rms = {kind.name: kind.rms for kind in made.roles}
    now = {name: float(p.detach().square().mean().sqrt()) for name, p in model.named_parameters()}
    assert now["b.weight"] == pytest.approx(rms["b.weight"] / 2)
    assert rms["b.weight"] == pytest.approx(0.02, rel=0.1)
    assert now["c.weight"] == pytest.approx(rms["c.weight"] / 4)
    for name in ("a.weight", "a.bias", "gain"):
        assert now[name] == pytest.approx(rms[name])
    assert torch.equal(model.gain, torch.ones(128))
    assert torch.equal(model.zero, torch.zeros(128))
    again = found(Net, POINTS, (32, 128), init=True)
    assert again == made
    readout = found(Net, POINTS, (32, 128), init=True, readout=True)
    torch.manual_seed(3)
    model = Net(128)
    readout.apply(model)
    assert float(model.c.weight.detach().square().mean().sqrt()) == pytest.approx(rms["c.weight"])


def trained(made: Parametrization, clip: float) -> list[float]:
    torch.manual_seed(0)
    model = GPT(d_model=32)
    made.apply(model)
    optimizer = make_optimizer(model, HPARAMS, parametrization=made)
    tokens = torch.randint(256, (4, 17), generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(12):
        loss = gpt_loss_fn(model(tokens[:, :-1]), tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_a_slower_readout_and_a_multiplied_one_are_the_same_under_adam() -> None:
    """Table 3 and table 8 on a head that begins at zero, up to Adam's ε; clipping is not invariant."""
    slow = found(GPT, (TOKENS, TOKENS), (8, 32), "d_model")
    multiplied = found(GPT, (TOKENS, TOKENS), (8, 32), "d_model", readout=True)
    assert (slow.rate("head.weight", (256, 32)), multiplied.rate("head.weight", (256, 32))) == (
        0.25,
        1,
    )
    losses = trained(slow, 1e9)
    assert losses[-1] < losses[0] - 0.5
    assert trained(multiplied, 1e9) == pytest.approx(losses, rel=1e-4)
    unscaled = replace(multiplied, roles=tuple(replace(k, role="fixed") for k in slow.roles))
    assert trained(unscaled, 1e9) != pytest.approx(losses, rel=1e-2)


def test_residual_branches_are_scaled_by_depth() -> None:
    """CompleteP, α = 1: a block of four times the depth adds a quarter."""
    made = found(Deep, POINTS, residual=("blocks.*",))
    assert made.residual == (("blocks.*", 2),)
    model, x = Deep(64), torch.randn(3, 16)
    plain = [block(torch.ones(1, 64)).detach() for block in model.blocks]
    made.apply(model)
    for block, before in zip(model.blocks, plain, strict=True):
        assert torch.equal(block(torch.ones(1, 64)), before * 0.25)
    base = Deep(16)
    before = base(x)
    made.apply(base)
    assert torch.equal(base(x), before)
    with pytest.raises(ModelError, match=r"'layers\.\*' fits none of up, blocks"):
        found(Deep, POINTS, residual=("layers.*",))


def test_a_hook_scales_what_a_module_adds_and_leaves_the_rest() -> None:
    made = replace(found(Recurrent, (TOKENS, TOKENS)), residual=(("attention", 3),))
    model, x = Recurrent(16).eval(), torch.randn(2, 4, 16)
    out, weights = model.attention(x, x, x)
    made.apply(model)
    scaled, same = model.attention(x, x, x)
    assert torch.allclose(scaled, 3 * out)
    assert torch.equal(same, weights)


def test_a_product_with_what_is_not_of_the_batch_contracts_nothing() -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 4))
            self.register_buffer("u", torch.ones(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ (self.w / (self.w.T @ self.u).norm()).T

    model, x = Spectral(), torch.randn(2, 4)
    assert dict(trace_uses(lambda: model(x), model, [x]).summed) == {"w": {1}}


def test_it_travels_as_plain_data() -> None:
    made = found(Deep, POINTS, init=True, residual=("blocks.*",))
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ("mip", InputError, "'standard', 'mup'"),
        (3, InputTypeError, "'standard', 'mup'"),
    ],
)
def test_what_is_no_parametrization_is_told(asked: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        TrainingConfig(parametrization=asked)


@pytest.mark.parametrize(
    "change", [{"init": 1}, {"readout": "x"}, {"residual": "a.b"}, {"residual": [1]}]
)
def test_options_of_a_wrong_type_are_told(change: dict[str, Any]) -> None:
    with pytest.raises(InputTypeError, match=f"expected {next(iter(change))}"):
        Mup(**change)


SWEEP: dict[str, Any] = {
    "model_cls": MLP,
    "model_size_param": "width",
    "dataset": Blobs(1000),
    "loss_fn": cross_entropy,
    "compute_budgets": [5e5, 1e6],
    "sizes": [8, 16, 32],
    "batch_size": 8,
}


MUP = TrainingConfig(parametrization="mup")


def halving(params: Any, units: float, unit: str) -> Mapping[str, Any]:
    return {"lr": 0.01 * (params.total / 160) ** -1, "weight_decay": 0.1 + 1e-4 * params.total}


def test_every_size_has_the_rate_of_the_base_and_all_else_of_its_own() -> None:
    standard = flops_fit.plan_sweep(**SWEEP, hparams=halving)
    mup = flops_fit.plan_sweep(**SWEEP, hparams=halving, training=MUP)
    assert {e.hparams.lr for e in standard.experiments} == {0.01, 0.005, 0.0025}
    for before, after in zip(standard.experiments, mup.experiments, strict=True):
        assert after.hparams == replace(before.hparams, lr=0.01)
        assert replace(after, hparams=before.hparams, fingerprint=before.fingerprint) == before
    named = flops_fit.plan_sweep(
        **SWEEP, hparams=halving, training=TrainingConfig(parametrization=Mup(base=16))
    )
    assert {e.hparams.lr for e in named.experiments} == {0.005}
    told = {d.code: d.message for d in mup.diagnostics}
    assert "base width=8" in told["parametrization"]
    assert "1 input, 1 output" in told["parametrization"]


def test_ids_are_the_old_ones_without_a_parametrization_and_others_with_each() -> None:
    plans = [
        flops_fit.plan_sweep(
            **SWEEP,
            **({} if asked is None else {"training": TrainingConfig(parametrization=asked)}),
        )
        for asked in (None, "standard", "mup", Mup(), Mup(readout=True), Mup(base=16))
    ]
    ids = [tuple(e.id for e in plan.experiments) for plan in plans]
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert len({i for plan in ids for i in plan}) == 4 * 6


def test_own_groups_and_a_parametrization_exclude_each_other() -> None:
    with pytest.raises(InputError, match="param_groups: .* one of the two"):
        TrainingConfig(parametrization="mup", param_groups=decay_groups)


def test_a_plan_without_data_or_for_a_mock_is_at_the_rate_of_the_base_too() -> None:
    for change in ({"mode": "mock"}, {"dataset": None, "example_batch": POINTS}):
        plan = flops_fit.plan_sweep(**{**SWEEP, **change}, hparams=halving, training=MUP)
        assert {e.hparams.lr for e in plan.experiments} == {0.01}


def test_branches_in_mup_share_their_trunks() -> None:
    hparams = {"schedule": "wsd", "batch_units": 8, "warmup_units": 40}
    plan = flops_fit.plan_sweep(
        **SWEEP, hparams=hparams, training=TrainingConfig(branch=True, parametrization="mup")
    )
    assert len({e.trunk for e in plan.experiments}) == 3
    assert all(e.trunk for e in plan.experiments)


def trainer(folder: Path, **changes: Any) -> Trainer:
    data, held_out = split_data(Blobs(1000), Blobs(300, seed=7))
    made = found(Deep, POINTS, init=True, readout=True, residual=("blocks.*",))
    trainer = Trainer(ModelSpec(Deep, "width"), data, held_out, Objective(cross_entropy))
    return with_changes(trainer, folder=folder, parametrization=made, **changes)


class Stop(BaseException):
    pass


class StoppingLoss:
    """Raises in the middle of a run."""

    calls = 0

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls > 20:
            raise Stop
        return cross_entropy(logits, targets)


def test_a_run_in_mup_that_is_interrupted_goes_on_to_the_same_end(tmp_path: Path) -> None:
    experiment = make_experiment(size=32, steps=30, model="tests.mup.test_parametrization.Deep")
    whole = trainer(tmp_path / "whole")(experiment)
    parts = trainer(tmp_path / "parts", checkpoint_steps=5, objective=Objective(StoppingLoss()))
    with pytest.raises(Stop):
        parts(experiment)
    again = trainer(tmp_path / "parts")(experiment)
    plain = replace(trainer(tmp_path / "plain"), parametrization=None)(experiment)
    assert (whole.state, whole.resumed, again.resumed) == ("completed", 0, 1)
    assert (again.loss, again.train_loss) == (whole.loss, whole.train_loss)
    assert plain.loss != whole.loss


def test_multipliers_stay_in_what_torch_compiles() -> None:
    made = found(Deep, POINTS, readout=True, residual=("blocks.*",))
    model, x = Deep(32), torch.randn(3, 16)
    plain = model(x)
    made.apply(model)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)(x)
    assert torch.allclose(compiled, model(x), atol=1e-6)
    assert not torch.allclose(compiled, plain, atol=1e-2)


def test_microbatches_compute_the_same(tmp_path: Path) -> None:
    experiment = make_experiment(size=32, steps=10, model="tests.mup.test_parametrization.Deep")
    whole = trainer(tmp_path / "a")(experiment)
    parts = trainer(tmp_path / "b", microbatch=3)(experiment)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)


def test_attention_scales_are_one_at_heads_of_eight_and_part_above() -> None:
    tokens = torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(0))
    for width, same in ((64, True), (128, False)):
        outputs = []
        for mup in (False, True):
            torch.manual_seed(0)
            model = GPT(d_model=width, mup_attention=mup)
            nn.init.normal_(model.head.weight, std=0.1)
            outputs.append(model(tokens)[0])
        assert torch.allclose(*outputs, atol=1e-5) is same
    assert model.blocks[0].scale == pytest.approx(math.sqrt(8) / 16)
    assert GPT(d_model=128).blocks[0].scale is None

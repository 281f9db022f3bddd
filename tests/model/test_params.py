"""Models are counted and sized without being built."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flops_fit.errors import InputTypeError, ModelError
from flops_fit.examples.gpt import GPT
from flops_fit.examples.vit import VisionTransformer
from flops_fit.flops import trace_flops
from flops_fit.model import ModelSpec, count_params
from flops_fit.model.params import find_experts
from tests.conftest import MLP


class Tied(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.table = nn.Embedding(100, d)
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, 100, bias=False)
        self.head.weight = self.table.weight


class Heads(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        if d % heads:
            raise ValueError(f"{d} is not divisible by {heads}")
        self.weight = nn.Parameter(torch.empty(12, d, d))


class PowersOfTwo(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        if d & (d - 1):
            raise ValueError("powers of two only")
        self.linear = nn.Linear(d, d)


def test_counting_separates_embedding_and_matmul_parameters() -> None:
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 4), nn.LayerNorm(4))
    counted = count_params(model)
    assert counted.total == 400 + 36 + 8
    assert counted.non_embedding == 44
    assert counted.matmul == 32


def test_a_tied_table_counts_once_in_all_and_as_matmul() -> None:
    counted = count_params(Tied(8))
    assert counted.total == 800 + 16
    assert counted.matmul == 800
    assert counted.non_embedding == 16


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.Conv2d(32, 32, 3),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 64, 1),
    )


@pytest.mark.parametrize(
    ("model", "width"),
    [
        (lambda: GPT(d_model=48, num_layers=3), 48),
        (lambda: GPT(d_model=16, num_layers=1, vocab_size=4000), 16),
        (lambda: VisionTransformer(embed_dim=40), 40),
        (lambda: nn.TransformerEncoderLayer(32, 4, dim_feedforward=128), 32),
        (lambda: nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 2)), 64),
        (lambda: nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8)), 16),
        (lambda: nn.LSTM(10, 24), 24),
        (convolutions, 32),
        (lambda: nn.ConvTranspose2d(24, 6, 3), 24),
        (lambda: nn.Bilinear(5, 6, 7), 5),
        (lambda: Tied(8), 8),
        (lambda: nn.LayerNorm(8), 0),
        (lambda: nn.Embedding(50, 8), 0),
    ],
    ids=["GPT", "large head", "ViT", "encoder", "MLP", "ties", "LSTM", "convolutions", "transposed",
         "bilinear", "tied", "norm", "table"],
)  # fmt: skip
def test_the_width_is_that_of_most_weights(model: Callable[[], nn.Module], width: int) -> None:
    """Also where a model is on the meta device or says its own number of parameters."""
    assert count_params(model()).width == width
    with torch.device("meta"):
        assert count_params(model()).width == width


def test_a_shared_weight_counts_once_in_the_width() -> None:
    """4·12 twice would outweigh 8·8."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(4, 12), nn.Linear(4, 12))
    assert count_params(model).width == 4
    model[2].weight = model[1].weight
    assert count_params(model).width == 8


def test_what_is_no_module_has_no_known_width() -> None:
    class Counted:
        def num_params(self) -> int:
            return 7

    assert count_params(Counted()).width == 0


def test_a_model_may_count_itself() -> None:
    class Own(MLP):
        def num_params(self) -> int:
            return 7

    assert count_params(Own()).total == 7


@pytest.mark.parametrize("answer", [0, -3, float("nan"), "many", None, True])
def test_an_unusable_own_count_is_refused(answer: object) -> None:
    class Own(MLP):
        def num_params(self) -> object:
            return answer

    with pytest.raises(ModelError, match="num_params\\(\\) returned"):
        count_params(Own())


def test_an_own_count_that_raises_is_told() -> None:
    class Own(MLP):
        def num_params(self) -> int:
            raise KeyError("d")

    with pytest.raises(ModelError, match="num_params\\(\\) raised KeyError"):
        count_params(Own())


def test_what_is_no_model_is_a_type_error() -> None:
    with pytest.raises(InputTypeError, match=r"got dict, which is neither"):
        ModelSpec(lambda width: {"w": width}, "width").count(2)


def test_lazy_layers_are_told() -> None:
    with pytest.raises(ModelError, match="lazy layers"):
        count_params(nn.LazyLinear(4))


def test_no_parameters_is_no_size() -> None:
    with pytest.raises(ModelError, match="has no parameters"):
        count_params(nn.ReLU())


def test_counting_allocates_nothing() -> None:
    # 2.7e12 parameters: 10 TB, if it were built.
    assert ModelSpec(Heads, "d", {"heads": 8}).require(475_200).total == 12 * 475_200**2


@settings(max_examples=30, deadline=None)
@given(st.floats(2e2, 1e12), st.sampled_from([1, 3, 8, 12]))
def test_the_nearest_accepted_size_is_found(params: float, heads: int) -> None:
    found = ModelSpec(Heads, "d", {"heads": heads}).nearest(params)
    assert found is not None
    size, counted = found
    assert size % heads == 0
    best = min(
        (12 * d * d for d in (size - heads, size, size + heads) if d > 0),
        key=lambda n: abs(torch.log(torch.tensor(n / params, dtype=torch.float64)).item()),
    )
    assert counted.total == best


@pytest.mark.parametrize(
    "made", [lambda size: nn.Linear(8, 8), lambda size: nn.Linear(8, 1 + 80 // size)]
)
def test_a_parameter_that_does_not_set_the_size_is_told(made: Callable[[int], nn.Module]) -> None:
    spec = ModelSpec(made, "size")
    for _ in range(2):
        with pytest.raises(ModelError, match="N does not grow with size"):
            spec.nearest(1e6)


@pytest.mark.parametrize("multiple", [8, 64, 256])
def test_sizes_that_a_constructor_rounds_to_one_model_are_one_size(multiple: int) -> None:
    """It is the smallest of those with the nearest N, whatever N was asked for."""

    def rounded(size: int) -> nn.Module:
        return nn.Linear(8, multiple * max(1, round(size / multiple)))

    spec, step = ModelSpec(rounded, "size"), 9 * multiple
    for times, below in [(1, 0), (2, 1), (3, 2), (8, 7)]:
        found = {spec.nearest(times * step * share) for share in (0.97, 1.0, 1.03)}
        first = 1 if below == 0 else next(s for s in count(1) if round(s / multiple) == times)
        assert found == {(first, spec.require(first))}
        assert spec.require(first).total == times * step


def test_constructors_that_accept_few_sizes_are_searched() -> None:
    found = ModelSpec(PowersOfTwo, "d").nearest(512 * 512 * 1.1)
    assert found is not None
    assert found[0] == 512


def test_a_largest_size_ends_the_search() -> None:
    def limited(d: int) -> nn.Module:
        if d > 40:
            raise ValueError("too large")
        return nn.Linear(d, d)

    spec = ModelSpec(limited, "d")
    assert spec.nearest(1e9) is None
    found = spec.nearest(2000)
    assert found is not None
    assert found[0] == 40


def test_a_constructor_that_refuses_every_size_is_told_with_its_reason() -> None:
    def never(d: int) -> nn.Module:
        raise ValueError("no such model")

    with pytest.raises(ModelError, match="accepts no d from 1 to 1024.*no such model"):
        ModelSpec(never, "d").nearest(1000)


def test_a_missing_size_parameter_names_the_near_one() -> None:
    with pytest.raises(ModelError, match="takes no argument 'widht'.*Did you mean 'width'"):
        ModelSpec(MLP, "widht")
    with pytest.raises(ModelError, match="model_kwargs.*no argument 'depth'"):
        ModelSpec(MLP, "width", {"depth": 3})


def test_no_size_parameter_and_no_sizes_is_told() -> None:
    with pytest.raises(ModelError, match="model_size_param: expected"):
        ModelSpec(MLP).arguments(8)
    assert ModelSpec(MLP).require({"width": 8}).total == 160


def test_a_factory_may_be_a_partial() -> None:
    spec = ModelSpec(functools.partial(Heads, heads=4), "d")
    assert spec.require(8).total == 768
    assert "Heads" in spec.reference


class Shape:
    """As a configuration of Hugging Face: an object that says what it holds."""

    def __init__(self, width: int, base: float = 1e4) -> None:
        self.width, self.base = width, base

    def to_dict(self) -> dict[str, float]:
        return vars(self)


def shaped(config: Shape, **others: object) -> nn.Module:
    assert not others
    return nn.Linear(config.width, 1)


def widened(width: int, hidden: int, act: Callable[[int], int]) -> nn.Module:
    return nn.Linear(width, act(hidden))


def any_names(**shape: int) -> nn.Module:
    return nn.Linear(shape.get("width", 64), shape["hidden"])


def test_arguments_may_be_functions_of_the_size() -> None:
    """The size itself is given where it is asked for; functions of other names are arguments as any."""
    follows = {"hidden": lambda width: 3 * width, "act": lambda x: x + 1}
    assert tuple(ModelSpec(widened, "width", follows).build(8).weight.shape) == (25, 8)
    spec = ModelSpec(shaped, "width", {"config": lambda width: Shape(width)})
    found = spec.nearest(100)
    assert found is not None
    assert (found[0], spec.build(8).in_features) == (99, 8)
    spec = ModelSpec(any_names, "width", {"hidden": lambda width: 3 * width})
    assert tuple(spec.build(8).weight.shape) == (24, 8)


def test_the_fingerprint_follows_what_a_configuration_holds() -> None:
    """Also what no weight and no name of a layer shows."""
    held = [
        ModelSpec(shaped, None, {"config": Shape(8, b)}).fingerprint({}) for b in (1e4, 1e4, 2e4)
    ]
    assert held[0] == held[1] != held[2]


def test_a_constructor_that_reads_its_tensors_is_built_for_real() -> None:
    class Reads(nn.Module):
        def __init__(self, d: int) -> None:
            super().__init__()
            self.linear = nn.Linear(d, d)
            self.scale = float(self.linear.weight.abs().mean().item())

    assert ModelSpec(Reads, "d").require(4).total == 20


class Positions(nn.Module):
    """A table of positions as rotary embeddings need it, by mixed kinds of numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        frequency = 1e4 ** (-torch.arange(0, width, 2) / width)
        angle = torch.outer(torch.arange(32), frequency)[:, None, :]
        both = torch.cat((angle.cos(), angle.sin()), dim=-1)
        self.register_buffer("table", both.half() * 2 + torch.arange(width)[None])
        self.register_buffer("late", torch.arange(1, 5) > 2)
        self.register_buffer("turned", -both.squeeze(1).t())


def test_tables_of_positions_have_their_shapes_and_types() -> None:
    spec = ModelSpec(Positions, "width")
    built, real = spec.build_meta(8), Positions(8)
    for (name, expected), (_, table) in zip(
        real.named_buffers(), built.named_buffers(), strict=True
    ):
        assert table.is_meta, name
        assert (table.shape, table.dtype) == (expected.shape, expected.dtype), name
        assert table.stride() == expected.stride(), name
    assert not spec.allocates


def test_tables_of_positions_do_not_load_the_compiler() -> None:
    """Importing torch._dynamo takes a second, and sympy half of one."""
    code = (
        "import sys; from flops_fit.examples import GPT; from flops_fit.model import ModelSpec; "
        "ModelSpec(GPT, 'd_model').count(64); "
        "assert not {'torch._dynamo', 'sympy'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_fingerprint_follows_code_arguments_and_structure() -> None:
    def factory(width: int, activation: str = "relu") -> nn.Module:
        return MLP(width)

    def other(width: int, activation: str = "relu") -> nn.Module:
        model = MLP(width)
        model.extra = nn.ReLU()
        return model

    spec = ModelSpec(factory, "width")
    assert spec.fingerprint(8) == ModelSpec(factory, "width").fingerprint(8)
    different = {
        spec.fingerprint(8),
        spec.fingerprint(10),
        ModelSpec(factory, "width", {"activation": "gelu"}).fingerprint(8),
        ModelSpec(other, "width").fingerprint(8),
    }
    assert len(different) == 4


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(32, 32, 4, groups=32),
        nn.ConvTranspose1d(32, 8, 4),
        nn.Bilinear(8, 8, 32),
        type("OwnConv", (nn.Conv1d,), {})(32, 32, 4, groups=32),
    ],
)
def test_layers_of_torch_are_no_experts(layer: nn.Module) -> None:
    model = nn.Module()
    model.inner, model.layer = nn.Linear(8, 32), layer
    assert find_experts(model, {"inner.weight": [10], "layer.weight": [5]}) == ()


def test_a_list_of_equal_weights_beside_a_router_is_experts() -> None:
    model = nn.Module()
    model.router = nn.Linear(8, 4)
    model.experts = nn.ParameterList([nn.Parameter(torch.zeros(4, 8, 8))])
    (layer,) = find_experts(model, {"router.weight": [10], "experts.0": [5]})
    assert (layer.number, layer.each) == (4, 2)
    assert find_experts(model, {"router.weight": [10], "experts.0": [10]}) == ()


def test_weights_of_frequencies_are_no_experts() -> None:
    """A Fourier layer multiplies by a matrix for each frequency, on fewer positions than before."""

    class Fourier(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.lift = nn.Linear(1, width)
            self.modes = nn.Parameter(torch.randn(width, width, 5))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            low = self.lift(x).transpose(1, 2)[..., :5]
            return torch.einsum("bik,iok->bok", low, self.modes)

    model = Fourier(8)
    traced = trace_flops(lambda: model(torch.randn(3, 16, 1)).sum(), model)
    assert traced.forward == 3 * (2 * 16 * 8 + 2 * 5 * 8 * 8)
    assert find_experts(model, traced.calls) == ()

"""Sizes are found without memory, whatever a constructor does; what it costs to look is told."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flops_fit.errors import ModelError
from flops_fit.examples.gpt import GPTConfig, GPTFactory
from flops_fit.flops import InterpolatedFlops
from flops_fit.model import ModelSpec, count_params, find_experts
from flops_fit.model import spec as spec_module

GPT_SPEC = ModelSpec(GPTFactory(num_layers=24, vocab_size=50_304), "d_model")


def accepted(width: int) -> int | None:
    """N at this width, None where the GPT refuses it."""
    try:
        return GPTConfig(width, 24, None, 50_304).num_params()
    except ModelError:
        return None


@settings(max_examples=25, deadline=None)
@given(st.floats(math.log(1e7), math.log(1e11)))
def test_no_accepted_width_is_nearer_than_the_one_found(wanted: float) -> None:
    """Every width that could be nearer is tried; the GPT takes some of them only."""
    found = GPT_SPEC.nearest(math.exp(wanted))
    assert found is not None
    width, counted = found
    around = range(max(width - 400, 1), width + 400)
    nearest = min(
        (n for w in around if (n := accepted(w)) is not None),
        key=lambda n: abs(math.log(n) - wanted),
    )
    assert abs(math.log(counted.total) - wanted) <= abs(math.log(nearest) - wanted) + 1e-12


def test_a_grid_of_one_head_width_is_met_within_five_percent() -> None:
    spec = ModelSpec(
        lambda heads: nn.Linear(64 * heads, 64 * heads), "heads"
    )  # N jumps by 2/heads: below 5 % from 40 heads on
    for wanted in np.geomspace(4e7, 1e11, 30):
        found = spec.nearest(wanted)
        assert found is not None
        assert abs(math.log(found[1].total / wanted)) < 0.05


def test_a_gpt_between_counts_is_within_half_a_percent() -> None:
    """F at a size nobody counted, against its closed form, over six decades."""
    factory = GPTFactory(num_layers=4)
    spec = ModelSpec(factory, "d_model")

    def near(params: float) -> tuple[float, float] | None:
        found = spec.nearest(params)
        if found is None:
            return None
        cost = GPTConfig(found[0], 4).flops_per_token(1024)
        return float(found[1].total), float(cost)

    flops = InterpolatedFlops({}, near)
    for wanted in np.geomspace(3e4, 3e10, 40):
        found = spec.nearest(wanted)
        assert found is not None
        exact = GPTConfig(found[0], 4).flops_per_token(1024)
        assert float(flops(found[1].total)) == pytest.approx(exact, rel=0.005)


def test_sizes_that_begin_late_are_found() -> None:
    def late(d: int) -> nn.Module:
        if d < 3000:
            raise ValueError("too narrow")
        return nn.Linear(d, d)

    found = ModelSpec(late, "d").nearest(1e8)
    assert found is not None
    assert found[1].total == pytest.approx(1e8, rel=0.3)


def test_a_model_that_moves_itself_to_a_gpu_is_counted_without_one() -> None:
    class Moves(nn.Module):
        def __init__(self, d: int) -> None:
            super().__init__()
            self.layer = nn.Linear(d, d, device="cuda").cuda()
            self.register_buffer("mask", torch.ones(d, d, device=torch.device("cuda", 0)))
            self.to("cuda", torch.bfloat16)

    spec = ModelSpec(Moves, "d")
    assert spec.require(100_000).total == 100_000 * 100_001
    assert spec.build_meta(8).layer.weight.dtype is torch.bfloat16
    assert spec.notes == ()


def test_a_constructor_that_reads_a_gpu_is_told_where_there_is_none() -> None:
    def reads(d: int) -> nn.Module:
        raise AssertionError("Torch not compiled with CUDA enabled")

    with pytest.raises(
        ModelError, match=r"constructor of .*reads uses a GPU, and there is none here"
    ):
        ModelSpec(reads, "d").nearest(1e6)


class FromArray(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(np.zeros((d, d), dtype=np.float32)))


class ReadsValues(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.layer = nn.Linear(d, d, bias=False)
        self.scale = float(self.layer.weight.abs().mean())


@pytest.mark.parametrize("made", [FromArray, ReadsValues])
def test_a_constructor_that_allocates_is_not_asked_for_large_models(
    made: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec_module, "_ALLOCATED", 4e6)
    built: list[int] = []

    def factory(d: int) -> nn.Module:
        built.append(d)
        return made(d)

    spec = ModelSpec(factory, "d")
    found = spec.nearest(2e6)
    assert found is not None
    assert found[1].total == pytest.approx(2e6, rel=0.01)
    assert spec.nearest(1e13) is None
    assert max(built) ** 2 <= 8e6
    assert "allocates memory even where none is needed" in spec.notes[0]
    assert any("only to be counted" in reason for reason in spec.refusals.values())


def test_a_slow_constructor_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_module, "_SLOW", 0.01)

    def slow(d: int) -> nn.Module:
        time.sleep(0.02)
        return nn.Linear(d, d)

    spec = ModelSpec(slow, "d")
    spec.require(4)
    assert "sizes=[...] leaves out the search" in spec.notes[0]


def test_sizes_of_several_arguments_are_counted() -> None:
    spec = ModelSpec(
        lambda depth, width: nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
    )
    assert spec.require({"depth": 3, "width": 10}).total == 330


class Mixture(nn.Module):
    """Four experts and a router; ``active`` is declared where given."""

    def __init__(self, d: int = 8, active: Any = None) -> None:
        super().__init__()
        self.router = nn.Linear(d, 4)
        self.experts = nn.ModuleList(nn.Linear(d, d) for _ in range(4))
        if active is not None:
            self.active_params = lambda: active


def ran(router: float, *parts: float, calls: int = 1) -> dict[str, list[float]]:
    """Positions that passed the router, in equal calls, and then each of four experts, in one."""
    each = {f"1.experts.{i}.weight": [n] for i, n in enumerate(parts) if n}
    return {"1.router.weight": [router / calls] * calls} | each


def test_experts_are_recognised_by_the_positions_that_a_router_sends_them() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Mixture())
    (experts,) = find_experts(model, ran(10, 4, 0, 5, 1))
    assert (experts.name, experts.number, experts.params) == ("1.experts", 4, 4 * 72)
    assert experts.each == 1


def test_experts_without_a_router_are_those_that_share_all_positions_unequally() -> None:
    stack = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
    model = nn.Sequential(nn.Linear(8, 8), stack)
    shares = [(3, 4, 2, 1), (3, 4, 2, 2), (2.5, 2.5, 2.5, 2.5)]  # the last: a layer for each column
    parts = ({f"1.{i}.weight": [n] for i, n in enumerate(share)} for share in shares)
    found = [find_experts(model, {"0.weight": [10.0], **part}) for part in parts]
    assert [[e.each for e in experts] for experts in found] == [[1.0], [], []]


@pytest.mark.parametrize(
    "passes",
    [
        ran(10, 10, 10, 10, 10),  # blocks that all positions pass
        ran(1, 12, 12, 12, 12),  # a head on what they pool
        dict(reversed(ran(10, 3, 3, 2, 2).items())),  # a head after parts of fewer positions
        ran(10, 64, 16, 4, 1),  # parts of several resolutions
        ran(10, 10, 0, 10, 0),  # layers that are left out at random
        ran(30, 10, 10, 0, 0, calls=3),  # a head at which a batch may leave after each block
        {},
    ],
)
def test_equal_parts_beside_as_many_outputs_are_no_experts(passes: dict[str, list[float]]) -> None:
    assert find_experts(nn.Sequential(nn.Linear(8, 8), Mixture()), passes) == ()


def test_a_model_may_say_how_many_of_its_parameters_are_active() -> None:
    counted = count_params(Mixture(active=36 + 72))
    assert (counted.total, counted.active) == (36 + 4 * 72, 36 + 72)
    assert count_params(Mixture()).active == counted.total


@pytest.mark.parametrize(
    ("answer", "message"), [(10**6, "more than its 324"), (0, "active_params\\(\\) returned 0")]
)
def test_an_impossible_number_of_active_parameters_is_refused(answer: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        count_params(Mixture(active=answer))

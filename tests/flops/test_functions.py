"""FLOPs per unit: exact where traced, on the limit where fitted, corrected where torch miscounts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from flops_fit.flops import FlopsFunction, InterpolatedFlops, LinearFlops, SmoothFlops, trace_flops
from flops_fit.flops.functions import SizePolynomial, outside_in


@pytest.mark.parametrize(
    "flops",
    [LinearFlops(), SmoothFlops(6, 10, 0.5, 1e4, 1e3, 1e6, 0.01), InterpolatedFlops({1e4: 8e4})],
)
def test_every_kind_keeps_the_shape_and_describes_itself(flops: FlopsFunction) -> None:
    assert isinstance(flops, FlopsFunction)
    assert flops.description
    assert flops(1e5).shape == ()
    assert flops(np.array([[1e4, 1e5]])).shape == (1, 2)


def test_smooth_flops_tend_to_k_times_n() -> None:
    flops = SmoothFlops(6, 10, 0.5, 1e4, 1e3, 1e6, 0.01)
    assert float(flops(1e20)) / 1e20 == pytest.approx(6, rel=1e-6)


def test_an_unbuilt_size_is_counted_and_not_extrapolated() -> None:
    asked: list[float] = []

    def truth(n: float) -> float:
        return 6 * n + 500 * n**0.5

    def near(n: float) -> tuple[float, float]:
        asked.append(n)
        return n, truth(n)

    flops = InterpolatedFlops({1e4: truth(1e4)}, near)
    assert float(flops(1e4)) == pytest.approx(truth(1e4), rel=1e-12)
    assert float(flops(1e9)) == pytest.approx(truth(1e9), rel=1e-4)
    assert min(abs(np.log2(n / 1e9)) for n in asked) < 1
    before = len(asked)
    flops(1e9)
    assert len(asked) == before


def test_nothing_to_ask_keeps_the_ratio_of_the_outermost_count() -> None:
    flops = InterpolatedFlops({1e4: 8e4, 1e5: 7e5})
    assert float(flops(1e7)) == pytest.approx(7e7)


def count(model: nn.Module, *shape: int) -> tuple[float, float, tuple[str, ...]]:
    model = model.to("meta")
    traced = trace_flops(lambda: model(torch.empty(*shape, device="meta")).sum())
    return traced.forward, traced.backward, traced.notes


def test_linear_layers_count_two_flops_a_weight_forward() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 30))
    forward, backward, notes = count(model, 5, 10)
    assert forward == 2 * 5 * (10 * 20 + 20 * 30)
    # The first layer needs no gradient of its input.
    assert backward == 2 * forward - 2 * 5 * 10 * 20
    assert not notes


def test_a_convolution_counts_once_per_output_position() -> None:
    forward, _, notes = count(nn.Conv2d(3, 8, 4, stride=4), 2, 3, 32, 32)
    assert forward == 2 * 2 * 64 * (3 * 16) * 8
    assert not notes


def test_attention_is_counted_in_full() -> None:
    q = torch.empty(2, 4, 64, 8, device="meta", requires_grad=True)
    traced = trace_flops(
        lambda: nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).sum()
    )
    assert traced.forward == 2 * (2 * 2 * 4 * 64 * 64 * 8)
    assert traced.backward == 2 * traced.forward


def test_polynomials_are_of_whole_counts_that_floats_hold() -> None:
    """Halves, and what is rounded beyond 2**53, are no exact counts; the largest exact one is."""
    polynomial = SizePolynomial()
    for wrong in (10.5, 2.0**53, 2.0**53 + 0.5, float("inf")):
        polynomial.add(4, wrong, ())
    assert polynomial.traced == {}
    polynomial.add(4, 2.0**53 - 1, ())
    assert polynomial.traced == {4: (2**53 - 1,)}


def test_a_polynomial_is_used_between_the_sizes_that_were_traced() -> None:
    polynomial = SizePolynomial()
    for size in (8, 16, 24, 32, 40):
        polynomial.add(size, 3.0 * size**2 + size, (size,), {"steps": (1, size // 16)})
    assert polynomial.flops(12, (12,), {"steps": (1, 1)}) == 3 * 12**2 + 12
    assert polynomial.flops(12, (12,), {"steps": (1, 3)}) is None
    assert polynomial.flops(12, (13,), {"steps": (1, 1)}) is None  # the model built is another one
    assert polynomial.flops(12, (12,), {"other": (1, 1)}) is None
    for size in (4, 7, 41, 160):
        assert polynomial.flops(size, (size,)) is None
    for size in (2, 160):
        assert polynomial.flops(size, (size,), reach=4) == 3 * size**2 + size
    assert polynomial.flops(161, (161,), reach=4) is None


def test_sizes_are_ordered_from_the_outermost_inwards() -> None:
    assert outside_in(range(9)) == [0, 8, 4, 2, 6, 1, 3, 5, 7]
    assert [outside_in(range(n)) for n in range(4)] == [[], [0], [0, 1], [0, 2, 1]]


def test_a_size_that_cannot_be_counted_leaves_the_ratio_as_it_was() -> None:
    """Each is asked for once."""
    asked: list[float] = []

    def near(n: float) -> None:
        asked.append(n)

    flops = InterpolatedFlops({1e4: 8e4}, near)
    assert float(flops(1e5)) == pytest.approx(8e5)
    assert float(flops(1e5)) == pytest.approx(8e5)
    assert len(asked) == len(set(asked)) == 2

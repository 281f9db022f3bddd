"""The default knows size and length, its first version keeps values and ids, the baseline tunes nothing."""

from __future__ import annotations

import pytest
import torch

from flops_fit.recipes import constant, default, default_1, resolve_recipe
from flops_fit.records import Experiment, ParamCount
from tests.recipes._sizes import params


def test_the_first_default_follows_the_published_sizes() -> None:
    # Brown et al. 2020, Table 2.1, within a third.
    recipe = resolve_recipe("default-1")
    for n, lr in (
        (125e6, 6e-4),
        (350e6, 3e-4),
        (760e6, 2.5e-4),
        (1.3e9, 2e-4),
        (6.7e9, 1.2e-4),
        (13e9, 1e-4),
    ):
        assert recipe(params(int(n)), 1e9, "tokens").lr == pytest.approx(lr, rel=0.35)


@pytest.mark.parametrize(
    ("size", "units", "unit", "expected"),
    [
        (ParamCount(124_000_000, 85_000_000, 124_000_000, 124_000_000), 2.5e9, "tokens",
         "847cc68563fb60d9"),
        (ParamCount(3000, 2000, 2500, 3000), 2e4, "samples", "a88dc4e504bfb229"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("width", [0, 768])
def test_runs_of_the_first_default_keep_their_ids(
    size: ParamCount, units: float, unit: str, expected: str, width: int
) -> None:
    """What is on disk stays valid; the width of a model is no part of an id."""
    counted = ParamCount(size.total, size.non_embedding, size.matmul, size.active, width)
    run = Experiment(
        "GPT", {"vocab": 50257}, 768, counted, budget=1.86e18, tokens=2_500_000_000, steps=5000,
        batch_size=256, units_per_sample=1024.0, unit="tokens", flops_per_unit=7.4e8,
        flops_per_unit_6nd=7.44e8, hparams=default_1(size, units, unit), seed=7, repeat=0,
        fingerprint="abc",
    )  # fmt: skip
    assert run.id == expected


@pytest.mark.parametrize(
    ("n", "tokens", "lr", "batch"),
    [
        (
            6.0e7,
            2e9,
            (0.0014, 0.0056),
            (6.5e4, 2.7e5),
        ),  # within 1 % of StepLaw's best, cheapest cell
        (1.07e9, 5.69e10, (0.0004, 0.002), (2.6e5, 2.2e6)),  # and dearest
        (2.5e7, 5e8, (0.002, 0.0083), (2.5e4, 1.3e5)),  # Porian's smallest, η ∝ B^0.4: within ×2
    ],
)
def test_the_default_is_near_what_was_measured(
    n: float, tokens: float, lr: tuple[float, float], batch: tuple[float, float]
) -> None:
    made = default(params(int(n)), tokens, "tokens")
    assert lr[0] < made.lr < lr[1]
    assert batch[0] < made.batch_units < batch[1]


def test_the_default_knows_length_where_it_is_in_tokens() -> None:
    short, long = (default(params(10**8), d, "tokens") for d in (1e9, 1e10))
    assert long.lr / short.lr == pytest.approx(10**0.3)
    assert long.batch_units / short.batch_units == pytest.approx(10**0.8)
    assert default(params(10**8), 1e9, "samples") == default_1(params(10**8), 1e9, "samples")
    assert short.recipe == "default-2"


def test_the_baseline_is_what_torch_does_by_itself() -> None:
    made = constant(params(1000), 1e6, "tokens")
    adamw = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).defaults
    assert made.lr == adamw["lr"]
    assert (made.beta1, made.beta2) == adamw["betas"]
    assert made.weight_decay == adamw["weight_decay"]


def test_the_baseline_is_the_same_for_every_run() -> None:
    small, large = (constant(params(n), d, "tokens") for n, d in ((10**3, 1e4), (10**12, 1e14)))
    assert small == large
    assert constant(params(1000), 1e6, "samples").batch_units == 128
    base = default(params(1000), 1e6, "tokens")
    assert (small.schedule, small.warmup, small.final) == (base.schedule, base.warmup, base.final)

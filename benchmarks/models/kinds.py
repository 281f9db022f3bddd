"""What a kind of model and data is, and where the kinds are collected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

SIZES = (16, 32)
STEPS = 120
BATCH = 8


@dataclass(frozen=True)
class Kind:
    """A model, data and loss as a user gives them, and what is known of them.

    ``sweep`` makes the arguments of ``plan_sweep`` but budgets and sizes. ``flops`` are the training
    FLOPs of a sample at a size and ``units`` the units of a sample, in the mean, both by hand. ``told``
    are the codes of the findings that have to be there; ``refused`` is what the refusal has to say.
    """

    name: str
    sweep: Callable[[], dict[str, Any]]
    flops: Callable[[int], float]
    units: float = 1.0
    told: frozenset[str] = frozenset()
    refused: str = ""
    sizes: Sequence[Any] = SIZES
    batch: int = BATCH
    within: float = 0.01  # where a run draws its own FLOPs or samples
    says: str = ""  # a note that has to be there


KINDS: dict[str, Kind] = {}


def kind(
    name: str, flops: Callable[[Any], float] = lambda w: 1e4, *, told: str = "", **known: Any
) -> Callable[[Callable[[], dict[str, Any]]], Callable[[], dict[str, Any]]]:
    """Collect the kind that a function makes the arguments of."""

    def collect(sweep: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        KINDS[name] = Kind(name, sweep, flops, told=frozenset(told.split()), **known)
        return sweep

    return collect


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int = 3000, width: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=generator(seed))


def classes(x: Tensor, number: int = 4) -> Tensor:
    """Classes that a linear map of the points decides."""
    return (x @ torch.randn(x.shape[1], number, generator=generator(1))).argmax(1)


def labelled(n: int = 3000) -> TensorDataset:
    x = points(n)
    return TensorDataset(x, classes(x))


def words(n: int = 3000, length: int = 12, vocabulary: int = 32) -> Tensor:
    """Rows of words of which each follows from the one before, but for some noise."""
    g = generator()
    start = torch.randint(1, vocabulary, (n, 1), generator=g)
    rows = (start + 3 * torch.arange(length)) % (vocabulary - 1) + 1
    noise = torch.randint(1, vocabulary, rows.shape, generator=g)
    return torch.where(torch.rand(rows.shape, generator=g) < 0.1, noise, rows)


def named(**columns: Tensor) -> list[Mapping[str, Tensor]]:
    """Samples as dicts."""
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def mlp_flops(*widths: int) -> float:
    """Training FLOPs of linear layers one after another; inputs of the first need no gradient."""
    first, *rest = (a * b for a, b in pairwise(widths))
    return 4.0 * first + 6.0 * sum(rest)

"""What is held out and trained on as well is found, in whole samples and in windows that overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from flops_fit.data import split_data
from flops_fit.data.leaks import held_out_seen, shared_by_neighbours

LENGTH = 16
WORDS = torch.randint(50, (4000,), generator=torch.Generator().manual_seed(0))
SERIES = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
SAMPLES = TensorDataset(torch.randn(600, 8), torch.zeros(600))


class Windows(Dataset[Any]):
    """Windows of one series, a step apart."""

    def __init__(self, series: Tensor, step: int) -> None:
        self.series, self.step = series, step

    def __len__(self) -> int:
        return (len(self.series) - LENGTH - 1) // self.step

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        window = self.series[i * self.step :][: LENGTH + 1]
        return window[:-1], window[1:]


@pytest.mark.parametrize("series", [WORDS, SERIES])
@pytest.mark.parametrize("step", [1, 4, 12])
def test_windows_that_overlap_are_found_with_what_they_share(series: Tensor, step: int) -> None:
    data, _ = split_data(Windows(series, step))
    assert shared_by_neighbours(data) == pytest.approx(1 - step / LENGTH)


def images() -> Tensor:
    """Pictures with black borders, a third of each above and below."""
    out = torch.zeros(600, 1, 9, 9)
    out[:, :, 3:6] = torch.randn(600, 1, 3, 9)
    return out


@pytest.mark.parametrize(
    "x",
    [
        WORDS[: 200 * LENGTH].view(200, LENGTH),
        (torch.randint(32, (600, 1)) + 3 * torch.arange(8)) % 32,
        images(),
        torch.zeros(600, LENGTH),
        torch.eye(8)[torch.randint(8, (600,))],
        WORDS[: 3 * LENGTH].view(3, LENGTH),
        torch.zeros(600),
    ],
)
def test_samples_that_do_not_overlap_share_nothing(x: Tensor) -> None:
    assert shared_by_neighbours(split_data(TensorDataset(x, torch.zeros(len(x))))[0]) == 0


def test_held_out_samples_that_are_trained_on_are_counted() -> None:
    rows = list(SAMPLES)
    halves = [*rows[:20], *((x + 1, y) for x, y in rows[20:40])]
    for held_out, met in [
        (Subset(SAMPLES, range(50)), (50, 50)),
        (halves, (20, 40)),
        (TensorDataset(SAMPLES.tensors[0] + 1, SAMPLES.tensors[1]), (0, 64)),
        (SAMPLES, (64, 64)),
    ]:
        assert held_out_seen(*split_data(SAMPLES, held_out)) == met


def test_a_stream_that_is_judged_on_itself_is_found() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield from SAMPLES

    train, held_out = split_data(Stream(), Stream())
    assert held_out_seen(train, held_out) == (64, 64)
    assert shared_by_neighbours(train) == 0


def test_looking_leaves_the_generators_alone() -> None:
    data, held_out = split_data(Windows(WORDS, 1), Windows(WORDS, 2))
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state()
    assert held_out_seen(data, held_out)[0] > 0
    assert shared_by_neighbours(data) > 0
    assert torch.equal(before, torch.get_rng_state())

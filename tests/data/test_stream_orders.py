"""Streams whose order changes train on none of the samples that are held out of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from flops_fit import plan_sweep
from flops_fit.data.spec import split_data
from flops_fit.data.streams import order_of
from flops_fit.errors import DataError

N = 700
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))


class Ordered(IterableDataset):  # type: ignore[type-arg]
    """Samples in the order of a function of the epoch, with noise from the global generator."""

    def __init__(self, order: Callable[[int], list[int]], noise: float = 0.0) -> None:
        self.order, self.noise, self.epoch = order, noise, 0

    def __iter__(self) -> Iterator[Any]:
        for i in self.order(self.epoch):
            yield X[i] + self.noise * torch.randn(4), torch.tensor(i)


class Epochs(Ordered):
    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Fresh(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield torch.randn(4), torch.randint(4, ())


def fixed(epoch: int) -> list[int]:
    return list(range(N))


def by_epoch(epoch: int) -> list[int]:
    return torch.randperm(N, generator=torch.Generator().manual_seed(epoch)).tolist()


def by_seed(epoch: int) -> list[int]:
    return torch.randperm(N).tolist()


def buffered(epoch: int) -> list[int]:
    """As a stream is shuffled by a buffer."""
    out, buffer = [], list(range(50))
    for i in range(50, N):
        place = random.randrange(50)
        out.append(buffer[place])
        buffer[place] = i
    return out + buffer


OWN = random.Random(0)  # which goes on from one reading to the next


def unseeded(epoch: int) -> list[int]:
    return OWN.sample(range(N), N)


@pytest.mark.parametrize(
    ("stream", "order"),
    [
        (Ordered(fixed), "fixed"),
        (Ordered(fixed, noise=0.5), "fixed"),
        (Epochs(fixed, noise=0.5), "fixed"),
        (Epochs(by_epoch), "by epoch"),
        (Epochs(by_epoch, noise=0.1), "by epoch"),
        (Ordered(by_seed), "by seed"),
        (Ordered(buffered), "by seed"),
        (Ordered(unseeded), "by seed"),
        (Ordered(by_seed, noise=0.5), "unknown"),
        (Fresh(), "unknown"),
        (Ordered(lambda epoch: []), "fixed"),
    ],
)
def test_the_order_of_a_stream_is_seen(stream: Any, order: str) -> None:
    before = torch.get_rng_state()
    assert order_of(stream) == order
    assert getattr(stream, "epoch", 0) == 0
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("order", [by_seed, buffered])
def test_a_stream_in_another_order_for_each_seed_needs_samples_of_its_own_to_be_judged_on(
    order: Any,
) -> None:
    with pytest.raises(DataError, match=r"begins with the same samples.*Give eval_dataset="):
        split_data(DataLoader(Ordered(order)))
    split_data(Ordered(order), Ordered(fixed))


def ids(batches: Any) -> list[int]:
    return [int(i) for batch in batches for i in batch[1]]


def test_a_stream_with_epochs_never_trains_on_what_is_held_out() -> None:
    stream = Epochs(by_epoch)
    stream.set_epoch(3)
    train, held_out = split_data(stream)
    judged, counted = ids(held_out.in_order(16)), train.count()
    assert "set_epoch" in train.notes[-1]
    mark = train.fingerprint(), held_out.fingerprint()
    trained = ids(train.batches(8, 60, seed=1))
    assert len(set(trained)) == counted == N - 512
    assert set(trained).isdisjoint(judged)
    stream.set_epoch(2)
    assert ids(held_out.in_order(16)) == judged
    again = split_data(stream)
    assert (again[0].fingerprint(), again[1].fingerprint()) == mark


def test_with_samples_to_be_judged_on_a_stream_has_all_its_orders() -> None:
    stream = Epochs(by_epoch)
    train, _ = split_data(stream, Ordered(fixed))
    trained = ids(train.batches(N // 2, 4, seed=1))
    assert trained == by_epoch(0) + by_epoch(1)
    assert stream.epoch == 0
    first, sample = train.first_batch(8), train.spread(1)[0]
    assert ids([first]) == by_epoch(0)[:8]
    assert int(sample[1]) == by_epoch(0)[0]


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (Ordered(fixed, noise=0.5), "augmented_held_out"),
        (Ordered(by_seed, noise=0.5), "stream_order"),
        (Fresh(), "stream_order"),
    ],
)
def test_what_is_not_known_of_an_order_is_a_warning(stream: Any, code: str) -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target % 4)

    plan = plan_sweep(
        lambda width: nn.Sequential(nn.Linear(4, width), nn.Linear(width, 4)), "width",
        dataset=stream, loss_fn=loss, sizes=[8], compute_budgets=[2e5], batch_size=8,
    )  # fmt: skip
    codes = {"augmented_held_out", "stream_order"}
    assert [d.code for d in plan.diagnostics if d.code in codes] == [code]

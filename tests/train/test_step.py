"""One step is the same whatever part of the batch goes through at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from flops_fit.batches import is_out_of_memory
from flops_fit.errors import DataError, InputError, InputTypeError
from flops_fit.objective import Objective
from flops_fit.train.config import TrainingConfig
from flops_fit.train.step import Stepper, split_batch


def masked_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def tokens(rows: int = 12, length: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows with very different numbers of counted targets."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(11, (rows, length), generator=generator)
    y = torch.randint(11, (rows, length), generator=generator)
    for row in range(rows):
        y[row, : row % (length + 1)] = -100  # one row has no target at all
    return x, y


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11))


def stepper(net: nn.Module, microbatch: int, **changes: Any) -> Stepper:
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    return Stepper(net, Objective(masked_loss), optimizer, 1e9, 12, microbatch, "cpu", **changes)


@pytest.mark.parametrize("microbatch", [1, 4, 5, 11])
def test_microbatches_step_as_the_whole_batch_does(microbatch: int) -> None:
    """Masked rows and a short last part: the gradient is of the mean over all counted units."""
    whole, cut = model(), model()
    loss, units, norm = stepper(whole, 99)(tokens())
    loss_cut, units_cut, norm_cut = stepper(cut, microbatch)(tokens())
    assert int(units) == int(units_cut) == int((tokens()[1] != -100).sum())
    assert float(loss_cut) == pytest.approx(float(loss), rel=1e-6)
    assert float(norm_cut) == pytest.approx(float(norm), rel=1e-5)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_mean_of_means_would_be_another_step() -> None:
    """What the division by all units is for: means of parts weigh short rows more."""
    whole, wrong = model(), model()
    stepper(whole, 99)(tokens())
    parts = list(split_batch(tokens(), 4))
    for x, y in parts:
        (masked_loss(wrong(x), y) / len(parts)).backward()
    torch.optim.SGD(wrong.parameters(), lr=1.0).step()
    apart = max(
        float((a - b).detach().abs().max())
        for a, b in zip(whole.parameters(), wrong.parameters(), strict=True)
    )
    assert apart > 1e-4


class Cramped(nn.Module):
    """Has memory for so many rows and no more."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.inner, self.room, self.seen = model(), room, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("no room")
        out: torch.Tensor = self.inner(x)
        return out


def test_memory_that_runs_out_halves_the_microbatch_and_not_the_batch() -> None:
    """12 rows, room for 3: 12, 6, then four times 3; the step is that of the whole batch."""
    whole, cramped = model(), Cramped(3)
    stepper(whole, 99)(tokens())
    step = stepper(cramped, 99)
    step(tokens())
    assert cramped.seen == [12, 6, 3, 3, 3, 3]
    assert step.microbatch == 3
    assert step.notes == [
        "out of memory with 12 samples at once: 6 from then on",
        "out of memory with 6 samples at once: 3 from then on",
    ]
    for a, b in zip(whole.parameters(), cramped.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_memory_that_fails_half_way_leaves_no_gradient_behind() -> None:
    """The first part passes, the second does not: what the first left is dropped."""

    class Second(Cramped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(len(x))
            if len(self.seen) == 2:
                raise torch.OutOfMemoryError("no room")
            return self.inner(x)

    whole, second = model(), Second(99)
    stepper(whole, 99)(tokens())
    stepper(second, 6)(tokens())
    assert second.seen == [6, 6, 3, 3, 3, 3]
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_one_sample_that_does_not_fit_is_out_of_memory() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        stepper(Cramped(0), 99)(tokens())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("x"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_dicts_are_cut_and_lone_numbers_are_kept() -> None:
    batch = {"x": torch.arange(5), "nested": [torch.zeros(5, 2)], "scale": torch.tensor(2.0)}
    parts = list(split_batch(batch, 2))
    assert [len(p["x"]) for p in parts] == [2, 2, 1]
    assert [len(p["nested"][0]) for p in parts] == [2, 2, 1]
    assert all(float(p["scale"]) == 2 for p in parts)


def test_a_tensor_without_samples_first_cannot_be_cut() -> None:
    with pytest.raises(DataError, match="samples first"):
        list(split_batch((torch.zeros(4, 2), torch.zeros(3)), 2))


@pytest.mark.parametrize("microbatch", [0, -1, 2.0, True])
def test_a_microbatch_is_a_positive_number_of_samples(microbatch: Any) -> None:
    kind = InputTypeError if microbatch is True else InputError
    with pytest.raises(kind, match="1 or more"):
        TrainingConfig(microbatch=microbatch)
    assert TrainingConfig().microbatch is None


def test_a_batch_without_any_target_teaches_nothing_and_breaks_nothing() -> None:
    """The mean over no target is not a number; one such batch would end the run."""
    net = model()
    before = [p.detach().clone() for p in net.parameters()]
    x, y = tokens()
    for microbatch in (99, 4):
        loss, units, _ = stepper(net, microbatch)((x, torch.full_like(y, -100)))
        assert float(loss) == 0.0
        assert int(units) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))

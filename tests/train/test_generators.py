"""A run draws from generators of its own, on every device, and leaves everybody else's alone."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flops_fit.batches import to_device
from flops_fit.rng import capture
from flops_fit.train.config import resolve_device
from tests.conftest import make_experiment, with_changes
from tests.data.test_randomness import unmoved
from tests.train.test_resume import every_reading, same
from tests.train.test_trainer import trainer


def moved(model: nn.Module, batch: Any) -> tuple[torch.Tensor, int]:
    """Inputs moved by NumPy's and torch's generators, and batches weighed by Python's."""
    x, y = batch
    x = x + 0.1 * float(np.random.standard_normal()) + 0.1 * torch.randn(1)  # noqa: NPY002
    loss = nn.functional.cross_entropy(model(x), y, reduction="sum")
    return loss * (0.9 if random.random() < 0.3 else 1.0), len(x)


def test_a_loss_that_draws_from_any_generator_is_the_same_at_every_call() -> None:
    """Whatever ran before in this process; and the generators go on as they were."""
    made = trainer(loss_fn=None, step_fn=moved)
    first = made(make_experiment())
    random.seed(5)
    np.random.seed(6)  # noqa: NPY002
    torch.manual_seed(7)
    before = capture()
    again = made(make_experiment())
    assert unmoved(before)
    assert same(first, again)
    assert made(make_experiment(seed=2)).loss != first.loss


def test_a_run_that_goes_on_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    def fall(progress: Any) -> None:
        if progress.step == 31:
            raise SystemExit(1)

    whole = trainer(loss_fn=None, step_fn=moved)(make_experiment())
    made = with_changes(
        trainer(loss_fn=None, step_fn=moved), folder=tmp_path, checkpoint_seconds=0.0
    )
    with every_reading(), pytest.raises(SystemExit):
        made(make_experiment(), fall)
    random.seed(11)
    np.random.seed(12)  # noqa: NPY002
    again = made(make_experiment())
    assert (again.state, again.resumed) == ("completed", 1)
    assert same(again, whole)


def test_auto_takes_an_intel_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    assert resolve_device("auto") == "xpu"


def test_float64_goes_to_apples_devices_as_float32() -> None:
    """They have no float64, which Python numbers in samples become."""
    arrived: list[tuple[torch.dtype, str, bool]] = []

    class Recorder(SimpleNamespace):
        def detach(self) -> None: ...

        def float(self) -> Recorder:
            return Recorder(dtype=torch.float32)

        def to(self, device: str, non_blocking: bool) -> Recorder:
            arrived.append((self.dtype, device, non_blocking))
            return self

    to_device({"x": Recorder(dtype=torch.float64), "y": Recorder(dtype=torch.int64)}, "mps")
    to_device([Recorder(dtype=torch.float64)], "cuda:1")
    assert arrived == [
        (torch.float32, "mps", False),
        (torch.int64, "mps", False),
        (torch.float64, "cuda:1", True),
    ]

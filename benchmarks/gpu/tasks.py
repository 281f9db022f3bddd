"""Small runs that two devices train: a GPT, and a network with convolutions, batch norm and dropout."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flops_fit import SweepPlan, TrainingConfig, plan_sweep
from flops_fit.examples.gpt import GPTFactory, gpt_loss_fn
from flops_fit.examples.text import SOTUDataset
from flops_fit.records import Experiment, Run

SEQ_LEN = 64


class MissedError(Exception):
    """What a check found is not what has to be."""


class NotHereError(Exception):
    """A check needs what this machine has not."""


def expect(holds: bool, found: str) -> str:
    """What was found, where it is as it has to be; MissedError where not."""
    if not holds:
        raise MissedError(found)
    return found


class Losses:
    """A loss function that keeps the loss of each training step, and may stop before one."""

    def __init__(self, loss_fn: Callable[..., Tensor]) -> None:
        self.loss_fn = loss_fn
        self.kept: list[Tensor] = []
        self.stop_at: int | None = None

    def __call__(self, *given: Any) -> Tensor:
        if len(self.kept) == self.stop_at:
            raise KeyboardInterrupt
        loss = self.loss_fn(*given)
        if torch.is_grad_enabled():
            self.kept.append(loss.detach())
        return loss

    def values(self) -> Tensor:
        """Of all steps, in double precision on the host."""
        return torch.stack(self.kept).double().cpu()


class ConvNet(nn.Module):
    """Images (B, 3, 16, 16) to logits (B, 10)."""

    def __init__(self, width: int = 16, drop: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(images)))
        x = functional.relu(self.second(x)).mean((2, 3))
        return self.head(self.drop(x))


class Images(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Noise with a bright square, whose place is the class."""

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(3, 16, 16, generator=generator)
        label = int(torch.randint(10, (), generator=generator))
        image[:, :8, label : label + 4] += 1.0
        return image, torch.tensor(label)


@dataclass(frozen=True)
class Trained:
    """A run, the losses of its steps, and the seconds that it took."""

    run: Run
    losses: Tensor
    seconds: float


def text_plan(
    device: str, sizes: dict[float, list[int]], loss_fn: Any = gpt_loss_fn, **settings: Any
) -> SweepPlan:
    """A sweep of the bundled GPT on the bundled text."""
    training = TrainingConfig(**{"eval_samples": 512, **settings.pop("training", {})})
    return plan_sweep(
        GPTFactory(num_layers=2), "d_model", {}, SOTUDataset("train", SEQ_LEN), loss_fn,
        list(sizes), sizes=sizes, eval_dataset=SOTUDataset("validation", SEQ_LEN), device=device,
        training=training, **{"batch_size": 64, **settings},
    )  # fmt: skip


def image_plan(
    device: str, budget: float, loss_fn: Any, drop: float = 0.0, **training: Any
) -> SweepPlan:
    """One run of the convolutional network."""
    return plan_sweep(
        ConvNet, "width", {"drop": drop}, Images(), loss_fn, [budget], sizes={budget: [16]}, device=device,
        batch_size=64, training=TrainingConfig(**{"eval_samples": 512, **training}),
    )  # fmt: skip


def gpt_run(device: str, width: int = 64, budget: float = 2e11, **given: Any) -> Trained:
    """A run of the GPT: ``folder`` keeps it, it is stopped at step ``stop_at``, all else trains it."""
    losses = Losses(gpt_loss_fn)
    kept = {name: given.pop(name, None) for name in ("folder", "stop_at")}
    settings = {name: given.pop(name) for name in ("batch_size", "hparams") if name in given}
    plan = text_plan(device, {budget: [width]}, losses, training=given, **settings)
    return trained(plan, losses, **kept)


def image_run(device: str, budget: float = 2e10, **given: Any) -> Trained:
    """A run of the convolutional network, with arguments as for :func:`gpt_run`."""
    losses = Losses(functional.cross_entropy)
    kept = {name: given.pop(name, None) for name in ("folder", "stop_at")}
    return trained(image_plan(device, budget, losses, **given), losses, **kept)


def trained(
    plan: SweepPlan,
    losses: Losses,
    folder: Path | None = None,
    stop_at: int | None = None,
) -> Trained:
    """The plan's only run, trained in this process; MissedError where it does not come to its end."""
    trainer, [experiment] = plan.task, plan.experiments
    losses.kept.clear()  # planning tries a few steps
    losses.stop_at = stop_at
    started = time.perf_counter()
    run = (trainer if folder is None else trainer.in_folder(folder))(experiment, None)
    if run.state != "completed":
        raise MissedError(f"the run is {run.state}: {run.reason} {run.details}")
    return Trained(run, losses.values(), time.perf_counter() - started)


def only(plan: SweepPlan) -> Experiment:
    """The plan's only experiment."""
    [experiment] = plan.experiments
    return experiment


def apart(one: Trained, other: Trained) -> float:
    """The largest relative difference of two runs' training and held-out losses."""
    steps = float(((one.losses - other.losses) / other.losses).abs().max())
    return max(steps, apart_at_end(one, other))


def apart_at_end(one: Trained, other: Trained) -> float:
    """The relative difference of two runs' held-out losses."""
    return abs(float(one.run.loss or math.nan) / float(other.run.loss or math.nan) - 1)


@functools.cache
def on_host() -> Trained:
    """The run of the GPT on the CPU, which others are held against."""
    return gpt_run("cpu", precision="fp32")

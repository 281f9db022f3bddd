"""A training loop as a careful researcher writes it for one model and one data set.

It knows that the data are tokens in memory, so a batch is one gather; that the model is a GPT; and
that nothing is reported before it ends: it reads no loss, reports nothing and checks
nothing. What an engine does beyond that is what it is charged with. Needs torch and the example
GPT alone, so that it also runs beside other packages, in their environment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flops_fit.examples.gpt import GPT, GPTFactory, gpt_loss_fn


@dataclass(frozen=True)
class Task:
    """One run: a GPT of this width over ``steps`` batches, by AdamW with warmup and a cosine."""

    width: int
    steps: int
    batch_size: int = 16
    seq_len: int = 64
    seed: int = 0
    lr: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0


class Recorder:
    """The loss function, keeping what training steps were told; evaluations have no gradient."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def __call__(self, outputs: Any, labels: Tensor) -> Tensor:
        loss = gpt_loss_fn(outputs, labels)
        if torch.is_grad_enabled():
            self.losses.append(loss.detach())
        return loss


@dataclass(frozen=True)
class Trained:
    """What a run leaves: every step's loss and, where it was evaluated, the held-out loss."""

    recorder: Recorder = field(repr=False)
    held_out: float | None = None

    @property
    def losses(self) -> np.ndarray:
        return torch.stack(self.recorder.losses).double().numpy()


@dataclass(frozen=True)
class Windows:
    """Tokens in memory and, for each step, the windows of ``seq_len`` that it trains on."""

    tokens: Tensor
    order: Tensor

    def batch(self, places: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        """Inputs and next-token targets of the windows at ``places``, in one gather."""
        both = self.tokens[places[:, None] * seq_len + torch.arange(seq_len + 1)].long()
        return both[:, :-1], both[:, 1:]


def build(task: Task) -> GPT:
    """The model, initialised from the task's seed."""
    torch.manual_seed(task.seed)
    return GPTFactory(num_layers=2)(d_model=task.width)


def make_optimizer(task: Task, model: GPT) -> torch.optim.AdamW:
    """AdamW, with decay on matrices and not on the embedding."""
    matrices = [p for name, p in model.named_parameters() if name != "embed.weight"]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": task.weight_decay},
            {"params": [model.embed.weight], "weight_decay": 0.0},
        ],
        lr=task.lr,
        betas=(task.beta1, task.beta2),
        fused=True,
    )


def learning_rate(task: Task, step: int) -> float:
    """Half-way through ``step``, from 0: linear over the warmup, then half a cosine to 0."""
    share = (step + 0.5) / task.steps
    if share < task.warmup:
        return task.lr * share / task.warmup
    done = (share - task.warmup) / (1 - task.warmup)
    return task.lr * 0.5 * (1 + math.cos(math.pi * done))


def steps_by_hand(
    task: Task, data: Windows, model: GPT, loss_fn: Callable[[Any, Tensor], Tensor]
) -> Iterator[None]:
    """The whole run; it can be left and resumed at each step's loss."""
    optimizer = make_optimizer(task, model)
    model.train()
    for step in range(task.steps):
        x, y = data.batch(data.order[step], task.seq_len)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(task, step)
        loss = loss_fn(model(x), y)
        yield
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), task.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def train_by_hand(task: Task, data: Windows, evaluate: Callable[[GPT], float]) -> Trained:
    """The whole run at once, and its held-out loss."""
    model, recorder = build(task), Recorder()
    for _ in steps_by_hand(task, data, model, recorder):
        pass
    return Trained(recorder, evaluate(model))

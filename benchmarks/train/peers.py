"""Other trainers on the same run, each by its own documented call, in turns with the loop by hand.

    .venv-bench/bin/python benchmarks/train/peers.py transformers < task.json

Reads {"task", "windows", "turn", "runs"} and writes a JSON list of {"version", "seconds", "by_hand",
"worst_loss"}: CPU seconds a step of each turn on one thread, and the largest relative difference
of a step's loss to the loop by hand. Runs under the interpreter that the packages live
in; of flops-fit it takes the example GPT.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.train.by_hand import Task, Windows, build, learning_rate, make_optimizer
from benchmarks.train.turns import Turns


class InOrder(Dataset):
    """The windows of a run, one after the other."""

    def __init__(self, windows: Windows, seq_len: int) -> None:
        self.windows, self.seq_len = windows, seq_len
        self.places = windows.order.flatten()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        start = int(self.places[i]) * self.seq_len
        both = self.windows.tokens[start : start + self.seq_len + 1].long()
        return {"idx": both[:-1], "labels": both[1:]}


class WithLoss(nn.Module):
    """The GPT, returning the loss as these packages expect it."""

    def __init__(self, gpt: nn.Module, loss_fn: Turns) -> None:
        super().__init__()
        self.gpt, self.loss_fn = gpt, loss_fn

    def forward(self, idx: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": self.loss_fn(self.gpt(idx), labels)}


def transformers(task: Task, windows: Windows, turns: Turns) -> None:
    """Trainer with our optimiser and schedule, and without logs, bars and checkpoints."""
    from transformers import Trainer, TrainingArguments

    class Ordered(Trainer):
        def get_train_dataloader(self) -> DataLoader:
            return self.accelerator.prepare(DataLoader(self.train_dataset, task.batch_size))

    gpt = build(task)
    optimizer = make_optimizer(task, gpt)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(task, step) / task.lr
    )
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            output_dir=folder,
            max_steps=task.steps,
            per_device_train_batch_size=task.batch_size,
            max_grad_norm=task.clip,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
        )
        Ordered(
            WithLoss(gpt, turns),
            options,
            train_dataset=InOrder(windows, task.seq_len),
            optimizers=(optimizer, schedule),
        ).train()


def lightning_fabric(task: Task, windows: Windows, turns: Turns) -> None:
    """The loop by hand with Fabric's model, optimiser, loader, backward and clipping."""
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    gpt = build(task)
    model, optimizer = fabric.setup(WithLoss(gpt, turns), make_optimizer(task, gpt))
    loader = fabric.setup_dataloaders(DataLoader(InOrder(windows, task.seq_len), task.batch_size))
    model.train()
    for step, batch in enumerate(loader):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(task, step)
        fabric.backward(model(**batch)["loss"])
        fabric.clip_gradients(model, optimizer, max_norm=task.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


PEERS: dict[str, Callable[[Task, Windows, Turns], None]] = {
    "transformers": transformers,
    "lightning-fabric": lightning_fabric,
}


def main(name: str, given: dict) -> list[dict]:
    """In turns with the loop by hand, on one thread."""
    torch.set_num_threads(1)
    task, arrays = Task(**given["task"]), np.load(given["windows"])
    windows = Windows(*(torch.from_numpy(arrays[k]) for k in ("tokens", "order")))
    runs = []
    for _ in range(given["runs"]):
        runs.append(Turns(task, windows, given["turn"]))
        PEERS[name](task, windows, runs[-1])
        if len(runs[-1].losses) != task.steps:
            raise RuntimeError(f"{len(runs[-1].losses)} calls of the loss in {task.steps} steps")
    return [
        {
            "version": version(name),
            "seconds": [s.cpu for turns in runs for s in turns.sides()[0]],
            "by_hand": [s.cpu for turns in runs for s in turns.sides()[1]],
            "worst_loss": max(turns.worst_loss() for turns in runs),
        }
    ]


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.load(sys.stdin))))

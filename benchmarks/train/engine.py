"""The same run through the library: one ``Trainer``, called with one ``Experiment``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, Subset

from benchmarks.train.by_hand import Recorder, Task, Trained, Windows, build
from flops_fit.data import DataSpec, split_data
from flops_fit.examples.gpt import GPT, GPTFactory
from flops_fit.examples.text import SOTUDataset
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective
from flops_fit.recipes import HParams
from flops_fit.records import Experiment, ParamCount, Run
from flops_fit.train import Trainer


@dataclass(frozen=True)
class Text:
    """The bundled text, to train on and to judge by, and how both sides read it."""

    seq_len: int
    held_out: int

    @property
    def train(self) -> SOTUDataset:
        return SOTUDataset("train", self.seq_len)

    @property
    def validation(self) -> Dataset[Any]:
        """As many windows as ``held_out``, from the start of the held-out speeches."""
        return Subset(SOTUDataset("validation", self.seq_len), range(self.held_out))

    def specs(self) -> tuple[DataSpec, DataSpec]:
        """What the trainer draws from, and what it evaluates on."""
        return split_data(self.train, self.validation)

    def windows(self, task: Task) -> Windows:
        """The tokens themselves, and the windows of each step in the trainer's own order."""
        source = self.train
        places = _Places(len(source))
        drawn = split_data(places, places)[0].batches(task.batch_size, task.steps, task.seed)
        return Windows(torch.from_numpy(source.tokens.copy()), torch.stack(list(drawn)))

    def loss(self, model: GPT) -> float:
        """Held-out loss by a single batch over all of its windows."""
        x, y = (torch.stack(part) for part in zip(*self.validation, strict=True))
        with torch.no_grad():
            logits = model(x)[0].double()
        return float(functional.cross_entropy(logits.flatten(0, 1), y.flatten()))


@dataclass(frozen=True)
class _Places(Dataset[Tensor]):
    """Samples that are their own index."""

    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.size:
            raise IndexError(index)
        return torch.tensor(index)


def train_by_engine(
    task: Task, specs: tuple[DataSpec, DataSpec], recorder: Recorder | None = None
) -> Trained:
    """The task by the library, with ``recorder`` as its loss function."""
    recorder = recorder or Recorder()
    run = finished(
        Trainer(ModelSpec(GPTFactory(), "d_model"), *specs, Objective(recorder)),
        experiment(task),
    )
    if len(recorder.losses) != task.steps:
        raise RuntimeError(
            f"the trainer called its loss {len(recorder.losses)} times in {task.steps} steps: "
            "its calls cannot be taken for steps"
        )
    return Trained(recorder, run.loss)


def finished(trainer: Trainer, what: Experiment) -> Run:
    """The run, reporting like a sweep does; a run that broke is an error here."""
    heard: list[object] = []
    run = trainer(what, heard.append)
    if run.state != "completed" or not heard:
        raise RuntimeError(f"{run.state}: {run.reason}\n{run.details}")
    return run


def experiment(task: Task) -> Experiment:
    """The task as a sweep would plan it."""
    config = build(task).config
    per_step = task.batch_size * task.seq_len
    hparams = HParams(
        lr=task.lr,
        batch_units=per_step,
        warmup=task.warmup,
        schedule="cosine",
        weight_decay=task.weight_decay,
        beta1=task.beta1,
        beta2=task.beta2,
        clip=task.clip,
    )
    return planned(
        task, task.width, config.num_params(), "tokens", task.seq_len,
        config.flops_per_token(task.seq_len), hparams,
    )  # fmt: skip


def planned(
    task: Task, size: int, params: int, unit: str, per_sample: float, flops: float, hparams: HParams
) -> Experiment:
    """An experiment with what training reads filled in truly; conventions of N do not matter."""
    units = int(task.steps * task.batch_size * per_sample)
    return Experiment(
        model="benchmark",
        model_kwargs={},
        size=size,
        params=ParamCount(params, params, params, params),
        budget=flops * units,
        tokens=units,
        steps=task.steps,
        batch_size=task.batch_size,
        units_per_sample=per_sample,
        unit=unit,
        flops_per_unit=flops,
        flops_per_unit_6nd=6.0 * params,
        hparams=hparams,
        seed=task.seed,
        repeat=0,
        fingerprint="benchmark",
    )

"""What the seed alone does to the held-out loss, and that one trainer trains text and images."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import torch

from benchmarks.common.report import Goal, Result, Table, at_most
from benchmarks.common.timing import duration
from benchmarks.train.by_hand import Task
from benchmarks.train.engine import experiment, finished, planned
from flops_fit.data import split_data
from flops_fit.examples.gpt import GPTFactory, gpt_loss_fn
from flops_fit.examples.images import offline_images
from flops_fit.examples.text import SOTUDataset
from flops_fit.examples.vit import VisionTransformer, vit_loss_fn
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective
from flops_fit.recipes import HParams
from flops_fit.records import Experiment, Run
from flops_fit.train import Trainer

GPT_TASK = Task(width=32, steps=800)
VIT_TASK = Task(width=64, steps=300, batch_size=32, lr=1e-3)
SEEDS = 3


def seeds(quick: bool) -> Result:
    """Three seeds of a GPT (two with ``quick``) and one Vision Transformer."""
    torch.set_num_threads(1)
    shorter = 10 if quick else 1
    text = replace(GPT_TASK, steps=GPT_TASK.steps // shorter)
    runs = [(f"GPT, seed {seed}", *text_run(replace(text, seed=seed)))
            for seed in range(2 if quick else SEEDS)]  # fmt: skip
    images = replace(VIT_TASK, steps=VIT_TASK.steps // shorter)
    data = type(offline_images()).__name__
    runs.append((f"ViT on {data}", *image_run(images)))
    losses = np.array([run.loss for what, run, _ in runs if what.startswith("GPT")], dtype=float)
    spread = float(losses.std(ddof=1))
    notes = (
        f"Seed noise: sd {spread:.4f} nats, {100 * spread / losses.mean():.2f} % of the mean loss "
        f"{losses.mean():.4f}, of {len(losses)} seeds. {_known(len(losses))}",
        "s.e. is that of the held-out sample, which is the same for every seed.",
    )
    rows = tuple(_cells(*run) for run in runs)
    columns = ("run", "parameters", "steps", "units", "held-out loss", "s.e.", "training", "took")
    table = Table("One trainer, text and images", columns, rows, notes)
    return [table], _goals(losses, runs[-1][1], quick)


def text_run(task: Task) -> tuple[Run, float]:
    """A GPT on the bundled text."""
    specs = split_data(SOTUDataset("train", task.seq_len), SOTUDataset("validation", task.seq_len))
    spec = ModelSpec(GPTFactory(), "d_model")
    return _timed(Trainer(spec, *specs, Objective(gpt_loss_fn)), experiment(task))


def image_run(task: Task) -> tuple[Run, float]:
    """A Vision Transformer on the bundled images."""
    specs = split_data(offline_images(train=True), offline_images(train=False))
    params = VisionTransformer(task.width).num_params()
    hparams = HParams(lr=task.lr, batch_units=task.batch_size)
    # 65 tokens an image pass through nearly every weight.
    what = planned(task, task.width, params, "samples", 1.0, 6.0 * params * 65, hparams)
    spec = ModelSpec(VisionTransformer, "embed_dim")
    return _timed(Trainer(spec, *specs, Objective(vit_loss_fn)), what)


def _timed(trainer: Trainer, what: Experiment) -> tuple[Run, float]:
    start = time.perf_counter()
    run = finished(trainer, what)
    return run, time.perf_counter() - start


def _cells(what: str, run: Run, seconds: float) -> tuple[str, ...]:
    e = run.experiment
    return (
        what,
        f"{e.params.total:,}",
        f"{e.steps:,}",
        f"{run.tokens:,} {e.unit}",
        f"{run.loss:.4f}",
        f"{run.loss_se:.4f}",
        f"{run.train_loss:.4f}",
        duration(seconds),
    )


def _known(n: int) -> str:
    """How well ``n`` values know their standard deviation: the 95 % interval, over the sd."""
    from scipy.special import chdtri

    low, high = (math.sqrt((n - 1) / chdtri(n - 1, tail)) for tail in (0.025, 0.975))
    return f"So few know it from {low:.2g} to {high:.2g} times that (95 %)."


def _goals(losses: np.ndarray, images: Run, quick: bool) -> list[Goal]:
    """Both have learnt more than frequencies: of single bytes, and of ten equal classes."""
    text = SOTUDataset("validation", GPT_TASK.seq_len).tokens
    share = np.bincount(text) / len(text)
    entropy = float(-np.sum(share[share > 0] * np.log(share[share > 0])))
    name = "worst held-out loss of a GPT, at most the entropy of single bytes"
    assert images.loss is not None
    goals = [
        at_most("held-out loss of the ViT, at most that of guessing", images.loss, math.log(10))
    ]
    return goals if quick else [at_most(name, losses.max(), entropy), *goals]

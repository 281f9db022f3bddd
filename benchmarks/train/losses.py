"""Does the trainer compute what the loop written by hand computes? Loss by loss, to rounding."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.common.report import Goal, Result, at_most, goal_table
from benchmarks.train.by_hand import Task, train_by_hand
from benchmarks.train.engine import Text, train_by_engine

TOLERANCE = 1e-6  # relative, of any single step's loss
STEPS, QUICK_STEPS = 200, 25


def losses(quick: bool) -> Result:
    """Training losses of every step, and the held-out loss, on both sides."""
    torch.set_num_threads(1)
    goals = [goal for task in tasks(quick) for goal in compared(task)]
    note = "Same model, seed, batches, AdamW, schedule and clipping; one thread."
    return [goal_table("The same losses as the loop written by hand", goals, (note,))], goals


def tasks(quick: bool) -> list[Task]:
    """A batch of 2^10 tokens, by which any float is divided exactly, and one that rounds."""
    steps = QUICK_STEPS if quick else STEPS
    return [Task(width=56, steps=steps), Task(width=56, steps=steps, batch_size=11, seed=1)]


def compared(task: Task) -> list[Goal]:
    """The largest difference over the steps, and that of the held-out loss."""
    text = Text(task.seq_len, held_out=64)
    ours = train_by_engine(task, text.specs())
    hand = train_by_hand(task, text.windows(task), text.loss)
    what = f"{task.steps} steps of {task.batch_size} windows"
    worst = float(np.max(np.abs(ours.losses / hand.losses - 1)))
    assert ours.held_out is not None
    assert hand.held_out is not None
    return [
        at_most(f"{what}: worst training loss, rel", worst, TOLERANCE),
        at_most(f"{what}: held-out loss, rel", abs(ours.held_out / hand.held_out - 1), TOLERANCE),
    ]

"""The training curves that runs left in their folders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flops_fit.records import Run

__all__ = ["TrainingCurve", "training_curves"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TrainingCurve:
    """The training loss along a run; arrays of shape (readings,).

    Attributes
    ----------
    run
        Whose it is.
    share
        How much of the run was seen, 0 to 1, at the middle of the steps that a reading is the mean of.
    loss
        Mean training loss over these steps.
    """

    run: Run
    share: Floats
    loss: Floats


def training_curves(folder: str | Path, runs: Iterable[Run]) -> list[TrainingCurve]:
    """The curves of those runs of a sweep's folder that have one, torn lines left out."""
    out = []
    for run in runs:
        path = Path(folder) / "runs" / run.experiment.id / "metrics.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        steps, losses = [0.0], []
        for line in lines:
            try:
                values = json.loads(line)
                step, loss = float(values["step"]), values["loss"]
            except (ValueError, KeyError, TypeError):
                continue
            if loss is not None and step > steps[-1]:
                steps.append(step)
                losses.append(float(loss))
        if losses:
            ends = np.array(steps) / run.experiment.steps
            out.append(TrainingCurve(run, (ends[1:] + ends[:-1]) / 2, np.array(losses)))
    return out

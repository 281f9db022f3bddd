"""Runs that do not happen: a declared law answers, with seeded noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flops_fit.execute.executor import Report
from flops_fit.laws.law import Law
from flops_fit.records import Experiment, Run
from flops_fit.train.trainer import Progress


@dataclass(frozen=True)
class MockTask:
    """Answers an experiment with ``law.loss(N, D)·exp(noise·z)``, z normal and seeded by the run.

    It stands where the trainer stands, behind the same executors; it builds no model and reads no
    data.
    """

    law: Law
    noise: float = 0.005

    def __call__(self, experiment: Experiment, report: Report | None = None) -> Run:
        """The law's loss at the experiment's N and D."""
        clean = float(self.law.loss(experiment.params.total, experiment.tokens))
        z = float(np.random.default_rng(experiment.seed).standard_normal())
        loss = clean * math.exp(self.noise * z)
        if report is not None:
            report(Progress(experiment.id, experiment.steps, experiment.steps, loss))
        return Run(
            experiment,
            "completed",
            loss=loss,
            loss_se=clean * self.noise,
            tokens=experiment.tokens,
            flops=experiment.flops,
            device="mock",
        )

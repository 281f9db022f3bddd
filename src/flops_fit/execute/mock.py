"""Simulated runs: a known law answers, with seeded noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from flops_fit.checks import check_number
from flops_fit.errors import InputTypeError
from flops_fit.execute.executor import Report
from flops_fit.fingerprint import fingerprint_any
from flops_fit.laws.law import Law
from flops_fit.records import Experiment, Run
from flops_fit.reference.published_laws import law as published_law
from flops_fit.train.trainer import Progress


@dataclass(frozen=True)
class Mock:
    """Simulates each run: ``law.loss(N, D)·exp(noise·z)``, z normal and seeded by the run.

    It takes the place of the trainer, behind the same executors; it builds no model and reads no data.

    Attributes
    ----------
    law
        By default Besiroglu et al. 2024.
    noise
        Standard deviation of ln(loss).
    """

    law: Law = field(default_factory=lambda: published_law("besiroglu2024"))
    noise: float = 0.005

    def __post_init__(self) -> None:
        if not isinstance(self.law, Law):
            raise InputTypeError(
                f"law: expected a law of the loss, such as flops_fit.reference.law('hoffmann2022'); got "
                f"{self.law!r}."
            )
        check_number("noise", self.noise, at_least=0)

    def fingerprint(self) -> str:
        """A hash of the law and the noise."""
        return fingerprint_any({"law": self.law, "noise": self.noise})

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

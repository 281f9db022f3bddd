"""Training: one Experiment in, one Run out."""

from flops_fit.train._evaluate import evaluate
from flops_fit.train._loop import Progress, Trainer

__all__ = ["Progress", "Trainer", "evaluate"]

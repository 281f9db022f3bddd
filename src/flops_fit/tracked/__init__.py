"""Runs as services for experiments keep them, read for a fit."""

from flops_fit.tracked._mlflow import read_mlflow
from flops_fit.tracked._runs import Add, TrackedRun, TrackedRuns
from flops_fit.tracked._tensorboard import read_tensorboard
from flops_fit.tracked._wandb import read_wandb

__all__ = ["Add", "TrackedRun", "TrackedRuns", "read_mlflow", "read_tensorboard", "read_wandb"]

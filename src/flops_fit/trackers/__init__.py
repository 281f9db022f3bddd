"""Experiment trackers: MLflow, TensorBoard, Weights & Biases and trackio, written to and read from.

A tracker follows runs while they are trained; a reader turns finished runs into a table that a law
is fitted to.
"""

from flops_fit.trackers.mlflow import MLflowTracker, read_mlflow
from flops_fit.trackers.tensorboard import TensorBoardTracker, read_tensorboard
from flops_fit.trackers.tracker import (
    Add,
    TrackedRun,
    TrackedRuns,
    Tracker,
    Tracking,
    check_trackers,
)
from flops_fit.trackers.wandb import TrackioTracker, WandbTracker, read_wandb

__all__ = [
    "Add", "MLflowTracker", "TensorBoardTracker", "TrackedRun", "TrackedRuns", "Tracker",
    "Tracking", "TrackioTracker", "WandbTracker", "check_trackers", "read_mlflow",
    "read_tensorboard", "read_wandb",
]  # fmt: skip

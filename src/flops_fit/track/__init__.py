"""Who follows runs from outside: one small protocol, four services, and a guard that keeps a run safe."""

from flops_fit.track._check import check_trackers
from flops_fit.track._mlflow import MLflowTracker
from flops_fit.track._tensorboard import TensorBoardTracker
from flops_fit.track._tracker import Tracker
from flops_fit.track._tracking import Tracking
from flops_fit.track._trackio import TrackioTracker
from flops_fit.track._wandb import WandbTracker

__all__ = [
    "MLflowTracker",
    "TensorBoardTracker",
    "Tracker",
    "Tracking",
    "TrackioTracker",
    "WandbTracker",
    "check_trackers",
]

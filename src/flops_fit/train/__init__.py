"""Training: one Experiment in, one Run out."""

from flops_fit.train.callbacks import HFCallback, LightningCallback
from flops_fit.train.config import Precision, TrainingConfig
from flops_fit.train.hf_task import HFTask
from flops_fit.train.muon_adamw import muon, muon_groups
from flops_fit.train.optimizer import MakeOptimizer, ParamGroups
from flops_fit.train.trainer import Progress, Trainer

__all__ = [
    "HFCallback", "HFTask", "LightningCallback", "MakeOptimizer", "ParamGroups", "Precision", "Progress",
    "Trainer", "TrainingConfig", "muon", "muon_groups",
]  # fmt: skip

"""Training: one Experiment in, one Run out."""

from flops_fit.train.config import TrainingConfig
from flops_fit.train.coordinate_check import Coordinate, CoordinateCheck, check_coordinates
from flops_fit.train.evaluation import evaluate
from flops_fit.train.mup import Mup, ParametrizationLike, parametrize, resolve_mup
from flops_fit.train.mup_parametrization import Parametrization
from flops_fit.train.optimizer import MakeOptimizer, ParamGroups
from flops_fit.train.precision import Precision, resolve_device, resolve_precision
from flops_fit.train.throughput import peak_of
from flops_fit.train.trainer import Progress, Trainer
from flops_fit.train.trunk import left_trunks, prune_trunk

__all__ = [
    "Coordinate",
    "CoordinateCheck",
    "MakeOptimizer",
    "Mup",
    "ParamGroups",
    "Parametrization",
    "ParametrizationLike",
    "Precision",
    "Progress",
    "Trainer",
    "TrainingConfig",
    "check_coordinates",
    "evaluate",
    "left_trunks",
    "parametrize",
    "peak_of",
    "prune_trunk",
    "resolve_device",
    "resolve_mup",
    "resolve_precision",
]

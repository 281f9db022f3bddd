"""Training: one Experiment in, one Run out."""

from flops_fit.train._check_coordinates import check_coordinates
from flops_fit.train._compile import check_compile
from flops_fit.train._coordinates import Coordinate, CoordinateCheck
from flops_fit.train._device import resolve_device
from flops_fit.train._evaluate import evaluate
from flops_fit.train._generators import kept_generators
from flops_fit.train._loop import Progress, Trainer
from flops_fit.train._mup import Mup, ParametrizationLike, parametrize, resolve_mup
from flops_fit.train._optimizer import MakeOptimizer, ParamGroups
from flops_fit.train._parametrize import Parametrization
from flops_fit.train._peak import check_peak, peak_of
from flops_fit.train._precision import Precision, resolve_precision
from flops_fit.train._snapshot import flush_directory
from flops_fit.train._step import check_microbatch
from flops_fit.train._trunk import left_trunks, prune_trunk
from flops_fit.train._workers import check_workers

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
    "check_compile",
    "check_coordinates",
    "check_microbatch",
    "check_peak",
    "check_workers",
    "evaluate",
    "flush_directory",
    "kept_generators",
    "left_trunks",
    "parametrize",
    "peak_of",
    "prune_trunk",
    "resolve_device",
    "resolve_mup",
    "resolve_precision",
]

"""Hyper-parameters that were tried, not believed: a pilot before a sweep, and what it shows."""

from flops_fit.tune.effects import Collapse, WithoutTuning, collapse, without_tuning
from flops_fit.tune.optimum_fit import OptimumFit, OptimumFits, fit_optima
from flops_fit.tune.options import Tune, resolve_tune
from flops_fit.tune.pilot import run_tuning
from flops_fit.tune.recipe import TunedRecipe
from flops_fit.tune.search import CarryOut, Cell, Point, Trial
from flops_fit.tune.tuning import REACH, CellFound, Tuning

__all__ = [
    "REACH",
    "CarryOut",
    "Cell",
    "CellFound",
    "Collapse",
    "OptimumFit",
    "OptimumFits",
    "Point",
    "Trial",
    "Tune",
    "TunedRecipe",
    "Tuning",
    "WithoutTuning",
    "collapse",
    "fit_optima",
    "resolve_tune",
    "run_tuning",
    "without_tuning",
]

"""Hyper-parameters that were tried: a pilot before a sweep, and what it shows."""

from flops_fit.recipes.resolve import TunedRecipe
from flops_fit.tune.effects import Collapse, WithoutTuning, collapse, without_tuning
from flops_fit.tune.optimum_fit import OptimumFit, OptimumFits
from flops_fit.tune.tuning import Cell, Point, Trial, Tune, TunedCell, Tuning

__all__ = [
    "Cell", "Collapse", "OptimumFit", "OptimumFits", "Point", "Trial", "Tune", "TunedCell",
    "TunedRecipe", "Tuning", "WithoutTuning", "collapse", "without_tuning",
]  # fmt: skip

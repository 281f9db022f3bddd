"""Hyper-parameters that were tried, not believed: a pilot before a sweep, and what it shows."""

from flops_fit.tune._cells import Cell, Point
from flops_fit.tune._collapse import Collapse, collapse
from flops_fit.tune._options import Tune, resolve_tune
from flops_fit.tune._recipe import TunedRecipe
from flops_fit.tune._search import CarryOut, Trial
from flops_fit.tune._tune import run_tuning
from flops_fit.tune._tuning import REACH, CellFound, Tuning
from flops_fit.tune._valleys import Valley, Valleys, fit_valleys
from flops_fit.tune._without import WithoutTuning, without_tuning

__all__ = [
    "REACH",
    "CarryOut",
    "Cell",
    "CellFound",
    "Collapse",
    "Point",
    "Trial",
    "Tune",
    "TunedRecipe",
    "Tuning",
    "Valley",
    "Valleys",
    "WithoutTuning",
    "collapse",
    "fit_valleys",
    "resolve_tune",
    "run_tuning",
    "without_tuning",
]

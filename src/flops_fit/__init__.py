"""Given a compute budget: how big a model, on how much data, what loss, and how sure is that?

:func:`find_optimal` does it all in one call. Its stages are there alone too, for people who have
runs from elsewhere: :func:`plan_sweep`, :func:`run_sweep`, :func:`fit_runs`, :func:`write_report`.

Names are imported when they are first used, so that the command ``flops-fit`` answers at once.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from flops_fit._version import __version__

if TYPE_CHECKING:
    from flops_fit import errors, examples, laws, reference
    from flops_fit.api import coordinate_check, find_optimal, plan_sweep, run_sweep, tune_sweep
    from flops_fit.execute import CommandTask, Mock
    from flops_fit.fit import Fit, Prediction, compare, fit_runs, load_fit
    from flops_fit.forecasting import Forecast, forecast
    from flops_fit.model import ModelSizes
    from flops_fit.mup import Mup
    from flops_fit.plan import Adaptive, Grid, Rectangular, SweepPlan, Tapered
    from flops_fit.recipes import HParams
    from flops_fit.records import Diagnostic, Experiment, ParamCount, Run
    from flops_fit.report import write_report
    from flops_fit.result import Result
    from flops_fit.store import collect
    from flops_fit.table import Curves, RunTable
    from flops_fit.trackers import TrackedRuns, read_mlflow, read_tensorboard, read_wandb
    from flops_fit.train import HFCallback, HFTask, LightningCallback, TrainingConfig
    from flops_fit.tune import Tune

__all__ = [
    "Adaptive", "CommandTask", "Curves", "Diagnostic", "Experiment", "Fit", "Forecast", "Grid",
    "HFCallback", "HFTask", "HParams", "LightningCallback", "Mock", "ModelSizes", "Mup", "ParamCount",
    "Prediction", "Rectangular", "Result", "Run", "RunTable", "SweepPlan", "Tapered", "TrackedRuns",
    "TrainingConfig", "Tune", "__version__", "collect", "compare", "coordinate_check", "errors",
    "examples", "find_optimal", "fit_runs", "forecast", "laws", "load_fit", "plan_sweep", "read_mlflow",
    "read_tensorboard", "read_wandb", "reference", "run_sweep", "tune_sweep", "write_report",
]  # fmt: skip

_MODULES = {
    "api": ("coordinate_check", "find_optimal", "plan_sweep", "run_sweep", "tune_sweep"),
    "fit": ("Fit", "Prediction", "compare", "fit_runs", "load_fit"),
    "execute": ("CommandTask", "Mock"),
    "forecasting": ("Forecast", "forecast"),
    "model": ("ModelSizes",),
    "plan": ("Adaptive", "Grid", "Rectangular", "SweepPlan", "Tapered"),
    "recipes": ("HParams",),
    "records": ("Diagnostic", "Experiment", "ParamCount", "Run"),
    "report": ("write_report",),
    "result": ("Result",),
    "store": ("collect",),
    "table": ("Curves", "RunTable"),
    "trackers": ("TrackedRuns", "read_mlflow", "read_tensorboard", "read_wandb"),
    "mup": ("Mup",),
    "train": ("HFCallback", "HFTask", "LightningCallback", "TrainingConfig"),
    "tune": ("Tune",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name from where it lives, or a module of the package."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    path = f"{__name__}.{_HOME.get(name, name)}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        text, here = f"module {__name__!r} has no attribute {name!r}", sys.modules[__name__]
        raise AttributeError(text, name=name, obj=here) from None  # Python names the nearest
    found = getattr(module, name) if name in _HOME else module
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, *(name for name in globals() if name.startswith("__"))})

"""Given a compute budget: how big a model, on how much data, what loss, and how sure is that?

:func:`find_optimal` does it all in one call. Its stages are there alone too, for people who have
runs from elsewhere: :func:`plan_sweep`, :func:`run_sweep`, :func:`fit_runs`, :func:`write_report`.

Names are imported when they are first used, so that the command ``flops-fit`` answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flops_fit._version import __version__

if TYPE_CHECKING:
    from flops_fit import (
        design as design,
    )
    from flops_fit import (
        errors,
        examples,
        laws,
        reference,
    )
    from flops_fit import (
        execute as execute,
    )
    from flops_fit import (
        fit as fit,
    )
    from flops_fit import (
        records as records,
    )
    from flops_fit import (
        report as report,
    )
    from flops_fit import (
        store as store,
    )
    from flops_fit import (
        table as table,
    )
    from flops_fit import (
        text as text,
    )
    from flops_fit import (
        track as track,
    )
    from flops_fit import (
        train as train,
    )
    from flops_fit.api import find_optimal, plan_sweep, run_sweep
    from flops_fit.curves import Curves
    from flops_fit.fit import Fit, Prediction, compare, fit_runs
    from flops_fit.plan import SweepPlan
    from flops_fit.recipes import HParams
    from flops_fit.records import Diagnostic, Experiment, ParamCount, Run
    from flops_fit.report import write_report
    from flops_fit.result import Result
    from flops_fit.table import RunTable

__all__ = [
    "Curves",
    "Diagnostic",
    "Experiment",
    "Fit",
    "HParams",
    "ParamCount",
    "Prediction",
    "Result",
    "Run",
    "RunTable",
    "SweepPlan",
    "__version__",
    "compare",
    "errors",
    "examples",
    "find_optimal",
    "fit_runs",
    "laws",
    "plan_sweep",
    "reference",
    "run_sweep",
    "write_report",
]

_MODULES = {
    "api": ("find_optimal", "plan_sweep", "run_sweep"),
    "curves": ("Curves",),
    "fit": ("Fit", "Prediction", "compare", "fit_runs"),
    "plan": ("SweepPlan",),
    "recipes": ("HParams",),
    "records": ("Diagnostic", "Experiment", "ParamCount", "Run"),
    "report": ("write_report",),
    "result": ("Result",),
    "table": ("RunTable",),
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
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    found = getattr(module, name) if name in _HOME else module
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""The stages one by one, and all of them in one call."""

from flops_fit.api.find import find_optimal
from flops_fit.api.plan import plan_sweep
from flops_fit.api.run import run_sweep, tune_sweep
from flops_fit.api.width_check import coordinate_check

__all__ = ["coordinate_check", "find_optimal", "plan_sweep", "run_sweep", "tune_sweep"]

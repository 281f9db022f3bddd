"""The stages one by one, and all of them in one call."""

from flops_fit.api._check_width import coordinate_check
from flops_fit.api._find_optimal import find_optimal
from flops_fit.api._plan_sweep import plan_sweep
from flops_fit.api._run_sweep import run_sweep
from flops_fit.api._tune import tune_sweep

__all__ = ["coordinate_check", "find_optimal", "plan_sweep", "run_sweep", "tune_sweep"]

"""What to train: sizes, units and steps for each budget, exact before anything is spent."""

from flops_fit.plan.cost import ASSUMED_MFU, CostEstimate, DesignCost, DesignCosts, RunCost
from flops_fit.plan.designs import Adaptive, Grid, Layout, Prior, Rectangular, Tapered
from flops_fit.plan.io import PlanDiff
from flops_fit.plan.planner import Planner
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.plan.timing import Reading, Speed, StepTimes

__all__ = [
    "ASSUMED_MFU", "Adaptive", "CostEstimate", "DesignCost", "DesignCosts", "Grid", "Layout",
    "PlanDiff", "Planner", "Prior", "Reading", "Rectangular", "RunCost", "Speed", "StepTimes",
    "SweepPlan", "Tapered",
]  # fmt: skip

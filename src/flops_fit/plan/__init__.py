"""What to train: sizes, units and steps for each budget, exact before anything is spent."""

from flops_fit.plan.comparison import DesignCost, DesignCosts
from flops_fit.plan.cost import ASSUMED_MFU, CostEstimate, RunCost
from flops_fit.plan.counting import FlopsCounter
from flops_fit.plan.designs import DESIGNS, Design, Layout, Prior, PriorLike, Sizes
from flops_fit.plan.diff import PlanDiff
from flops_fit.plan.experiments import ExperimentFactory
from flops_fit.plan.findings import code_findings, data_findings, settle_labels
from flops_fit.plan.planner import (
    EXAMPLE_SAMPLES,
    at_base,
    check_budgets,
    check_fittable,
    make_plan,
    with_recipe,
)
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.plan.timing import Reading, Speed, StepTimes, probe

__all__ = [
    "ASSUMED_MFU",
    "DESIGNS",
    "EXAMPLE_SAMPLES",
    "CostEstimate",
    "Design",
    "DesignCost",
    "DesignCosts",
    "ExperimentFactory",
    "FlopsCounter",
    "Layout",
    "PlanDiff",
    "Prior",
    "PriorLike",
    "Reading",
    "RunCost",
    "Sizes",
    "Speed",
    "StepTimes",
    "SweepPlan",
    "at_base",
    "check_budgets",
    "check_fittable",
    "code_findings",
    "data_findings",
    "make_plan",
    "probe",
    "settle_labels",
    "with_recipe",
]

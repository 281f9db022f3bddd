"""What to train: sizes, units and steps for each budget, exact before anything is spent."""

from flops_fit.plan._compare import DesignCost, DesignCosts
from flops_fit.plan._cost import ASSUMED_MFU, CostEstimate, RunCost
from flops_fit.plan._count import FlopsCounter
from flops_fit.plan._diff import PlanDiff
from flops_fit.plan._findings import code_findings, data_findings, settle_labels
from flops_fit.plan._grid import RunMaker
from flops_fit.plan._layout import DESIGNS, Design, Layout, Sizes
from flops_fit.plan._plan import EXAMPLE_SAMPLES, check_budgets, check_fittable, make_plan
from flops_fit.plan._prior import Prior, PriorLike
from flops_fit.plan._probe import probe
from flops_fit.plan._rebase import at_base
from flops_fit.plan._retuned import with_recipe
from flops_fit.plan._speed import Reading, Speed, StepTimes
from flops_fit.plan._sweep_plan import SweepPlan

__all__ = [
    "ASSUMED_MFU",
    "DESIGNS",
    "EXAMPLE_SAMPLES",
    "CostEstimate",
    "Design",
    "DesignCost",
    "DesignCosts",
    "FlopsCounter",
    "Layout",
    "PlanDiff",
    "Prior",
    "PriorLike",
    "Reading",
    "RunCost",
    "RunMaker",
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

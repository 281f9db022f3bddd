"""What to train: sizes, units and steps for each budget, exact before anything is spent."""

from flops_fit.plan._findings import code_findings, data_findings, settle_labels
from flops_fit.plan._grid import RunMaker
from flops_fit.plan._plan import (
    EXAMPLE_SAMPLES,
    SweepPlan,
    check_budgets,
    check_fittable,
    make_plan,
)
from flops_fit.plan._probe import Reading, Speed, probe

__all__ = [
    "EXAMPLE_SAMPLES",
    "Reading",
    "RunMaker",
    "Speed",
    "SweepPlan",
    "check_budgets",
    "check_fittable",
    "code_findings",
    "data_findings",
    "make_plan",
    "probe",
    "settle_labels",
]

"""What to train: sizes, units and steps for each budget, exact before anything is spent."""

from flops_fit.plan._plan import SweepPlan, check_budgets, make_plan
from flops_fit.plan._probe import Speed, probe

__all__ = ["Speed", "SweepPlan", "check_budgets", "make_plan", "probe"]

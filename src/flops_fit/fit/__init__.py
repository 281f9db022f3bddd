"""Fit scaling laws to runs, and answer what to train with a compute budget.

:func:`fit_runs` fits the surface L(N, D) (approach 3 of Hoffmann et al. 2022) with the IsoFLOP
parabolas of approach 2 and, from training curves, the envelope of approach 1 beside it;
:meth:`Fit.predict` answers at a budget, :meth:`Fit.estimate` any other question; :func:`backtest`
checks a fit against held-out budgets; :func:`fit_power` fits a power law in one variable;
:func:`metric` predicts benchmark scores.
"""

from flops_fit.fit.approaches import Approach
from flops_fit.fit.axis import AxisEffect
from flops_fit.fit.backtesting import Backtest, backtest
from flops_fit.fit.checks import Outlier
from flops_fit.fit.comparison import Comparison, Gate, compare
from flops_fit.fit.experts import BestExperts, ExpertsRow
from flops_fit.fit.export import export_fit, load_fit
from flops_fit.fit.fit import Alternative, Fit
from flops_fit.fit.fitting import fit_runs, quick_fit
from flops_fit.fit.groups import GroupFit
from flops_fit.fit.hparam_rule import BestHParams, HParamRule
from flops_fit.fit.intervals import Estimate, Evidence
from flops_fit.fit.metrics import MetricFit, MetricPrediction, metric
from flops_fit.fit.minima import Envelope, IsoFLOP, Parabola, Winner
from flops_fit.fit.power import PowerFit, fit_power
from flops_fit.fit.prediction import HeldOut, Prediction, Predictions
from flops_fit.fit.questions import InferenceEstimate, TradeOffEstimate
from flops_fit.fit.search import LawSearch, TriedForm
from flops_fit.fit.solver import FitStatus
from flops_fit.fit.surface_solver import Choice
from flops_fit.fit.valley import ValleyPrior
from flops_fit.fit.window import WindowReport, WindowRule

__all__ = [
    "Alternative", "Approach", "AxisEffect", "Backtest", "BestExperts", "BestHParams", "Choice",
    "Comparison", "Envelope", "Estimate", "Evidence", "ExpertsRow", "Fit", "FitStatus", "Gate",
    "GroupFit", "HParamRule", "HeldOut", "InferenceEstimate", "IsoFLOP", "LawSearch", "MetricFit",
    "MetricPrediction", "Outlier", "Parabola", "PowerFit", "Prediction", "Predictions",
    "TradeOffEstimate", "TriedForm", "ValleyPrior", "WindowReport", "WindowRule", "Winner",
    "backtest", "compare", "export_fit", "fit_power", "fit_runs", "load_fit", "metric",
    "quick_fit",
]  # fmt: skip

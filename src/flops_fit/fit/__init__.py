"""Fit scaling laws to runs, and answer what to train with a compute budget.

:func:`fit_runs` fits the surface L(N, D) (approach 3 of Hoffmann et al. 2022) with the IsoFLOP
parabolas of approach 2 and, from training curves, the envelope of approach 1 beside it;
:meth:`Fit.predict` answers at a budget, :meth:`Fit.estimate` any other question; :func:`backtest`
checks a fit against held-out budgets; :func:`fit_power` fits a power law in one variable.
"""

from flops_fit.fit._approaches import Approach
from flops_fit.fit._backtest import Backtest, backtest
from flops_fit.fit._compare import Comparison, compare
from flops_fit.fit._diagnose import Outlier
from flops_fit.fit._envelope import Envelope, Winner
from flops_fit.fit._estimate import Estimate, Evidence
from flops_fit.fit._fit import Alternative, Fit
from flops_fit.fit._fit_runs import fit_runs
from flops_fit.fit._forms import WindowRule
from flops_fit.fit._held_out import HeldOut
from flops_fit.fit._isoflop import IsoFLOP, Parabola
from flops_fit.fit._outline import outline
from flops_fit.fit._portable import portable
from flops_fit.fit._power import PowerFit, fit_power
from flops_fit.fit._prediction import Prediction
from flops_fit.fit._questions import InferenceEstimate, TradeOffEstimate
from flops_fit.fit._sandwich import gradient_of, student_t
from flops_fit.fit._select import Choice
from flops_fit.fit._status import FitStatus
from flops_fit.fit._surface import Points, derivatives, model_values
from flops_fit.fit._window import WindowReport

__all__ = [
    "Alternative",
    "Approach",
    "Backtest",
    "Choice",
    "Comparison",
    "Envelope",
    "Estimate",
    "Evidence",
    "Fit",
    "FitStatus",
    "HeldOut",
    "InferenceEstimate",
    "IsoFLOP",
    "Outlier",
    "Parabola",
    "Points",
    "PowerFit",
    "Prediction",
    "TradeOffEstimate",
    "WindowReport",
    "WindowRule",
    "Winner",
    "backtest",
    "compare",
    "derivatives",
    "fit_power",
    "fit_runs",
    "gradient_of",
    "model_values",
    "outline",
    "portable",
    "student_t",
]

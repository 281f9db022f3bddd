"""Scaling laws: the loss of N parameters on D units, and every question that follows from it.

:data:`LAWS` holds the laws that :func:`flops_fit.fit.fit_runs` knows by name; a law of your own is
a subclass of :class:`Law`, given to ``fit_runs(law=...)`` as a class.
"""

from flops_fit.laws.experts import Experts
from flops_fit.laws.kappa import Hoffmann, Kaplan, Kappa, Muennighoff
from flops_fit.laws.law import CallableFlops, FlopsLike, Law, as_flops
from flops_fit.laws.optimum import InferenceOptimum, Optimum, OptimumOnly, PowerLaw, TradeOff
from flops_fit.laws.overfit import Overfit
from flops_fit.laws.steps import Steps

LAWS: dict[str, type[Law]] = {
    law.name: law for law in (Hoffmann, Kappa, Kaplan, Muennighoff, Overfit, Experts, Steps)
}

__all__ = [
    "LAWS", "CallableFlops", "Experts", "FlopsLike", "Hoffmann", "InferenceOptimum", "Kaplan", "Kappa", "Law",
    "Muennighoff", "Optimum", "OptimumOnly", "Overfit", "PowerLaw", "Steps", "TradeOff", "as_flops",
]  # fmt: skip

"""Scaling laws: the loss of N parameters on D units, and every question that follows from it.

One law is one file. :data:`LAWS` holds those that :func:`flops_fit.fit.fit_runs` knows by name; a
law of your own is a subclass of :class:`Law`, given to ``fit_runs(law=...)`` as a class.
"""

from flops_fit.laws.cost import CallableFlops, FlopsLike, as_flops
from flops_fit.laws.hoffmann import Hoffmann
from flops_fit.laws.inverse import log_compute
from flops_fit.laws.kaplan import Kaplan
from flops_fit.laws.kappa import Kappa
from flops_fit.laws.law import Law
from flops_fit.laws.muennighoff import Muennighoff
from flops_fit.laws.optimum import Optimum, spend
from flops_fit.laws.optimum_only import OptimumOnly, PowerLaw
from flops_fit.laws.questions import InferenceOptimum, TradeOff

LAWS: dict[str, type[Law]] = {law.name: law for law in (Hoffmann, Kappa, Kaplan, Muennighoff)}

__all__ = [
    "LAWS",
    "CallableFlops",
    "FlopsLike",
    "Hoffmann",
    "InferenceOptimum",
    "Kaplan",
    "Kappa",
    "Law",
    "Muennighoff",
    "Optimum",
    "OptimumOnly",
    "PowerLaw",
    "TradeOff",
    "as_flops",
    "log_compute",
    "spend",
]

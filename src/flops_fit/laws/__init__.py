"""Scaling laws: the loss of N parameters on D units, and every question that follows from it.

One law is one file. :data:`LAWS` holds those that :func:`flops_fit.fit.fit_runs` knows by name; a
law of your own is a subclass of :class:`Law`, given to ``fit_runs(law=...)`` as a class.
"""

from flops_fit.laws._cost import CallableFlops, FlopsLike, as_flops
from flops_fit.laws._hoffmann import Hoffmann
from flops_fit.laws._inference import InferenceOptimum
from flops_fit.laws._inverse import log_compute
from flops_fit.laws._kaplan import Kaplan
from flops_fit.laws._kappa import Kappa
from flops_fit.laws._law import Law
from flops_fit.laws._muennighoff import Muennighoff
from flops_fit.laws._optimum import Optimum, spend
from flops_fit.laws._optimum_only import OptimumOnly
from flops_fit.laws._power import PowerLaw
from flops_fit.laws._trade_off import TradeOff

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

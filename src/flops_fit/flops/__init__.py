"""Training FLOPs per unit, F(N), and how they are counted on a model.

C = F(N)·D throughout: F(N) turns a size and a budget into a number of units.
"""

from flops_fit.flops.functions import FlopsFunction, InterpolatedFlops, LinearFlops, SmoothFlops
from flops_fit.flops.trace import OpCount, TracedFlops, trace_flops

__all__ = [
    "FlopsFunction",
    "InterpolatedFlops",
    "LinearFlops",
    "OpCount",
    "SmoothFlops",
    "TracedFlops",
    "trace_flops",
]

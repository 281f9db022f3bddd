"""Training FLOPs per unit, F(N), with C = F(N)·D throughout, and how they are counted on a model."""

from flops_fit.flops.functions import FlopsFunction, InterpolatedFlops, LinearFlops, SmoothFlops
from flops_fit.flops.trace import OpCount, TracedFlops, trace_flops

__all__ = [
    "FlopsFunction", "InterpolatedFlops", "LinearFlops", "OpCount", "SmoothFlops", "TracedFlops",
    "trace_flops",
]  # fmt: skip

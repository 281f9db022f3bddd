"""How far a question lies from the runs that answer it."""

from __future__ import annotations

import numpy as np

from flops_fit.fit._diagnose import extrapolation_diagnostic
from flops_fit.fit._estimate import Evidence
from flops_fit.records import Diagnostic

__all__ = ["off_the_runs"]


def off_the_runs(
    evidence: Evidence, N: float, D: float, *, shape: bool = True
) -> tuple[Diagnostic, ...]:
    """What to know about asking the law at N and D: more compute, or another D/N, than any run.

    ``shape=False`` looks at compute alone: the ratio of an optimum follows from the law.
    """
    runs = evidence.runs
    if not (np.isfinite(N) and np.isfinite(D)):
        return ()
    compute = float(np.asarray(evidence.flops(np.asarray(N, dtype=np.float64)))) * D
    far = extrapolation_diagnostic(compute / float(np.max(runs.flops)))
    found = [far] if far else []
    ratios = runs.tokens / runs.params
    low, high = float(np.min(ratios)), float(np.max(ratios))
    if shape and not low / 1.001 <= D / N <= high * 1.001:
        text = (
            f"D/N = {D / N:.3g} lies outside the fitted runs' {low:.3g} to {high:.3g}: "
            "the law has not been seen there"
        )
        found.append(Diagnostic("shape", "warning", text, "add runs of that D/N"))
    return tuple(found)

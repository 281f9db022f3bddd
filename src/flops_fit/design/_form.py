"""Whether the law's form holds from the cheap runs to the dear ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flops_fit.design._criterion import Criterion, criterion
from flops_fit.fit import Evidence, outline

__all__ = ["FormGap", "form_gap"]

_FEWEST = 10
_NOISE = 2.5  # standard deviations


@dataclass(frozen=True)
class FormGap:
    """How far ln N* moves where the cheaper runs are left out, beside what noise would move it.

    The two answers come from overlapping runs; their difference has the variance of the one less
    that of the other (Hausman 1978, lemma 2.1).
    """

    shift: float
    sd: float

    @property
    def told(self) -> bool:
        """Whether it is more than noise."""
        return abs(self.shift) > _NOISE * self.sd

    def __str__(self) -> str:
        return (
            f"without the cheaper half of the runs N* moves by {100 * np.expm1(self.shift):+.2g} %, "
            f"{abs(self.shift) / self.sd:.2g} times what noise would move it: the law's form is not "
            "right over all of this compute, and more runs like these cannot mend it"
        )


def form_gap(evidence: Evidence, of: Criterion, target: float) -> FormGap:
    """The gap between the fit of all runs and that of the dearer half."""
    runs = evidence.runs
    dear = runs.flops > np.median(runs.flops)
    if np.sum(dear) < _FEWEST:
        return FormGap(0.0, 1.0)
    part = outline(runs.select(dear), evidence.flops)
    its = criterion(part, target)
    shift = float(
        np.log(part.law.optimal(target, part.flops).params)
        - np.log(evidence.law.optimal(target, evidence.flops).params)
    )
    scale = (of.noise / its.noise) ** 2
    sd = float(np.sqrt(max(its.variance * scale - of.variance, 0.1 * of.variance)))
    return FormGap(shift, sd)

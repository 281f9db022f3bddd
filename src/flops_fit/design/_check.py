"""The sweep's own check: its dearest runs against what was foretold of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flops_fit.design._criterion import Criterion
from flops_fit.design._points import Candidates
from flops_fit.fit import model_values

__all__ = ["Check", "check_of", "foretell"]

_RUNS = 3
_BAD = 2.0  # rms of three normal errors above this: once in 130


@dataclass(frozen=True)
class Check:
    """Three dearest runs, foretold before they were made.

    Attributes
    ----------
    flops
        Of each run.
    errors
        ln(L/foretold) of each.
    scaled
        The same in standard deviations, of the run's noise and the prediction together.
    """

    flops: tuple[float, ...]
    errors: tuple[float, ...]
    scaled: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether the errors are what noise makes."""
        return float(np.sqrt(np.mean(np.square(self.scaled)))) < _BAD

    def __str__(self) -> str:
        errors = ", ".join(f"{100 * e:+.2g} %" for e in self.errors)
        word = "as noise would have it" if self.passed else "more than noise: the form may be wrong"
        return (
            f"check: {len(self.errors)} runs of up to {max(self.flops):.2g} FLOPs missed what was "
            f"foretold by {errors}: {word}"
        )


def foretell(of: Criterion | None, chosen: Candidates) -> list[tuple[float, float]]:
    """(ln L, standard deviation) of runs to be made; NaN where nothing is known."""
    if of is None:
        return [(float("nan"), float("nan"))] * len(chosen)
    level = model_values(of.theta, of.points_at(chosen))[0] + np.log(of.points.scale)
    best = np.log(of.law.optimal(chosen.flops, of.evidence.flops).params)
    rows = of.rows(chosen)
    spread = np.einsum("ij,jk,ik->i", rows, np.linalg.inv(of.information), rows)
    sd = of.sd(np.log(chosen.params) - best) * np.sqrt(1 + spread)
    return list(zip(level.tolist(), sd.tolist(), strict=True))


def check_of(
    losses: Sequence[float], foretold: Sequence[tuple[float, float]], made: Sequence[Candidates]
) -> Check | None:
    """The check on the three dearest runs that were foretold; ``None`` where there are fewer."""
    C = np.concatenate([c.flops for c in made])
    level, sd = np.array(foretold).T
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.log(np.asarray(losses)) - level
    known = np.flatnonzero(np.isfinite(error))
    if len(known) < _RUNS:
        return None
    top = known[np.argsort(-C[known], kind="stable")[:_RUNS]]
    return Check(
        tuple(C[top].tolist()), tuple(error[top].tolist()), tuple((error[top] / sd[top]).tolist())
    )

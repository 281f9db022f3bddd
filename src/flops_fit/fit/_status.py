"""How a fit ended; each status is the sentence a user reads."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["FitStatus"]


class FitStatus(StrEnum):
    """How the solver ended."""

    OK = "The fit converged, and its starts agree."
    BOUND_HIT = "The fit converged with a parameter on its bound: the runs do not determine it."
    STARTS_DISAGREE = "The fit converged, and few of its starts agree: the runs allow several laws."
    NOT_CONVERGED = "The solver stopped before it converged: do not use this fit."

    @property
    def usable(self) -> bool:
        """Whether the point estimate is a minimum at all."""
        return self is not FitStatus.NOT_CONVERGED

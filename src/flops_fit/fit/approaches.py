"""The three approaches of Hoffmann et al. 2022 side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.headline import (
    NO_LINE_INTERVAL,
    ApproachName,
    Headline,
    Lines,
    envelope_lines,
    isoflop_lines,
)
from flops_fit.fit.intervals import Evidence, Interval
from flops_fit.fit.minima import Envelope, IsoFLOP
from flops_fit.flops.functions import FlopsFunction, LinearFlops
from flops_fit.laws.kappa import Hoffmann, Kappa
from flops_fit.laws.law import Law

Floats = NDArray[np.float64]
ExponentInterval = tuple[Interval | None, str]

_STEP = 0.05  # in ln C, for the slope of ln N*


@dataclass(frozen=True)
class Approach:
    """What one approach says; numbers that it does not give are ``None``.

    Attributes
    ----------
    name
        ``"envelope"`` (1), ``"isoflop"`` (2) or ``"surface"`` (3).
    a, b
        Exponents of N* ∝ C^a and D* ∝ C^b. Of the surface: β/(α+β) and α/(α+β) where F(N) = k·N,
        else the slopes of ln N* and ln D* in ln C at ``compute``.
    compute
        The largest run's compute, where the next three are taken.
    optimal_params, optimal_tokens, expected_loss
        N*, D* = compute/F(N*) and the loss there.
    a_interval, interval_note
        Interval of a, or ``None`` and the reason why there is none.
    usable
        Whether its numbers may be read.
    headline, reason
        Whether :meth:`flops_fit.fit.Fit.predict` answers with it, and why or why not.
    """

    name: ApproachName
    a: float | None
    b: float | None
    compute: float
    optimal_params: float | None
    optimal_tokens: float | None
    expected_loss: float | None
    a_interval: Interval | None
    interval_note: str
    usable: bool
    headline: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(vars(self))


def three_approaches(
    headline: Headline,
    surface: Law,
    interval: ExponentInterval,
    shape: IsoFLOP,
    front: Envelope | None,
    flops: FlopsFunction,
    compute: float,
) -> tuple[Approach, Approach, Approach]:
    """Approaches 1, 2 and 3, in this order."""
    best = surface.optimal(compute, flops)
    a, b = _exponents(surface, compute, flops)
    return (
        _from_lines("envelope", envelope_lines(front), headline, flops, compute),
        _from_lines("isoflop", isoflop_lines(shape), headline, flops, compute),
        Approach(
            name="surface",
            a=_finite(a),
            b=_finite(b),
            compute=compute,
            optimal_params=_finite(best.params),
            optimal_tokens=_finite(best.tokens),
            expected_loss=_finite(best.loss),
            a_interval=interval[0],
            interval_note=interval[1],
            usable=headline.name == "surface",
            headline=headline.name == "surface",
            reason=headline.reasons["surface"],
        ),
    )


def exponent_interval(evidence: Evidence, C: float, level: float = 0.9) -> ExponentInterval:
    """The interval of the surface's exponent a, made as those of predictions, or why there is none."""

    def log_exponent(law: Law) -> Floats:
        a, _ = _exponents(law, C, evidence.flops)
        return np.array([np.log(a) if a > 0 else np.nan])

    found = evidence.intervals(log_exponent, ("the exponent a",), level)
    return found.spans[0], found.reason


def _from_lines(
    name: ApproachName, lines: Lines | None, headline: Headline, flops: FlopsFunction, C: float
) -> Approach:
    reason = headline.reasons[name]
    if lines is None:
        nothing = (None, None, C, None, None, None, None)
        return Approach(name, *nothing, reason, usable=False, headline=False, reason=reason)
    N = float(lines.n_line(C))
    loss = lines.loss_line()
    return Approach(
        name,
        lines.n_line.a,
        lines.d_line.a,
        C,
        N,
        C / float(flops(N)),
        float(loss(C)) if loss else None,
        None,
        NO_LINE_INTERVAL,
        usable=True,
        headline=headline.name == name,
        reason=reason,
    )


def _exponents(law: Law, C: float, flops: FlopsFunction) -> tuple[float, float]:
    """Slopes of ln N* and ln D* in ln C."""
    if isinstance(flops, LinearFlops) and isinstance(law, Hoffmann | Kappa):
        return law.exponent, 1 - law.exponent
    up, down = (law.optimal(C * float(np.exp(s)), flops) for s in (_STEP, -_STEP))
    ratios = [up.params / down.params, up.tokens / down.tokens]
    a, b = np.log(ratios) / (2 * _STEP)
    return float(a), float(b)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None

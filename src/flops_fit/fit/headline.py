"""Which of the three approaches answers, and its answer where that is not the surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.checks import off_the_runs
from flops_fit.fit.intervals import Evidence
from flops_fit.fit.minima import Envelope, IsoFLOP
from flops_fit.fit.power import fit_power
from flops_fit.fit.prediction import QUANTITIES, Budget, Prediction
from flops_fit.fit.solver import Solution
from flops_fit.laws.optimum import PowerLaw, spend
from flops_fit.records import Diagnostic

Floats = NDArray[np.float64]

_FEWEST_LOSSES = 4  # one more than E + k·C^−p has constants
_FLATTEST, _STEEPEST = 1e-3, 3.0


@dataclass(frozen=True, eq=False)
class Lines:
    """N*(C) and D*(C), and ``loss`` at the minima at ``compute``, both of shape (minima,)."""

    n_line: PowerLaw
    d_line: PowerLaw
    compute: Floats
    loss: Floats

    def loss_line(self) -> PowerLaw | None:
        """L(C) = E + k·C^−p with E ≥ 0 and k > 0, by least squares of L̂/L − 1.

        ``None`` with fewer than four losses, or where they do not fall with C.
        """
        if len(self.loss) < _FEWEST_LOSSES or np.any(self.loss <= 0):
            return None
        line = fit_power(self.compute, self.loss, offset=True).law
        return line if -_STEEPEST < line.a < -_FLATTEST else None


def isoflop_lines(shape: IsoFLOP) -> Lines | None:
    """Those of approach 2, where it is usable."""
    if not shape.usable or shape.n_line is None or shape.d_line is None:
        return None
    compute = np.array([p.budget for p in shape.interior])
    loss = np.array([p.loss for p in shape.interior])
    return Lines(shape.n_line, shape.d_line, compute, loss)


def envelope_lines(found: Envelope | None) -> Lines | None:
    """Those of approach 1, where it is usable."""
    if found is None or not found.usable or found.n_line is None or found.d_line is None:
        return None
    compute = np.array([p.compute for p in found.points])
    loss = np.array([p.loss for p in found.points])
    return Lines(found.n_line, found.d_line, compute, loss)


ApproachName = Literal["envelope", "isoflop", "surface"]

TITLES: dict[ApproachName, str] = {
    "envelope": "approach 1 (envelope of training curves)",
    "isoflop": "approach 2 (IsoFLOP parabolas)",
    "surface": "approach 3 (surface)",
}
NO_LINE_INTERVAL = (
    "a line through minima has no honest interval: for an asymmetric law nominal 90 % ones held "
    "the optimum 33 to 52 times in a hundred"
)


@dataclass(frozen=True, eq=False)
class Headline:
    """The approach that answers, ``None`` where none can, with a reason for each of the three.

    ``lines`` are those it answers from; ``None`` for the surface.
    """

    name: ApproachName | None
    reasons: dict[ApproachName, str]
    lines: Lines | None = None


def choose_headline(solution: Solution, shape: IsoFLOP, front: Envelope | None) -> Headline:
    """The surface where it stands; else approach 2 where usable; else approach 1; else none.

    The surface stands where it converged, no term of its law vanished and no exponent of N or D
    is on its bound; E at zero and κ on a bound leave it an optimum. Approach 2 is usable with three
    minima inside the sampled sizes, approach 1 with three sizes that win between two others.
    """
    lost = "" if solution.converged else "the solver did not converge"
    if solution.optimum_lost:
        lost = f"on a bound: {', '.join(map(str, solution.optimum_lost))}"
    reasons: dict[ApproachName, str] = {
        "surface": lost or "it converged, and no term of its law vanished",
        "isoflop": f"{len(shape.interior)} budgets have a minimum inside their sizes"
        + ("" if shape.usable else ", and it needs 3"),
        "envelope": "no training curves were given"
        if front is None
        else front.reason or f"{len(front.points)} sizes win between two others",
    }
    parabolas, winners = isoflop_lines(shape), envelope_lines(front)
    if not lost:
        if parabolas:
            reasons["isoflop"] += "; a check only: the grid's width and α ≠ β bias it"
        if winners:
            reasons["envelope"] += "; a check only: it reads losses inside schedules"
        return Headline("surface", reasons)
    if parabolas:
        if winners:
            reasons["envelope"] += "; approach 2 goes before it"
        return Headline("isoflop", reasons, parabolas)
    return Headline("envelope" if winners else None, reasons, winners)


def headline_diagnostic(headline: Headline) -> Diagnostic:
    """Which approach answers, and why; critical unless it is the surface."""
    reasons = headline.reasons
    if headline.name == "surface":
        return Diagnostic("headline", "ok", f"{TITLES['surface']} answers: {reasons['surface']}")
    action = "add runs over a wider range of N and D"
    if headline.name is None:
        text = "no approach can answer, the numbers shown are the surface's: "
        text += "; ".join(f"{TITLES[name]}: {reason}" for name, reason in reasons.items())
        return Diagnostic("headline", "critical", text, action)
    text = f"{TITLES[headline.name]} answers, as the surface cannot ({reasons['surface']}): "
    return Diagnostic("headline", "critical", text + reasons[headline.name], action)


def predict_from_lines(
    headline: Headline, evidence: Evidence, budget: Budget, level: float
) -> Prediction:
    """N* from the line, D = C/F(N*), and the loss from the minima's; no intervals.

    D is not taken from its own line: C = F(N)·D would not hold then. Off the optimum, where a cap
    binds, lines through minima know no loss.
    """
    if headline.lines is None or headline.name is None:
        raise ValueError("expected a headline with lines.")
    lines, C = headline.lines, budget.C
    caps = (budget.max_params, budget.max_tokens)
    at = spend(lines.n_line(C), C, budget.flops, *caps)
    N, D, binds = at.params, at.tokens, at.binds
    line = None if binds else lines.loss_line()
    notes = [Diagnostic("no_interval", "critical", f"no interval: {NO_LINE_INTERVAL}", "add runs")]
    if line is None:
        why = "the losses of the minima determine no line E + k·C^−p"
        if binds:
            why = (
                f"{' and '.join(binds)} bound, and off the optimum {TITLES[headline.name]} has none"
            )
        notes.append(
            Diagnostic("no_loss", "critical", f"no loss is predicted: {why}", "add budgets")
        )
    return Prediction(
        target_compute=C,
        training_compute=at.compute,
        binds=binds,
        optimal_params=N,
        optimal_tokens=D,
        expected_loss=float(line(C)) if line else float("nan"),
        tokens_per_param=D / N,
        intervals=dict.fromkeys(QUANTITIES),
        level=level,
        unit=evidence.runs.unit,
        extrapolation=at.compute / float(np.max(evidence.runs.flops)),
        form_spread={},
        interval_method="none",
        diagnostics=(*notes, *off_the_runs(evidence, N, D, shape=bool(binds))),
    )

"""The three approaches of Hoffmann et al. 2022 side by side, and which of them answers."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from flops_fit.fit.intervals import Evidence, Interval
from flops_fit.fit.minima import Envelope, IsoFLOP
from flops_fit.fit.power import fit_power
from flops_fit.fit.prediction import Budget, Prediction, median_optimum, prediction
from flops_fit.fit.solver import Solution, finding
from flops_fit.flops.functions import Floats, FlopsFunction, LinearFlops
from flops_fit.laws.kappa import Hoffmann, Kappa, KappaFamily
from flops_fit.laws.law import Law
from flops_fit.laws.optimum import PowerLaw, spend
from flops_fit.records import Diagnostic

ApproachName = Literal["envelope", "isoflop", "surface"]

_FEWEST_LOSSES = 4  # one more than E + k·C^−p has constants
_FLATTEST, _STEEPEST = 1e-3, 3.0
_STEP = 0.05  # in ln C, for the slope of ln N*
_LEVEL = 0.9  # of their intervals
_TITLES: dict[ApproachName, str] = {
    "envelope": "approach 1 (envelope of training curves)",
    "isoflop": "approach 2 (IsoFLOP parabolas)",
    "surface": "approach 3 (surface)",
}
_NO_LINE_INTERVAL = (
    "a line through minima has no reliable interval: for an asymmetric law nominal 90 % ones held "
    "the optimum 33 to 52 times in a hundred"
)


@dataclass(frozen=True, eq=False)
class Lines:
    """N*(C) and D*(C), and the minima's ``compute`` and ``loss``."""

    n_line: PowerLaw
    d_line: PowerLaw
    compute: Floats
    loss: Floats

    def loss_line(self) -> PowerLaw | None:
        """L(C) = E + k·C^−p; ``None`` with fewer than four losses, or where they do not fall."""
        if len(self.loss) < _FEWEST_LOSSES or np.any(self.loss <= 0):
            return None
        line = fit_power(self.compute, self.loss, offset=True).law
        return line if -_STEEPEST < line.a < -_FLATTEST else None


def _lines_of(approach: IsoFLOP | Envelope | None) -> Lines | None:
    """The lines of approach 1 or 2, where it is usable."""
    if approach is None or not approach.usable or not (approach.n_line and approach.d_line):
        return None
    if isinstance(approach, IsoFLOP):
        points = [(p.budget, p.loss) for p in approach.interior]
    else:
        points = [(p.compute, p.loss) for p in approach.points]
    return Lines(approach.n_line, approach.d_line, *np.array(points).T)


@dataclass(frozen=True, eq=False)
class Headline:
    """The approach that answers, if any, from its ``lines`` if it has them; a reason for each."""

    name: ApproachName | None
    reasons: dict[ApproachName, str]
    lines: Lines | None = None

    def diagnostic(self) -> Diagnostic:
        """Which approach answers, and why; critical unless it is the surface."""
        name, reasons = self.name, self.reasons
        if name is None:
            each = "; ".join(f"{_TITLES[name]}: {reason}" for name, reason in reasons.items())
            return finding("headline_none", reasons=each)
        key = "headline_surface" if name == "surface" else "headline"
        return finding(key, title=_TITLES[name], surface=reasons["surface"], reason=reasons[name])


def choose_headline(solution: Solution, shape: IsoFLOP, front: Envelope | None) -> Headline:
    """The surface where it is sound; else approach 2 where usable; else approach 1; else none."""
    lost = "" if solution.converged else "the solver did not converge"
    if solution.optimum_lost:
        lost = f"on a bound: {', '.join(map(str, solution.optimum_lost))}"
    inside = f"{len(shape.interior)} budgets have a minimum inside their sizes"
    if front is None:
        winning = "no training curves were given"
    else:
        winning = front.reason or f"{len(front.points)} sizes win between two others"
    reasons: dict[ApproachName, str] = {
        "surface": lost or "it converged, and no term of its law vanished",
        "isoflop": inside if shape.usable else f"{inside}, and it needs 3",
        "envelope": winning,
    }
    parabolas, winners = _lines_of(shape), _lines_of(front)
    check = "; a check only: it reads losses inside schedules"
    if winners and (parabolas or not lost):
        reasons["envelope"] += "; approach 2 goes before it" if lost else check
    if parabolas and not lost:
        reasons["isoflop"] += "; a check only: the grid's width and α ≠ β bias it"
    if not lost:
        return Headline("surface", reasons)
    if parabolas:
        return Headline("isoflop", reasons, parabolas)
    return Headline("envelope" if winners else None, reasons, winners)


def predict_from_lines(
    headline: Headline, evidence: Evidence, budget: Budget, level: float
) -> Prediction:
    """N* from the line, D = C/F(N*), and the loss from the minima's, if no cap binds; no intervals."""
    lines, name = headline.lines, headline.name
    assert lines
    assert name
    caps = (budget.max_params, budget.max_tokens)
    best = spend(lines.n_line(budget.C), budget.C, budget.flops, *caps)
    line = None if best.binds else lines.loss_line()
    notes = [finding("no_interval", reason=_NO_LINE_INTERVAL)]
    if line is None:
        why = "the losses of the minima determine no line E + k·C^−p"
        if best.binds:
            why = f"{' and '.join(best.binds)} bound, and off the optimum {_TITLES[name]} has none"
        notes.append(finding("no_loss", reason=why))
    best = replace(best, loss=float(line(budget.C)) if line else float("nan"))
    return prediction(evidence, budget, best, level, notes)


@dataclass(frozen=True)
class Approach:
    """What one approach says; numbers that it does not give are ``None``.

    ``a`` and ``b`` are the exponents of N* ∝ C^a and D* ∝ C^b, of the surface the slopes of ln N*
    and ln D* in ln C at ``compute``, the largest run's. N*, D* = compute/F(N*) and the loss are given
    there. ``interval_note`` says why ``a_interval`` is missing, ``headline`` and ``reason`` whether
    :meth:`flops_fit.fit.Fit.predict` answers with these numbers, and why or why not.
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


def three_approaches(
    headline: Headline, evidence: Evidence, shape: IsoFLOP, front: Envelope | None
) -> tuple[Approach, Approach, Approach]:
    """Approaches 1, 2 and 3, in this order, at the largest run's compute."""
    law, flops, usable = evidence.law, evidence.flops, headline.name == "surface"
    C = float(np.max(evidence.runs.flops))
    best, _ = median_optimum(evidence, Budget(C, flops), _LEVEL)
    at_optimum = (*_exponents(law, C, flops), best.params, best.tokens, best.loss)

    drawn: Interval | None = None
    if not evidence.no_interval:
        laws = evidence.drawn_laws if isinstance(law, KappaFamily) else []
        slopes = [drawn.exponent for drawn in laws]
        if not slopes:  # those of ln N* over a decade around C
            up, down = (evidence.optima(C * float(np.exp(s))).params for s in (1.15, -1.15))
            slopes = (np.log(up / down) / 2.3).tolist()
        drawn = evidence.span(np.array(slopes), _LEVEL)
    a, b, N, D, loss = (float(v) if np.isfinite(v) else None for v in at_optimum)
    certain = (drawn, evidence.no_interval or ("" if drawn else "the runs do not determine it"))
    reason = headline.reasons["surface"]
    return (
        _from_lines("envelope", _lines_of(front), headline, flops, C),
        _from_lines("isoflop", _lines_of(shape), headline, flops, C),
        Approach("surface", a, b, C, N, D, loss, *certain, usable, usable, reason),
    )


def _from_lines(
    name: ApproachName, lines: Lines | None, headline: Headline, flops: FlopsFunction, C: float
) -> Approach:
    reason = headline.reasons[name]
    if lines is None:
        unknown = (None, None, C, None, None, None, None)
        return Approach(name, *unknown, reason, usable=False, headline=False, reason=reason)
    N, loss_line = float(lines.n_line(C)), lines.loss_line()
    loss = float(loss_line(C)) if loss_line else None
    values = (lines.n_line.a, lines.d_line.a, C, N, C / float(flops(N)), loss, None)
    return Approach(name, *values, _NO_LINE_INTERVAL, True, headline.name == name, reason)


def _exponents(law: Law, C: float, flops: FlopsFunction) -> tuple[float, float]:
    """Slopes of ln N* and ln D* in ln C."""
    if isinstance(flops, LinearFlops) and isinstance(law, Hoffmann | Kappa):
        return law.exponent, 1 - law.exponent
    up, down = (law.optimal(C * float(np.exp(s)), flops) for s in (_STEP, -_STEP))
    a, b = np.log([up.params / down.params, up.tokens / down.tokens]) / (2 * _STEP)
    return float(a), float(b)

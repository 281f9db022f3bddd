"""Which of two recipes is better: in compute, in time and in money, and whether the runs decide it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from flops_fit.errors import InputError, InputTypeError, check_number
from flops_fit.fit.checks import off_the_runs
from flops_fit.fit.fit import Fit
from flops_fit.fit.groups import EXPONENTS, LEVEL, beliefs, share_constants
from flops_fit.fit.intervals import Evidence, Interval
from flops_fit.fit.prediction import check_target
from flops_fit.fit.questions import log_compute_draws
from flops_fit.fit.solver import finding
from flops_fit.flops.functions import Floats
from flops_fit.laws.law import log_compute
from flops_fit.records import Diagnostic
from flops_fit.text import format_count

_LOG_SEARCH = math.log(1e9)  # how far from C, in ln C, the compute for a loss is searched
_MOST_RUNS = 30  # more, of both recipes together
_FEWEST_SPEEDS = 4  # runs of the sizes nearest to the optimum whose speeds count, or a third of all


@dataclass(frozen=True)
class Gate:
    """Whether the second needs less by a ``share`` at least; ``of`` is ``"compute"`` or ``"dollars"``.

    ``verdict`` is ``"yes"`` or ``"no"`` where the whole interval lies on one side, else ``"not yet"``. Then
    ``more_runs`` are runs of the first and of the second, at N* of the largest compute of each, that
    would decide it if the multiplier is as estimated; ``None`` where 30 would not.
    """

    share: float
    of: Literal["compute", "dollars"]
    verdict: Literal["yes", "no", "not yet"]
    more_runs: tuple[int, int] | None = None

    def __str__(self) -> str:
        asked = "Less" if self.share == 0 else f"At least {100 * self.share:.3g} % less"
        said = f"{asked} {'compute' if self.of == 'compute' else 'money'}: {self.verdict}"
        if self.verdict != "not yet":
            return said
        if self.more_runs is None:
            return f"{said}; more runs at the largest compute so far would not decide it"
        total = sum(self.more_runs)
        each = f"{self.more_runs[0]} and {self.more_runs[1]}"
        return f"{said}, {total} run{'s' * (total > 1)} more ({each}) at N* of the largest compute"


@dataclass(frozen=True)
class Comparison:
    """Two fits at the compute of a question.

    ``compute`` is C in FLOPs, ``compute_multiplier`` what the second needs, over C, to reach the
    first's best loss at C (``inf``: never; 0: with a billionth of C). ``time_multiplier`` is the same of
    device time, from ``speeds`` in FLOP/s, ``dollar_multiplier`` of money; ``None`` where not known.
    ``exponents`` are a of N* ∝ C^a, ``exponent_difference`` second minus first. Multipliers and difference
    have ``intervals`` at ``level``, equal exponents a ``p_value``, each ``None`` where it is not reliable.
    ``gate`` answers the question of a gate, if it was asked.
    """

    compute: float
    level: float
    compute_multiplier: float
    exponents: tuple[float, float]
    exponent_difference: float
    intervals: dict[str, Interval | None]
    p_value: float | None
    diagnostics: tuple[Diagnostic, ...]
    speeds: tuple[float, float] | None = None
    time_multiplier: float | None = None
    dollar_multiplier: float | None = None
    gate: Gate | None = None

    def __str__(self) -> str:
        equal = "" if self.p_value is None else f", p = {self.p_value:.2g} for equal exponents"
        text = (
            f"At C = {self.compute:.3g} the second needs {self.shown('compute_multiplier')} times the "
            f"compute of the first for the same loss; exponents a = {self.exponents[0]:.3g} and "
            f"{self.exponents[1]:.3g}{equal}."
        )
        if self.time_multiplier is not None:
            text += f"\nIts time is {self.shown('time_multiplier')} times as long"
            if self.dollar_multiplier is not None:
                text += f", its price {self.shown('dollar_multiplier')} times as high"
            text += "."
        return text if self.gate is None else f"{text}\n{self.gate}."

    def shown(self, name: str) -> str:
        """A multiplier with its interval."""
        value, span = getattr(self, name), self.intervals[name]
        far = {0.0: "under 1e-9", math.inf: "over 1e9"}
        times = far.get(value) or format_count(value, zeros=True)
        ends = (
            "no interval" if span is None else "–".join(format_count(v, zeros=True) for v in span)
        )
        return f"{times} ({ends})"


def compare(
    first: Fit,
    second: Fit,
    compute: float | None = None,
    *,
    level: float = 0.9,
    speeds: tuple[float, float] | None = None,
    dollars_per_hour: tuple[float, float] | None = None,
    gate: float | None = None,
) -> Comparison:
    """Compare two fits to losses on the same held-out set, in the same unit.

    The compute multiplier m at C solves L₂*(m·C) = L₁*(C) for the best losses L*. Intervals come from
    pairs of surfaces drawn from each fit. Where a test does not reject equal exponents (5 %), the
    multiplier is that of fits which share them, and a finding says so. Raises InputTypeError where one of
    the two is no fit, InputError for another argument that cannot be used.

    ``compute`` is C in FLOPs, by default the smaller of the two largest runs' compute. ``speeds`` are FLOP/s
    of both in training, or MFU where both use the same devices; time goes with C over these. By default they
    are those of their own runs, where the runs have them, at the sizes nearest to N*. ``dollars_per_hour``
    are the prices of each one's devices, where they differ. ``gate`` asks whether the second needs less by
    this share (0.05: 5 %) at least, of money where ``dollars_per_hour`` is given, else of compute.
    """
    for name, fit in (("first", first), ("second", second)):
        if not isinstance(fit, Fit):
            raise InputTypeError(f"{name}: expected a Fit; got {type(fit).__name__}.")
    C = min(first.largest_compute, second.largest_compute) if compute is None else compute
    check_target(C, level)
    C = float(C)
    if gate is not None:
        expected = "a share from 0 to 1, such as 0.05 for 5 %"
        gate = check_number("gate", gate, at_least=0, below=1, expected=expected)
    one, other, shared = _sharing(first._evidence, second._evidence)
    goal = float(one.law.optimal(C, first.flops).loss)
    log_m = log_compute(other.law, goal, second.flops, C, _LOG_SEARCH) - math.log(C)
    draws, notes = _multiplier_draws(one, other, C, log_m)
    own = None if draws is None else other.span(draws, level)
    if draws is not None and own is not None and not own[0] <= log_m <= own[1]:
        log_m = float(np.median(draws))  # of laws with their misfit, which moved them
    a = (first.exponents[0], second.exponents[0])
    difference, p_value = _difference(first, second, level)
    paces = _paces((first, second), (C, C * math.exp(log_m)), speeds)
    prices = _pair("dollars_per_hour", dollars_per_hour)
    if prices is not None and paces is None:
        raise InputError(
            "dollars_per_hour: expected speeds beside it, as the runs do not say theirs. Give speeds="
            "(FLOP/s of the first, of the second)."
        )
    ratios = {"compute": _Ratio(log_m, draws)}
    if paces is not None:
        slower = math.log(paces[0].speed / paces[1].speed)
        error = math.hypot(paces[0].error, paces[1].error)
        ratios["time"] = ratios["compute"].moved(slower, error)
        if prices is not None:
            ratios["dollar"] = ratios["time"].moved(math.log(prices[1] / prices[0]))
    spans = {f"{name}_multiplier": ratio.span(other, level) for name, ratio in ratios.items()}
    values = {f"{name}_multiplier": math.exp(ratio.log) for name, ratio in ratios.items()}
    decided = None
    if gate is not None:
        name = "compute" if prices is None else "dollar"
        span, ends = spans[f"{name}_multiplier"], (C, C * math.exp(log_m))
        of: Literal["compute", "dollars"] = "compute" if prices is None else "dollars"
        decided = _decide(gate, of, ratios[name].log, span, (one, other), ends)
    return Comparison(
        compute=C,
        level=level,
        exponents=a,
        exponent_difference=a[1] - a[0],
        intervals={**spans, "exponent_difference": difference},
        p_value=p_value,
        diagnostics=(*shared, *notes, *_limits(first, second, C, math.exp(log_m))),
        speeds=None if paces is None else (paces[0].speed, paces[1].speed),
        gate=decided,
        **values,
    )


def _sharing(one: Evidence, other: Evidence) -> tuple[Evidence, Evidence, list[Diagnostic]]:
    """What both fits say with common exponents, where these are not rejected and not known."""
    both = (one, other)
    names = [name for name in EXPONENTS if name in one.law.params]
    apart = type(one.law) is not type(other.law) or any(e.known or e.no_interval for e in both)
    noiseless = min(e.solution.residual_sd for e in both) < 1e-9
    if apart or noiseless or not names:
        return one, other, []
    sharing = share_constants([e.solution for e in both], names)
    if sharing.p_value is None or sharing.p_value < LEVEL:
        return one, other, []
    one, other = (
        replace(e, solution=replace(e.solution, law=law), known=said)
        for e, law, said in zip(both, sharing.laws, beliefs(both, names), strict=True)
    )
    return one, other, [sharing.diagnostic("both fits")]


def _multiplier_draws(
    one: Evidence, other: Evidence, C: float, log_m: float
) -> tuple[Floats | None, list[Diagnostic]]:
    """Of ln m, from pairs of drawn surfaces: the compute at which the second reaches the first's loss."""
    if not math.isfinite(log_m):
        return None, [finding("out_of_reach")]
    if one.no_interval or other.no_interval:
        return None, [finding("no_multiplier_interval")]
    # Both are drawn from the same random numbers: pair them at random.
    goal = np.random.default_rng(2).permutation(np.min(one.optima(C).loss, axis=1))
    return log_compute_draws(other, goal, C * math.exp(log_m)) - math.log(C), []


@dataclass(frozen=True, eq=False)
class _Ratio:
    """What the second needs over what the first needs, as a logarithm, and its draws if there are any."""

    log: float
    draws: Floats | None

    def moved(self, by: float, error: float = 0.0) -> "_Ratio":
        """Times a factor, whose logarithm has a standard error."""
        if self.draws is None:
            return _Ratio(self.log + by, None)
        noise = np.random.default_rng(3).normal(0.0, error, len(self.draws))
        return _Ratio(self.log + by, self.draws + by + noise)

    def span(self, evidence: Evidence, level: float) -> Interval | None:
        """Its interval."""
        return None if self.draws is None else evidence.span(np.exp(self.draws), level)


@dataclass(frozen=True)
class _Pace:
    """FLOP/s in training at an optimum, and the standard error of its logarithm."""

    speed: float
    error: float = 0.0


def _pair(name: str, values: tuple[float, float] | None) -> tuple[float, float] | None:
    """Two positive numbers, of the first and of the second."""
    if values is None:
        return None
    if not isinstance(values, Sequence) or len(values) != 2:
        raise InputError(
            f"{name}: expected two numbers, of the first and of the second; got {values!r}."
        )
    return check_number(name, values[0], above=0), check_number(name, values[1], above=0)


def _paces(
    fits: tuple[Fit, Fit], computes: tuple[float, float], speeds: tuple[float, float] | None
) -> tuple[_Pace, _Pace] | None:
    """How fast both train, as given or as their runs show; ``None`` where one does not."""
    if (given := _pair("speeds", speeds)) is not None:
        return _Pace(given[0]), _Pace(given[1])
    one, other = (_pace(fit, C) for fit, C in zip(fits, computes, strict=True))
    return None if one is None or other is None else (one, other)


def _pace(fit: Fit, C: float) -> _Pace | None:
    """From the runs of the sizes nearest to N*, by a line in ln N; beyond all sizes, that of the nearest."""
    speed, x = fit.runs.flops_per_second, np.log(fit.runs.params)
    known = np.zeros(0, int) if speed is None else np.flatnonzero(speed > 0)
    if speed is None or len(known) < _FEWEST_SPEEDS or not math.isfinite(C):
        return None
    at = math.log(float(fit._evidence.law.optimal(C, fit.flops).params))
    at = float(np.clip(at, np.min(x[known]), np.max(x[known])))
    count = max(_FEWEST_SPEEDS, len(known) // 3)
    near = known[np.argsort(np.abs(x[known] - at), kind="stable")[:count]]
    y, design = np.log(speed[near]), np.column_stack([np.ones(count), x[near] - at])
    design = design if np.ptp(x[near]) > 0.05 else design[:, :1]
    line = np.linalg.lstsq(design, y, rcond=None)[0]
    squares = float(np.sum((y - design @ line) ** 2)) / (count - design.shape[1])
    return _Pace(
        float(np.exp(line[0])), math.sqrt(squares * np.linalg.inv(design.T @ design)[0, 0])
    )


def _decide(
    share: float,
    of: Literal["compute", "dollars"],
    log_m: float,
    span: Interval | None,
    both: tuple[Evidence, Evidence],
    computes: tuple[float, float],
) -> Gate:
    """Whether a multiplier lies below 1 − share, and if its interval holds that, which runs would tell."""
    bar = 1.0 - share
    if span is None:
        return Gate(share, of, "no" if log_m == math.inf else "not yet")
    if span[1] <= bar or span[0] > bar:
        return Gate(share, of, "yes" if span[1] <= bar else "no")
    end = span[1] if math.exp(log_m) <= bar else span[0]
    needed = (math.log(bar) - log_m) / (math.log(end) - log_m) if end > 0 else 0.0
    return Gate(share, of, "not yet", _more_runs(both, computes, needed))


def _more_runs(
    both: tuple[Evidence, Evidence], computes: tuple[float, float], needed: float
) -> tuple[int, int] | None:
    """Runs of each at its largest compute by which the interval of ln m shrinks to a ``needed`` share.

    One at a time, of the recipe whose best loss it tells more of.
    """
    told = [_Told.of(evidence, C) for evidence, C in zip(both, computes, strict=True)]
    before, counts = sum(t.variance for t in told), [0, 0]
    for _ in range(_MOST_RUNS):
        after = [t.with_run() for t in told]
        best = int(np.argmax([t.variance - a.variance for t, a in zip(told, after, strict=True)]))
        told[best] = after[best]
        counts[best] += 1
        if sum(t.variance for t in told) <= needed**2 * before:
            return counts[0], counts[1]
    return None


@dataclass(frozen=True, eq=False)
class _Told:
    """What runs tell of ln L* at a compute: slopes there and of one run more, information, its weight."""

    at: Floats
    run: Floats
    information: Floats
    precision: float

    @classmethod
    def of(cls, evidence: Evidence, C: float) -> "_Told":
        local, flops = evidence.posterior.gaussian, evidence.flops
        largest = float(np.max(evidence.runs.flops))
        best = [evidence.law.optimal(c, flops) for c in (C, largest)]
        N, D = (np.array([float(getattr(o, n)) for o in best]) for n in ("params", "tokens"))
        at, run = local.rows(N, D)[1]
        points = evidence.solution.points
        at = at if points.log else at * points.scale / float(best[0].loss)
        return cls(at, run, local.information, float(local.weights(np.ones(1))[0]))

    @property
    def variance(self) -> float:
        return float(self.at @ np.linalg.solve(self.information, self.at))

    def with_run(self) -> "_Told":
        """The same with one run more."""
        told = self.information + self.precision * np.outer(self.run, self.run)
        return replace(self, information=told)


def _difference(first: Fit, second: Fit, level: float) -> tuple[Interval | None, float | None]:
    """The interval of a difference of exponents, and the p value of equal ones."""
    from scipy.special import ndtr

    one, other = first._evidence, second._evidence
    if one.no_interval or other.no_interval:
        return None, None
    a, b = (np.array([law.exponent for law in each.drawn_laws]) for each in (one, other))
    draws = b - np.random.default_rng(2).permutation(a)
    apart = abs(float(np.mean(draws))) / max(float(np.std(draws)), 1e-300)
    held = first.exponents == second.exponents and one.solution.fixed
    return other.span(draws, level), None if held else float(2 * ndtr(-apart))


def _limits(first: Fit, second: Fit, C: float, m: float) -> list[Diagnostic]:
    out = []
    for name, fit, compute in (("first", first, C), ("second", second, C * m)):
        if fit.trust == "no":
            out.append(finding("poor_fit", name=name))
        if math.isfinite(compute) and compute > 0:
            best = fit._evidence.law.optimal(compute, fit.flops)
            far = off_the_runs(fit._evidence, best.params, best.tokens, shape=False)
            out += [
                replace(d, message=f"the {name} fit: {d.message}")
                for d in far
                if d.severity != "note"
            ]
    if first.runs.unit != second.runs.unit:
        out.append(finding("units_differ", first=first.runs.unit, second=second.runs.unit))
    return out

"""Training FLOPs per unit, F(N): what turns a size and a budget into a number of units, C = F(N)·D."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from math import prod
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]
Values = tuple[int, ...]
Spans = Mapping[str, tuple[float, float]]

_HIGHEST_DEGREE = 3  # of FLOPs and parameters as polynomials of the size
_VERIFYING_TRACES = 2  # beyond those that determine the polynomial
_LARGEST_EXACT = 2**53  # above, sums of floats are rounded


@runtime_checkable
class FlopsFunction(Protocol):
    """Training FLOPs (forward and backward) that one unit costs at size N."""

    @property
    def description(self) -> str:
        """Where the numbers come from, for tables and reports."""

    def __call__(self, N: ArrayLike) -> Floats:
        """FLOPs per unit at each N, same shape as N."""


def outside_in(values: Iterable[Any]) -> list[Any]:
    """The outermost values, and then the middle of each gap between those, again and again."""
    known = sorted(values)
    gaps, out = [(0, len(known) - 1)], list(dict.fromkeys([*known[:1], *known[-1:]]))
    for low, high in gaps:
        if high - low > 1:
            middle = (low + high) // 2
            out.append(known[middle])
            gaps += [(low, middle), (middle, high)]
    return out


@dataclass(frozen=True)
class LinearFlops:
    """F(N) = k·N, with the usual k = 6 (Kaplan et al. 2020, §2.1)."""

    k: float = 6.0

    @property
    def description(self) -> str:
        """The formula in words."""
        return f"{self.k:g}·N per unit"

    def __call__(self, N: ArrayLike) -> Floats:
        """FLOPs per unit at each N."""
        return self.k * np.asarray(N, dtype=np.float64)


@dataclass(frozen=True)
class SmoothFlops:
    """F(N) = N·(k + c·(N/N₀)^−p), for tables of models that cannot be traced: k·N at large N.

    Fitted from ``n_min`` to ``n_max``; far below F/N stays as it is, as it could turn negative.
    """

    k: float
    c: float
    p: float
    n0: float
    n_min: float
    n_max: float
    misfit: float

    @property
    def description(self) -> str:
        """The formula in words, with its range."""
        return (
            f"fitted to the table: tends to {self.k:.3g}·N per unit "
            f"(sizes {self.n_min:.3g} to {self.n_max:.3g}, misfit {100 * self.misfit:.2g} %)"
        )

    def __call__(self, N: ArrayLike) -> Floats:
        """FLOPs per unit at each N."""
        N = np.asarray(N, dtype=np.float64)
        size = np.maximum(N, 0.1 * self.n_min)
        return np.asarray(N * (self.k + self.c * (size / self.n0) ** -self.p))


@dataclass
class InterpolatedFlops:
    """F(N) from exact counts, ln(F/N) linear in ln N between them.

    Away from every count it first adds ``count_near(N')``, (size built, its F), at the powers of √2
    around N. Where that is ``None``, F/N stays at the outermost count.
    """

    counts: dict[float, float]
    count_near: Callable[[float], tuple[float, float] | None] | None = None
    description: str = "counted on the traced model"
    _counted_steps: set[int] = field(default_factory=set, repr=False)

    def __call__(self, N: ArrayLike) -> Floats:
        """FLOPs per unit at each N."""
        sizes = np.asarray(N, dtype=np.float64)
        if self.count_near is not None:
            steps = np.unique(np.floor(2 * np.log2(sizes[np.isfinite(sizes) & (sizes > 0)])))
            around = {int(step) + side for step in steps for side in (0, 1)}
            for step in outside_in(around - self._counted_steps):
                self._counted_steps.add(step)
                count = self.count_near(2.0 ** (step / 2))
                if count is not None:
                    self.counts[count[0]] = count[1]
        known = np.array(sorted(self.counts))
        ratio = np.log([self.counts[n] / n for n in known])
        return np.asarray(sizes * np.exp(np.interp(np.log(sizes), np.log(known), ratio)))


@dataclass
class SizePolynomial:
    """Whole numbers that are polynomials of the size, as long as every trace agrees.

    One of degree p through p + 1 sizes is used once it reproduces at least two others exactly, and between
    the traced sizes alone: beyond them a model may take another way. That holds for all its numbers, of
    which ``spans`` has the least and the greatest in any trace.
    """

    # At each size the FLOPs, then what can be read off the built model.
    traced: dict[int, Values] = field(default_factory=dict)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    _base: list[int] | None = None

    def add(self, size: int, flops: float, structure: Values, spans: Spans | None = None) -> None:
        """Add one trace, if it can be exact, and decide again whether the values are polynomials."""
        if not flops.is_integer() or flops >= _LARGEST_EXACT:
            return
        self.traced[size] = (int(flops), *structure)
        for name, (least, most) in {"": (size, size), **(spans or {})}.items():
            low, high = self.spans.get(name, (least, most))
            self.spans[name] = min(low, least), max(high, most)
        self._base = None
        for degree in range(_HIGHEST_DEGREE + 1):
            base, rest = list(self.traced)[: degree + 1], list(self.traced)[degree + 1 :]
            if len(rest) < _VERIFYING_TRACES:
                return
            if all(self._evaluate(base, other) == self.traced[other] for other in rest):
                self._base = base
                return

    @property
    def verified(self) -> bool:
        """Whether it predicts sizes that are not traced."""
        return self._base is not None

    def flops(
        self, size: int, structure: Values, spans: Spans | None = None, reach: float = 1.0
    ) -> int | None:
        """FLOPs at a size whose model has this structure; ``None`` where it must be traced.

        ``reach``: a factor by which it is trusted beyond what was traced.
        """
        if size in self.traced:
            return self.traced[size][0]
        own = {"": (size, size), **(spans or {})}
        known = (self.spans.get(name, (math.nan, math.nan)) for name in own)
        inside = (
            low / reach <= least <= most <= high * reach
            for (low, high), (least, most) in zip(known, own.values(), strict=True)
        )
        if self._base is None or not all(inside):
            return None
        values = self._evaluate(self._base, size)
        if values is None or values[1:] != structure or values[0] >= _LARGEST_EXACT:
            return None
        return values[0]

    def _evaluate(self, base: list[int], size: int) -> Values | None:
        """Lagrange's polynomial through the values at ``base``; ``None`` where it is not whole."""
        weights = [
            prod((Fraction(size - b, a - b) for b in base if b != a), start=Fraction(1))
            for a in base
        ]
        columns = zip(*(self.traced[a] for a in base), strict=True)
        sums = [sum(w * v for w, v in zip(weights, column, strict=True)) for column in columns]
        return None if any(s.denominator > 1 for s in sums) else tuple(map(int, sums))


# Of the sizes at which a function of the user's is written down: an octave, and beyond the runs.
_AN_OCTAVE, _BELOW, _BEYOND = 64, 1e2, 1e4


def flops_to_dict(flops: FlopsFunction, sizes: ArrayLike) -> dict[str, Any]:
    """F(N) by its parameters, or by its counts; a function of the user's by its values at ``sizes``."""
    if isinstance(flops, LinearFlops):
        return {"kind": "linear", "k": flops.k}
    if isinstance(flops, SmoothFlops):
        return {"kind": "smooth", **asdict(flops)}
    if isinstance(flops, InterpolatedFlops):
        counts = flops.counts
    else:
        known = np.unique(np.asarray(sizes, dtype=np.float64))
        span = known[0] / _BELOW, known[-1] * _BEYOND
        between = np.geomspace(*span, _AN_OCTAVE * int(np.log2(span[1] / span[0])))
        try:
            wide = np.unique([*known, *between])
            values = np.asarray(flops(wide), dtype=np.float64)
        except Exception:  # a function of the user's may know the sizes of its runs alone
            wide, values = known, np.asarray(flops(known))
        counts = dict(zip(wide.tolist(), values.tolist(), strict=True))
    listed = [[n, counts[n]] for n in sorted(counts)]
    return {"kind": "counted", "counts": listed, "description": flops.description}


def flops_from_dict(values: Mapping[str, Any]) -> FlopsFunction:
    """What :func:`flops_to_dict` wrote; KeyError, TypeError or ValueError where it is something else."""
    rest = {name: value for name, value in values.items() if name != "kind"}
    if values["kind"] == "counted":
        counts = {float(n): float(f) for n, f in rest["counts"]}
        return InterpolatedFlops(counts, description=rest["description"])
    return LinearFlops(**rest) if values["kind"] == "linear" else SmoothFlops(**rest)

"""What every solver shares: the robust loss, and a law fitted to weighted runs.

The solvers are :class:`flops_fit.fit.surface_solver.SurfaceSolver` for the additive law and the
κ-law, and :class:`flops_fit.fit.generic.GenericSolver` for any other.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ContextDecorator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from threadpoolctl import ThreadpoolController

from flops_fit.fit.surface import Points
from flops_fit.flops.functions import Floats
from flops_fit.laws.law import Law
from flops_fit.records import Findings

DeltaRule = float | Literal["mad"]

MAD_TO_SD = 1.4826  # standard deviation over median absolute deviation, for normal noise
AGREE_WITHIN = 1e-6  # relative: objectives this near are the same minimum
finding = Findings(Path(__file__).with_name("findings.toml"))  # in words
_MET = 1e-5  # scatter around a law that meets its runs
_TUNING = 1.345  # 95 % efficient under normal noise (Huber 1981, §4.5)


class _OneBlasThread(ContextDecorator):
    """While any fit works, BLAS has one thread: on matrices this small, more only wait for each other."""

    def __init__(self) -> None:
        self._lock, self._depth = threading.Lock(), 0
        self._pools: Any = None
        self._limit: Any = None

    def __enter__(self) -> None:
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._pools = self._pools or ThreadpoolController()
                self._limit = self._pools.limit(limits=1, user_api="blas")

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._limit.restore_original_limits()


one_blas_thread = _OneBlasThread()


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


class BoundKind(StrEnum):
    """In which way the runs leave a parameter undetermined."""

    FLOOR = "at its floor, zero"
    LOWER = "at its lower bound"
    UPPER = "at its upper bound"
    VANISHED = "≈ 0 (its term vanishes)"
    NO_EFFECT = "without effect"


@dataclass(frozen=True)
class Bound:
    """A parameter that ended where the runs do not determine it."""

    parameter: str
    kind: BoundKind

    @property
    def leaves_optimum(self) -> bool:
        """Whether N*(C) is still determined: E shifts all losses alike, κ joins two terms."""
        limits = (BoundKind.LOWER, BoundKind.UPPER)
        return self.parameter == "E" or (self.parameter == "kappa" and self.kind in limits)

    def __str__(self) -> str:
        return f"{self.parameter} {self.kind}"


@dataclass(frozen=True, eq=False)
class Solution:
    """One law fitted to weighted runs.

    ``theta`` has the k coordinates that are free and on no bound, of which ``log_names`` are logs; a
    refit starts from ``coordinates``, all six in the κ family. ``residuals`` are z − model, and
    ``jacobian``, (runs, k), is the model's. ``held`` has the limits that parameters were held at
    which the runs do not determine; ``fixed`` counts those that were given.
    """

    law: Law
    theta: Floats
    names: tuple[str, ...]
    coordinates: Floats
    log_names: tuple[str, ...]
    residuals: Floats
    jacobian: Floats
    weights: Floats
    delta: float
    bounds: tuple[Bound, ...]
    points: Points
    solver: Solver
    starts: int = 1
    agree: int = 1
    converged: bool = True
    held: Mapping[str, float] = field(default_factory=dict)
    fixed: int = 0

    def law_at(self, theta: Floats) -> Law:
        """The law for other values of the free coordinates."""
        return self.solver.law_at(self, theta)

    @property
    def objective(self) -> float:
        """Σ w·ρ_δ of the residuals."""
        return float(np.sum(self.weights * huber(self.residuals, self.delta)))

    @property
    def status(self) -> FitStatus:
        """How the solver ended."""
        if not self.converged:
            return FitStatus.NOT_CONVERGED
        if self.bounds:
            return FitStatus.BOUND_HIT
        # Where the law meets its runs, the objectives of its starts are rounding.
        if self.starts > 1 and self.agree < 2 and self.residual_sd > _MET:
            return FitStatus.STARTS_DISAGREE
        return FitStatus.OK

    @property
    def optimum_lost(self) -> tuple[Bound, ...]:
        """The bounds that leave no optimum N*(C)."""
        return tuple(b for b in self.bounds if not b.leaves_optimum)

    @property
    def dof(self) -> int:
        """Runs that weigh anything, less the parameters fitted to them."""
        return int(np.count_nonzero(self.weights)) - self.parameters

    @property
    def parameters(self) -> int:
        """How many were fitted."""
        return len(self.law.params) - self.fixed

    @property
    def residual_sd(self) -> float:
        """Robust standard deviation of the residuals: relative noise in log space."""
        return robust_sd(self.residuals, self.weights, self.parameters)

    @property
    def noise_sd(self) -> float:
        """Root mean square residual over the degrees of freedom: what one new run scatters by."""
        mean = float(np.average(self.residuals**2, weights=self.weights))
        count = int(np.count_nonzero(self.weights))
        return float(np.sqrt(mean * count / max(count - self.parameters, 1)))


class Solver(Protocol):
    """Fits one form of law to the runs that it was made for."""

    def fit(self, weights: Floats, delta: DeltaRule, near: Solution | None = None) -> Solution:
        """The law at its minimum of Σ w·ρ_δ, δ in units of ``points.z``; no starts if ``near``."""

    def holding(self, values: Mapping[str, float]) -> Solver:
        """The same with more constants held."""

    def refit(
        self, solution: Solution, weights: Floats, targets: Floats, delta: float
    ) -> list[Law]:
        """The laws refitted from a solution to weights and losses z, both of shape (n, runs)."""

    def law_at(self, solution: Solution, theta: Floats) -> Law:
        """See :meth:`Solution.law_at`."""


def huber(residuals: Floats, delta: float) -> Floats:
    """ρ_δ of each residual; δ = ∞ is half the square."""
    size = np.abs(residuals)
    inner = np.minimum(size, delta)
    return np.asarray(inner * (size - 0.5 * inner))


def huber_weight(residuals: Floats, delta: float) -> Floats:
    """ρ′_δ(r)/r of each residual, 1 within δ: what it weighs as the term of a sum of squares."""
    size = np.abs(residuals)
    return np.divide(delta, size, out=np.ones_like(size), where=size > delta)


def robust_sd(residuals: Floats, weights: Floats, parameters: int) -> float:
    """1.4826·MAD of the residuals that weigh anything, corrected for the fitted parameters."""
    r = residuals[weights > 0]
    spread = MAD_TO_SD * float(np.median(np.abs(r - np.median(r))))
    return spread * float(np.sqrt(len(r) / max(len(r) - parameters, 1)))


def mad_delta(residuals: Floats, weights: Floats, parameters: int) -> float:
    """Huber's δ at 1.345 robust standard deviations; never below 1e-9, the noise of rounding."""
    return max(_TUNING * robust_sd(residuals, weights, parameters), 1e-9)

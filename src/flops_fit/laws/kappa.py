"""The κ family, a sum of two power terms inside a power, and the law of repeated data.

The additive law, the κ-law and Kaplan's law differ in their constants. With repeated data each further
epoch over the same units is worth less: the additive law in effective N and D.
"""

import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.errors import FitError, InputError, check_number
from flops_fit.flops.functions import Floats, FlopsFunction, LinearFlops
from flops_fit.laws.law import Law
from flops_fit.laws.optimum import above_zero

LogForm = tuple[float, float, float, float, float, float]  # E, ln A, ln B, α, β, κ

_EXPONENTS = np.geomspace(0.02, 0.8, 25)
_STARTS = 4
_LOG_LARGEST = 690.0  # ln of the largest loss

# Starts of the law of repeated data.
_GRID = np.linspace(0.1, 0.9, 9)
_SCALES_D = (0.5, 3.0, 15.0, 80.0)
_SCALES_N = (2.0, 10.0, 200.0)
_FEW_EPOCHS = 4.0  # up to which repeats are nearly as good as new (§6 of the paper)


@dataclass(frozen=True)
class TwoTerms(Law):
    """The constants of a law with a floor and a power term in each of N and D."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float


@dataclass(frozen=True)
class KappaFamily(Law):
    """L(N, D) = E + (A/N^α + B/D^β)^κ in the parameters of each law; κ does not move the optimum.

    For F(N) = k·N, N* = (αA/βB)^{1/(α+β)}·(C/k)^{β/(α+β)} (Hoffmann et al. 2022, eq. 4).
    """

    @property
    @abstractmethod
    def log_form(self) -> LogForm:
        """(E, ln A, ln B, α, β, κ); −inf for the log of a term that vanished."""

    def loss(self, N: ArrayLike, D: ArrayLike) -> Any:
        """Loss at N parameters and D units."""
        floor, log_a, log_b, alpha, beta, kappa = self.log_form
        power = kappa * np.logaddexp(_log_term(log_a, alpha, N), _log_term(log_b, beta, D))
        return floor + np.exp(np.minimum(power, _LOG_LARGEST))

    def _tokens_for(self, N: Floats, loss: Floats) -> Floats:
        _, log_a, log_b, alpha, beta, _ = self.log_form
        return self._size_of_rest(loss, _log_term(log_a, alpha, N), log_b, beta)

    def _params_for(self, D: Floats, loss: Floats) -> Floats:
        _, log_a, log_b, alpha, beta, _ = self.log_form
        return self._size_of_rest(loss, _log_term(log_b, beta, D), log_a, alpha)

    def _size_of_rest(
        self, loss: Floats, log_other: Floats, log_scale: float, power: float
    ) -> Floats:
        """The x whose term scale/x^power and the other one give ``loss``; inf where none does."""
        floor, *_, kappa = self.log_form
        with np.errstate(all="ignore"):
            above = loss - floor
            log_total = np.where(above > 0, np.log(above), -np.inf) / kappa
            gap = log_other - log_total
            rest = log_total + np.log1p(-np.exp(np.minimum(gap, 0.0)))
            size = np.exp((log_scale - rest) / power)
        return np.asarray(np.where(gap < 0, size, np.inf))

    def _start_size(self, C: Floats, k: Floats) -> Floats:
        _, log_a, log_b, alpha, beta, _ = self.log_form
        log_a, log_b = (max(v, np.log(1e-300)) for v in (log_a, log_b))
        log_g = (np.log(alpha) + log_a - np.log(beta) - log_b) / (alpha + beta)
        return np.asarray(np.exp(np.clip(log_g + self.exponent * np.log(C / k), -300.0, 300.0)))

    def _optimal_size(self, C: Floats, flops: FlopsFunction) -> Floats:
        if isinstance(flops, LinearFlops):
            return self._start_size(C, np.full_like(C, flops.k))
        return super()._optimal_size(C, flops)


def _log_term(log_scale: float, power: float, size: ArrayLike) -> Floats:
    """Ln of scale/size^power, which does not overflow."""
    return np.asarray(log_scale - power * np.log(above_zero(size)))


def _log(value: float) -> float:
    return float(np.log(value)) if value > 0 else -np.inf


@dataclass(frozen=True)
class Hoffmann(TwoTerms, KappaFamily):
    """L(N, D) = E + A/N^α + B/D^β (Hoffmann et al. 2022, arXiv:2203.15556, eq. 2).

    E is the irreducible loss, A/N^α the price of finite size, B/D^β that of finite data. For
    F(N) = k·N the optimum has a closed form (their eq. 4): N* = G·(C/k)^a and D* = (C/k)^b / G
    with G = (αA/βB)^{1/(α+β)}, a = β/(α+β) and b = α/(α+β).

    >>> law = Hoffmann(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
    >>> f"{law.loss(70e9, 1.4e12):.4f}"
    '1.9366'
    """

    name: ClassVar[str] = "hoffmann"
    formula: ClassVar[str] = "L = E + A/N^α + B/D^β"

    @property
    def log_form(self) -> LogForm:
        """(E, ln A, ln B, α, β, 1)."""
        return self.E, _log(self.A), _log(self.B), self.alpha, self.beta, 1.0

    def loss(self, N: ArrayLike, D: ArrayLike) -> Any:
        """Loss at N parameters and D units."""
        floor, log_a, log_b, alpha, beta, _ = self.log_form
        logs = (_log_term(log_a, alpha, N), _log_term(log_b, beta, D))
        return sum((np.exp(np.minimum(term, _LOG_LARGEST)) for term in logs), start=floor)


@dataclass(frozen=True)
class Kappa(TwoTerms, KappaFamily):
    """L(N, D) = E + (A/N^α + B/D^β)^κ.

    κ = 1 is the additive law; κ < 1 makes a lack of parameters and a lack of data add up to less
    than their sum. The optimal split does not depend on κ. It is the supervised law of Busbridge et
    al. 2025, "Distillation Scaling Laws" (arXiv:2502.08606; their γ).
    """

    kappa: float

    name: ClassVar[str] = "kappa"
    formula: ClassVar[str] = "L = E + (A/N^α + B/D^β)^κ"

    @property
    def log_form(self) -> LogForm:
        """(E, ln A, ln B, α, β, κ)."""
        return self.E, _log(self.A), _log(self.B), self.alpha, self.beta, self.kappa


@dataclass(frozen=True)
class Kaplan(KappaFamily):
    """L(N, D) = ((N_c/N)^{α_N/α_D} + D_c/D)^{α_D} (Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5).

    The κ-law with E = 0, A = N_c^{α_N/α_D}, α = α_N/α_D, B = D_c, β = 1 and κ = α_D, so for
    F(N) = k·N, N* ∝ C^a with a = α_D/(α_N + α_D). That is 0.575 for the paper's joint fit (its
    Table 2); its N* ∝ C^0.73 comes from another law, L(N, S_min).

    >>> law = Kaplan(N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103)
    >>> f"{law.loss(1.5e9, 2.2e10):.3f}, a = {law.exponent:.3f}"
    '2.313, a = 0.575'
    """

    N_c: float
    D_c: float
    alpha_N: float
    alpha_D: float

    name: ClassVar[str] = "kaplan"
    formula: ClassVar[str] = "L = ((N_c/N)^(α_N/α_D) + D_c/D)^α_D"

    @property
    def log_form(self) -> LogForm:
        """(0, ln A, ln B, α, 1, κ) as a κ-law."""
        r = self.alpha_N / self.alpha_D
        return 0.0, r * float(np.log(self.N_c)), float(np.log(self.D_c)), r, 1.0, self.alpha_D

    @property
    def exponent(self) -> float:
        """α_D/(α_N + α_D), the a of N* ∝ C^a if F(N) = k·N."""
        return self.alpha_D / (self.alpha_N + self.alpha_D)

    @classmethod
    def starts(cls, N: Floats, D: Floats, loss: Floats) -> Sequence[Mapping[str, float]]:
        """The best (α_N, α_D) of a grid: given both, L^{1/α_D} is linear in N_c^r and D_c."""
        if np.min(loss) <= 0:
            return []
        grid = itertools.product(_EXPONENTS.tolist(), repeat=2)
        solved = (_given_exponents(a_N, a_D, N, D, loss) for a_N, a_D in grid)
        laws = [law for law in solved if law is not None]
        laws.sort(key=lambda law: float(np.sum(np.abs(np.log(loss / law.loss(N, D))))))
        return [law.params for law in laws[:_STARTS]]


def _given_exponents(
    alpha_N: float, alpha_D: float, N: Floats, D: Floats, loss: Floats
) -> Kaplan | None:
    """N_c and D_c by relative least squares, where both come out positive."""
    r = alpha_N / alpha_D
    log_n, log_d, log_l = np.mean(np.log(N)), np.mean(np.log(D)), np.mean(np.log(loss))
    target = (np.log(loss) - log_l) / alpha_D
    powers = np.column_stack([-r * (np.log(N) - log_n) - target, -(np.log(D) - log_d) - target])
    if np.max(powers) > 300:
        return None
    scale, *_ = np.linalg.lstsq(np.exp(powers), np.ones(len(N)), rcond=None)
    if np.any(scale <= 0):
        return None
    log_n_c = log_n + (np.log(scale[0]) + log_l / alpha_D) / r
    log_d_c = log_d + np.log(scale[1]) + log_l / alpha_D
    if max(abs(log_n_c), abs(log_d_c)) > 600:
        return None
    return Kaplan(float(np.exp(log_n_c)), float(np.exp(log_d_c)), alpha_N, alpha_D)


def check_supply(unique: object) -> float:
    """One number of unique units, positive or infinite; else InputError or InputTypeError."""
    expected = "a positive number of unique units (inf for no repetition)"
    return check_number("unique", unique, above=0, infinite=True, expected=expected)


class Repeating(TwoTerms):
    """An additive law of fresh data in which ``unique`` different units are repeated, ∞ for no limit."""

    covariates: ClassVar[tuple[str, ...]] = ("unique_tokens",)
    conditions: ClassVar[tuple[str, ...]] = ("unique",)
    unique: float  # the last field of each

    def __post_init__(self) -> None:
        self._supply(None)

    @property
    def fresh(self) -> Hoffmann:
        """The additive law that holds without repetition."""
        return Hoffmann(**{name: self.params[name] for name in Hoffmann.parameters()})

    def with_unique(self, unique: float) -> Self:
        """The law of (N, D) where only ``unique`` different units exist; positive, else InputError."""
        return replace(self, **{self.conditions[0]: check_supply(unique)})

    def _supply(self, unique: ArrayLike | None) -> Floats:
        """Unique units as an array, by default the law's, positive or infinite; else InputError."""
        values = np.asarray(self.unique if unique is None else unique, dtype=np.float64)
        if not np.all(values > 0):
            raise InputError(
                f"expected a positive number of unique units (inf for no repetition); got {values}."
            )
        return values


@dataclass(frozen=True)
class Muennighoff(Repeating):
    """L = E + A/N'^α + B/D'^β with U unique units (Muennighoff et al. 2023, arXiv:2305.16264).

    D' = U + U·R*_D·(1 − e^{−R/R*_D}) with R = D/U − 1 repeats (their eq. 5); D' = D where D ≤ U.
    N' = U_N + U_N·R*_N·(1 − e^{−R_N/R*_N}) with R_N = N/U_N − 1, U_N = min(N, N*(U)) and N*(U) the
    size whose compute-optimal data is U (their eq. 6). After R*_D and R*_N repeats, of data and of
    parameters, 1 − 1/e of all that repetition can give is used up. Without repetition (``unique`` =
    ∞, the default) it is the additive law; ``with_unique`` sets ``unique``, which is not fitted.

    The law saturates: :meth:`~Law.compute_for` answers ``inf`` for losses below what any compute
    reaches. It cannot express a loss that *rises* with repetition.

    >>> law = Muennighoff(1.87, 521.0, 1488.0, 0.353, 0.353, 15.4, 5.3)
    >>> scarce = law.with_unique(25e9)
    >>> f"{law.loss(8.67e9, 178e9):.3f} fresh, {scarce.loss(8.67e9, 178e9):.3f} repeated"
    '2.191 fresh, 2.225 repeated'
    """

    R_D: float
    R_N: float
    unique: float = float("inf")

    name: ClassVar[str] = "muennighoff"
    formula: ClassVar[str] = "L = E + A/N'^α + B/D'^β, N' and D' saturating with repetition"
    limits: ClassVar[Mapping[str, float]] = {"R_N": float("inf"), "R_D": float("inf")}

    def loss(self, N: ArrayLike, D: ArrayLike, unique: ArrayLike | None = None) -> Any:
        """Loss at N parameters and D units seen, of which ``unique`` (the law's) are different."""
        return self.fresh.loss(self.effective_params(N, unique), self.effective_units(D, unique))

    def effective_units(self, D: ArrayLike, unique: ArrayLike | None = None) -> Floats:
        """D': how many fresh units the D seen are worth."""
        return _worth(np.asarray(D, dtype=np.float64), self._supply(unique), self.R_D)

    def effective_params(self, N: ArrayLike, unique: ArrayLike | None = None) -> Floats:
        """N': how many parameters N are worth with ``unique`` units to learn from."""
        best = self.size_for(self._supply(unique))
        return _worth(np.asarray(N, dtype=np.float64), best, self.R_N)

    def size_for(self, unique: ArrayLike) -> Floats:
        """N*(U): the size whose compute-optimal data is U under C = k·N·D, from αA/N^α = βB/D^β."""
        log_u = np.log(np.asarray(unique, dtype=np.float64))
        log_ratio = np.log(self.alpha * self.A) - np.log(self.beta * self.B)
        log_size = (log_ratio + self.beta * log_u) / self.alpha
        return np.asarray(np.exp(np.clip(log_size, -690.0, 690.0)))

    @classmethod
    def starts(
        cls, N: Floats, D: Floats, loss: Floats, unique: Floats | None = None
    ) -> Sequence[Mapping[str, float]]:
        """The best additive law in D' for each of a few R*_D, with a few R*_N each.

        The runs of at most four epochs alone, where R*_D hardly matters, give one more.
        """
        U = D if unique is None else np.minimum(unique, D)
        starts = [additive_start(N, _worth(D, U, R_D), loss) | {"R_D": R_D} for R_D in _SCALES_D]
        few = D <= _FEW_EPOCHS * U
        if np.sum(few) > 2 * len(cls.parameters()) and np.ptp(np.log(N[few])) > 0.5:
            known = additive_start(N[few], D[few], loss[few])
            starts += [known | {"R_D": R_D} for R_D in _SCALES_D]
        return [{**start, "R_N": R_N} for start in starts for R_N in _SCALES_N]

    def _start_size(self, C: Floats, k: Floats) -> Floats:
        return self.fresh._start_size(C, k)

    def _optimal_size(self, C: Floats, flops: FlopsFunction) -> Floats:
        if np.isinf(self.unique) and isinstance(flops, LinearFlops):
            return self.fresh._optimal_size(C, flops)
        return super()._optimal_size(C, flops)


def additive_start(N: Floats, D: Floats, loss: Floats) -> dict[str, float]:
    """E, A, B, α and β on a grid of exponents: relative least squares, robustly compared."""
    if np.min(loss) <= 0:
        raise FitError(
            "expected positive losses for this law, whose E is positive; some are not. Use "
            'law="auto", or losses a constant higher.'
        )
    log_n, log_d = np.mean(np.log(N)), np.mean(np.log(D))
    n, d = np.log(N / np.exp(log_n)), np.log(D / np.exp(log_d))
    best, values = np.inf, {}
    ones = np.ones_like(n)
    for alpha, beta in itertools.product(_GRID, repeat=2):
        terms = np.column_stack([ones, np.exp(-alpha * n), np.exp(-beta * d)]) / loss[:, None]
        solved = np.linalg.lstsq(terms, ones, rcond=None)[0]
        scale = np.maximum(solved, 0.02 * loss.min())
        misfit = float(np.sum(np.abs(np.log(np.maximum(terms @ scale, 1e-300)))))
        if misfit < best:
            A, B = scale[1:] * np.exp([alpha * log_n, beta * log_d])
            best, values = misfit, {"E": scale[0], "A": A, "B": B, "alpha": alpha, "beta": beta}
    return {name: float(value) for name, value in values.items()}


def _worth(amount: Floats, unique: Floats, scale: float) -> Floats:
    """``amount`` up to ``unique``, and beyond it U + U·R*(1 − e^{−R/R*}) with R = amount/U − 1."""
    repeats = np.maximum(amount / unique - 1.0, 0.0)
    gained = repeats if np.isinf(scale) else -scale * np.expm1(-repeats / scale)
    base = np.minimum(amount, unique)
    return np.asarray(base + base * gained)

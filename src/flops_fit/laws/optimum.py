"""What a law answers (optima, trade-offs, optima with inference), lines N*(C) and D*(C), and search.

Searches take many curves at once: where each is lowest, where it crosses a value.
``scipy.optimize.elementwise`` takes three to ten times as long for one curve, the common case, and needs
curves that are defined throughout a bracket.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.errors import InputError, InputTypeError, check_number
from flops_fit.flops.functions import Bools, Floats, FlopsFunction, LinearFlops
from flops_fit.text import format_count

UNDEFINED = 1e200  # the value of a curve where it is not defined
_LOWEST_LOG, _HIGHEST_LOG = -200.0, 460.0  # ln of the smallest and the largest size tried
_NO_SURFACE = (
    "expected a law with a surface, for its loss; this one is only N* = k_N·C^a and D* = k_D·C^b. "
    'Call optimal(C), or use a law such as flops_fit.reference.law("besiroglu2024").'
)


def positive(values: ArrayLike, what: str) -> Floats:
    """Values as an array; refused where one is not a positive finite number."""
    return finite(values, what, 0.0, "positive and finite")


def above_zero(sizes: ArrayLike) -> Floats:
    """Sizes as an array; refused where one is no positive number. Infinite ones have a loss too."""
    out = _numbers(sizes, "N and D")
    if not np.all(out > 0):
        raise InputError(f"expected N and D to be positive; got {sizes!r}.")
    return out


def finite(values: ArrayLike, what: str, above: float = -np.inf, words: str = "finite") -> Floats:
    """Values as an array; refused where one is not a finite number, or not ``above``."""
    out = _numbers(values, what)
    if not np.all(np.isfinite(out) & (out > above)):
        raise InputError(f"expected {what} to be {words}; got {values!r}.")
    return out


def _numbers(values: ArrayLike, what: str) -> Floats:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"expected {what} as numbers; got {values!r}.") from error
    except OverflowError:  # a whole number beyond 1e308
        return np.asarray(np.inf)


@dataclass(frozen=True)
class Optimum:
    """The best N and D for a budget and the loss there; floats, or arrays shaped as C.

    ``compute`` is F(N)·D: the budget itself, and less only where both caps bind.
    ``at_max_params`` and ``at_max_tokens`` say whether ``max_params`` or ``max_tokens`` binds.
    """

    params: Any
    tokens: Any
    loss: Any
    compute: Any = float("nan")
    at_max_params: Any = False
    at_max_tokens: Any = False

    @property
    def binds(self) -> tuple[str, ...]:
        """Which of ``"max_params"`` and ``"max_tokens"`` bind, at any of the budgets."""
        caps = {"max_params": self.at_max_params, "max_tokens": self.at_max_tokens}
        return tuple(name for name, at in caps.items() if np.any(at))


@dataclass(frozen=True)
class InferenceOptimum:
    """The model that reaches a loss with the least compute for training and inference together.

    ``inference_tokens`` is D_inf, ``training_compute`` F(N)·D and ``inference_compute`` F_inf(N)·D_inf.
    ``saving`` is the share of the total that it saves against the optimum of training alone at the same loss.
    """

    loss: float
    inference_tokens: float
    params: float
    tokens: float
    training_compute: float
    inference_compute: float
    total_compute: float
    saving: float

    def __str__(self) -> str:
        counts = (self.inference_tokens, self.params, self.tokens)
        use, N, D = (format_count(v, zeros=True) for v in counts)
        return (
            f"Loss {self.loss:#.4g} with {use} tokens or samples of inference: N = {N} on D = {D}, "
            f"{self.total_compute:.3g} FLOPs in all, {100 * self.saving:.2g} % less than "
            "the optimum of training alone."
        )


@dataclass(frozen=True, eq=False)
class TradeOff:
    """Sizes k·N*(C), what they reach with C, and what they need for the loss of N*.

    Prints as a table. Arrays have shape (factors,). ``params``, ``tokens`` and ``loss`` are
    N = k·N*, D = C/F(N) and L(N, D), ``excess`` is by how many per cent that lies above the
    optimum's. ``tokens_needed`` is the D at which N reaches the optimum's loss, ``inf`` where it
    never does, and ``compute_ratio`` F(N)·tokens_needed over C.
    """

    compute: float
    factors: Floats
    params: Floats
    tokens: Floats
    loss: Floats
    excess: Floats
    tokens_needed: Floats
    compute_ratio: Floats

    def __str__(self) -> str:
        head = f"{'k':>6} {'N':>8} {'D':>8} {'loss':>8} {'excess':>9} {'compute':>8}"
        columns = (self.factors, self.params, self.tokens, self.loss, self.excess)
        lines = [
            f"{k:>6.3g} {format_count(n):>8} {format_count(d):>8} {loss:>8.4g} {f'{excess:.2g} %':>9} "
            f"{'×' + format(ratio, '.3g') if np.isfinite(ratio) else 'never':>8}"
            for k, n, d, loss, excess, ratio in zip(*columns, self.compute_ratio, strict=True)
        ]
        note = f"At C = {self.compute:.3g}: sizes k·N*; compute: for the loss of N*, in units of C."
        return "\n".join([head, *lines, note])


def spend(
    N: ArrayLike,
    C: ArrayLike,
    flops: FlopsFunction,
    max_params: float | None = None,
    max_tokens: float | None = None,
    law: Any = None,
) -> Optimum:
    """D = C/F(N) for the best sizes without caps, both held to their caps; NaN loss without a law.

    Where D would pass its cap the compute left over goes to N: F(N)·max_tokens = C.
    """
    shape = np.shape(C)
    N, C = (np.atleast_1d(np.asarray(v, dtype=np.float64)).ravel() for v in (N, C))
    expected = "a positive number, or None for no cap"
    n_cap, d_cap = (
        np.inf if cap is None else check_number(n, cap, above=0, infinite=True, expected=expected)
        for n, cap in (("max_params", max_params), ("max_tokens", max_tokens))
    )
    at_n = n_cap < N
    size = np.minimum(N, n_cap)
    units = C / positive_per_unit(flops, size)
    compute = C.copy()
    at_d = units > d_cap
    if np.any(at_d):
        units = np.minimum(units, d_cap)
        if np.isfinite(n_cap):
            at_n = at_n | (at_d & (positive_per_unit(flops, np.full_like(C, n_cap)) * d_cap <= C))
            size = np.where(at_n, n_cap, size)
        growing = at_d & ~at_n
        if np.any(growing):
            size[growing] = _size_at(flops, C[growing] / d_cap, size[growing], n_cap)
        compute = np.where(at_d & at_n, positive_per_unit(flops, size) * units, C)
    loss = np.full_like(C, np.nan) if law is None else np.asarray(law.loss(size, units), float)
    columns = (size, units, loss, compute, at_n, at_d)
    return Optimum(*(c.reshape(shape) if shape else c[0].item() for c in columns))


def positive_per_unit(flops: FlopsFunction, N: Floats) -> Floats:
    """F(N), refused unless positive and finite."""
    per_unit = np.asarray(flops(N), dtype=np.float64)
    if not np.all(np.isfinite(per_unit) & (per_unit > 0)):
        raise InputError(
            f"expected positive FLOPs per unit; {flops.description} gives none near N = "
            f"{float(N.ravel()[0]):.3g}. Give flops_per_unit= as a function that does."
        )
    return per_unit


def _size_at(flops: FlopsFunction, per_unit: Floats, smallest: Floats, largest: float) -> Floats:
    """The N from ``smallest`` to ``largest`` whose F(N) is ``per_unit``, F rising with N."""
    if isinstance(flops, LinearFlops):
        return per_unit / flops.k
    top = np.log(largest)
    low, step = np.log(smallest), np.log(2.0)
    high = np.minimum(low + step, top)
    for _ in range(8):
        short = (np.asarray(flops(np.exp(high))) < per_unit) & (high < top)
        if not np.any(short):
            break
        step *= 2
        low, high = np.where(short, high, low), np.where(short, np.minimum(high + step, top), high)
    else:
        raise InputError(
            f"max_tokens: expected F(N) to grow until F(N)·max_tokens spends the budget; "
            f"{flops.description} does not up to N = {float(np.exp(np.max(high))):.3g}."
        )
    low, high = bisect(lambda x: np.asarray(flops(np.exp(x))) >= per_unit, low, high, 60)
    return np.asarray(np.exp(0.5 * (low + high)))


@dataclass(frozen=True)
class PowerLaw:
    """y(x) = k·x^a + offset.

    The lines N*(C) = k·C^a have no offset (Hoffmann et al. 2022, §3.2): an offset fitted to N*
    breaks C = F(N)·D. A loss L(C) = k·C^−p + E has one.
    """

    k: float
    a: float
    offset: float = 0.0

    name: ClassVar[str] = "power"
    formula: ClassVar[str] = "y = k·x^a + offset"

    @property
    def params(self) -> dict[str, float]:
        """The parameters under the law's own names."""
        return {name: float(value) for name, value in vars(self).items()}

    def __call__(self, x: ArrayLike) -> Any:
        """Value at each x."""
        x = np.asarray(x, dtype=np.float64)
        value = np.exp(np.log(self.k) + self.a * np.log(x)) + self.offset
        return float(value) if np.ndim(x) == 0 else value

    def inverse(self, y: ArrayLike) -> Any:
        """The x whose value is y."""
        above = np.asarray(y, dtype=np.float64) - self.offset
        return np.exp((np.log(above) - np.log(self.k)) / self.a)


@dataclass(frozen=True)
class OptimumOnly:
    """N*(C) = k_N·C^a and D*(C) = k_D·C^b, as approaches 1 and 2 give them.

    It answers :meth:`optimal` and no question about the loss. The paper decides what N counts
    (``size``) and what C is (``compute``), so F(N) cannot be exchanged.

    >>> best = OptimumOnly(k_N=0.09, a=0.5, k_D=1.85, b=0.5).optimal(6e20)
    >>> f"{best.params:.3g} parameters, {best.tokens:.3g} tokens"
    '2.2e+09 parameters, 4.53e+10 tokens'
    """

    k_N: float
    a: float
    k_D: float
    b: float
    size: str = "parameters"
    compute: str = "C = 6·N·D"

    name: ClassVar[str] = "optimum_only"
    formula: ClassVar[str] = "N* = k_N·C^a, D* = k_D·C^b"

    @property
    def params(self) -> dict[str, float]:
        """The parameters of both lines."""
        return {"k_N": self.k_N, "a": self.a, "k_D": self.k_D, "b": self.b}

    def optimal(self, C: ArrayLike) -> Optimum:
        """N* and D* at C in FLOPs as ``compute`` defines them, with a loss of NaN."""
        compute = positive(C, "compute in FLOPs")
        unknown: Any = np.full(compute.shape, np.nan) if compute.ndim else float("nan")
        spent: Any = compute if compute.ndim else float(compute)
        N, D = PowerLaw(self.k_N, self.a)(compute), PowerLaw(self.k_D, self.b)(compute)
        return Optimum(N, D, unknown, spent)

    def loss(self, N: ArrayLike, D: ArrayLike) -> NoReturn:
        """Raise :class:`~flops_fit.errors.InputError`: two lines do not give it."""
        raise InputError(_NO_SURFACE)

    def compute_for(self, loss: float) -> NoReturn:
        """Raise :class:`~flops_fit.errors.InputError`: two lines do not give it."""
        raise InputError(_NO_SURFACE)


def lowest(curve: Callable[[Floats], Floats], start: Floats) -> Floats:
    """Where each curve is lowest, up to 30 from its ``start``: a refined grid, then a parabola.

    ``curve`` takes points of shape (curves, points) to values of that shape. A kink does not mislead
    a grid (F(N) interpolated between traced sizes has kinks). Points far from ``start``, which may
    be models too large to trace, are evaluated only where the minimum is not near. The parabola
    through points 1e-3 apart has an error of about h²·f'''/6f'' ~ 1e-7.
    """

    def best_step(most: int) -> Floats:
        steps = np.arange(-most, most + 1, dtype=np.float64)
        return np.asarray(steps[np.argmin(curve(centre[:, None] + steps), axis=1)])

    centre, half = np.array(start, dtype=np.float64), 1.0
    move = best_step(5)
    if np.any(np.abs(move) == 5):
        move = best_step(30)
    centre = centre + move
    steps = np.linspace(-1.0, 1.0, 17)
    while half > 2e-3:
        best = np.argmin(curve(centre[:, None] + half * steps), axis=1)
        centre = centre + half * steps[best]
        half *= 0.25
    h = 1e-3
    for _ in range(2):
        values = curve(centre[:, None] + h * np.array([-1.0, 0.0, 1.0]))
        slope, bend = values[:, 2] - values[:, 0], values[:, 2] - 2 * values[:, 1] + values[:, 0]
        smooth = (bend > 0) & (np.max(values, axis=1) < 0.5 * UNDEFINED)
        move = np.zeros_like(centre)
        move[smooth] = -0.5 * h * slope[smooth] / bend[smooth]
        centre = centre + np.clip(move, -h, h)
    return np.asarray(centre)


def bisect(
    reached: Callable[[Floats], Bools], low: Floats, high: Floats, rounds: int
) -> tuple[Floats, Floats]:
    """Halve each interval around the point from which on ``reached`` is true."""
    for _ in range(rounds):
        middle = 0.5 * (low + high)
        at = reached(middle)
        low, high = np.where(at, low, middle), np.where(at, middle, high)
    return low, high


def least_size(
    loss_at: Callable[[Floats], object], loss: Floats, most: ArrayLike = np.inf
) -> Floats:
    """The least size whose loss, ``loss_at(size)``, is ``loss`` or less; inf where none is up to ``most``."""

    def reached(log_size: Floats) -> Bools:
        return np.asarray(np.asarray(loss_at(np.exp(log_size))) <= loss)

    low = np.full(loss.shape, _LOWEST_LOG)
    with np.errstate(all="ignore"):
        high = np.broadcast_to(np.clip(np.log(most), _LOWEST_LOG, _HIGHEST_LOG), loss.shape)
        ever = reached(high)
        _, high = bisect(reached, low, high, 64)
    return np.asarray(np.where(ever, np.exp(high), np.inf))

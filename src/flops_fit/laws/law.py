"""What every scaling law L(N, D) answers: its loss, its compute-optimal split, its inverse."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.errors import FitError, InputError, check_number
from flops_fit.flops.functions import Bools, Floats, FlopsFunction, LinearFlops
from flops_fit.laws import optimum
from flops_fit.laws.optimum import InferenceOptimum, Optimum, TradeOff, finite, positive

FlopsLike = float | FlopsFunction | Callable[[Any], Any]

_LARGEST_SIZE = 1e40  # parameters beyond which a loss counts as out of reach
_UNITS_PER_PARAM = 20.0
_SECTIONS = np.linspace(0.0, 1.0, 34)


@dataclass(frozen=True)
class CallableFlops:
    """A user's own F(N), a plain function, as a :class:`~flops_fit.flops.FlopsFunction`."""

    function: Callable[[Any], Any]

    @property
    def description(self) -> str:
        """Where the numbers come from."""
        return f"your function {getattr(self.function, '__name__', type(self.function).__name__)}"

    def __call__(self, N: ArrayLike) -> Floats:
        """FLOPs per unit at each N; called for one N at a time where it does not take arrays."""
        sizes = np.asarray(N, dtype=np.float64)
        try:
            out = np.asarray(self.function(sizes), dtype=np.float64)
        except (TypeError, ValueError):
            out = np.empty(0)
        if out.shape != sizes.shape:
            out = np.array([float(self.function(float(n))) for n in sizes.ravel()])
        return out.reshape(sizes.shape)


def as_flops(flops_per_unit: FlopsLike) -> FlopsFunction:
    """F(N) from a factor k (F = k·N), a FlopsFunction or any function of N.

    Raises InputError for a factor that is not positive, InputTypeError for anything else.
    """
    if isinstance(flops_per_unit, FlopsFunction):
        return flops_per_unit
    if callable(flops_per_unit):
        return CallableFlops(flops_per_unit)
    expected = "a positive number k of F = k·N, a function of N or a FlopsFunction"
    return LinearFlops(check_number("flops_per_unit", flops_per_unit, above=0, expected=expected))


@dataclass(frozen=True)
class Law(ABC):
    """A surface L(N, D): a frozen dataclass whose fields are its fitted parameters.

    A law of your own is a subclass with ``name``, ``formula``, its parameters as positive fields
    and :meth:`loss`, which falls with N and with D. With :meth:`starts` it can be fitted.

    ``covariates`` names further columns of the table of runs, those of
    :class:`~flops_fit.table.RunTable` or any headings: a fit calls ``loss`` and ``starts`` with one
    more array of positive numbers for each, with a default in both. Fields in ``conditions`` are
    set and not fitted, with a default each. A parameter in ``limits`` takes the value there where
    the runs do not determine it: ``{"R_D": inf}``.
    """

    name: ClassVar[str] = "law"
    formula: ClassVar[str] = ""
    covariates: ClassVar[tuple[str, ...]] = ()
    conditions: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[Mapping[str, float]] = {}

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """The names of the fitted parameters: all fields but the ``conditions``."""
        return tuple(f.name for f in fields(cls) if f.name not in cls.conditions)

    @property
    def params(self) -> dict[str, float]:
        """The fitted parameters under the law's own names."""
        return {name: float(getattr(self, name)) for name in self.parameters()}

    @property
    def exponent(self) -> float:
        """β/(α + β), the a of N* ∝ C^a if F(N) = k·N; for a law that has both."""
        values = self.params
        if not {"alpha", "beta"} <= values.keys():
            raise AttributeError(f"{type(self).__name__} has no exponents alpha and beta.")
        return values["beta"] / (values["alpha"] + values["beta"])

    @abstractmethod
    def loss(self, N: ArrayLike, D: ArrayLike) -> Any:
        """Loss at N parameters and D units; broadcasts as NumPy does."""

    @property
    def capped(self) -> bool:
        """Whether a limit beyond N and D puts a kink into the loss along one compute."""
        return False

    @classmethod
    def starts(cls, N: Floats, D: Floats, loss: Floats) -> Sequence[Mapping[str, float]]:
        """Parameter values to start a fit from, several where the law has several basins."""
        raise FitError(
            f"expected {cls.__name__}.starts(N, D, loss), which is not defined. Return a list with "
            "one or more dicts of positive parameter values."
        )

    def optimal(
        self,
        C: ArrayLike,
        flops_per_unit: FlopsLike = 6.0,
        *,
        max_params: float | None = None,
        max_tokens: float | None = None,
    ) -> Optimum:
        """The N that minimises loss(N, C/F(N)), with D = C/F(N) so that C = F(N)·D exactly.

        ``C`` are training FLOPs, one number or an array; positive, else InputError. ``flops_per_unit`` is
        F(N): a factor k for k·N, a FlopsFunction or any function of N. ``max_params`` and ``max_tokens`` are
        caps: the largest model that can be served, the data there is. A cap on N gives the rest to D; a cap
        on D gives the rest to N; where both bind, less than C is spent.

        >>> from flops_fit.reference import law
        >>> best = law("hoffmann2022").optimal(5.76e23, max_params=20e9)
        >>> f"N = {best.params:.3g}, D = {best.tokens:.3g}; {best.binds[0]} binds"
        'N = 2e+10, D = 4.8e+12; max_params binds'
        """
        flops, compute = as_flops(flops_per_unit), positive(C, "compute in FLOPs")
        wanted = self._optimal_size(np.atleast_1d(compute).ravel(), flops)
        return optimum.spend(wanted, compute, flops, max_params, max_tokens, self)

    def compute_for(self, loss: float, flops_per_unit: FlopsLike = 6.0) -> float:
        """The least C whose optimum reaches ``loss``; ``inf`` beyond 1e40 parameters."""
        goal, flops = float(finite(loss, "a loss")), as_flops(flops_per_unit)
        if not self.reaches(goal):
            return math.inf
        # From where 20 units a parameter reach the loss: F is never evaluated far from the answer.
        bound = optimum.least_size(lambda n: self.loss(n, _UNITS_PER_PARAM * n), np.asarray(goal))
        size = max(float(bound), 1.0)
        start = float(optimum.positive_per_unit(flops, np.asarray(size))) * _UNITS_PER_PARAM * size
        compute = float(np.exp(log_compute(self, goal, flops, start, math.log(_LARGEST_SIZE))))
        if not compute > 0:
            raise InputError(f"expected a loss that takes training to reach; got {loss!r}.")
        return compute

    def reaches(self, loss: float) -> bool:
        """Whether 1e40 parameters or fewer reach ``loss`` on any data."""
        goal = float(finite(loss, "a loss"))
        with np.errstate(all="ignore"):
            return bool(self.loss(_LARGEST_SIZE, _UNITS_PER_PARAM * _LARGEST_SIZE) <= goal)

    def tokens_for(self, N: ArrayLike, loss: ArrayLike) -> Any:
        """The least D at which N parameters reach ``loss``; ``inf`` where none does. Broadcasts.

        >>> from flops_fit.reference import law
        >>> f"{law('hoffmann2022').tokens_for(7e9, 2.0):.3g}"
        '3.39e+12'
        """
        size, goal = np.broadcast_arrays(positive(N, "N"), finite(loss, "a loss"))
        return _float_or_array(self._tokens_for(size, goal))

    def params_for(self, D: ArrayLike, loss: ArrayLike) -> Any:
        """The least N that reaches ``loss`` on D units; ``inf`` where none does. Broadcasts."""
        units, goal = np.broadcast_arrays(positive(D, "D"), finite(loss, "a loss"))
        return _float_or_array(self._params_for(units, goal))

    def trade_off(self, C: float, factors: ArrayLike, flops_per_unit: FlopsLike = 6.0) -> TradeOff:
        """What sizes k·N*(C) cost: in loss at C, and in compute for the loss of N*.

        ``factors`` is one k or several. A model of k < 1 is cheaper to use and takes more compute to
        train: de Vries 2023, "Go smol or go home". With the additive law and F = 6·N the D needed is
        D*·(1 − (k^−α − 1)·β/α)^{−1/β}; no amount of data makes up for k below (1 + α/β)^{−1/α}.

        >>> from flops_fit.reference import law
        >>> half = law("hoffmann2022").trade_off(1e23, 0.5)
        >>> f"half the size: {half.compute_ratio[0]:.2f} times the compute for the same loss"
        'half the size: 1.21 times the compute for the same loss'
        """
        flops, k = as_flops(flops_per_unit), positive(factors, "factors k of the optimal size")
        k = np.atleast_1d(k).ravel()
        best = self.optimal(float(positive(C, "compute in FLOPs")), flops)
        N = k * best.params
        per_unit = np.asarray(flops(N), dtype=np.float64)
        D = C / per_unit
        loss = np.asarray(self.loss(N, D), dtype=np.float64)
        needed = np.asarray(self.tokens_for(N, best.loss), dtype=np.float64)
        # C is the least compute for this loss: only rounding can put a ratio below 1.
        ratio = np.maximum(per_unit * needed / C, 1.0)
        excess = 100 * np.maximum((loss - best.loss) / abs(best.loss), 0.0)
        return TradeOff(float(C), k, N, D, loss, excess, needed, ratio)

    def optimal_for_inference(
        self,
        loss: float,
        inference_tokens: float,
        flops_per_unit: FlopsLike = 6.0,
        inference_flops_per_unit: FlopsLike | None = None,
    ) -> InferenceOptimum:
        """The N and D that reach ``loss`` with the least F(N)·D + F_inf(N)·D_inf.

        Sardana et al. 2024, "Beyond Chinchilla-Optimal" (arXiv:2401.00448). For F = 6·N and F_inf = 2·N the
        condition of the additive and the κ-law is αA·N^−α / (βB·D^−β) = 1 + D_inf/(3D).

        ``loss`` is the loss to reach; InputError where no size reaches it. ``inference_tokens`` is D_inf:
        expected inference tokens over the model's life. ``flops_per_unit`` and ``inference_flops_per_unit``
        are F(N) of training, and F_inf(N) of inference: a third of F by default, the forward pass.

        >>> from flops_fit.reference import law
        >>> best = law("hoffmann2022").optimal_for_inference(2.0, 2e12)
        >>> f"{best.params:.3g} parameters on {best.tokens:.3g} tokens"
        '9.91e+09 parameters on 2e+12 tokens'
        """
        flops, own = as_flops(flops_per_unit), inference_flops_per_unit
        inference = None if own is None else as_flops(own)
        goal = float(finite(loss, "a loss"))
        demand = check_number(
            "inference_tokens", inference_tokens, at_least=0, at_most=_LARGEST_SIZE
        )
        if not self.reaches(goal):
            raise InputError(f"expected a loss within reach; no size reaches {goal:.6g}.")

        def serving(N: Floats) -> Floats:
            per_unit = np.asarray(flops(N)) / 3 if inference is None else np.asarray(inference(N))
            return per_unit * demand

        plain = self.optimal(self.compute_for(goal, flops), flops)
        start = np.array([np.log(plain.tokens)])

        def log_total(log_d: Floats) -> Floats:
            # Over ln D, as N hardly moves where demand is large and D rises steeply with it. With
            # less data than D* both parts cost more, and the models may be too large to trace.
            usable = log_d > start - 1
            D = np.exp(np.where(usable, log_d, start))
            N = np.asarray(self.params_for(D, goal))
            usable &= np.isfinite(N)
            N = np.where(usable, N, plain.params)
            total = np.log(np.asarray(flops(N)) * D + serving(N))
            return np.where(usable, total, optimum.UNDEFINED)

        tokens = float(np.exp(optimum.lowest(log_total, start)[0]))
        params = float(self.params_for(tokens, goal))
        N = np.array([params])
        training, served = float(flops(N)[0]) * tokens, float(serving(N)[0])
        alone = float(plain.compute) + float(serving(np.array([plain.params]))[0])
        total = training + served
        saving = max(1 - total / alone, 0.0)
        return InferenceOptimum(goal, demand, params, tokens, training, served, total, saving)

    def _tokens_for(self, N: Floats, loss: Floats) -> Floats:
        return optimum.least_size(lambda D: self.loss(N, D), loss)

    def _params_for(self, D: Floats, loss: Floats) -> Floats:
        return optimum.least_size(lambda N: self.loss(N, D), loss)

    def _start_size(self, C: Floats, k: Floats) -> Floats:
        """About where the optimum lies when F = k·N; at 20 units a parameter by default."""
        return np.asarray(np.sqrt(C / (_UNITS_PER_PARAM * k)))

    def _optimal_size(self, C: Floats, flops: FlopsFunction) -> Floats:
        start = self._start_size(C, np.full_like(C, 6.0))
        for _ in range(3):
            per_param = np.asarray(flops(start)) / start
            start = self._start_size(C, np.where(per_param > 0, per_param, 6.0))

        def loss_at(log_n: Floats) -> Floats:
            N = np.exp(log_n)
            per_unit = np.asarray(flops(N), dtype=np.float64)
            usable = np.isfinite(per_unit) & (per_unit > 0)
            D = C[:, None] / np.where(usable, per_unit, 1.0)
            return np.where(usable, np.asarray(self.loss(N, D)), optimum.UNDEFINED)

        near = np.log(np.clip(start, 1.0, _LARGEST_SIZE))
        return np.asarray(np.exp(optimum.lowest(loss_at, near)))


def log_compute(law: Law, loss: float, flops: FlopsFunction, start: float, reach: float) -> float:
    """Ln of the least compute whose optimum reaches ``loss``; ±inf beyond ``reach`` from ``start``."""

    def reached(log_c: ArrayLike) -> Bools:
        return np.asarray(law.optimal(np.exp(np.atleast_1d(log_c)), flops).loss) <= loss

    middle = low = high = math.log(start)
    step = math.log(2.0)
    while not reached(high)[0]:
        low, high, step = high, high + step, 2 * step
        if high - middle > reach:
            return math.inf
    while reached(low)[0]:
        low, high, step = low - step, low, 2 * step
        if middle - low > reach:
            return -math.inf
    for _ in range(10):  # the optima of many budgets cost about as much as that of one
        cuts = low + (high - low) * _SECTIONS
        first = int(np.argmax(np.append(reached(cuts[1:-1]), True))) + 1
        low, high = float(cuts[first - 1]), float(cuts[first])
    return high


def _float_or_array(values: Floats) -> Any:
    return float(values) if np.ndim(values) == 0 else values

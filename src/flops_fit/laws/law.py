"""What every scaling law L(N, D) answers: its loss, its compute-optimal split, its inverse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.checks import check_number
from flops_fit.errors import FitError
from flops_fit.flops.functions import FlopsFunction, LinearFlops
from flops_fit.laws.optimum import Optimum, positive, spend
from flops_fit.laws.questions import (
    LARGEST_SIZE,
    UNITS_PER_PARAM,
    InferenceOptimum,
    TradeOff,
    compute_for,
    optimal_for_inference,
    trade_off,
)
from flops_fit.laws.search import UNDEFINED, least_size, lowest

Floats = NDArray[np.float64]
FlopsLike = float | FlopsFunction | Callable[[Any], Any]


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
    expected = (
        "a positive number of FLOPs per unit and parameter (k of F = k·N, 6 for a dense "
        "transformer), a function of N or a FlopsFunction"
    )
    return LinearFlops(check_number("flops_per_unit", flops_per_unit, above=0, expected=expected))


@dataclass(frozen=True)
class Law(ABC):
    """A surface L(N, D): a frozen dataclass whose fields are its fitted parameters.

    A law of your own is a subclass with ``name``, ``formula``, its parameters as positive fields
    and :meth:`loss`, which falls with N and with D. With :meth:`starts` it can be fitted; every
    other question is answered from :meth:`loss`.

    A law may use more about a run than N and D. It then names columns of
    :class:`~flops_fit.table.RunTable` in ``covariates``, and a fit calls ``loss`` and ``starts``
    with one more array for each, after those named here. Both need defaults for them: the
    optimum is computed from ``loss(N, D)``.

    Fields in ``conditions`` are set and not fitted, with a default each. A parameter in ``limits``
    takes the value there where the runs do not determine it: ``{"R_D": inf}``.
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
        """The a of N* ∝ C^a where F(N) = k·N: β/(α + β), for a law that has these two."""
        values = self.params
        if "alpha" not in values or "beta" not in values:
            raise AttributeError(f"{type(self).__name__} has no exponents alpha and beta.")
        return values["beta"] / (values["alpha"] + values["beta"])

    @abstractmethod
    def loss(self, N: ArrayLike, D: ArrayLike) -> Any:
        """Loss at N parameters and D units; broadcasts as NumPy does."""

    @classmethod
    def starts(cls, N: Floats, D: Floats, loss: Floats) -> Sequence[Mapping[str, float]]:
        """Parameter values to start a fit from, several where the law has several basins."""
        raise FitError(
            f"expected {cls.__name__}.starts(N, D, loss) to give parameter values to start from; "
            "it is not defined. Return a list with at least one dict of positive values."
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

        Parameters
        ----------
        C
            Training FLOPs, one number or an array; positive, else InputError.
        flops_per_unit
            F(N): a factor k for k·N, a FlopsFunction or any function of N.
        max_params, max_tokens
            Caps: the largest model that can be served, the data there is. A cap on N gives the rest
            to D; a cap on D gives the rest to N; where both bind, less than C is spent.

        Examples
        --------
        >>> from flops_fit.laws import Hoffmann
        >>> law = Hoffmann(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
        >>> best = law.optimal(5.76e23, max_params=20e9)
        >>> f"N = {best.params:.3g}, D = {best.tokens:.3g}; {best.binds[0]} binds"
        'N = 2e+10, D = 4.8e+12; max_params binds'
        """
        flops, compute = as_flops(flops_per_unit), positive(C, "compute in FLOPs")
        wanted = self._optimal_size(np.atleast_1d(compute).ravel(), flops)
        return spend(wanted, compute, flops, max_params, max_tokens, self)

    def compute_for(self, loss: float, flops_per_unit: FlopsLike = 6.0) -> float:
        """The least compute C whose optimum reaches ``loss``; ``inf`` where none does.

        The search starts at the compute at which 20 units a parameter reach the loss, so F is never
        evaluated far from the answer. More than 1e40 parameters count as none.
        """
        return compute_for(self, float(positive(loss, "a loss")), as_flops(flops_per_unit))

    def reaches(self, loss: float) -> bool:
        """Whether any size and data reach ``loss``; more than 1e40 parameters count as none."""
        goal = float(positive(loss, "a loss"))
        with np.errstate(all="ignore"):
            return bool(self.loss(LARGEST_SIZE, UNITS_PER_PARAM * LARGEST_SIZE) <= goal)

    def tokens_for(self, N: ArrayLike, loss: ArrayLike) -> Any:
        """The least D at which N parameters reach ``loss``; ``inf`` where none does.

        In closed form where the law has one, else by halving an interval of ln D. N and loss
        broadcast.

        Examples
        --------
        >>> from flops_fit.laws import Hoffmann
        >>> law = Hoffmann(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
        >>> f"{law.tokens_for(7e9, 2.0):.3g}"
        '3.39e+12'
        """
        size, goal = np.broadcast_arrays(positive(N, "N"), positive(loss, "a loss"))
        return _float_or_array(self._tokens_for(size, goal))

    def params_for(self, D: ArrayLike, loss: ArrayLike) -> Any:
        """The least N that reaches ``loss`` on D units; ``inf`` where none does.

        As :meth:`tokens_for`, with N and D exchanged.
        """
        units, goal = np.broadcast_arrays(positive(D, "D"), positive(loss, "a loss"))
        return _float_or_array(self._params_for(units, goal))

    def trade_off(self, C: float, factors: ArrayLike, flops_per_unit: FlopsLike = 6.0) -> TradeOff:
        """What sizes k·N*(C) cost: in loss at C, and in compute for the loss of N*.

        A model of k < 1 is cheaper to use and takes more compute to train: de Vries 2023, "Go smol
        or go home". With the additive law and F = 6·N the D needed is
        D*·(1 − (k^−α − 1)·β/α)^{−1/β}; no amount of data makes up for k below (1 + α/β)^{−1/α}.
        ``factors`` is one k or several.

        Examples
        --------
        >>> from flops_fit.laws import Hoffmann
        >>> law = Hoffmann(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
        >>> half = law.trade_off(1e23, 0.5)
        >>> f"half the size: {half.compute_ratio[0]:.2f} times the compute for the same loss"
        'half the size: 1.21 times the compute for the same loss'
        """
        return trade_off(self, C, factors, as_flops(flops_per_unit))

    def optimal_for_inference(
        self,
        loss: float,
        inference_tokens: float,
        flops_per_unit: FlopsLike = 6.0,
        inference_flops_per_unit: FlopsLike | None = None,
    ) -> InferenceOptimum:
        """The N and D that reach ``loss`` with the least F(N)·D + F_inf(N)·D_inf.

        Sardana et al. 2024, "Beyond Chinchilla-Optimal" (arXiv:2401.00448). For F = 6·N and
        F_inf = 2·N the additive law's first-order condition is
        αA·N^−α / (βB·D^−β) = 1 + D_inf/(3D). The κ-law has the same one: a fixed loss fixes its sum
        A/N^α + B/D^β, whatever the power around it.

        Parameters
        ----------
        loss
            The loss to reach; InputError where no size reaches it.
        inference_tokens
            D_inf: expected inference tokens over the model's life.
        flops_per_unit, inference_flops_per_unit
            F(N) of training, and F_inf(N) of inference: a third of F by default, the forward pass.

        Examples
        --------
        >>> from flops_fit.laws import Hoffmann
        >>> law = Hoffmann(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
        >>> best = law.optimal_for_inference(2.0, 2e12)
        >>> f"{best.params:.3g} parameters on {best.tokens:.3g} tokens"
        '9.91e+09 parameters on 2e+12 tokens'
        """
        flops, own = as_flops(flops_per_unit), inference_flops_per_unit
        inference = None if own is None else as_flops(own)
        return optimal_for_inference(self, loss, inference_tokens, flops, inference)

    def _tokens_for(self, N: Floats, loss: Floats) -> Floats:
        return least_size(lambda D: self.loss(N, D), loss)

    def _params_for(self, D: Floats, loss: Floats) -> Floats:
        return least_size(lambda N: self.loss(N, D), loss)

    def _start_size(self, C: Floats, k: Floats) -> Floats:
        """About where the optimum lies when F = k·N; at 20 units a parameter by default."""
        return np.asarray(np.sqrt(C / (UNITS_PER_PARAM * k)))

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
            return np.where(usable, np.asarray(self.loss(N, D)), UNDEFINED)

        return np.asarray(np.exp(lowest(loss_at, np.log(np.clip(start, 1.0, LARGEST_SIZE)))))


def _float_or_array(values: Floats) -> Any:
    return float(values) if np.ndim(values) == 0 else values

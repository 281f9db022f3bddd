"""What every scaling law L(N, D) answers: its loss, its compute-optimal split, its inverse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.errors import FitError, InputError, InputTypeError
from flops_fit.flops import FlopsFunction, LinearFlops
from flops_fit.laws._minimum import lowest

__all__ = ["CallableFlops", "FlopsLike", "Law", "Optimum", "as_flops"]

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
        """FLOPs per unit at each N; called size by size where it knows no arrays."""
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

    Raises
    ------
    InputError
        A factor that is not a positive number.
    InputTypeError
        Anything else that cannot be called.
    """
    if isinstance(flops_per_unit, int | float | np.number) and not isinstance(flops_per_unit, bool):
        if not (np.isfinite(flops_per_unit) and flops_per_unit > 0):
            raise InputError(
                f"expected a positive number of FLOPs per parameter and unit (6 for a dense "
                f"transformer); got {flops_per_unit!r}."
            )
        return LinearFlops(float(flops_per_unit))
    if isinstance(flops_per_unit, FlopsFunction):
        return flops_per_unit
    if callable(flops_per_unit):
        return CallableFlops(flops_per_unit)
    raise InputTypeError(
        "expected FLOPs per unit as a number k (F = k·N), a function of N or a FlopsFunction; "
        f"got {type(flops_per_unit).__name__}."
    )


@dataclass(frozen=True)
class Optimum:
    """The compute-optimal N, its D = C/F(N) and the loss there; floats, or arrays shaped as C."""

    params: Any
    tokens: Any
    loss: Any


@dataclass(frozen=True)
class Law(ABC):
    """A surface L(N, D): a frozen dataclass whose fields are its fitted parameters.

    A law of your own is one subclass with ``name``, ``formula``, its parameters as positive
    fields and :meth:`loss`. :meth:`starts` lets it be fitted; :meth:`optimal` and
    :meth:`compute_for` then work by themselves.
    """

    name: ClassVar[str] = "law"
    formula: ClassVar[str] = ""

    @property
    def params(self) -> dict[str, float]:
        """The fitted parameters under the law's own names."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self)}

    @abstractmethod
    def loss(self, N: ArrayLike, D: ArrayLike) -> Any:
        """Loss at N parameters and D units; broadcasts as NumPy does."""

    @classmethod
    def starts(cls, N: Floats, D: Floats, loss: Floats) -> Sequence[Mapping[str, float]]:
        """Parameter values to start a fit from, several where the law has several basins."""
        raise FitError(
            f"expected {cls.__name__}.starts(N, D, loss) to name parameter values to start from; "
            "it is not defined. Return a list with one dict of positive values at least."
        )

    def optimal(self, C: ArrayLike, flops_per_unit: FlopsLike = 6.0) -> Optimum:
        """The N that minimises loss(N, C/F(N)), with D = C/F(N) so that C = F(N)·D exactly.

        Parameters
        ----------
        C
            Training FLOPs, one number or an array.
        flops_per_unit
            F(N): a factor k for k·N, a FlopsFunction or any function of N.
        """
        flops = as_flops(flops_per_unit)
        compute = np.atleast_1d(np.asarray(C, dtype=np.float64))
        if not np.all(np.isfinite(compute) & (compute > 0)):
            raise InputError(f"expected positive finite compute in FLOPs; got {C!r}.")
        N = self._optimal_size(compute.ravel(), flops).reshape(compute.shape)
        per_unit = np.asarray(flops(N), dtype=np.float64)
        if not np.all(np.isfinite(per_unit) & (per_unit > 0)):
            raise InputError(
                f"expected positive FLOPs per unit; {flops.description} gives none near N = "
                f"{float(N.ravel()[0]):.3g}. Give flops_per_unit= as a function that does."
            )
        D = compute / per_unit
        L = np.asarray(self.loss(N, D), dtype=np.float64)
        if np.ndim(C) == 0:
            return Optimum(float(N[0]), float(D[0]), float(L[0]))
        return Optimum(N, D, L)

    def compute_for(self, loss: float, flops_per_unit: FlopsLike = 6.0) -> float:
        """The least compute C whose optimum reaches ``loss``; ``inf`` where none does.

        Searched from 1 to 1e40 FLOPs by halving the interval in ln C.
        """
        low, high = 0.0, np.log(1e40)
        if self.optimal(np.exp(high), flops_per_unit).loss > loss:
            return float("inf")
        for _ in range(100):
            middle = 0.5 * (low + high)
            reached = self.optimal(np.exp(middle), flops_per_unit).loss <= loss
            low, high = (low, middle) if reached else (middle, high)
        return float(np.exp(high))

    def _start_size(self, C: Floats, k: Floats) -> Floats:
        """About where the optimum lies when F = k·N; 20 units a parameter unless a law knows."""
        return np.asarray(np.sqrt(C / (20.0 * k)))

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
            return np.where(usable, np.asarray(self.loss(N, D)), 1e200)

        return np.asarray(np.exp(lowest(loss_at, np.log(np.clip(start, 1.0, 1e40)))))

"""F(N) in all the ways a user may give it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.errors import InputError, InputTypeError
from flops_fit.flops.functions import FlopsFunction, LinearFlops

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

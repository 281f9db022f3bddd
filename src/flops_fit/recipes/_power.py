"""A hyper-parameter as a power law of a run's size and length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from flops_fit.errors import InputError
from flops_fit.records import ParamCount

__all__ = ["SIZES", "PowerLaw", "SizeName"]

SizeName = Literal["total", "non_embedding", "matmul", "active"]
SIZES = get_args(SizeName)


@dataclass(frozen=True)
class PowerLaw:
    """coefficient·N^params·D^units·d^width·C^compute, kept between ``min`` and ``max``.

    D counts units, d is the model's width and C = 6·N·D.

    Attributes
    ----------
    coefficient
        Above 0.
    params, units, width, compute
        The exponents.
    min, max
        Bounds of the value.
    size
        Which of a model's counts N is: a field of :class:`~flops_fit.ParamCount`.

    Examples
    --------
    >>> params = ParamCount(total=1200, non_embedding=1000, matmul=1000, active=1200)
    >>> PowerLaw(2.0, params=-1.0, units=0.5)(params, 1e4)
    0.2
    """

    coefficient: float
    params: float = 0.0
    units: float = 0.0
    width: float = 0.0
    compute: float = 0.0
    min: float = 0.0
    max: float = math.inf
    size: SizeName = "non_embedding"

    def __call__(self, params: ParamCount, units: float) -> float:
        """The value for a run.

        Raises
        ------
        InputError
            The law asks for a width, and the model's is not known; or it gives no finite number.
        """
        n = float(getattr(params, self.size))
        if self.width and not params.width:
            raise InputError(
                "hparams: a power law in the width was given, and the width of this model is not "
                "known, as it shows no weights of two dimensions. Use params in place of width."
            )
        try:
            value = (
                self.coefficient
                * n**self.params
                * units**self.units
                * (float(params.width) ** self.width if self.width else 1.0)
                * (6 * n * units) ** self.compute
            )
        except OverflowError:
            value = math.inf
        bounded = float(min(max(value, self.min), self.max))
        if not math.isfinite(bounded):
            raise InputError(
                f"hparams: {self} gives no finite number for N = {n:g} and D = {units:g}. Check the "
                "signs of its exponents, or give max."
            )
        return bounded

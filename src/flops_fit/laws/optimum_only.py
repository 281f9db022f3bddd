"""Laws that give the optimum at a budget and no surface: published lines N*(C) and D*(C)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.errors import InputError
from flops_fit.laws.optimum import Optimum


@dataclass(frozen=True)
class PowerLaw:
    """y(x) = k·x^a + offset.

    The lines N*(C) = k·C^a carry no offset (Hoffmann et al. 2022, §3.2): an offset fitted to N*
    breaks C = F(N)·D. A loss L(C) = k·C^−p + E has one.
    """

    k: float
    a: float
    offset: float = 0.0

    name: ClassVar[str] = "power"
    formula: ClassVar[str] = "y = k·x^a + offset"

    @property
    def params(self) -> dict[str, float]:
        """The fitted parameters under the law's own names."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self)}

    def __call__(self, x: ArrayLike) -> Any:
        """Value at each x."""
        x = np.asarray(x, dtype=np.float64)
        value = np.exp(np.log(self.k) + self.a * np.log(x)) + self.offset
        return float(value) if np.ndim(x) == 0 else value

    def inverse(self, y: ArrayLike) -> Any:
        """The x whose value is y."""
        return np.exp(
            (np.log(np.asarray(y, dtype=np.float64) - self.offset) - np.log(self.k)) / self.a
        )


@dataclass(frozen=True)
class OptimumOnly:
    """N*(C) = k_N·C^a and D*(C) = k_D·C^b, as approaches 1 and 2 give them.

    Such a law answers :meth:`optimal` and no question about the loss, nor about sizes that are not
    optimal: it is no :class:`~flops_fit.laws.Law`. What C and N mean is the paper's choice and
    part of the law: there is no F(N) to exchange.

    Attributes
    ----------
    k_N, a
        The line of sizes.
    k_D, b
        The line of units.
    size
        What is counted by N: ``"parameters"``, or what else the paper counts.
    compute
        What C is, in terms of N and D.

    Examples
    --------
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

    @property
    def n_line(self) -> PowerLaw:
        """N*(C)."""
        return PowerLaw(self.k_N, self.a)

    @property
    def d_line(self) -> PowerLaw:
        """D*(C)."""
        return PowerLaw(self.k_D, self.b)

    def optimal(self, C: ArrayLike) -> Optimum:
        """N* and D* at C; the loss is NaN, as no surface is known.

        Parameters
        ----------
        C
            Training FLOPs as the law's ``compute`` defines them, one number or an array.

        Raises
        ------
        InputError
            C is not positive and finite.
        """
        compute = np.asarray(C, dtype=np.float64)
        if not np.all(np.isfinite(compute) & (compute > 0)):
            raise InputError(f"expected positive finite compute in FLOPs; got {C!r}.")
        unknown: Any = np.full(compute.shape, np.nan) if compute.ndim else float("nan")
        spent: Any = compute if compute.ndim else float(compute)
        return Optimum(self.n_line(compute), self.d_line(compute), unknown, spent)

    def loss(self, N: ArrayLike, D: ArrayLike) -> NoReturn:
        """Not known.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError(self._no_surface("loss(N, D)"))

    def compute_for(self, loss: float) -> NoReturn:
        """Not known.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError(self._no_surface("compute_for(loss)"))

    def _no_surface(self, question: str) -> str:
        return (
            f"expected a law with a surface for {question}; this one is only {self.formula}. Ask "
            "its optimal(C), or take a law of N and D such as "
            'flops_fit.reference.law("besiroglu2024").'
        )

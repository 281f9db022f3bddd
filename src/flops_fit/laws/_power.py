"""A power law in one variable: the lines N*(C) and D*(C) of approaches 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["PowerLaw"]


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

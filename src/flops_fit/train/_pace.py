"""How fast a run goes, in units and as a share of what its device can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Pace"]


@dataclass
class Pace:
    """Units a second, and the model FLOPs utilisation (Chowdhery et al. 2022, appendix B).

    MFU is the FLOPs that the model's passes need over those that the device could have done in the
    time: here F·D/(seconds·peak) with F as the plan counts it. Counted on the traced
    model, attention is counted in full and recomputed activations are not.

    Attributes
    ----------
    flops_per_step
        Training FLOPs of one step.
    peak
        FLOP/s of all devices of the run together, ``None`` where that is not known.

    Examples
    --------
    >>> pace = Pace(flops_per_step=64e9, peak=1e12)
    >>> pace.since(step=1, units=64, seconds=0.5)
    {'units_per_second': 128.0, 'mfu': 0.128}
    """

    flops_per_step: float = 0.0
    peak: float | None = None
    _before: tuple[int, int, float] = field(default=(0, 0, 0.0), init=False)

    def begin(self, step: int, units: int, seconds: float) -> None:
        """Where the next reading counts from."""
        self._before = step, units, seconds

    def since(self, step: int, units: int, seconds: float) -> dict[str, Any]:
        """The pace since the last reading, from all that was done up to this one."""
        before, self._before = self._before, (step, units, seconds)
        passed = seconds - before[2]
        return {
            "units_per_second": (units - before[1]) / passed if passed > 0 else 0.0,
            "mfu": self.mfu(step - before[0], passed),
        }

    def mfu(self, steps: int, seconds: float) -> float | None:
        """The utilisation over so many steps and seconds; ``None`` without a known peak."""
        if self.peak is None or seconds <= 0:
            return None
        return steps * self.flops_per_step / (seconds * self.peak)

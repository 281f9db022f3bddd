"""Whatever holds runs that are still to be made says what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from flops_fit.plan._cost import CostEstimate, Place, estimate
from flops_fit.plan._speed import Speed
from flops_fit.records import Experiment

__all__ = ["Priced"]


class Priced:
    """Experiments that can be priced before they are run."""

    def _to_price(self) -> tuple[Sequence[Experiment], Speed | None]:
        """What is priced, at which measured speed."""
        raise NotImplementedError

    def estimate(
        self,
        device: str | None = None,
        dollars_per_hour: float | None = None,
        parallel: int = 1,
        mfu: float | None = None,
    ) -> CostEstimate:
        """FLOPs, time and money of each run that is to be made, and of all.

        Parameters
        ----------
        device
            ``None`` for the device that the speed was measured on. Another one by name, ``"H100"``:
            then times are C/(``mfu`` · peak), with the peak of its data sheet.
        dollars_per_hour
            Of all that the sweep occupies together: every device and machine that ``parallel`` runs
            at a time need. Without it there is no money in the estimate.
        parallel
            Runs at the same time: what the executor's ``capacity`` says.
        mfu
            Share of the peak that training reaches; by default 0.3 is assumed. For another device
            only.

        Raises
        ------
        InputError
            A number cannot be used, or a device is not known.
        """
        place = Place(device, dollars_per_hour, parallel, mfu)
        return estimate(*self._to_price(), place)

"""Whether runs of all sizes learn along one curve, as well-tuned ones do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.records import Diagnostic
from flops_fit.store import TrainingCurve

__all__ = ["Collapse", "collapse"]

Floats = NDArray[np.float64]

_SHARES = np.linspace(0.1, 0.95, 35)
_JUDGED = (0.3, 0.8)  # after the warmup and before the end, where all are 1 by definition
_ODD = 4.0  # robust standard deviations
_FEWEST = 5
_READINGS = 8  # a curve of fewer cannot be read between its points


@dataclass(frozen=True, eq=False)
class Collapse:
    """Training curves on one scale, (L(x) − E)/(L(1) − E) against the share x of the run seen.

    Runs of one schedule whose hyper-parameters scale as they should fall onto one curve when each is
    divided by where it ends (Qiu et al. 2025, arXiv:2507.02119). A run apart from the others is badly
    tuned, or at another ratio of data to size. L is the training loss, so noise of a batch is in it.

    Attributes
    ----------
    shares
        x, shape (points,).
    curves
        The scaled losses, shape (runs, points).
    labels, params
        Of the runs.
    spread
        Standard deviation of ln of the scaled losses over runs, at each x.
    odd
        Labels of runs that lie apart by more than four robust standard deviations.
    floor
        E.
    """

    shares: Floats
    curves: Floats
    labels: tuple[str, ...]
    params: Floats
    spread: Floats
    odd: tuple[str, ...]
    floor: float

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Runs apart from the others."""
        if not self.odd:
            return ()
        shown = ", ".join(self.odd[:3]) + (", …" if len(self.odd) > 3 else "")
        return (
            Diagnostic(
                "collapse",
                "note",
                f"The training curves of {len(self.odd)} of {len(self.labels)} runs lie apart from the "
                f"others when scaled to their ends ({shown}): their hyper-parameters may not suit them.",
            ),
        )


def collapse(curves: Sequence[TrainingCurve], floor: float = 0.0) -> Collapse | None:
    """The curves of completed runs on one scale; ``None`` where fewer than five can be read.

    Parameters
    ----------
    floor
        The irreducible loss E, where it is known; below every loss.
    """
    used = [
        c
        for c in curves
        if c.run.state == "completed" and c.run.train_loss is not None and len(c.loss) >= _READINGS
    ]
    if len(used) < _FEWEST:
        return None
    rows = []
    for c in used:
        assert c.run.train_loss is not None
        x, y = np.append(c.share, 1.0), np.append(c.loss, c.run.train_loss)
        rows.append((np.interp(_SHARES, x, y) - floor) / (c.run.train_loss - floor))
    scaled = np.array(rows)
    logs = np.log(np.maximum(scaled, 1e-9))
    judged = (_JUDGED[0] <= _SHARES) & (_JUDGED[1] >= _SHARES)
    place = np.mean(logs[:, judged], axis=1)
    away = np.abs(place - np.median(place))
    scale = 1.4826 * float(np.median(away))
    labels = tuple(c.run.experiment.label for c in used)
    odd = tuple(
        label for label, d in zip(labels, away, strict=True) if scale > 0 and d > _ODD * scale
    )
    sizes = np.array([float(c.run.experiment.params.total) for c in used])
    return Collapse(_SHARES, scaled, labels, sizes, np.std(logs, axis=0, ddof=1), odd, floor)

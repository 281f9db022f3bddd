"""Whether a run under way can still matter: its forecast against the reference run of its budget."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from flops_fit.errors import TableError
from flops_fit.files import read_json
from flops_fit.forecasting import forecast
from flops_fit.hparams import learning_rate
from flops_fit.records import Experiment, Run

_PARTS = 10  # of a run; it is judged at the ends of these,
_FIRST = 2  # from a fifth on,
_FALLEN = 0.5  # and once the rate has fallen by so much of what it falls in all
_WORSE = 0.4  # than the reference, relatively, which the whole forecast has to be
_AT_LEAST = 0.1  # that is claimed of a stopped run


@dataclass(frozen=True)
class Reference:
    """A run that was trained to its end: its training loss and its held-out loss."""

    label: str
    train_loss: float
    loss: float

    @classmethod
    def read(cls, folder: Path) -> Reference | None:
        """From the folder of a run; ``None`` where that has not ended with positive losses."""
        with suppress(OSError, TableError):
            run = Run.from_dict({**read_json(folder / "run.json")})
            train, loss = run.train_loss, run.loss
            if run.state == "completed" and train and loss and min(train, loss) > 0:
                return cls(run.experiment.label, train, loss)
        return None


def references(experiments: Iterable[Experiment]) -> dict[str, str]:
    """By id, the id of the run that each is compared with: that of its budget in the middle.

    In the middle of sizes, then of rates, batches and repeats; it and single runs have none. That
    depends on the plan alone, so decisions do not depend on which runs happen to have ended.
    """
    budgets: dict[float, list[Experiment]] = defaultdict(list)
    for e in experiments:
        budgets[e.budget].append(e)
    out: dict[str, str] = {}
    for runs in budgets.values():
        sizes = sorted(e.params.total for e in runs)
        middle = [e for e in runs if e.params.total == sizes[len(sizes) // 2]]
        middle.sort(key=lambda e: (e.hparams.lr, e.hparams.batch_units, e.repeat, e.id))
        reference = middle[(len(middle) - 1) // 2]  # of two rates the lower, as it is safer
        out |= {e.id: reference.id for e in runs if e.id != reference.id}
    return out


def is_due(step: int, steps: int) -> bool:
    """Whether a run of so many steps is judged after this one."""
    return any(step == math.ceil(k * steps / _PARTS) for k in range(_FIRST, _PARTS))


def judge(
    experiment: Experiment, curve: Sequence[tuple[float, float]], reference: Reference
) -> tuple[str, float] | None:
    """Why a run is hopeless, and what its held-out loss would be at least; ``None`` if it may matter.

    ``curve`` are (step, training loss) so far. A run is hopeless where the lower end of the forecast
    of its training loss lies 40 % above both losses of the reference run. A cool-down helps a rate that is
    too high more than a forecast knows: three fifths of such a distance have vanished by the end. So half
    of the rate's fall has to be seen, and no more than 10 % is claimed.
    """
    if not curve:  # after a checkpoint that an earlier version left
        return None
    steps, per_step = experiment.steps, experiment.batch_size * experiment.units_per_sample
    rate = partial(learning_rate, experiment.hparams, planned=steps * per_step)
    at, loss = np.array(curve).reshape(-1, 2).T
    now, end, peak = rate(at[-1] * per_step), rate(steps * per_step), experiment.hparams.lr
    if now - end > (1 - _FALLEN) * (peak - end) * (1 + 1e-9):
        return None
    try:
        ahead = forecast((at, loss), lambda step: rate(step * per_step), end=steps)
    except ValueError:  # it is too early, or no law goes through the curve
        return None
    low = ahead.interval[0]
    if not low > (1 + _WORSE) * max(reference.train_loss, reference.loss):
        return None
    reason = (
        f"training loss expected to end at {ahead.span}, where {reference.label} of its budget ended at "
        f"{reference.train_loss:.4g}; stopped after {ahead.seen:.0%} of its steps"
    )
    return reason, (1 + _AT_LEAST) * reference.loss

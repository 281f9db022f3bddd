"""What trains one run, and the type of what chooses it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from flops_fit.errors import InputError
from flops_fit.records import ParamCount

Schedule = Literal["cosine", "wsd", "constant"]
SCHEDULES = get_args(Schedule)


@dataclass(frozen=True)
class HParams:
    """How one run is trained, with AdamW where nothing else is asked for.

    Attributes
    ----------
    lr
        Peak learning rate.
    batch_units
        Units in a batch, before rounding to whole samples.
    warmup
        Share of the run over which the learning rate rises from 0.
    warmup_units
        The same in units, in place of ``warmup``: a warmup that does not depend on the run's length,
        as runs that share a trunk need it.
    schedule
        What follows the warmup, up to the run's last unit: ``"cosine"``, ``"wsd"`` (stable, then
        a cool-down) or ``"constant"``. :func:`learning_rate` has the formulas.
    cooldown
        Share of the run that the decay of ``"wsd"`` takes; the others do not use it.
    final
        Where ``"cosine"`` and ``"wsd"`` end, as a share of the peak.
    weight_decay
        Decoupled, on matrices only: not on norms, biases and embeddings.
    beta1, beta2
        AdamW's memory of the gradient and of its square, per step.
    clip
        Largest norm of the whole gradient.
    recipe
        What chose these values.

    Raises
    ------
    InputError
        A value is out of its range, or warmup and cool-down together exceed the run. A warmup in
        units is held against each run when it is planned.

    Examples
    --------
    >>> HParams(lr=0.01, batch_units=4096, schedule="wsd").cooldown
    0.2
    """

    lr: float
    batch_units: float
    warmup: float = 0.1
    schedule: Schedule = "cosine"
    cooldown: float = 0.2
    final: float = 0.0
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    recipe: str = "custom"
    warmup_units: float | None = None

    def __post_init__(self) -> None:
        for name in ("lr", "batch_units", "clip"):
            value = getattr(self, name)
            if not (is_number(value) and value > 0):
                raise InputError(f"hparams: expected a positive {name}; got {value!r}.")
        if not (is_number(self.weight_decay) and self.weight_decay >= 0):
            raise InputError(
                "hparams: expected weight_decay of 0 or more, or 'timescale' in a dict of changes; "
                f"got {self.weight_decay!r}."
            )
        for name in ("beta1", "beta2", "warmup"):
            value = getattr(self, name)
            if not (is_number(value) and 0 <= value < 1):
                raise InputError(f"hparams: expected {name} from 0 to below 1; got {value!r}.")
        units = self.warmup_units
        if units is not None and not (is_number(units) and units >= 0):
            raise InputError(
                f"hparams: expected warmup_units of 0 or more, or None; got {units!r}."
            )
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"hparams: expected schedule to be one of {', '.join(map(repr, SCHEDULES))}; "
                f"got {self.schedule!r}."
            )
        if not (is_number(self.cooldown) and 0 < self.cooldown <= 1):
            raise InputError(
                "hparams: expected cooldown as a share of the run above 0 and at most 1; "
                f"got {self.cooldown!r}."
            )
        if not (is_number(self.final) and 0 <= self.final <= 1):
            raise InputError(
                f"hparams: expected final as a share of the peak from 0 to 1; got {self.final!r}."
            )
        share = self.warmup if self.warmup_units is None else 0.0
        if self.schedule == "wsd" and share + self.cooldown > 1:
            raise InputError(
                "hparams: expected warmup and cooldown to leave each other room in the run; got "
                f"{self.warmup} + {self.cooldown} > 1. Shorten one of them."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


Recipe = Callable[[ParamCount, float, str], HParams]


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)

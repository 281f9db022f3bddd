"""How one run is trained: its hyper-parameters, and its learning rate at every moment."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args

from flops_fit.errors import InputError, check_choice, is_number

Schedule = Literal["cosine", "wsd", "constant"]
SCHEDULES = get_args(Schedule)

_RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("lr", lambda v: v > 0, "a positive lr"),
    ("batch_units", lambda v: v > 0, "a positive batch_units"),
    ("clip", lambda v: v > 0, "a positive clip"),
    ("weight_decay", lambda v: v >= 0, "weight_decay of 0 or more, or 'timescale' in a dict"),
    ("beta1", lambda v: 0 <= v < 1, "beta1 from 0 to below 1"),
    ("beta2", lambda v: 0 <= v < 1, "beta2 from 0 to below 1"),
    ("warmup", lambda v: 0 <= v < 1, "warmup from 0 to below 1"),
    ("cooldown", lambda v: 0 < v <= 1, "cooldown as a share of the run above 0 and at most 1"),
    ("final", lambda v: 0 <= v <= 1, "final as a share of the peak from 0 to 1"),
    ("warmup_units", lambda v: v >= 0, "warmup_units of 0 or more, or None"),
)


@dataclass(frozen=True)
class HParams(Mapping[str, Any]):
    """The hyper-parameters of one run, for AdamW where no other optimizer is given.

    It is also a read-only mapping of its fields: ``hparams["lr"]`` is ``hparams.lr``. InputError where
    a value is out of its range, or warmup and cool-down together exceed the run.

    >>> HParams(lr=0.01, batch_units=4096, schedule="wsd").cooldown
    0.2

    Attributes
    ----------
    lr
        Peak learning rate.
    batch_units
        Units in a batch, before rounding to whole samples.
    warmup, warmup_units
        Over which the rate rises from 0: a share of the run, or units, which runs of one trunk need.
    schedule
        What follows the warmup: ``"cosine"``, ``"wsd"`` (stable, then a cool-down) or ``"constant"``.
        :func:`learning_rate` has the formulas.
    cooldown
        Share of the run that the decay of ``"wsd"`` takes.
    final
        Where ``"cosine"`` and ``"wsd"`` end, as a share of the peak.
    weight_decay
        Decoupled, on matrices only: not on norms, biases and embeddings.
    beta1, beta2
        Decay rates of AdamW's averages of the gradient and of its square, per step.
    clip
        Largest norm of the whole gradient.
    recipe
        The name of the recipe that chose these values.
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
    # What a record holds whose keys are not those above: its id depends on exactly these values.
    _record: Mapping[str, Any] | None = field(default=None, init=False, repr=False, hash=False)

    def __post_init__(self) -> None:
        for name, valid, expected in _RANGES:
            value = getattr(self, name)
            unset = name == "warmup_units" and value is None
            if not unset and not (is_number(value) and valid(value)):
                raise InputError(f"hparams: expected {expected}; got {value!r}.")
        check_choice("schedule", self.schedule, SCHEDULES)
        share = self.warmup if self.warmup_units is None else 0.0
        if self.schedule == "wsd" and share + self.cooldown > 1:
            raise InputError(
                "hparams: expected warmup and cooldown to leave each other room in the run; got "
                f"{self.warmup} + {self.cooldown} > 1. Shorten one of them."
            )

    def __getitem__(self, name: str) -> Any:
        return self.to_dict()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back."""
        if self._record is not None:
            return dict(self._record)
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a record: missing fields get their defaults, unknown keys stay as items."""
        names = {f.name for f in fields(cls) if f.init}
        hparams = cls(**{name: value for name, value in values.items() if name in names})
        if names != set(values):
            object.__setattr__(hparams, "_record", dict(values))
        return hparams


def check_warmup(hparams: HParams, planned: float, what: str) -> None:
    """Refuse a warmup in units that, with the cool-down, exceeds the ``planned`` units of a run."""
    if hparams.warmup_units is None:
        return
    decay = hparams.cooldown if hparams.schedule == "wsd" else 0.0
    room = (1 - decay) * planned
    if hparams.warmup_units > room or hparams.warmup_units >= planned:
        raise InputError(
            f"hparams: expected warmup_units that fit into every run; got {hparams.warmup_units:g}, "
            f"and {what} has {planned:.4g} units, of which the cool-down leaves {room:.4g}. "
            "Give fewer warmup_units, a shorter cooldown or larger budgets."
        )


def learning_rate(hparams: HParams, progress: float, planned: float = 1.0) -> float:
    """The learning rate after ``progress`` of a run's ``planned`` units.

    It is linear from 0 to the peak η over the warmup w. Then, with p the share of the run seen and
    f = ``final``:

    - ``"cosine"``: η·(f + (1 − f)·(1 + cos πx)/2), x = (p − w)/(1 − w)
      (Loshchilov and Hutter 2017, eq. 5, one period over the run);
    - ``"wsd"``: η, and over the last share c = ``cooldown`` of the run η·(f + (1 − f)·(1 − √x)),
      x = (p − 1 + c)/c (Hägele et al. 2024, arXiv:2405.18392, their form "1-sqrt");
    - ``"constant"``: η.

    ``progress`` (0 or more) is a share where ``planned`` is left at 1; beyond that the rate is the last.
    With ``warmup_units`` the rate of ``"wsd"`` before its cool-down does not depend on ``planned``, to the
    last bit. InputError where ``progress`` is negative or not a number, or ``planned`` is not positive.

    >>> hparams = HParams(lr=1.0, batch_units=1, schedule="wsd")
    >>> [round(learning_rate(hparams, p), 3) for p in (0.05, 0.5, 0.85, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if not progress >= 0:
        raise InputError(f"progress: expected a share of the run, 0 or more; got {progress!r}.")
    if not planned > 0:
        raise InputError(f"planned: expected the units of the run, above 0; got {planned!r}.")
    peak, rise, final = float(hparams.lr), hparams.warmup_units, hparams.final
    if rise is not None and progress < rise:
        return peak * progress / rise
    progress /= planned
    warmup = hparams.warmup if rise is None else rise / planned
    if rise is None and progress < warmup:
        return peak * progress / warmup
    progress = min(progress, 1.0)
    if hparams.schedule == "constant":
        return peak
    if hparams.schedule == "cosine":
        left = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
    else:
        left = 1 - math.sqrt(max(0.0, (progress - (1 - hparams.cooldown)) / hparams.cooldown))
    # Rounding may carry the end of the decay past it by one part in 1e16, either way.
    return peak * (final + (1 - final) * min(max(left, 0.0), 1.0))

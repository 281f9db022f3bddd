"""Hyper-parameters for a run of a given size and length: named, versioned, pure functions.

A recipe centres a choice, it does not replace tuning: published rules disagree by factors, and the
smallest and largest sizes of a sweep are the least well served. What a recipe chose for every run
stands in the plan before anything runs.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from flops_fit.errors import InputError, InputTypeError
from flops_fit.records import ParamCount

__all__ = [
    "RECIPES",
    "HParams",
    "Recipe",
    "Schedule",
    "check_warmup",
    "is_finished",
    "learning_rate",
    "resolve_recipe",
    "scaled_beta2",
]

Schedule = Literal["cosine", "wsd", "constant"]
_SCHEDULES = get_args(Schedule)


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
            if not (_is_number(value) and value > 0):
                raise InputError(f"hparams: expected a positive {name}; got {value!r}.")
        if not (_is_number(self.weight_decay) and self.weight_decay >= 0):
            raise InputError(
                f"hparams: expected weight_decay of 0 or more; got {self.weight_decay!r}."
            )
        for name in ("beta1", "beta2", "warmup"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < 1):
                raise InputError(f"hparams: expected {name} from 0 to below 1; got {value!r}.")
        units = self.warmup_units
        if units is not None and not (_is_number(units) and units >= 0):
            raise InputError(
                f"hparams: expected warmup_units of 0 or more, or None; got {units!r}."
            )
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.schedule not in _SCHEDULES:
            raise InputError(
                f"hparams: expected schedule to be one of {', '.join(map(repr, _SCHEDULES))}; "
                f"got {self.schedule!r}."
            )
        if not (_is_number(self.cooldown) and 0 < self.cooldown <= 1):
            raise InputError(
                "hparams: expected cooldown as a share of the run above 0 and at most 1; "
                f"got {self.cooldown!r}."
            )
        if not (_is_number(self.final) and 0 <= self.final <= 1):
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


def default(params: ParamCount, units: float, unit: str) -> HParams:
    """Learning rate falling with size, batch growing with the run.

    The learning rate is the line through the sizes of Brown et al. 2020, Table 2.1
    (6e-4 at 125 M, 1e-4 at 13 B): 6e-4·(N/1.25e8)^−0.39, at most 0.02. The batch follows the
    exponent of Li et al. 2025 (StepLaw), D^0.571, with a quarter of its constant: short runs need
    steps more than they need large batches.

    β₂ is one constant per step. A half-life in units (:func:`scaled_beta2`) is left to the user:
    that of Brown et al., .95 at half a million tokens, is 6.8 million tokens, which is longer than
    whole runs at the small end of a sweep, and no other anchor is published for such runs.
    """
    lr = min(0.02, 6e-4 * (params.non_embedding / 1.25e8) ** -0.39)
    batch = max(0.15 * units**0.571, 1.0)
    return HParams(lr=lr, batch_units=batch, beta2=0.98, recipe="default-1")


RECIPES: Mapping[str, Recipe] = {"default": default}


def resolve_recipe(hparams: str | Recipe | Mapping[str, Any] | HParams) -> Recipe:
    """A recipe from its name, from a user's function, or from values that hold for every run."""
    if isinstance(hparams, str):
        if hparams not in RECIPES:
            near = difflib.get_close_matches(hparams, RECIPES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"hparams: no recipe is called {hparams!r}; there are {sorted(RECIPES)}.{hint}"
            )
        return RECIPES[hparams]
    if isinstance(hparams, HParams):
        fixed = hparams
        return lambda params, units, unit: fixed
    if isinstance(hparams, Mapping):
        values = dict(hparams)
        return lambda params, units, unit: _override(default(params, units, unit), values)
    if callable(hparams):
        recipe = hparams
        return lambda params, units, unit: _checked(
            recipe(params, units, unit), params, units, unit
        )
    raise InputTypeError(
        "hparams: expected a recipe's name, a dict, an HParams or a function "
        f"(params, units, unit) -> HParams; got {type(hparams).__name__}."
    )


def _checked(made: Any, params: ParamCount, units: float, unit: str) -> HParams:
    if isinstance(made, HParams):
        return made
    if isinstance(made, Mapping):
        return _override(default(params, units, unit), made)
    raise InputTypeError(
        f"hparams: expected the recipe to return an HParams or a dict; got {type(made).__name__}."
    )


def _override(base: HParams, values: Mapping[str, Any]) -> HParams:
    known = set(asdict(base))
    unknown = set(values) - known
    if unknown:
        raise InputError(f"hparams: unknown {sorted(unknown)}; known are {sorted(known)}.")
    return replace(base, **{"recipe": "custom", **values})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def check_warmup(hparams: HParams, planned: float, what: str) -> None:
    """Refuse a warmup in units that leaves a run of ``planned`` units no room for its schedule.

    Raises
    ------
    InputError
        ``warmup_units`` and the cool-down together exceed the run; ``what`` names it.
    """
    if hparams.warmup_units is None:
        return
    decay = hparams.cooldown if hparams.schedule == "wsd" else 0.0
    if hparams.warmup_units > (1 - decay) * planned or hparams.warmup_units >= planned:
        room = (1 - decay) * planned
        raise InputError(
            f"hparams: expected warmup_units that fit into every run; got {hparams.warmup_units:g}, "
            f"and {what} has {planned:.4g} units, of which the cool-down leaves {room:.4g}. "
            "Give fewer warmup_units, a shorter cooldown or larger budgets."
        )


def learning_rate(hparams: Mapping[str, Any], progress: float, planned: float = 1.0) -> float:
    """The learning rate after ``progress`` of a run's ``planned`` units.

    It is linear from 0 to the peak η over the warmup w. Then, with p the share of the run seen and
    f = ``final``:

    - ``"cosine"``: η·(f + (1 − f)·(1 + cos πx)/2), x = (p − w)/(1 − w)
      (Loshchilov and Hutter 2017, eq. 5, one period over the run);
    - ``"wsd"``: η, and over the last share c = ``cooldown`` of the run η·(f + (1 − f)·(1 − √x)),
      x = (p − 1 + c)/c (Hägele et al. 2024, arXiv:2405.18392, their form "1-sqrt");
    - ``"constant"``: η.

    It depends on nothing but its arguments, so a run continued in the middle goes on at its rate.
    With ``warmup_units`` the rate of ``"wsd"`` before its cool-down does not depend on ``planned``
    either: runs of any length have, to the last bit, the same rate after the same units.

    Parameters
    ----------
    hparams
        As of :meth:`HParams.to_dict`; ``cooldown`` and ``final`` default as there.
    progress
        Units seen, 0 or more, or their share where ``planned`` is left at 1; beyond ``planned`` the
        rate is that at its end.
    planned
        Units of the whole run.

    Raises
    ------
    InputError
        ``progress`` is negative or no number, ``planned`` is not positive, or the schedule is unknown.

    Examples
    --------
    >>> hparams = HParams(lr=1.0, batch_units=1, schedule="wsd").to_dict()
    >>> [round(learning_rate(hparams, p), 3) for p in (0.05, 0.5, 0.85, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if not progress >= 0:
        raise InputError(f"progress: expected a share of the run, 0 or more; got {progress!r}.")
    if not planned > 0:
        raise InputError(f"planned: expected the units of the run, above 0; got {planned!r}.")
    peak, rise = float(hparams["lr"]), hparams.get("warmup_units")
    if rise is not None and progress < rise:
        return peak * progress / float(rise)
    progress /= planned
    warmup = float(hparams["warmup"]) if rise is None else float(rise) / planned
    if rise is None and progress < warmup:
        return peak * progress / warmup
    final, schedule = float(hparams.get("final", 0.0)), hparams["schedule"]
    progress = min(progress, 1.0)
    if schedule == "constant":
        return peak
    if schedule == "cosine":
        left = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
    elif schedule == "wsd":
        cooldown = float(hparams.get("cooldown", 0.2))
        left = 1 - math.sqrt(max(0.0, (progress - (1 - cooldown)) / cooldown))
    else:
        raise InputError(f"hparams: expected schedule in {_SCHEDULES}; got {schedule!r}.")
    # Rounding may carry the end of the decay past it by one part in 1e16, either way.
    return peak * (final + (1 - final) * min(max(left, 0.0), 1.0))


def is_finished(seen: int, planned: int) -> bool:
    """Whether a run that saw ``seen`` of its ``planned`` units is at the end of its schedule.

    A loss read before that end is too high, whatever the schedule: under ``"cosine"`` and
    ``"wsd"`` the decay is what is missing, under ``"constant"`` the data. So only the very last
    unit counts, without tolerance. Give both in one currency: units, samples or steps. Where some
    targets are masked use steps, as units are then counted and not known beforehand.

    Raises
    ------
    InputError
        A count is negative or not whole, or ``seen`` exceeds ``planned``: the record belongs to
        another run.

    Examples
    --------
    >>> is_finished(999, 1000), is_finished(1000, 1000)
    (False, True)
    """
    for name, value in (("seen", seen), ("planned", planned)):
        if not (_is_number(value) and value >= 0 and value == int(value)):
            raise InputError(f"{name}: expected a whole number of units; got {value!r}.")
    if planned == 0 or seen > planned:
        raise InputError(
            f"seen: expected at most the planned {planned} units of a run; got {seen}. "
            "The record belongs to another run."
        )
    return seen == planned


def scaled_beta2(beta2: float, batch_units: float, reference_batch_units: float) -> float:
    """β₂ that remembers as many units at ``batch_units`` as ``beta2`` does at the reference.

    Adam forgets half of a squared gradient after ln ½/ln β₂ steps of B units each. That many units
    stay the same at a batch of B' units with β₂' = β₂^(B'/B)
    (Marek et al. 2025, arXiv:2507.07101).

    For runs of a fraction of that half-life β₂' is so near 1 that the average never settles:
    choose the reference among runs as long as yours.

    Raises
    ------
    InputError
        ``beta2`` is not between 0 and 1, or a batch is not positive.

    Examples
    --------
    >>> round(scaled_beta2(0.95, 250_000, 500_000), 4)
    0.9747
    """
    if not (_is_number(beta2) and 0 < beta2 < 1):
        raise InputError(f"beta2: expected a value between 0 and 1; got {beta2!r}.")
    for name, value in (
        ("batch_units", batch_units),
        ("reference_batch_units", reference_batch_units),
    ):
        if not (_is_number(value) and value > 0):
            raise InputError(f"{name}: expected a positive number of units; got {value!r}.")
    return float(beta2 ** (batch_units / reference_batch_units))

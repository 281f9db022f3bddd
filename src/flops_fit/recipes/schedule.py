"""The learning rate over a run: where it rises, where it falls, and when a run is at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flops_fit.errors import InputError
from flops_fit.recipes.hparams import SCHEDULES, HParams, is_number


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
        raise InputError(f"hparams: expected schedule in {SCHEDULES}; got {schedule!r}.")
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
        if not (is_number(value) and value >= 0 and value == int(value)):
            raise InputError(f"{name}: expected a whole number of units; got {value!r}.")
    if planned == 0 or seen > planned:
        raise InputError(
            f"seen: expected at most the planned {planned} units of a run; got {seen}. "
            "The record belongs to another run."
        )
    return seen == planned

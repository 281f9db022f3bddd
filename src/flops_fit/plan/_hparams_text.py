"""What the recipe chose, as a plan prints it: what differs by run, and what all runs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flops_fit.records import Experiment
from flops_fit.text import count

__all__ = ["differing_columns", "shared_line"]

Values = Mapping[str, Any]


def differing_columns(experiments: Sequence[Experiment]) -> dict[str, list[str]]:
    """The columns, one cell a run, of what is not the same in all of them."""
    cells = {name: [tell(e) for e in experiments] for name, tell in _COLUMNS.items()}
    return {name: column for name, column in cells.items() if len(set(column)) > 1}


def shared_line(experiments: Sequence[Experiment]) -> str:
    """One sentence: the recipes, and each value that is the same in all runs."""
    recipes = list(dict.fromkeys(str(e.hparams.get("recipe", "")) for e in experiments))
    differing = differing_columns(experiments)
    first = experiments[0]
    shared = {
        name: f"{_WORDS[name]}{tell(first)}"
        for name, tell in _COLUMNS.items()
        if name not in differing and tell(first) != _UNKNOWN
    }
    if {"schedule", "ends at"} <= shared.keys():
        shared["schedule"] += f" {shared.pop('ends at')}"
    shared.pop("ends at", None)  # by itself it would not say what does
    parts = list(shared.values())
    clips = {e.hparams.get("clip") for e in experiments}
    if len(clips) == 1 and None not in clips:
        parts.append(f"clip {_plain(clips.pop())}")
    named = f"Recipe{'s' if len(recipes) > 1 else ''} {', '.join(recipes)}".rstrip()
    return f"{named}: {', '.join(parts)}." if parts else f"{named}."


def _decay(e: Experiment) -> str:
    return _plain(e.hparams.get("weight_decay"))


def _betas(e: Experiment) -> str:
    betas = [e.hparams.get(name) for name in ("beta1", "beta2")]
    return _UNKNOWN if None in betas else "/".join(map(_plain, betas))


def _warmup(e: Experiment) -> str:
    rise = e.hparams.get("warmup_units")
    return _share(e.hparams.get("warmup")) if rise is None else f"{count(rise)} {e.unit}"


def _schedule(e: Experiment) -> str:
    schedule = e.hparams.get("schedule")
    if schedule == "wsd":
        return f"wsd, last {_share(e.hparams.get('cooldown', 0.2))}"
    return "constant rate" if schedule == "constant" else str(schedule or _UNKNOWN)


def _end(e: Experiment) -> str:
    if e.hparams.get("schedule") in (None, "constant"):
        return _UNKNOWN
    final = e.hparams.get("final", 0.0)
    return "0" if final == 0 else _share(final)


def _plain(value: Any) -> str:
    return _UNKNOWN if value is None else f"{value:.2g}" if abs(value) < 0.9 else f"{value:.4g}"


def _share(value: Any) -> str:
    return _UNKNOWN if value is None else f"{100 * value:.2g} %"


_UNKNOWN = "–"
_COLUMNS: Mapping[str, Callable[[Experiment], str]] = {
    "decay": _decay,
    "β": _betas,
    "warmup": _warmup,
    "schedule": _schedule,
    "ends at": _end,
}
_WORDS = {
    "decay": "weight decay ",
    "β": "β ",
    "warmup": "warmup ",
    "schedule": "",
    "ends at": "to ",
}

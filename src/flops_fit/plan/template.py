"""A command with placeholders for what is planned, as the words of a process."""

from __future__ import annotations

import shlex
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flops_fit.errors import InputError, InputTypeError, nearest_name
from flops_fit.records import Experiment


def planned_values(e: Experiment) -> dict[str, Any]:
    """All that is planned of a run, by the names of its placeholders; arguments of the model too."""
    h, size = e.hparams, e.size
    own = dict(size) if isinstance(size, Mapping) else {}
    warmup = h.warmup if h.warmup_units is None else h.warmup_units / e.tokens
    batch = e.batch_size * e.units_per_sample
    return {
        **e.model_kwargs, **own, "size": "-".join(map(str, own.values())) or size, "run_id": e.id,
        "params": e.params.total, "tokens": e.tokens, "units": e.tokens, "unit": e.unit,
        "samples": e.batch_size * e.steps, "steps": e.steps, "batch": e.batch_size,
        "batch_units": round(batch), "units_per_sample": round(e.units_per_sample),
        "lr": h.lr, "schedule": h.schedule, "final": h.final, "warmup": warmup,
        "warmup_steps": round(warmup * e.steps), "warmup_units": round(warmup * e.tokens),
        "cooldown": h.cooldown, "cooldown_steps": round(h.cooldown * e.steps),
        "weight_decay": h.weight_decay, "beta1": h.beta1, "beta2": h.beta2, "clip": h.clip,
        "flops": e.flops, "flops_per_unit": e.flops_per_unit, "budget": e.budget, "seed": e.seed,
        "repeat": e.repeat, "label": e.label,
    }  # fmt: skip


class _Filled(string.Formatter):
    """Puts values into placeholders that are plain names; ``quoted`` for a shell."""

    def __init__(self, what: str, quoted: bool) -> None:
        self.what, self.quoted = what, quoted

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        if field_name not in kwargs:
            raise InputError(
                f"{self.what}: expected placeholders {', '.join(map('{{{}}}'.format, kwargs))}; got "
                f"{{{field_name}}}.{nearest_name(field_name, kwargs)} A brace itself is written twice."
            )
        return kwargs[field_name], field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        text = str(super().format_field(value, format_spec))
        return shlex.quote(text) if self.quoted else text


def fill(text: str, values: Mapping[str, Any], what: str = "command", quoted: bool = False) -> str:
    """The text with its placeholders filled; InputError names those that there are.

    >>> fill("--lr {lr:.1e}", {"lr": 0.00031})
    '--lr 3.1e-04'
    """
    try:
        return _Filled(what, quoted).vformat(text, (), values)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"{what}: expected placeholders as in Python's format strings; {text!r} has: {error}."
        ) from error


@dataclass(frozen=True)
class Command:
    """The words of a command, as a shell would split it, or a text for a ``shell``."""

    text: str
    shell: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InputTypeError(f"command: expected a text; got {type(self.text).__name__}.")
        try:
            words = shlex.split(self.text)
        except ValueError as error:
            raise InputError(f"command: expected a command line; {error}.") from error
        if not words:
            raise InputError("command: expected a program and its arguments; got nothing.")

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """What to start: each value stays in its word, whatever it contains."""
        if self.shell:
            return ["/bin/sh", "-c", fill(self.text, values, quoted=True)]
        return [fill(word, values) for word in shlex.split(self.text)]

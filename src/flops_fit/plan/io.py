"""Rows and words of planned runs, what is kept of them, and their comparison with existing runs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flops_fit.errors import OutputError, TableError
from flops_fit.files import read_json
from flops_fit.plan.cost import CostEstimate, Priced
from flops_fit.plan.timing import Speed
from flops_fit.records import Diagnostic, Experiment, Run, own_flops
from flops_fit.text import format_count, render, values_table

_UNKNOWN = "–"


def _plain(value: Any) -> str:
    return _UNKNOWN if value is None else f"{value:.2g}" if abs(value) < 0.9 else f"{value:.4g}"


def _share(value: Any) -> str:
    return _UNKNOWN if value is None else f"{100 * value:.2g} %"


def _cells(e: Experiment) -> dict[str, str]:
    """The hyper-parameters that get a column where they differ between runs."""
    h = e.hparams
    schedules = {"wsd": f"wsd, last {_share(h.cooldown)}", "constant": "constant rate"}
    end = "0" if h.final == 0 else _share(h.final)
    rise = h.warmup_units
    return {
        "decay": _plain(h.weight_decay),
        "β": f"{_plain(h.beta1)}/{_plain(h.beta2)}",
        "warmup": _share(h.warmup) if rise is None else f"{format_count(rise)} {e.unit}",
        "schedule": schedules.get(h.schedule, h.schedule),
        "ends at": _UNKNOWN if h.schedule == "constant" else end,
    }


_WORDS = {"decay": "weight decay ", "β": "β ", "warmup": "warmup ", "ends at": "to "}


def differing_columns(experiments: Sequence[Experiment]) -> dict[str, list[str]]:
    """The columns of hyper-parameters that differ between runs, one cell per run."""
    cells = [_cells(e) for e in experiments]
    columns = {name: [row[name] for row in cells] for name in (cells[0] if cells else ())}
    return {name: column for name, column in columns.items() if len(set(column)) > 1}


def shared_line(experiments: Sequence[Experiment]) -> str:
    """One sentence: the recipes, and each value that is the same in all runs."""
    differing = differing_columns(experiments)
    shared = {
        name: _WORDS.get(name, "") + text
        for name, text in _cells(experiments[0]).items()
        if name not in differing and text != _UNKNOWN
    }
    end = shared.pop("ends at", None)  # by itself it would not say what does
    if end is not None and "schedule" in shared:
        shared["schedule"] += f" {end}"
    parts = list(shared.values())
    clips = {e.hparams.clip for e in experiments}
    if len(clips) == 1:
        parts.append(f"clip {_plain(clips.pop())}")
    recipes = list(dict.fromkeys(e.hparams.recipe for e in experiments))
    named = f"Recipe{'s' if len(recipes) > 1 else ''} {', '.join(recipes)}".rstrip()
    return f"{named}: {', '.join(parts)}." if parts else f"{named}."


SWEEP_FORMAT, SWEEP_SCHEMA = "flops-fit sweep", 2


def sweep_record(
    experiments: Iterable[Experiment], findings: Iterable[Diagnostic]
) -> dict[str, Any]:
    """What ``sweep.json`` says of a sweep: which runs it asks for, and what was found about them."""
    return {
        "format": SWEEP_FORMAT, "schema": SWEEP_SCHEMA, "findings": [vars(d) for d in findings],
        "experiments": [e.to_dict() for e in experiments],
    }  # fmt: skip


_COLUMNS = (
    "id", "label", "budget", "flops", "flops_shared", "size", "params", "non_embedding", "tokens",
    "unit", "tokens_per_param", "flops_per_unit", "flops_per_unit_6nd", "steps", "batch_size",
    "epochs", "seconds", "seed", "repeat", "trunk",
)  # fmt: skip


def plan_rows(experiments: Sequence[Experiment], speed: Speed | None) -> list[dict[str, Any]]:
    """One row a run, with its cost."""
    own, rows = own_flops(experiments), []
    for e in experiments:
        derived = {
            "flops_shared": e.flops - own[e.id],
            "size": json.dumps(dict(e.size)) if isinstance(e.size, Mapping) else e.size,
            "params": e.params.total,
            "non_embedding": e.params.non_embedding,
            "tokens_per_param": e.tokens / e.params.total,
            "seconds": None if speed is None else round(speed.seconds(e, own[e.id]), 3),
        }
        row = {name: derived[name] if name in derived else getattr(e, name) for name in _COLUMNS}
        rows.append(row | {f"hparams.{k}": value for k, value in e.hparams.to_dict().items()})
    return rows


FINAL = frozenset({"completed", "diverged", "hopeless"})  # other states may end otherwise next time


@dataclass(frozen=True)
class PlanDiff(Priced):
    """A plan compared with existing runs; prints as a table.

    ``finished`` runs have completed, diverged, or were stopped as hopeless. A sweep runs ``missing``
    experiments, also those of ``failed`` runs. Runs ``not_asked_for`` are not in the plan: kept, and not
    fitted.
    """

    finished: tuple[Run, ...]
    missing: tuple[Experiment, ...]
    not_asked_for: tuple[Run, ...]
    unreadable: tuple[str, ...] = ()
    failed: tuple[Run, ...] = ()
    _speed: Speed | None = field(default=None, compare=False, repr=False)

    @property
    def cost(self) -> CostEstimate:
        """What the missing part costs, one run after another where the speed was measured."""
        return self.estimate()

    def _to_price(self) -> tuple[Sequence[Experiment], Speed | None]:
        """The missing part alone."""
        return self.missing, self._speed

    def __rich__(self) -> Any:
        counts = f"{len(self.finished)} runs finished, {len(self.missing)} missing"
        title = f"{counts}, {len(self.not_asked_for)} not asked for"
        table = values_table(title, ("run", "id", "FLOPs", "state"), left=4)
        table.columns[2].justify = "right"

        def add(e: Experiment, flops: float, state: str) -> None:
            table.add_row(e.label, e.id, f"{flops:.3g}", state)

        for run in self.finished:
            add(run.experiment, run.flops_spent, run.state)
        table.add_section()
        before = {run.experiment.id: f" ({run.state} before)" for run in self.failed}
        for e, cost in zip(self.missing, self.cost.runs, strict=True):
            add(e, cost.flops, f"missing{before.get(e.id, '')}")
        table.add_section()
        planned = [*self.missing, *(run.experiment for run in self.finished)]
        for run in self.not_asked_for:
            e = run.experiment
            like = next((p for p in planned if p.label == e.label), None)
            why = "" if like is None else f": another {', '.join(_differences(e, like))}"
            add(e, run.flops_spent, f"not asked for{why}")
        return table

    def __str__(self) -> str:
        missing = f"Missing: {self.cost.headline}." if self.missing else "Nothing is missing."
        lines = [f"Unreadable: {line}" for line in self.unreadable]
        return "\n".join([render(self), missing, *lines])


def read_runs(folder: Path, unreadable: list[str]) -> list[Run]:
    """The runs that a sweep recorded; nothing is written."""
    runs = []
    try:
        for path in sorted((folder / "runs").glob("*/run.json")):
            try:
                runs.append(Run.from_dict(read_json(path)))
            except TableError as error:
                unreadable.append(f"{path}: {type(error).__name__}: {error}")
    except OSError as error:
        raise OutputError(f"output_dir: {folder} cannot be read: {error}.") from error
    return runs


def _differences(one: Experiment, other: Experiment) -> list[str]:
    """What differs between two experiments that decides their outcome."""
    names = ["model", "model_kwargs", "tokens", "steps", "batch_size", "seed"]
    differing = [name for name in names if getattr(one, name) != getattr(other, name)]
    ours, theirs = one.hparams.to_dict(), other.hparams.to_dict()
    differing += [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    if one.fingerprint != other.fingerprint:
        differing.append("model code, loss or data")
    return differing

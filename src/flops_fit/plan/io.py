"""Plans on disk: JSON that gives the plan back, CSV to look at, and comparison with existing runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import InputTypeError, OutputError, TableError
from flops_fit.files import csv_text, output_errors, write_output
from flops_fit.flops.functions import FlopsFunction, InterpolatedFlops, LinearFlops, SmoothFlops
from flops_fit.plan.cost import CostEstimate, Priced
from flops_fit.plan.designs import Layout, Prior
from flops_fit.plan.timing import Reading, Speed, StepTimes
from flops_fit.records import Diagnostic, Experiment, Run, own_flops
from flops_fit.text import format_count, render

if TYPE_CHECKING:
    from rich.table import Table

    from flops_fit.plan.sweep_plan import SweepPlan


def differing_columns(experiments: Sequence[Experiment]) -> dict[str, list[str]]:
    """The columns of hyper-parameters that differ between runs, one cell per run."""
    cells = {name: [text(e) for e in experiments] for name, text in _COLUMNS.items()}
    return {name: column for name, column in cells.items() if len(set(column)) > 1}


def shared_line(experiments: Sequence[Experiment]) -> str:
    """One sentence: the recipes, and each value that is the same in all runs."""
    recipes = list(dict.fromkeys(e.hparams.recipe for e in experiments))
    differing = differing_columns(experiments)
    first = experiments[0]
    shared = {
        name: f"{_WORDS[name]}{text(first)}"
        for name, text in _COLUMNS.items()
        if name not in differing and text(first) != _UNKNOWN
    }
    if {"schedule", "ends at"} <= shared.keys():
        shared["schedule"] += f" {shared.pop('ends at')}"
    shared.pop("ends at", None)  # by itself it would not say what does
    parts = list(shared.values())
    clips = {e.hparams.clip for e in experiments}
    if len(clips) == 1:
        parts.append(f"clip {_plain(clips.pop())}")
    named = f"Recipe{'s' if len(recipes) > 1 else ''} {', '.join(recipes)}".rstrip()
    return f"{named}: {', '.join(parts)}." if parts else f"{named}."


def _decay(e: Experiment) -> str:
    return _plain(e.hparams.weight_decay)


def _betas(e: Experiment) -> str:
    return f"{_plain(e.hparams.beta1)}/{_plain(e.hparams.beta2)}"


def _warmup(e: Experiment) -> str:
    rise = e.hparams.warmup_units
    return _share(e.hparams.warmup) if rise is None else f"{format_count(rise)} {e.unit}"


def _schedule(e: Experiment) -> str:
    schedule = e.hparams.schedule
    if schedule == "wsd":
        return f"wsd, last {_share(e.hparams.cooldown)}"
    return "constant rate" if schedule == "constant" else schedule


def _end(e: Experiment) -> str:
    if e.hparams.schedule == "constant":
        return _UNKNOWN
    return "0" if e.hparams.final == 0 else _share(e.hparams.final)


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


_FORMAT = "flops-fit plan"
_SCHEMA = 1


def plan_to_json(plan: SweepPlan) -> str:
    """See :meth:`SweepPlan.to_json`."""
    layout = plan.layout
    content = {
        "format": _FORMAT,
        "schema": _SCHEMA,
        "unit": plan.unit,
        "flops": _flops_to_dict(plan.flops, plan.experiments),
        "layout": None
        if layout is None
        else {
            "design": layout.design,
            "prior": layout.prior.description,
            "width": layout.width,
            "sizes_per_budget": list(layout.sizes_per_budget),
        },
        "diagnostics": [asdict(d) for d in plan.diagnostics],
        "speed": None if plan.speed is None else asdict(plan.speed),
        "experiments": [e.to_dict() for e in plan.experiments],
    }
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)


def plan_from_json(source: str | Path) -> dict[str, Any]:
    """The arguments of a :class:`SweepPlan`; see :meth:`SweepPlan.from_json`."""
    text = source if isinstance(source, str) and source.lstrip().startswith("{") else None
    if text is None:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except OSError as error:
            raise OutputError(f"plan: {source} cannot be read: {error}.") from error
    try:
        content = json.loads(text)
    except ValueError as error:
        raise TableError(f"plan: expected the JSON of SweepPlan.to_json(); {error}.") from error
    if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
        raise TableError(
            "plan: expected the JSON of SweepPlan.to_json(); this is something else. Runs from "
            "elsewhere are read by RunTable and fit_runs."
        )
    if content.get("schema") != _SCHEMA:
        raise TableError(
            f"plan: it has schema {content.get('schema')!r}; this version reads {_SCHEMA}. Make the "
            "plan again."
        )
    try:
        return _read(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(
            f"plan: it is damaged or was edited ({type(error).__name__}: {error}). Make the plan again."
        ) from error


def _read(content: Mapping[str, Any]) -> dict[str, Any]:
    layout = content["layout"]
    return {
        "experiments": tuple(Experiment.from_dict(e) for e in content["experiments"]),
        "unit": content["unit"],
        "flops": _flops_from_dict(content["flops"]),
        "diagnostics": tuple(Diagnostic(**d) for d in content["diagnostics"]),
        "layout": None
        if layout is None
        else Layout(
            layout["design"],
            Prior(layout["prior"]),
            layout["width"],
            tuple(layout["sizes_per_budget"]),
        ),
        "speed": _speed(content["speed"]),
    }


def _speed(values: Mapping[str, Any] | None) -> Speed | None:
    if values is None:
        return None
    reading = values["reading"]
    return Speed(
        **{
            **values,
            "params": tuple(values["params"]),
            "flops_per_second": tuple(values["flops_per_second"]),
            "reading": None if reading is None else Reading(**reading),
            "steps": tuple(StepTimes(**t) for t in values["steps"]),
            "alone": tuple(StepTimes(**t) for t in values["alone"]),
        }
    )


def _flops_to_dict(flops: FlopsFunction, experiments: Sequence[Experiment]) -> dict[str, Any]:
    """F(N) by its parameters, or by its counts; a function of the user's by its values at the sizes."""
    if isinstance(flops, LinearFlops):
        return {"kind": "linear", "k": flops.k}
    if isinstance(flops, SmoothFlops):
        return {"kind": "smooth", **asdict(flops)}
    if isinstance(flops, InterpolatedFlops):
        counts = dict(flops.counts)
    else:
        counts = {float(e.params.total): e.flops_per_unit for e in experiments}
    listed = [[n, counts[n]] for n in sorted(counts)]
    return {"kind": "counted", "counts": listed, "description": flops.description}


def _flops_from_dict(values: Mapping[str, Any]) -> FlopsFunction:
    rest = {name: value for name, value in values.items() if name != "kind"}
    if values["kind"] == "linear":
        return LinearFlops(**rest)
    if values["kind"] == "smooth":
        return SmoothFlops(**rest)
    counts = {float(n): float(f) for n, f in rest["counts"]}
    return InterpolatedFlops(counts, description=rest["description"])


def write_csv(experiments: Sequence[Experiment], speed: Speed | None, path: Path) -> Path:
    """See :meth:`SweepPlan.to_csv`."""
    own = own_flops(experiments)
    rows = [_row(e, own[e.id], speed) for e in experiments]
    with output_errors(path, "plan"):
        write_output(path, csv_text(rows))
    return path


def _row(e: Experiment, own: float, speed: Speed | None) -> dict[str, Any]:
    size = json.dumps(dict(e.size)) if isinstance(e.size, Mapping) else e.size
    return {
        "id": e.id,
        "label": e.label,
        "budget": e.budget,
        "flops": e.flops,
        "flops_shared": e.flops - own,
        "size": size,
        "params": e.params.total,
        "non_embedding": e.params.non_embedding,
        "tokens": e.tokens,
        "unit": e.unit,
        "tokens_per_param": e.tokens / e.params.total,
        "flops_per_unit": e.flops_per_unit,
        "flops_per_unit_6nd": e.flops_per_unit_6nd,
        "steps": e.steps,
        "batch_size": e.batch_size,
        "epochs": e.epochs,
        "seconds": None if speed is None else round(speed.seconds(e, own), 3),
        "seed": e.seed,
        "repeat": e.repeat,
        "trunk": e.trunk,
        **{f"hparams.{name}": value for name, value in e.hparams.to_dict().items()},
    }


_FINAL = frozenset({"completed", "diverged"})  # states that a sweep does not run again


@dataclass(frozen=True)
class PlanDiff(Priced):
    """A plan compared with existing runs; prints as a table.

    Attributes
    ----------
    finished
        Runs of the plan that are final: completed, or diverged.
    missing
        Experiments without a final run. Those that failed are among them: a sweep runs them again.
    not_asked_for
        Existing runs that are not in the plan. A sweep keeps them and does not fit them.
    unreadable
        Records that could not be read, each with its reason.
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

    def __rich__(self) -> Table:
        from rich.table import Table

        title = (
            f"{len(self.finished)} runs finished, {len(self.missing)} missing, "
            f"{len(self.not_asked_for)} not asked for"
        )
        table = Table(title=title, title_justify="left")
        for name in ("run", "id", "FLOPs", "state"):
            table.add_column(name, justify="right" if name == "FLOPs" else "left", no_wrap=True)
        for run in self.finished:
            e = run.experiment
            table.add_row(e.label, e.id, f"{run.flops_spent:.3g}", run.state)
        table.add_section()
        again = {run.experiment.id: run.state for run in self.failed}
        for e, cost in zip(self.missing, self.cost.runs, strict=True):
            state = f"missing ({again[e.id]} before)" if e.id in again else "missing"
            table.add_row(e.label, e.id, f"{cost.flops:.3g}", state)
        table.add_section()
        for run in self.not_asked_for:
            e = run.experiment
            state = f"not asked for{self._distinction(e)}"
            table.add_row(e.label, e.id, f"{run.flops_spent:.3g}", state)
        return table

    def _distinction(self, other: Experiment) -> str:
        """How a run differs from the planned one of its budget, size and repeat."""
        planned = [*self.missing, *(run.experiment for run in self.finished)]
        like = next((e for e in planned if e.label == other.label), None)
        return "" if like is None else f": another {', '.join(_differences(other, like))}"

    def __str__(self) -> str:
        missing = f"Missing: {self.cost.headline}." if self.missing else "Nothing is missing."
        lines = [f"Unreadable: {line}" for line in self.unreadable]
        return "\n".join([render(self), missing, *lines])


def diff(
    experiments: Sequence[Experiment], speed: Speed | None, done: Iterable[Run] | str | Path
) -> PlanDiff:
    """See :meth:`SweepPlan.diff`."""
    unreadable: list[str] = []
    runs = _read_runs(Path(done), unreadable) if isinstance(done, str | Path) else _check_runs(done)
    planned = {e.id for e in experiments}
    final = {r.experiment.id: r for r in runs if r.state in _FINAL}
    return PlanDiff(
        finished=tuple(final[e.id] for e in experiments if e.id in final),
        missing=tuple(e for e in experiments if e.id not in final),
        not_asked_for=tuple(r for r in runs if r.experiment.id not in planned),
        unreadable=tuple(unreadable),
        failed=tuple(r for r in runs if r.experiment.id in planned - set(final)),
        _speed=speed,
    )


def _check_runs(done: Any) -> list[Run]:
    runs = list(done) if isinstance(done, Iterable) else [done]
    for run in runs:
        if not isinstance(run, Run):
            raise InputTypeError(
                f"diff: expected runs, or the output_dir of a sweep; got {type(run).__name__}."
            )
    return runs


def _read_runs(folder: Path, unreadable: list[str]) -> list[Run]:
    """The runs that a sweep recorded; nothing is written."""
    runs = []
    try:
        paths = sorted((folder / "runs").glob("*/run.json"))
        for path in paths:
            try:
                run = Run.from_dict(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                unreadable.append(f"{path}: {type(error).__name__}: {error}")
                continue
            runs.append(run)
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

"""The plan as a value: what will run, what it costs, and how it is written and read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import InputError, InputTypeError, OutputError, TableError
from flops_fit.files import csv_text, output_errors, write_output
from flops_fit.flops.functions import FlopsFunction, flops_from_dict, flops_to_dict
from flops_fit.mup.coordinate_check import CoordinateCheck
from flops_fit.plan import io
from flops_fit.plan.cost import DesignCosts, Device, Priced
from flops_fit.plan.designs import Layout, Prior
from flops_fit.plan.export import export_plan
from flops_fit.plan.timing import Speed
from flops_fit.records import Diagnostic, Experiment, Run, as_record, own_flops
from flops_fit.text import card, format_count, format_duration, render, values_table

if TYPE_CHECKING:
    from flops_fit.plan.planner import Planner

_FORMAT = "flops-fit plan"
_SCHEMA = 1
_FINDINGS = tuple[Diagnostic, ...]
_SPEED: Any = Speed | None


@dataclass(frozen=True)
class SweepPlan(Priced):
    """The runs of a sweep, before anything is spent; prints as a table.

    ``experiments`` has one entry per run, smallest budget first; ``unit`` is what D counts, ``"tokens"``
    or ``"samples"``; ``flops`` is F(N), the training FLOPs per unit at any size. ``diagnostics`` are what
    a reader should know before paying for it, ``speed`` was measured here, if there was data. ``layout``
    is the design, ``None`` where the sizes were given; ``planner`` made the plan, ``None`` in one that
    was read from a file.
    """

    experiments: tuple[Experiment, ...]
    unit: str
    flops: FlopsFunction
    diagnostics: tuple[Diagnostic, ...] = ()
    speed: Speed | None = field(default=None, compare=False)
    layout: Layout | None = None
    planner: Planner | None = field(default=None, compare=False, repr=False)

    def require_planner(self, what: str) -> Planner:
        """What made this plan; refused where it was read from a file."""
        if self.planner is None:
            raise InputError(
                f"{what}: expected a plan that plan_sweep made; this one was read from a file. Make it "
                "again with plan_sweep."
            )
        return self.planner

    @property
    def task(self) -> Callable[..., Run] | None:
        """What runs one experiment; ``None`` where the plan was made without data."""
        return None if self.planner is None else self.planner.task

    @property
    def coordinates(self) -> CoordinateCheck | None:
        """The check of whether one learning rate serves all widths; ``None`` where none was made."""
        return None if self.planner is None else self.planner.coordinates

    @property
    def budgets(self) -> tuple[float, ...]:
        """The distinct budgets, ascending."""
        return tuple(sorted({e.budget for e in self.experiments}))

    @property
    def total_flops(self) -> float:
        """Training FLOPs of all runs together, what runs of one trunk share counted once."""
        return math.fsum(own_flops(self.experiments).values())

    def seconds(self) -> float | None:
        """Estimated time of all runs one after another; ``None`` where not measured."""
        return self.estimate().seconds

    def _to_price(self) -> tuple[Sequence[Experiment], Speed | None]:
        return self.experiments, self.speed

    def compare_designs(
        self,
        device: str | None = None,
        dollars_per_hour: float | None = None,
        parallel: int = 1,
        mfu: float | None = None,
    ) -> DesignCosts:
        """What the same budgets cost with each design; the arguments are those of :meth:`estimate`.

        Each design is planned in full, around the same prior at its own default width. InputError where
        the plan was read from a file, or its model has no size parameter.
        """
        where = Device(device, dollars_per_hour, parallel, mfu)
        return self.require_planner("compare_designs").compare_designs(self, where)

    def diff(self, done: Iterable[Run] | str | Path) -> io.PlanDiff:
        """Which runs are done, which are missing, and which exist without being planned.

        ``done`` are runs, or the ``output_dir`` of a sweep: only read, OutputError where it cannot be.
        """
        unreadable: list[str] = []
        if isinstance(done, str | Path):
            runs = io.read_runs(Path(done), unreadable)
        else:
            runs = list(done) if isinstance(done, Iterable) else [done]
        for run in runs:
            if not isinstance(run, Run):
                raise InputTypeError(
                    f"diff: expected runs, or the output_dir of a sweep; got {type(run).__name__}."
                )
        planned = {e.id for e in self.experiments}
        stops = getattr(getattr(self.task, "config", None), "stop_hopeless", True)
        final = {r.experiment.id: r for r in runs if r.state in io.FINAL}
        final = {i: r for i, r in final.items() if stops or r.state != "hopeless"}
        return io.PlanDiff(
            finished=tuple(final[e.id] for e in self.experiments if e.id in final),
            missing=tuple(e for e in self.experiments if e.id not in final),
            not_asked_for=tuple(r for r in runs if r.experiment.id not in planned),
            unreadable=tuple(unreadable),
            failed=tuple(r for r in runs if r.experiment.id in planned - set(final)),
            _speed=self.speed,
        )

    def to_json(self, path: str | Path | None = None) -> str:
        """The plan as JSON text, written to ``path`` as well where one is given.

        The ``planner`` is not part of it; F(N) is, with every size that was counted.
        """
        layout = self.layout
        content = {
            "format": _FORMAT,
            "schema": _SCHEMA,
            "unit": self.unit,
            "flops": flops_to_dict(self.flops, [e.params.total for e in self.experiments]),
            "layout": layout and {**vars(layout), "prior": layout.prior.description},
            "diagnostics": [vars(d) for d in self.diagnostics],
            "speed": None if self.speed is None else asdict(self.speed),
            "experiments": self.to_dicts(),
        }
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
        if path is not None:
            write_output(Path(path), text + "\n")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> SweepPlan:
        """A plan from the text of :meth:`to_json`, or from the file that it wrote.

        TableError where it is no plan, or was edited: the id of a run no longer fits its settings.
        """
        text = str(source)
        try:
            if isinstance(source, Path) or not text.lstrip().startswith("{"):
                text = Path(source).read_text(encoding="utf-8")
            content = json.loads(text)
        except OSError as error:
            raise OutputError(f"plan: {source} cannot be read: {error}.") from error
        except (ValueError, RecursionError) as error:
            raise TableError(f"plan: expected the JSON of SweepPlan.to_json(); {error}.") from error
        if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
            raise TableError(
                "plan: expected the JSON of SweepPlan.to_json(); this is something else. Runs from "
                "elsewhere are read by RunTable and fit_runs."
            )
        if content.get("schema") != _SCHEMA:
            raise TableError(
                f"plan: it has schema {content.get('schema')!r}; this version reads {_SCHEMA}. Make "
                "the plan again."
            )
        try:
            layout, each = content["layout"], list(content["experiments"])
            if layout is not None:
                prior = as_record(layout["prior"], str, "plan: its prior")
                layout = as_record({**layout, "prior": Prior(prior)}, Layout, "plan: its layout")
            return cls(
                experiments=tuple(Experiment.from_dict(e) for e in each),
                unit=as_record(content["unit"], str, "plan: its unit"),
                flops=flops_from_dict(content["flops"]),
                diagnostics=as_record(content["diagnostics"], _FINDINGS, "plan: its diagnostics"),
                speed=as_record(content["speed"], _SPEED, "plan: its speed"),
                layout=layout,
            )
        except TableError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TableError(
                f"plan: it is damaged or was edited ({type(error).__name__}: {error}). Make the plan "
                "again."
            ) from error

    def to_csv(self, path: str | Path) -> Path:
        """Write one row a run, with its cost and its hyper-parameters; returns the path."""
        path = Path(path)
        with output_errors(path, "plan"):
            write_output(path, csv_text(io.plan_rows(self.experiments, self.speed)))
        return path

    def export(self, target: str, folder: str | Path, command: Any = None, **options: Any) -> Path:
        """Write what runs this plan elsewhere, and return its path; :func:`collect` finds the results.

        ``target`` is ``"bash"``, ``"slurm-array"``, ``"kubernetes"``, ``"skypilot"``, ``"ray-job"``,
        ``"hydra"``, ``"csv"``, or a script with the command of ``"nanochat"`` or ``"torchtitan"``. ``folder``
        becomes that of a sweep. ``command`` is a :class:`CommandTask` or its text, by default that of the
        plan; for hydra it is a list of overrides such as ``optim.lr={lr}``. ``options`` are of the target,
        such as ``partition=`` or ``image=``; of a trainer ``gpus=``, ``config=`` and ``more=`` flags.
        InputError names those that are missing or unknown; OutputError where the folder holds other files.
        """
        return export_plan(self, target, Path(folder), command or self.task, options)

    def __len__(self) -> int:
        return len(self.experiments)

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict a run."""
        return [e.to_dict() for e in self.experiments]

    def __rich__(self) -> Any:
        chosen = io.differing_columns(self.experiments)
        names = ("FLOPs", "size", "N", f"D ({self.unit})", "D/N", "C/6ND", "steps", "batch")
        table = values_table(
            f"{len(self)} runs, {self.total_flops:.3g} FLOPs",
            (*names, "epochs", "lr", *chosen, "est. time"),
            left=0,
            caption=io.shared_line(self.experiments) if self.experiments else None,
            caption_justify="left",
            collapse_padding=bool(chosen),  # the more columns, the less room
        )
        own = own_flops(self.experiments)
        for i, e in enumerate(self.experiments):
            if i > 0 and e.budget != self.experiments[i - 1].budget:
                table.add_section()
            size = (
                "×".join(map(str, e.size.values())) if isinstance(e.size, Mapping) else str(e.size)
            )
            table.add_row(
                f"{e.flops:.4g}",
                size,
                format_count(e.params.total, zeros=True),
                format_count(e.tokens, zeros=True),
                format_count(e.tokens / e.params.total, zeros=True),
                f"{e.flops_per_unit / e.flops_per_unit_6nd:.2f}",
                f"{e.steps:,}",
                f"{e.batch_size:,}",
                "–" if e.epochs is None else f"{e.epochs:.2g}",
                f"{e.hparams.lr:.2g}",
                *(column[i] for column in chosen.values()),
                "–" if self.speed is None else format_duration(self.speed.seconds(e, own[e.id])),
            )
        return table

    def __repr__(self) -> str:
        return f"<SweepPlan of {len(self)} runs, {self.total_flops:.3g} FLOPs>"

    def _repr_html_(self) -> str:
        rows = [["FLOPs", "runs", "N", f"D ({self.unit})"]]
        for budget in self.budgets:
            runs = [e for e in self.experiments if e.budget == budget]
            sizes, units = [e.params.total for e in runs], [e.tokens for e in runs]
            spans = [f"{format_count(min(v))}–{format_count(max(v))}" for v in (sizes, units)]
            rows.append([f"{budget:.3g}", str(len(runs)), *spans])
        total = self.seconds()
        notes = [] if total is None else [f"About {format_duration(total)}, one run after another."]
        title = f"{len(self)} runs, {self.total_flops:.3g} FLOPs"
        return card(title, rows, [*notes, *(str(d) for d in self.diagnostics)])

    def __str__(self) -> str:
        lines = [render(self)]
        total = self.seconds()
        if total is not None and self.speed is not None:
            lines.append(
                f"About {format_duration(total)} of training, one run after another on {self.speed.device}."
            )
        return "\n".join([*lines, *(str(d) for d in self.diagnostics)])

"""What of a plan is run already, what is missing, and what was run beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import InputTypeError, OutputError
from flops_fit.plan.cost import CostEstimate, Priced
from flops_fit.plan.timing import Speed
from flops_fit.records import Experiment, Run
from flops_fit.text import render

if TYPE_CHECKING:
    from rich.table import Table


_FINAL = frozenset({"completed", "diverged"})  # what the store asks for no more


@dataclass(frozen=True)
class PlanDiff(Priced):
    """A plan beside what is there; prints as a table.

    Attributes
    ----------
    finished
        Runs that the plan asks for and that are final: completed, or diverged.
    missing
        Experiments without a final run; those that failed are among them, as a sweep tries them again.
    not_asked_for
        Runs that are there and not in the plan. A sweep keeps them and does not fit them.
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
            told = self._told(e)
            table.add_row(e.label, e.id, f"{run.flops_spent:.3g}", f"not asked for{told}")
        return table

    def _told(self, other: Experiment) -> str:
        """What sets a run apart from the planned one of its budget, size and repeat."""
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
    runs = _read(Path(done), unreadable) if isinstance(done, str | Path) else _check(done)
    asked = {e.id for e in experiments}
    final = {r.experiment.id: r for r in runs if r.state in _FINAL}
    return PlanDiff(
        finished=tuple(final[e.id] for e in experiments if e.id in final),
        missing=tuple(e for e in experiments if e.id not in final),
        not_asked_for=tuple(r for r in runs if r.experiment.id not in asked),
        unreadable=tuple(unreadable),
        failed=tuple(r for r in runs if r.experiment.id in asked - set(final)),
        _speed=speed,
    )


def _check(done: Any) -> list[Run]:
    runs = list(done) if isinstance(done, Iterable) else [done]
    for run in runs:
        if not isinstance(run, Run):
            raise InputTypeError(
                f"diff: expected runs, or the output_dir of a sweep; got {type(run).__name__}."
            )
    return runs


def _read(folder: Path, unreadable: list[str]) -> list[Run]:
    """The runs that a sweep recorded; nothing is renamed or written."""
    found = []
    try:
        paths = sorted((folder / "runs").glob("*/run.json"))
        for path in paths:
            try:
                run = Run.from_dict(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                unreadable.append(f"{path}: {type(error).__name__}: {error}")
                continue
            found.append(run)
    except OSError as error:
        raise OutputError(f"output_dir: {folder} cannot be read: {error}.") from error
    return found


def _differences(one: Experiment, other: Experiment) -> list[str]:
    """What of two experiments that decides their outcome is not the same."""
    names = ["model", "model_kwargs", "tokens", "steps", "batch_size", "seed"]
    apart = [name for name in names if getattr(one, name) != getattr(other, name)]
    keys = sorted({*one.hparams.to_dict(), *other.hparams.to_dict()})
    apart += [key for key in keys if one.hparams.get(key) != other.hparams.get(key)]
    if one.fingerprint != other.fingerprint:
        apart.append("model code, loss or data")
    return apart

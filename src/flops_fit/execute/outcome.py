"""How a command ended: its loss from what it wrote or printed, and the state of its run."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from flops_fit.errors import InputError, InputTypeError, TableError, check_choice
from flops_fit.execute.process import exit_words
from flops_fit.plan.template import fill
from flops_fit.records import Experiment, Run, RunState
from flops_fit.trackers.tensorboard import read_tensorboard
from flops_fit.trackers.tracker import flat

LossFrom = str | Callable[[Path, str], Any] | None
FILES = (
    "result.json", "results.json", "metrics.json", "eval_results.json", "all_results.json",
    "metrics.jsonl", "metrics.csv",
)  # fmt: skip
LOSSES = ("eval_loss", "val_loss", "validation_loss", "eval/loss", "val/loss", "loss")
_NAMES = {
    "loss_se": ("loss_se",), "train_loss": ("train_loss",), "flops": ("flops",),
    "tokens": ("tokens", "units", "num_tokens"), "params": ("params", "num_params"),
}  # fmt: skip
_NO_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|Cannot allocate memory|CUDNN_STATUS_ALLOC_FAILED|\bMemoryError\b"
)
_KILLED, _TERMINATED = (137, -9), (143, -15)
_MOST_LINES, _SHOWN_LINES = 200, 20  # at the end of an output: searched for a cause, and kept
_MOST_CHARACTERS = 300  # of the last line, in a reason
_TOLERANCE = 0.01  # of what a trainer reports against what was planned


@dataclass(frozen=True)
class Reader:
    """Reads what a command has reported, and says how its run ended; see :class:`CommandTask`."""

    loss: LossFrom = None
    exit_codes: Mapping[int, RunState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.loss is None or isinstance(self.loss, str) or callable(self.loss)):
            raise InputTypeError(f"loss: {_EXPECTED}; got {self.loss!r}.")
        if isinstance(self.loss, str) and self.loss.startswith("re:"):
            try:
                re.compile(self.loss[3:])
            except re.error as error:
                raise InputError(f"loss: expected a regular expression; {error}.") from error
        for state in self.exit_codes.values():
            check_choice("exit_codes", state, get_args(RunState)[2:])

    def run(
        self, e: Experiment, code: int, run_dir: Path, output: str, values: Mapping[str, Any]
    ) -> Run:
        """The run of a command that has ended, with what it has written and printed."""
        reported: dict[str, float] = {}
        missing = ""
        try:
            reported = self.reported(run_dir, output, values)
        except Exception as error:  # the user's function, or a file that is no such file
            missing = str(error)
        lines = [line.rstrip() for line in output.splitlines() if line.strip()]
        state, reason = self._state(code, reported.get("loss"), lines)
        if state != "completed" or not reported:
            if state == "completed":
                state, reason = "failed", missing
            elif lines and state != "diverged":
                reason += f": {lines[-1].strip()[:_MOST_CHARACTERS]}"
            return Run(e, state, reason=reason, details="\n".join(lines[-_SHOWN_LINES:]))
        tokens = round(reported.get("tokens", e.tokens))
        notes = [
            f"the command reports {reported[name]:.6g} {name}; planned were {planned:.6g}"
            for name, planned in (("params", e.params.total), ("tokens", e.tokens))
            if abs(reported.get(name, planned) / planned - 1) > _TOLERANCE
        ]
        if "params" in reported:
            e = replace(e, params=replace(e.params, total=round(reported["params"])))
        return Run(
            e, "completed", loss=reported["loss"], loss_se=reported.get("loss_se"), tokens=tokens,
            train_loss=reported.get("train_loss"), notes=tuple(notes),
            flops=reported.get("flops", e.flops_per_unit * tokens),
        )  # fmt: skip

    def _state(self, code: int, loss: float | None, lines: Sequence[str]) -> tuple[RunState, str]:
        """The state of a run, and why it has no result."""
        how = f"the command {exit_words(code)}"
        if code in self.exit_codes:
            return self.exit_codes[code], how
        if loss is not None and not math.isfinite(loss):
            return "diverged", f"it reports a loss of {loss}"
        if code in _KILLED:
            return "oom", f"{how}, as where the system lacks memory"
        if code and _NO_MEMORY.search("\n".join(lines[-_MOST_LINES:])):
            return "oom", f"{how}, out of memory"
        if code in _TERMINATED:
            return "preempted", how
        return ("failed", how) if code else ("completed", "")

    def reported(self, run_dir: Path, output: str, values: Mapping[str, Any]) -> dict[str, float]:
        """The loss, and what else is reported with it: tokens, params, flops, loss_se, train_loss."""
        where = self.loss
        if callable(where):
            record = where(run_dir, output)
            return _named(record if isinstance(record, Mapping) else {"loss": record}, "")
        if where is not None and where.startswith("re:"):
            *_, match = None, *re.finditer(where[3:], output)
            if match is None:
                raise TableError(f"loss: nothing that the command printed matches {where[3:]!r}.")
            return _named({"loss": match[min(1, match.re.groups)], **match.groupdict()}, "loss")
        if where is not None and where.startswith("tensorboard:"):
            tag, logged = where.partition(":")[2], read_tensorboard(run_dir, complete=True)
            points = [point for run in logged for point in run.points if tag in point]
            if not points:
                raise TableError(f"loss: no scalar {tag!r} is in the event files below {run_dir}.")
            return _named(max(points, key=lambda point: point["step"]), tag)
        name, _, key = fill(where or "", values, "loss").partition(":")
        for file in [name] if name else FILES:
            paths = [run_dir / file]
            if not paths[0].is_file() and not Path(file).is_absolute():
                paths = sorted(run_dir.glob(file), key=lambda path: path.stat().st_mtime)
            records = [flat(record) for path in paths[-1:] for record in _records(path)]
            for wanted in [key] if key else LOSSES:
                for record in reversed(records):
                    if record.get(wanted) not in (None, ""):
                        return _named(record, wanted)
        files, keys = name or ", ".join(FILES), key or ", ".join(LOSSES)
        raise TableError(f"loss: there is no {keys} in {files} of {run_dir}. {_EXPECTED}.")


_EXPECTED = (
    'Expected loss="file.json:key" (or .jsonl, .csv), "re:PATTERN" for what is printed, '
    '"tensorboard:TAG" or a function (run_dir, output) -> loss'
)


def _named(record: Mapping[str, Any], loss: str) -> dict[str, float]:
    """The numbers of a record by our names."""
    names = {"loss": (loss or "loss",), **_NAMES}
    first = (
        (ours, next((n for n in theirs if n in record), None)) for ours, theirs in names.items()
    )
    out = {}
    for ours, theirs in first:
        if theirs is not None and record[theirs] not in (None, ""):
            out[ours] = float(record[theirs])
    return out


def _records(path: Path) -> list[Mapping[str, Any]]:
    """The objects of a JSON, JSONL or CSV file, in order."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        if path.suffix == ".csv":
            return list(csv.DictReader(file))
        lines = file.readlines() if path.suffix == ".jsonl" else [file.read()]
    found: list[Any] = []
    for line in lines:
        with suppress(ValueError):  # torn, or blank
            read = json.loads(line)
            found += read if isinstance(read, list) else [read]
    return [record for record in found if isinstance(record, Mapping)]

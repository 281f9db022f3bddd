"""A run as a command: started in a folder of its own, watched, stopped with all that it started, and read."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, get_args

from flops_fit.errors import InputError, InputTypeError, TableError, check_choice, check_number
from flops_fit.execute.executor import Report
from flops_fit.execute.process import exit_words
from flops_fit.files import WORK
from flops_fit.fingerprint import digest, reference
from flops_fit.plan.export import Command, fill, planned_values
from flops_fit.records import Experiment, Run, RunState
from flops_fit.text import format_duration
from flops_fit.trackers.tensorboard import read_tensorboard
from flops_fit.trackers.tracker import flat
from flops_fit.train.monitor import Interruption, end_by
from flops_fit.train.trainer import Progress

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
_EXPECTED = (
    'Expected loss="file.json:key" (or .jsonl, .csv), "re:PATTERN" for what is printed, '
    '"tensorboard:TAG" or a function (run_dir, output) -> loss'
)
# In a run's folder: what the command printed, and how one ended that was exported.
OUTPUT, EXIT_CODE = "output.txt", "exit_code"
_REPORT_SECONDS = 0.5  # between reports that the run is under way
# Told a process group, it ends that where its input ends without a second line, as where we are killed.
_GUARD = "read -r group && ! read -r ended && kill -s TERM -- -$group && sleep $0 && kill -s KILL -- -$group"
_MOST_BYTES = 2**24  # of an output that are read


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
            check_choice("exit_codes", state, get_args(RunState)[3:])

    def run(
        self, e: Experiment, code: int, run_dir: Path, output: str | None, values: Mapping[str, Any]
    ) -> Run:
        """The run of a command, with what it has written and printed.

        Without ``output`` it is not known to have ended: files that grow tell nothing then.
        """
        reported: dict[str, float] = {}
        missing = ""
        try:
            reported = _sound(self.reported(run_dir, output, values))
        except TableError as error:
            missing = str(error)
        except Exception as error:  # the user's function, or a file that is no such file
            missing = f"loss: it cannot be read ({type(error).__name__}: {error})"
        lines = [line.rstrip() for line in (output or "").splitlines() if line.strip()]
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

    def reported(
        self, run_dir: Path, output: str | None, values: Mapping[str, Any]
    ) -> dict[str, float]:
        """The loss, and what else is reported with it: tokens, params, flops, loss_se, train_loss."""
        where = self.loss
        other = callable(where) or (where or "").startswith(("re:", "tensorboard:"))
        ended, output = output is not None, output or ""
        if other and not ended:
            raise TableError("loss: the run has not ended.")
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
        files = [name] if name else FILES
        for file in files if ended else [f for f in files if f.endswith(".json")]:
            paths = [run_dir / file]
            if not paths[0].is_file() and not Path(file).is_absolute():
                paths = sorted(run_dir.glob(file), key=lambda path: path.stat().st_mtime)
            records = [flat(record) for path in paths[-1:] for record in _records(path)]
            for wanted in [key] if key else LOSSES:
                for record in reversed(records):
                    if record.get(wanted) not in (None, ""):
                        return _named(record, wanted)
        keys = key or ", ".join(LOSSES)
        raise TableError(
            f"loss: there is no {keys} in {', '.join(files)} of {run_dir}. {_EXPECTED}."
        )


def _named(record: Mapping[str, Any], loss: str) -> dict[str, float]:
    """The numbers of a record by our names."""
    out = {}
    for ours, theirs in {"loss": (loss or "loss",), **_NAMES}.items():
        value = next((record[name] for name in theirs if name in record), None)
        if value not in (None, ""):
            out[ours] = float(value)
    return out


def _sound(reported: dict[str, float]) -> dict[str, float]:
    """What was reported, where it makes a run; else TableError."""
    if "loss" not in reported:
        others = ", ".join(reported) or "nothing"
        raise TableError(f"loss: expected a number; the command reports {others} and no loss.")
    for name in ("tokens", "params", "flops") if math.isfinite(reported["loss"]) else ():
        if not 1 <= reported.get(name, 1) < math.inf:
            raise TableError(
                f"{name}: expected a finite number, 1 or more; the command reports {reported[name]:g}."
            )
    return reported


def _records(path: Path) -> list[Mapping[str, Any]]:
    """The objects of a JSON, JSONL or CSV file, in order."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        if path.suffix == ".csv":
            return list(csv.DictReader(file))
        lines = file.readlines() if path.suffix == ".jsonl" else [file.read()]
    found: list[Any] = []
    for line in lines:
        with suppress(ValueError, RecursionError):  # torn, or blank
            read = json.loads(line)
            found += read if isinstance(read, list) else [read]
    return [record for record in found if isinstance(record, Mapping)]


def printed(path: Path, after: int = 0) -> str:
    """The end of what was printed to a file, beyond its first bytes."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(after, file.seek(0, os.SEEK_END) - _MOST_BYTES))
        return file.read().decode(errors="replace")


@dataclass(frozen=True)
class CommandTask:
    """A trainer that is a command: ``run_sweep(plan, CommandTask("python train.py --lr {lr} ..."))``.

    Its exit code and its loss decide the state of a run: 0 with a finite loss is completed, a loss that is
    not finite is diverged. One that was killed, or says that memory ran out, is oom; one that was
    terminated is preempted, and tried again; any other has failed. ``exit_codes`` names other states.

    Parameters
    ----------
    command
        Placeholders stand for what is planned, as in ``{lr:.3e}``; a wrong one is told which there are.
        ``{run_dir}`` is a folder of the run's own, which it finds again when it goes on. Words are split as
        by a shell and then filled, so no value can become a word or a command of its own.
    loss
        Where the held-out loss is: ``"file.json:key"`` in ``run_dir``, also of JSONL or CSV, of which the
        last record counts, and by a pattern such as ``"*/summary.json:val.loss"``; ``"re:PATTERN"``, the
        last match in what is printed; ``"tensorboard:TAG"``; or a function ``(run_dir, output) -> loss``
        or dict. By default ``eval_loss``, ``val_loss`` or ``loss`` in ``result.json``, ``metrics.json``
        and the like. Beside it ``tokens``, ``params``, ``flops``, ``train_loss`` and ``loss_se`` are read.
    shell
        Give the command to ``/bin/sh``; values are quoted.
    timeout
        Seconds after which a run has failed.
    grace
        Seconds from SIGTERM to SIGKILL for all processes of a run that is stopped.
    env
        More variables, with placeholders. FLOPS_FIT_RUN_DIR, FLOPS_FIT_LR and so on are always there.
    cwd
        Where the command starts, by default the present folder.
    """

    command: str
    loss: LossFrom = None
    _: KW_ONLY
    shell: bool = False
    timeout: float | None = None
    grace: float = 10.0
    exit_codes: Mapping[int, RunState] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | Path | None = None
    folder: Path | None = None

    starts_ranks = True  # all GPUs of a run belong to its one process

    def __post_init__(self) -> None:
        self._command, self._reader  # noqa: B018 - they check themselves
        check_number("grace", self.grace, at_least=0)
        if self.timeout is not None:
            check_number("timeout", self.timeout, above=0)
        # Workers may start elsewhere.
        object.__setattr__(self, "cwd", str(Path(self.cwd or "").absolute()))

    @cached_property
    def _command(self) -> Command:
        return Command(self.command, self.shell)

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.loss, self.exit_codes)

    def in_folder(
        self, folder: Path, trunks: Path | None = None, experiments: Iterable[Experiment] = ()
    ) -> Self:
        """The same task, with the folders of runs under ``folder``."""
        return replace(self, folder=folder)

    def check(self, experiments: Iterable[Experiment]) -> None:
        """Refuse placeholders that a plan has no values for."""
        for experiment in experiments:
            self._filled(experiment, Path())

    def fingerprint(self) -> str:
        """A hash of what is run and of where its loss is; of a function, its name."""
        loss: Any = self.loss
        if callable(loss):
            loss = getattr(loss, "__qualname__", reference(loss))
        env = [f"{name}={text}" for name, text in sorted(self.env.items())]
        return digest(["command", self.command, str(self.shell), str(loss), *env])

    def _filled(self, e: Experiment, run_dir: Path) -> tuple[list[str], dict[str, str], Any]:
        """The words, the variables, and the values by name."""
        values = {**planned_values(e), "run_dir": str(run_dir)}
        more = {name: fill(text, values, "env") for name, text in self.env.items()}
        ours = {f"FLOPS_FIT_{name.upper()}": str(value) for name, value in values.items()}
        return self._command.words(values), {**os.environ, **ours, **more}, values

    def __call__(self, experiment: Experiment, report: Report | None = None) -> Run:
        """Run the command to its end, or stop it with this process."""
        started, folder = time.perf_counter(), (self.folder or Path("runs")).absolute()
        run_dir, log = folder / experiment.id / WORK, folder / experiment.id / OUTPUT
        run_dir.mkdir(parents=True, exist_ok=True)
        resumed = int(any(run_dir.iterdir()))
        words, env, values = self._filled(experiment, run_dir)
        progress = Progress(experiment.id, 0, experiment.steps, math.nan)
        late = False
        with Interruption() as interruption, log.open("ab") as out, self._guard() as guard:
            before = out.tell()
            process = subprocess.Popen(
                words, cwd=self.cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
            try:
                guard(process.pid)
                while process.poll() is None and not interruption.signal and not late:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_REPORT_SECONDS)
                    if report is not None:
                        report(progress)
                    late = time.perf_counter() - started > (self.timeout or math.inf)
            finally:
                if process.poll() is None or process.returncode:
                    self._stop(process)
                with suppress(OSError):  # it was killed
                    guard("")
            if interruption.signal and process.returncode:
                end_by(interruption.signal)
        output = printed(log, before)
        run = self._reader.run(experiment, process.returncode, run_dir, output, values)
        if late and process.returncode:
            reason = f"it took longer than {format_duration(self.timeout or 0)} and was stopped"
            run = replace(run, state="failed", reason=reason)
        return replace(run, seconds=time.perf_counter() - started, resumed=resumed)

    @contextmanager
    def _guard(self) -> Iterator[Callable[[object], None]]:
        """What tells a line to a process that ends the command if this process is killed."""
        if sys.platform == "win32":
            yield lambda line: None
            return
        words = ["sh", "-c", _GUARD, str(math.ceil(self.grace))]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, text=True,
        ) as guard:  # fmt: skip
            yield partial(print, file=guard.stdin, flush=True)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """End a command and all that it started: ask, then insist."""
        for name, patience in (("SIGTERM", self.grace), ("SIGKILL", None)):
            with suppress(ProcessLookupError, PermissionError):
                if sys.platform == "win32":
                    process.kill()
                else:
                    os.killpg(process.pid, getattr(signal, name))
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)

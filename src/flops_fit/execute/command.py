"""A run as a command: started in a folder of its own, watched, stopped with all that it started."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from flops_fit.errors import check_number
from flops_fit.execute.executor import Report
from flops_fit.execute.outcome import LossFrom, Reader
from flops_fit.fingerprint import digest
from flops_fit.plan.template import Command, fill, planned_values
from flops_fit.records import Experiment, Run, RunState
from flops_fit.text import format_duration
from flops_fit.train.monitor import Interruption, end_by
from flops_fit.train.trainer import Progress

# In a run's folder: {run_dir}, what the command printed, and how one ended that was exported.
WORK, OUTPUT, EXIT_CODE = "work", "output.txt", "exit_code"
_REPORT_SECONDS = 1.0  # between reports that the run is under way
_MOST_BYTES = 2**24  # of an output that are read


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

    def in_folder(self, folder: Path, trunks: Path | None = None) -> CommandTask:
        """The same task, with the folders of runs under ``folder``."""
        return replace(self, folder=folder)

    def check(self, experiments: Iterable[Experiment]) -> None:
        """Refuse placeholders that a plan has no values for."""
        for experiment in experiments:
            self._filled(experiment, Path())

    def fingerprint(self) -> str:
        """A hash of the command."""
        return digest(["command", self.command])

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
        if setpriv := shutil.which("setpriv"):  # it ends with this process, also if that is killed
            words = [setpriv, "--pdeathsig", "TERM", "--", *words]
        progress = Progress(experiment.id, 0, experiment.steps, math.nan)
        late = False
        with Interruption() as interruption, log.open("ab") as out:
            before = out.tell()
            process = subprocess.Popen(
                words, cwd=self.cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
            try:
                while process.poll() is None and not interruption.signal and not late:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_REPORT_SECONDS)
                    if report is not None:
                        report(progress)
                    late = time.perf_counter() - started > (self.timeout or math.inf)
            finally:
                if process.poll() is None or process.returncode:
                    self._stop(process)
            if interruption.signal and process.returncode:
                end_by(interruption.signal)
        with log.open("rb") as printed:
            printed.seek(max(before, printed.seek(0, os.SEEK_END) - _MOST_BYTES))
            output = printed.read().decode(errors="replace")
        run = self._reader.run(experiment, process.returncode, run_dir, output, values)
        if late and process.returncode:
            reason = f"it took longer than {format_duration(self.timeout or 0)} and was stopped"
            run = replace(run, state="failed", reason=reason)
        return replace(run, seconds=time.perf_counter() - started, resumed=resumed)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """End a command and all that it started: ask, then insist."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(self.grace if number == signal.SIGTERM else None)

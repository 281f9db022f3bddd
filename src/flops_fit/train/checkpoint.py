"""The checkpoints of a run, from which it continues after it was stopped at any moment.

A checkpoint is written to a hidden directory beside the others, flushed to the disk and then
renamed: a reader sees all of it or nothing. What does not verify is renamed and reported, never
deleted and never loaded.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flops_fit.checks import check_number, check_whole
from flops_fit.errors import InputError, InputTypeError, OutputError
from flops_fit.files import flush_directory
from flops_fit.records import Diagnostic
from flops_fit.train.snapshot import (
    UnusableError,
    plain_state,
    read_manifest,
    read_snapshot,
    write_snapshot,
)

_MAX_SHARE = 0.01  # of a run's time that checkpoints may take
_STEP = re.compile(r"step-(\d{8,})")
_SAVING = re.compile(r"\.saving-step-\d{8,}")  # half written
_REPLACED = re.compile(r"\.replaced-(step-\d{8,})")  # complete, its step being saved again
_REMOVING = re.compile(r"\.removing-step-\d{8,}")  # half deleted


def check_intervals(seconds: Any, steps: Any) -> None:
    """Refuse intervals between checkpoints that are not a time or a number of steps."""
    if seconds is not None:
        expected = "finite seconds, 0 or more, or None"
        check_number("checkpoint_seconds", seconds, at_least=0, expected=expected)
    if steps is not None:
        check_whole("checkpoint_steps", steps, expected="a whole number, 1 or more, or None")


@dataclass
class Checkpoints:
    """The checkpoints of one run; one process at a time writes them.

    On disk are at most ``keep`` of them, and one more while it is being written.

    Parameters
    ----------
    folder
        Created at the first :meth:`save`.
    key
        A hash of what they belong to: the experiment's id and whatever else decides the
        arithmetic. Checkpoints under another key are never loaded.
    every_seconds, every_steps
        When :meth:`due` is true: this long after the last save ended, or at multiples of so many
        steps, whichever comes first. None switches one off. Slow saves come less often, so that
        they take at most a hundredth of the time; with 0 seconds each step is saved.
    keep
        How many stay.
    clock
        Seconds, from any origin.

    Attributes
    ----------
    findings
        What was set aside, in words.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "checkpoint"
    >>> checkpoints = Checkpoints(folder, key="abc", every_steps=100)
    >>> checkpoints.newest() is None, checkpoints.due(99), checkpoints.due(100)
    (True, False, True)
    >>> checkpoints.save(100, {"units": 3200})
    >>> Checkpoints(folder, key="abc").newest()
    (100, {'units': 3200})
    """

    folder: Path
    key: str
    every_seconds: float | None = 60.0
    every_steps: int | None = None
    keep: int = 2
    clock: Callable[[], float] = time.monotonic
    findings: list[Diagnostic] = field(default_factory=list, init=False)
    _last_step: int = field(default=0, init=False, repr=False)
    _last_time: float = field(init=False, repr=False)
    _cost: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if not self.key or not isinstance(self.key, str):
            raise InputError(f"key: expected text that is not empty, got {self.key!r}.")
        check_intervals(self.every_seconds, self.every_steps)
        check_whole("keep", self.keep)
        self._last_time = self.clock()

    def due(self, step: int) -> bool:
        """Whether it is time to save after ``step`` steps; reads only the clock."""
        if step <= self._last_step:
            return False
        if self.every_steps and step // self.every_steps > self._last_step // self.every_steps:
            return True
        if self.every_seconds is None:
            return False
        interval = max(self.every_seconds, self._cost / _MAX_SHARE) if self.every_seconds else 0.0
        return self.clock() - self._last_time >= interval

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after ``step`` steps; when this returns, a crash cannot undo it.

        A checkpoint of the same step is replaced. Older ones beyond ``keep`` are removed. ``state`` is
        what ``plain_state`` allows; no reference to it is kept.

        Raises
        ------
        InputTypeError
            ``state`` holds what cannot be loaded safely; the message says where.
        OutputError
            The disk is full or the folder cannot be written. Earlier checkpoints are intact.
        """
        check_whole("step", step, at_least=0)
        if not isinstance(state, dict):
            raise InputTypeError(f"state: expected a dict, got {type(state).__name__}.")
        state = plain_state(state)
        began = self.clock()
        try:
            self._make_folder()
            self._tidy()
            temporary = self.folder / f".saving-{_name(step)}"
            try:
                temporary.mkdir()
                write_snapshot(temporary, self.key, step, state)
                self._publish(temporary, step)
            except BaseException:
                with contextlib.suppress(OSError):
                    self._tidy()
                raise
        except OSError as error:
            raise OutputError(
                f"checkpoint: step {step} cannot be written to {self.folder} "
                f"({error.strerror or error}). Earlier checkpoints are intact. Free some "
                "space or make the folder writable, then start again: the run continues from the last one."
            ) from error
        self._remember(step)
        self._cost = self._last_time - began
        ours = [path for _, path in self._steps() if self._belongs(path)]
        for path in ours[: -self.keep]:
            if path.name != _name(step):
                _discard(path)

    def newest(
        self, at_most: int | None = None, after: int = -1
    ) -> tuple[int, dict[str, Any]] | None:
        """The latest checkpoint that verifies, as (steps done, state), tensors on the CPU.

        ``None`` if no checkpoint of more than ``after`` and at most ``at_most`` steps can be used.
        Those that are torn, foreign or unreadable are renamed, noted in ``findings``, and the next
        older one is tried. Leftovers of a crash are removed. Nothing in a file is executed.

        Raises
        ------
        OutputError
            The folder itself cannot be read.
        MemoryError, RuntimeError
            The state does not fit into memory; the checkpoint stays.
        """
        try:
            self._tidy()
            steps = self._steps()
        except OSError as error:
            raise OutputError(
                f"checkpoint: {self.folder} cannot be read ({error.strerror or error}). "
                "Make it readable, or choose another output_dir."
            ) from error
        for step, path in reversed(steps):
            if step <= after or (at_most is not None and step > at_most):
                continue
            try:
                state = read_snapshot(path, self.key, step)
            except UnusableError as reason:
                self._set_aside(path, str(reason))
            else:
                self._remember(step)
                return step, state
        return None

    def prune(self, steps: Iterable[int]) -> None:
        """Remove the checkpoints of this key, except the newest at or before each of ``steps``.

        What was set aside, belongs to others or cannot be removed stays. An empty folder is removed.
        """
        with contextlib.suppress(OSError):
            self._tidy()
            ours = [(step, path) for step, path in self._steps() if self._belongs(path)]
            kept = {max((s for s, _ in ours if s <= limit), default=None) for limit in steps}
            for step, path in ours:
                if step not in kept:
                    _discard(path)
            self.folder.rmdir()

    def _remember(self, step: int) -> None:
        self._last_step, self._last_time = step, self.clock()

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            flush_directory(self.folder.parent)

    def _tidy(self) -> None:
        """Finish or undo what a crash interrupted."""
        for path in _directories(self.folder):
            if _SAVING.fullmatch(path.name) or _REMOVING.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
            elif match := _REPLACED.fullmatch(path.name):
                final = self.folder / match[1]
                if final.exists():
                    _discard(path, final.name)
                else:
                    with contextlib.suppress(OSError):  # a folder that is only read
                        path.replace(final)

    def _steps(self) -> list[tuple[int, Path]]:
        """Every directory that looks like a checkpoint, in the order of steps."""
        matches = ((_STEP.fullmatch(path.name), path) for path in _directories(self.folder))
        steps = ((int(match[1]), path) for match, path in matches if match)
        return sorted((step, path) for step, path in steps if path.name == _name(step))

    def _publish(self, temporary: Path, step: int) -> None:
        final = self.folder / _name(step)
        replaced = self.folder / f".replaced-{final.name}"
        if self._belongs(final):
            final.replace(replaced)
        elif final.exists() or final.is_symlink():
            self._set_aside(final, "it was where this run's own has to be")
        temporary.replace(final)
        flush_directory(self.folder)
        if replaced.exists():
            _discard(replaced, final.name)

    def _belongs(self, path: Path) -> bool:
        """Whether a directory is a checkpoint of this key, by its manifest."""
        try:
            return not path.is_symlink() and read_manifest(path).get("key") == self.key
        except UnusableError:
            return False

    def _set_aside(self, path: Path, reason: str) -> None:
        aside = path.with_name(f"{path.name}.set-aside-{time.time_ns()}")
        try:
            path.replace(aside)
            outcome = f"it was renamed to {aside.name}"
        except OSError as error:
            outcome = f"it is ignored, as it cannot be renamed ({error.strerror or error})"
        message = f"Checkpoint {path.name} in {self.folder} is not used ({reason}); {outcome}."
        self.findings.append(Diagnostic("checkpoint", "note", message))


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _directories(folder: Path) -> Iterator[Path]:
    """The directories in a folder, without links; none if there is no folder."""
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    yield from (path for path in paths if path.is_dir() and not path.is_symlink())


def _discard(path: Path, name: str = "") -> None:
    """Rename so that a crash cannot leave part of a checkpoint, then delete."""
    renamed = path.with_name(f".removing-{name or path.name}")
    with contextlib.suppress(OSError):
        path.replace(renamed)
        shutil.rmtree(renamed, ignore_errors=True)

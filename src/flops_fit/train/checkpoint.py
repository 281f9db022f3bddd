"""The checkpoints of a run, from which it continues after it was stopped at any moment.

Each is a folder ``step-00001234`` with ``state.pt`` (nested plain values and tensors) and
``manifest.json`` (with the key, and sha256 and size of the state). It is written under a hidden name,
flushed and renamed: a reader sees all of it or nothing. What does not verify is renamed and reported.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from flops_fit.errors import InputTypeError, OutputError, TableError
from flops_fit.files import flush_directory, flush_file, read_json
from flops_fit.lazy import torch
from flops_fit.records import Diagnostic, as_record
from flops_fit.text import error_line

_MAX_SHARE = 0.01  # of a run's time that checkpoints may take
_STEP = re.compile(r"step-(\d{8}|[1-9]\d{8,})")
_UNFINISHED = re.compile(r"\.(saving|removing)-step-\d{8,}")  # half written, half deleted
_REPLACED = re.compile(r"\.replaced-(step-\d{8,})")  # complete, its step being saved again
_STATE, _MANIFEST = "state.pt", "manifest.json"
_FORMAT = {"format": "flops-fit checkpoint", "schema": 3}
_LEAVES = (type(None), bool, int, float, complex, str, bytes)
_MAX_INT_BITS = 2000  # PyTorch's restricted unpickler reads integers of up to 255 bytes


class UnusableError(Exception):
    """Why a checkpoint cannot be used."""


@dataclass
class Checkpoints:
    """The newest ``keep`` checkpoints of one run, written by one process at a time.

    ``key`` is a hash of what decides the arithmetic; others are never loaded. One is due ``every_seconds``
    after the last (later where saving is slow), and at multiples of ``every_steps``.
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
        """Write the state after ``step`` steps; when this returns, a crash cannot undo it."""
        try:
            state = _plain(state, "state")
        except RecursionError:
            raise InputTypeError(
                "state: expected nested containers of finite depth; one contains itself. Remove it."
            ) from None
        began = self.clock()
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
                flush_directory(self.folder.parent)
            self._tidy()
            final = self.folder / f"step-{step:08d}"
            temporary = self.folder / f".saving-{final.name}"
            try:
                temporary.mkdir()
                write_snapshot(temporary, self.key, step, state)
                self._publish(temporary, final)
            except BaseException:
                with contextlib.suppress(OSError):
                    self._tidy()
                raise
        except OSError as error:
            raise OutputError(
                f"checkpoint: step {step} cannot be written to {self.folder} "
                f"({error.strerror or error}). Earlier checkpoints are intact. Free some space or "
                "make the folder writable, then start again: the run continues from the last one."
            ) from error
        self._last_step, self._last_time = step, self.clock()
        self._cost = self._last_time - began
        for kept_step, path in self._own_steps()[: -self.keep]:
            if kept_step != step:
                _discard(path)

    def newest(
        self, at_most: int | None = None, after: int = -1
    ) -> tuple[int, dict[str, Any]] | None:
        """The latest verified one in (after, at_most] as (steps, state on the CPU); bad ones are renamed."""
        try:
            self._tidy()
            steps = self._steps()
        except OSError as error:
            why = f"checkpoint: {self.folder} cannot be read ({error.strerror or error})."
            raise OutputError(f"{why} Make it readable, or choose another output_dir.") from error
        for step, path in reversed(steps):
            if step <= after or (at_most is not None and step > at_most):
                continue
            try:
                state = read_snapshot(path, self.key, step)
            except UnusableError as reason:
                self._set_aside(path, str(reason))
            else:
                self._last_step, self._last_time = step, self.clock()
                return step, state
        return None

    def prune(self, steps: Iterable[int]) -> None:
        """Remove the checkpoints of this key, except the newest at or before each of ``steps``."""
        with contextlib.suppress(OSError):
            self._tidy()
            own = self._own_steps()
            kept = {max((s for s, _ in own if s <= limit), default=None) for limit in steps}
            for step, path in own:
                if step not in kept:
                    _discard(path)
            self.folder.rmdir()  # fails if anything is left

    def _tidy(self) -> None:
        """Finish or undo what a crash interrupted."""
        for path in directories(self.folder):
            if _UNFINISHED.fullmatch(path.name):
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
        matches = ((_STEP.fullmatch(path.name), path) for path in directories(self.folder))
        return sorted((int(match[1]), path) for match, path in matches if match)

    def _own_steps(self) -> list[tuple[int, Path]]:
        return [item for item in self._steps() if self._belongs(item[1])]

    def _publish(self, temporary: Path, final: Path) -> None:
        replaced = final.with_name(f".replaced-{final.name}")
        if self._belongs(final):
            final.replace(replaced)
        elif final.exists() or final.is_symlink():
            self._set_aside(final, "this run saves its own under the same name")
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


def directories(folder: Path) -> Iterator[Path]:
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


def write_snapshot(directory: Path, key: str, step: int, state: dict[str, Any]) -> None:
    """Fill an empty directory; when this returns, its content is on the disk."""
    with (directory / _STATE).open("w+b") as handle:
        try:
            torch.save(state, handle)
        except RuntimeError as error:  # how PyTorch reports that a write failed
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
        flush_file(handle)
        size = handle.tell()
        handle.seek(0)
        digest: Any = hashlib.file_digest(handle, "sha256")
    manifest = {
        **_FORMAT,
        "key": key,
        "step": step,
        "sha256": digest.hexdigest(),
        "size": size,
        "torch": str(torch.__version__),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    with (directory / _MANIFEST).open("wb") as handle:
        handle.write(json.dumps(manifest, indent=1).encode())
        flush_file(handle)
    flush_directory(directory)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; UnusableError if there is none, or it is torn."""
    try:
        return as_record(read_json(directory / _MANIFEST), dict[str, Any], _MANIFEST)
    except OSError as error:
        raise UnusableError(f"{_MANIFEST} cannot be read: {error.strerror or error}") from error
    except TableError as error:
        raise UnusableError(f"{_MANIFEST} is torn") from error


def read_snapshot(directory: Path, key: str, step: int) -> dict[str, Any]:
    """The verified state in a directory, with tensors on the CPU; nothing in the file is executed."""
    manifest = read_manifest(directory)
    for name, value in {**_FORMAT, "key": key, "step": step}.items():
        if manifest.get(name) != value:
            raise UnusableError(f"its {name} is {manifest.get(name)!r}, not {value!r}")
    try:
        with (directory / _STATE).open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            if size != manifest.get("size"):
                raise UnusableError(f"{_STATE} has {size} bytes, not {manifest.get('size')!r}")
            digest: Any = hashlib.file_digest(handle, "sha256")
            if digest.hexdigest() != manifest.get("sha256"):
                raise UnusableError(f"the content of {_STATE} is not what was written")
            handle.seek(0)
            state = _load(handle)
    except OSError as error:
        raise UnusableError(f"{_STATE} cannot be read: {error.strerror or error}") from error
    if not isinstance(state, dict):
        raise UnusableError(f"{_STATE} holds a {type(state).__name__}, not a dict")
    return state


def _load(handle: BinaryIO) -> Any:
    try:
        return torch.load(handle, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if "DefaultCPUAllocator" in str(error):  # how PyTorch says that memory ran out
            raise
        raise UnusableError(f"{_STATE} cannot be loaded: {error_line(error)[:150]}") from error


def _plain(value: Any, name: str) -> Any:
    """A copy made only of what PyTorch loads with ``weights_only=True``; tensors are shared."""
    kind = type(value)  # exactly: PyTorch refuses to load a subclass such as an enum
    if kind in _LEAVES:
        if kind is int and (bits := value.bit_length()) > _MAX_INT_BITS:
            raise InputTypeError(
                f"{name}: expected an integer of at most {_MAX_INT_BITS} bits, got one of {bits}. "
                "Save it as text."
            )
        return value
    if kind in (list, tuple):
        return kind(_plain(item, f"{name}[{i}]") for i, item in enumerate(value))
    if kind not in (dict, OrderedDict):
        return _plain_tensor(value, name)
    for key in value:
        if type(key) not in (str, int):
            raise InputTypeError(
                f"{name}: expected text or integers as keys, got {key!r}. Save it under another key."
            )
    copy: Any = kind((k, _plain(v, f"{name}[{k!r}]")) for k, v in value.items())
    # Modules upgrade old states by the versions that state_dict() notes beside the tensors.
    if kind is OrderedDict and hasattr(value, "_metadata"):
        copy._metadata = _plain(value._metadata, f"{name}._metadata")
    return copy


def _plain_tensor(value: Any, name: str) -> Any:
    kind = type(value)
    if kind not in (torch.Tensor, torch.nn.Parameter):
        name_of_type = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        raise InputTypeError(
            f"{name}: expected a tensor, number, text, bytes, None, or a dict, list or tuple of "
            f"them, got {name_of_type}. Save its values as plain numbers, lists or tensors."
        )
    if value.layout != torch.strided or value.is_meta:
        what = "one without values" if value.is_meta else f"layout {value.layout}"
        raise InputTypeError(f"{name}: expected a dense tensor, got {what}. Save a dense one.")
    tensor = value.detach()
    is_view = tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
    return tensor.clone() if is_view else tensor  # a file would hold the storage whole

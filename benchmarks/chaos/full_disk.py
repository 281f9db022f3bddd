"""A disk that fills up: every write to it ends with ENOSPC, as the system would say it."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALLS = ("mkdir", "link", "fsync", "replace", "unlink", "rmdir", "rename")
"""What changes a disk, but for writing into open files."""
_TAKES_SPACE = ("mkdir", "link", "fsync")


class _Full(io.FileIO):
    """A file that is made, and takes no byte."""

    def write(self, data: Any) -> int:
        raise no_space()


def no_space() -> OSError:
    """What a full disk answers."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def watch_calls(before: Callable[[str], None]) -> None:
    """Let ``before`` hear of every call that changes a disk, by its name; it may raise, or die."""

    def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            before(name)
            return function(*args, **options)

        return call

    for name in CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))


def fill_up(is_full: Callable[[], bool]) -> None:
    """Let this process find the disk full while ``is_full`` says so; its reads go on."""

    def before(name: str) -> None:
        if name in _TAKES_SPACE and is_full():
            raise no_space()

    watch_calls(before)
    opened = builtins.open

    def open_full(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if set(mode) & set("wax") and is_full():
            raw = _Full(file, mode.replace("b", "").replace("t", ""))
            if "b" in mode:
                return raw
            return io.TextIOWrapper(raw, encoding="utf-8", write_through=True)  # type: ignore[arg-type]
        return opened(file, mode, *args, **options)

    builtins.open = io.open = open_full


@dataclass
class FillsUp:
    """Brings a full disk to every process that reads it from a pickle, while a flag is there."""

    flag: Path

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.begin()

    def begin(self) -> None:
        """From here on in this process."""
        fill_up(self.flag.exists)

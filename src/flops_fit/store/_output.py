"""What a run prints, in a file of its own: several at once would tear the display of the sweep."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["OUTPUT", "printed_to"]

OUTPUT = "output.txt"


@contextmanager
def printed_to(folder: Path) -> Iterator[None]:
    """Let a worker process write what it prints to ``output.txt`` of a run's folder.

    The driver's own process, and one whose file cannot be opened, print where they always do. A run
    that prints nothing leaves no file.
    """
    if multiprocessing.parent_process() is None:
        yield
        return
    path = folder / OUTPUT
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        yield
        return
    kept = [os.dup(1), os.dup(2)]
    try:
        _point(file, file)
        yield
    finally:
        _point(*kept)
        for descriptor in (file, *kept):
            os.close(descriptor)
        with suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()


def _point(out: int, err: int) -> None:
    """Standard output and error, whoever writes to them, from here on."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a full disk; a stream that was closed
            stream.flush()
    os.dup2(out, 1)
    os.dup2(err, 2)

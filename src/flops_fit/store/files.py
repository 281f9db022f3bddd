"""What a run prints, in a file of its own: several at once would tear the display of the sweep."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flops_fit.errors import OutputError
from flops_fit.records import finite_json
from flops_fit.train.snapshot import flush_directory

_ATTEMPTS = 20  # to rename a file that is being read, where the system forbids it
_ATTEMPT_SECONDS = 0.05
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
# The second line is of schema 1.
_TEMPORARY = re.compile(
    r"\..+\.[0-9a-f]{32}\.tmp|\..*lease(\.json)?\.\w+"
    r"|\.(run|sweep|fit)\.json\.\d+|\.runs\.csv\.\d+|\.writable-\d+"
)


def temporary_beside(path: Path) -> Path:
    """A hidden name in the same folder that no other process, on any machine, would take."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file is one that was to be renamed or linked and never counts by itself."""
    return _TEMPORARY.fullmatch(name) is not None


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write so that a reader, or a crash, sees the old content or the new, never a part."""
    with _written(path, content) as temporary:
        _rename(temporary, path)
        flush_directory(path.parent)


def write_new(path: Path, content: str) -> bool:
    """Bring a file into being whole, if there is none; of several that try, one succeeds.

    Returns
    -------
    bool
        Whether this call made it.
    """
    with _written(path, content) as temporary:
        made = link_new(temporary, path)
        if made:
            flush_directory(path.parent)
            flush_directory(path.parent.parent)  # which the folder itself may be new in
        return made


def link_new(temporary: Path, path: Path) -> bool:
    """Give a finished file a second name, if that is free; whether this call did.

    Linking is atomic and exclusive on NFS as well. Where a file system has no hard links, the name
    is taken by an exclusive create and the content follows: a crash in between leaves a torn file,
    which every reader of ours names and sets aside.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        # An answer of NFS may be lost after the link was made; two names are the proof.
        return temporary.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_new(path, temporary.read_bytes())
    return True


def _create_new(path: Path, content: bytes) -> bool:
    try:
        with path.open("xb") as handle:
            handle.write(content)
            _flush(handle)
    except FileExistsError:
        return False
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


@contextmanager
def _written(path: Path, content: str | bytes) -> Iterator[Path]:
    """A temporary file with the content, on the disk; gone when the block ends."""
    temporary = temporary_beside(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            _flush(handle)
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(handle: Any) -> None:
    handle.flush()
    os.fsync(handle.fileno())


def _rename(temporary: Path, path: Path) -> None:
    """Put a finished file in place; on Windows that fails while somebody reads the old one."""
    for _ in range(_ATTEMPTS if sys.platform == "win32" else 0):
        try:
            temporary.replace(path)
        except PermissionError:
            time.sleep(_ATTEMPT_SECONDS)
        else:
            return
    temporary.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write plain values as strict JSON, with null for what is not finite.

    Raises
    ------
    OutputError
        ``path`` cannot be written.
    """
    try:
        write_atomic(
            path, json.dumps(finite_json(content), indent=1, allow_nan=False, default=float)
        )
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> OutputError:
    """What the system said, and what to do."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        todo = "Free some space and call again with the same arguments"
    elif error.errno == errno.EROFS:
        todo = "Make it writable, or choose another output_dir"
    else:
        todo = "Choose another output_dir"
    return OutputError(
        f"output_dir: {path} cannot be written ({reason}). What is recorded there is kept. {todo}."
    )


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

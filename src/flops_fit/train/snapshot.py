"""One checkpoint on disk: written whole, and read only if it is what was written.

::

    step-00001234/
      state.pt        torch.save of nested plain values and tensors
      manifest.json   format, schema, key, step, sha256 and size of state.pt, torch, time
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, BinaryIO

from flops_fit.files import flush_directory, flush_file

_FORMAT = "flops-fit checkpoint"
_SCHEMA = 2
_STATE, _MANIFEST = "state.pt", "manifest.json"


class UnusableError(Exception):
    """Why a checkpoint cannot be used."""


def write_snapshot(directory: Path, key: str, step: int, state: dict[str, Any]) -> None:
    """Fill an empty directory; when this returns, its content is on the disk.

    Raises
    ------
    OSError
        The disk is full, or refuses.
    """
    import torch

    with (directory / _STATE).open("wb") as handle:
        writer: Any = _Hashing(handle)
        try:
            torch.save(state, writer)
        except Exception as error:
            # PyTorch reports a failed write as an error of its own archive.
            raise (writer.error or error) from error
        flush_file(handle)
    manifest = {
        "format": _FORMAT,
        "schema": _SCHEMA,
        "key": key,
        "step": step,
        "sha256": writer.digest.hexdigest(),
        "size": writer.size,
        "torch": str(torch.__version__),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    with (directory / _MANIFEST).open("wb") as handle:
        handle.write(json.dumps(manifest, indent=1).encode())
        flush_file(handle)
    flush_directory(directory)


def read_manifest(directory: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises
    ------
    UnusableError
        There is no manifest, or it is torn.
    """
    try:
        manifest = json.loads((directory / _MANIFEST).read_bytes())
    except OSError as error:
        raise UnusableError(f"{_MANIFEST} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"{_MANIFEST} is torn") from error
    if not isinstance(manifest, dict):
        raise UnusableError(f"{_MANIFEST} is torn")
    return manifest


def read_snapshot(directory: Path, key: str, step: int) -> dict[str, Any]:
    """The state in a directory, with tensors on the CPU, after its content has been verified.

    Nothing in the file is executed: it is loaded with ``weights_only=True``.

    Raises
    ------
    UnusableError
        It belongs to something else, is torn, or is not what was written.
    MemoryError, RuntimeError
        It does not fit into memory.
    """
    manifest = read_manifest(directory)
    expected = {"format": _FORMAT, "schema": _SCHEMA, "key": key, "step": step}
    for name, value in expected.items():
        if manifest.get(name) != value:
            raise UnusableError(f"its {name} is {manifest.get(name)!r}, not {value!r}")
    try:
        with (directory / _STATE).open("rb") as handle:
            _verify(handle, manifest)
            state = _load(handle)
    except OSError as error:
        raise UnusableError(f"{_STATE} cannot be read: {error.strerror or error}") from error
    if not isinstance(state, dict):
        raise UnusableError(f"{_STATE} holds a {type(state).__name__}, not a dict")
    return state


def _verify(handle: BinaryIO, manifest: dict[str, Any]) -> None:
    size = os.fstat(handle.fileno()).st_size
    if size != manifest.get("size"):
        raise UnusableError(f"{_STATE} has {size} bytes, not {manifest.get('size')!r}")
    digest: Any = hashlib.file_digest(handle, "sha256")  # type: ignore[arg-type]
    if digest.hexdigest() != manifest.get("sha256"):
        raise UnusableError(f"the content of {_STATE} is not what was written")
    handle.seek(0)


def _load(handle: BinaryIO) -> Any:
    import torch

    try:
        return torch.load(handle, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if "DefaultCPUAllocator" in str(error):  # how PyTorch says that memory ran out
            raise
        first = (str(error).splitlines() or [""])[0][:100]
        raise UnusableError(
            f"{_STATE} cannot be loaded: {type(error).__name__}: {first}"
        ) from error


class _Hashing:
    """A file to write to that knows the digest and size of what was meant to be in it."""

    def __init__(self, handle: BinaryIO) -> None:
        self.handle, self.digest, self.size = handle, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            written = self.handle.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self.digest.update(data)
        self.size += written
        return written

    def flush(self) -> None:
        self.handle.flush()

"""One checkpoint on disk: what it may hold, written whole, and read only if it is what was written.

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
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

from flops_fit.errors import InputTypeError
from flops_fit.files import flush_directory, flush_file

_FORMAT = "flops-fit checkpoint"
_SCHEMA = 2
_STATE, _MANIFEST = "state.pt", "manifest.json"
_LEAVES = (type(None), bool, int, float, complex, str, bytes)
_MAX_INT_BITS = 2000  # PyTorch's restricted unpickler reads integers of up to 255 bytes


class UnusableError(Exception):
    """Why a checkpoint cannot be used."""


def write_snapshot(directory: Path, key: str, step: int, state: dict[str, Any]) -> None:
    """Fill an empty directory; when this returns, its content is on the disk."""
    import torch

    with (directory / _STATE).open("wb") as handle:
        writer: Any = _HashingFile(handle)
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
    """The manifest of a checkpoint; UnusableError if there is none, or it is torn."""
    try:
        manifest = json.loads((directory / _MANIFEST).read_bytes())
    except OSError as error:
        raise UnusableError(f"{_MANIFEST} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise UnusableError(f"{_MANIFEST} is torn")
    return manifest


def read_snapshot(directory: Path, key: str, step: int) -> dict[str, Any]:
    """The state in a directory, with tensors on the CPU, after its content has been verified.

    Nothing in the file is executed: it is loaded with ``weights_only=True``. UnusableError if it
    belongs to something else, is torn, or is not what was written; MemoryError or RuntimeError if
    it does not fit into memory.
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


class _HashingFile:
    """A file to write to that knows the digest and size of what was written."""

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


def plain_state(value: Any, name: str = "state") -> Any:
    """The same nested values, made only of what PyTorch loads with ``weights_only=True``.

    Allowed are dicts with text or integers as keys, lists and tuples of tensors, numbers, text,
    bytes, truth values and None. Containers are copied. Tensors are detached and share their
    storage with ``value``, except a view of a larger storage: it is copied, as a file would hold
    that storage whole.

    Raises
    ------
    InputTypeError
        Something else is in it; the message says where.

    Examples
    --------
    >>> plain_state({"step": 3, "betas": (0.9, 0.95)})
    {'step': 3, 'betas': (0.9, 0.95)}
    """
    try:
        return _plain(value, name)
    except RecursionError:
        raise InputTypeError(
            f"{name}: expected nested dicts and lists of finite depth; a container contains itself "
            "or is nested too deeply. Remove the loop before saving."
        ) from None


def _plain(value: Any, name: str) -> Any:
    # Types are compared exactly: a subclass (a NumPy float, an enum) is pickled as a class of
    # its own, which a restricted unpickler refuses.
    kind = type(value)
    if kind in _LEAVES:
        if kind is int and value.bit_length() > _MAX_INT_BITS:
            raise InputTypeError(
                f"{name}: expected an integer of at most {_MAX_INT_BITS} bits, got one of "
                f"{value.bit_length()}. Save it as text."
            )
        return value
    if kind in (list, tuple):
        return kind(_plain(item, f"{name}[{i}]") for i, item in enumerate(value))
    if kind in (dict, OrderedDict):
        return _plain_dict(value, name)
    return _plain_tensor(value, name)


def _plain_dict(value: dict[Any, Any], name: str) -> dict[Any, Any]:
    for key in value:
        if type(key) not in (str, int):
            raise InputTypeError(
                f"{name}: expected text or integers as keys, got {key!r} "
                f"({_type_name(key)}). Save it under another key."
            )
    copy = type(value)((k, _plain(v, f"{name}[{k!r}]")) for k, v in value.items())
    # Modules upgrade old states by the versions that state_dict() notes beside the tensors.
    if isinstance(copy, OrderedDict) and hasattr(value, "_metadata"):
        copy._metadata = _plain(value._metadata, f"{name}._metadata")  # type: ignore[attr-defined]
    return copy


def _plain_tensor(value: Any, name: str) -> Any:
    import torch

    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        raise InputTypeError(
            f"{name}: expected a tensor, number, text, bytes, None, or a dict, list or tuple of "
            f"them, got {_type_name(value)}, which cannot be loaded without running code from "
            "the file. Save its values as plain numbers, lists or tensors."
        )
    if value.layout != torch.strided or value.is_meta:
        what = "a meta tensor without values" if value.is_meta else f"layout {value.layout}"
        raise InputTypeError(f"{name}: expected a dense tensor, got {what}. Save a dense one.")
    tensor = value.detach()
    if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size():
        return tensor.clone()
    return tensor


def _type_name(value: Any) -> str:
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )

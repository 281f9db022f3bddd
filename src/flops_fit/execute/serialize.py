"""How a task travels: pickled once, by value where it is the user's script, else by import."""

from __future__ import annotations

import inspect
import io
import pickle
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from flops_fit.errors import InputTypeError, MissingExtraError

LARGE = 256 * 2**20  # bytes that are still sent without a word
_PARTS = {
    "model": "the model",
    "data": "the data set",
    "held_out": "the held-out data",
    "objective": "the loss",
    "optimizer": "the optimizer",
    "param_groups": "param_groups",
    "trackers": "a tracker",
}
_DEPTH = 12


def pack(task: Any, place: str) -> bytes:
    """The task as bytes that another process can read, on a machine with the same packages.

    Functions and classes of ``__main__`` travel by value, those of modules by reference: the
    module must be importable there.

    Raises
    ------
    InputTypeError
        A part of it cannot be pickled; the message says which, and why.

    Warns
    -----
    UserWarning
        It has more than 256 MB.
    """
    try:
        import cloudpickle
    except ImportError:
        raise MissingExtraError("cloudpickle", "train", f"executor={place!r}") from None
    try:
        content: bytes = cloudpickle.dumps(task)
    except Exception as error:  # pickling runs the user's code
        part, reason = _culprit(task, cloudpickle.dumps, error)
        raise InputTypeError(
            f"executor={place!r} sends model, data and loss to other processes, and {part} cannot be "
            f"pickled ({type(reason).__name__}: {reason}). Open files and connections in the data "
            "set's first access, leave locks and generators out by __getstate__, or use "
            "executor='inprocess'."
        ) from error
    if len(content) > LARGE:
        warnings.warn(
            f"model, data and loss have {len(content) / 2**20:.0f} MB when pickled, and every run reads "
            "them all. Let a large data set keep the path of a file that all machines see, and open "
            "it in its first access, as np.load(path, mmap_mode='r') does.",
            stacklevel=3,
        )
    return content


def _culprit(task: Any, dumps: Any, error: Exception) -> tuple[str, Exception]:
    """The innermost part that cannot be pickled by itself, in words, and why."""
    path: list[str] = []
    part, seen = task, {id(task)}
    while len(path) < _DEPTH:
        for name, inner in _parts_of(part):
            if id(inner) in seen:
                continue
            try:
                dumps(inner)
            except Exception as why:
                path, part, error = [*path, name], inner, why
                seen.add(id(inner))
                break
        else:
            break
    kind = f"a {type(part).__module__}.{type(part).__qualname__}".replace("a builtins.", "a ")
    whole = next((_PARTS[name] for name in path if name in _PARTS), "the task")
    return f"{whole} ({kind} at task.{'.'.join(path)})" if path else f"the task ({kind})", error


def _parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """What pickling a value goes on to."""
    if isinstance(value, type | io.IOBase | pickle.PickleBuffer):
        return
    if isinstance(value, Mapping):
        yield from ((str(k), v) for k, v in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((str(i), v) for i, v in enumerate(value))
    elif inspect.isfunction(value):
        found = inspect.getclosurevars(value)
        yield from {**found.globals, **found.nonlocals}.items()
    elif inspect.ismethod(value):
        yield "__self__", value.__self__
    else:
        for name in ("func", "args", "keywords"):  # of functools.partial
            if hasattr(type(value), name):
                yield name, getattr(value, name)
        yield from getattr(value, "__dict__", {}).items()

"""Python objects by name: ``package.module:name`` or ``file.py:name``."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from flops_fit.errors import InputError
from flops_fit.text import error_line

__all__ = ["is_reference", "load"]

_REFERENCE = re.compile(
    r"(?P<where>[A-Za-z_][\w.]*|.*\.py):(?P<name>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)"
)


def is_reference(text: str) -> bool:
    """Whether a text names a Python object."""
    return _REFERENCE.fullmatch(text) is not None


def load(reference: str, folder: Path, what: str) -> Any:
    """The object that a reference names.

    Parameters
    ----------
    folder
        Where files are looked for; modules are found there too, and in the current directory.
    what
        The key that it stands for, for errors.

    Raises
    ------
    InputError
        It is no reference, cannot be imported, or the module has no such name.
    """
    match = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
    if match is None:
        raise InputError(
            f"{what}: expected package.module:name or file.py:name; got {reference!r}."
        )
    where, name = match["where"], match["name"]
    for place in (Path.cwd(), folder.resolve()):
        if str(place) not in sys.path:
            sys.path.insert(0, str(place))
    try:
        found: Any = _file(folder / where) if where.endswith(".py") else _module(where)
    except Exception as error:  # importing runs the user's code
        raise InputError(f"{what}: {where} cannot be imported: {error_line(error)}.") from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "check the name."
            raise InputError(f"{what}: {where} has no {part!r}; {hint}")
        found = getattr(found, part)
    return found


def _module(name: str) -> ModuleType:
    return importlib.import_module(name)


def _file(path: Path) -> ModuleType:
    """A file as a module, by its own name where no other module has it."""
    path = path.resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        _travels(known)
        return known
    if known is not None or name in sys.stdlib_module_names:
        name = f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if name in sys.modules:
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _travels(module)
    return module


def _travels(module: ModuleType) -> None:
    """Let its functions and classes go to other processes as code, as those of a script do."""
    try:
        import cloudpickle
    except ImportError:
        return
    cloudpickle.register_pickle_by_value(module)

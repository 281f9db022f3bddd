"""Python objects that the texts of a sweep's file name, such as ``"model.py:make"``.

Importing runs code, so what a file may name is limited unless the user trusts the file: code in the
current directory's tree, what is public in flops_fit, and ``torch.nn``, ``torch.optim``. Other installed
packages are not exempt: a function of theirs may load and run anything.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from flops_fit.errors import InputError, MissingExtraError, nearest_name
from flops_fit.text import error_line

_REFERENCE = re.compile(
    r"(?P<where>[A-Za-z_][\w.]*|.*\.py):(?P<name>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)"
)


def is_reference(text: str) -> bool:
    """Whether a text names a Python object."""
    return _REFERENCE.fullmatch(text) is not None


def load(reference: str, what: str, folder: Path, untrusted: Path | None = None) -> Any:
    """The object that a reference names, for the key ``what``; also from ``folder``.

    Where the file that names it is ``untrusted``, it has to be code of the project.
    """
    match = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
    if match is None:
        raise InputError(
            f"{what}: expected package.module:name or file.py:name; got {reference!r}."
        )
    where, name = match["where"], match["name"]
    for place in (Path.cwd(), folder.resolve()):
        if str(place) not in sys.path and (untrusted is None or _in_project(place)):
            sys.path.insert(0, str(place))
    is_file = where.endswith(".py")
    allowed = untrusted is None or where in _PUBLIC or _is_harmless(where)
    allowed = allowed or (_in_project(folder / where) if is_file else _found_here(where))
    refused = InputError(
        f"{what}: expected code in {Path.cwd()} or below it, since {untrusted} is not trusted; got "
        f"{reference!r}, which is elsewhere. Read what it does, then add --trust; or name a function in a "
        "file here that calls it."
    )
    if not allowed:
        raise refused
    try:
        thing: Any = _file(folder / where) if is_file else importlib.import_module(where)
    except Exception as error:  # importing runs the user's code
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            raise MissingExtraError("torch", "train", f"{what} in {where}") from error
        raise InputError(f"{what}: {where} cannot be imported: {error_line(error)}.") from error
    public = where in _PUBLIC and name in thing.__all__ and name != "CommandTask"
    exported = untrusted is None or public
    for part in name.split("."):
        if not hasattr(thing, part):
            hint = nearest_name(part, dir(thing)) or " Check the name."
            raise InputError(f"{what}: {where} has no {part!r}.{hint}")
        thing = getattr(thing, part)
        if not (exported or _defined_here(thing)):
            raise refused
    return thing


# Public modules of this package: a file may name what they export.
_PUBLIC = (
    "flops_fit", "flops_fit.examples", "flops_fit.fit", "flops_fit.laws", "flops_fit.mup",
    "flops_fit.recipes", "flops_fit.trackers", "flops_fit.tune",
)  # fmt: skip
_HARMLESS = ("flops_fit.examples", "torch.nn", "torch.optim")  # with all below: they only compute


def _is_harmless(module: str) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in _HARMLESS)


def _in_project(path: Path) -> bool:
    """Whether a path is in the current directory's tree, and no installed package there."""
    path = path.resolve()
    installed = {"site-packages", "dist-packages"}.intersection(path.parts)
    library = path.is_relative_to(Path(os.__file__).resolve().parent)
    return path.is_relative_to(Path.cwd()) and not installed and not library


def _found_here(module: str) -> bool:
    """Whether importing a module would run code of the project, or find nothing to run."""
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except ValueError:  # of a module without a file, such as __main__
        return False
    if spec is None:
        return True
    places = spec.submodule_search_locations or [spec.origin or ""]
    return all(Path(place).is_absolute() and _in_project(Path(place)) for place in places)


def _defined_here(thing: Any) -> bool:
    """Whether a module, class or function is of the project; other objects were made there."""
    if not (isinstance(thing, ModuleType | type) or inspect.isroutine(thing)):
        return True
    name = thing.__name__ if isinstance(thing, ModuleType) else thing.__module__
    if not isinstance(thing, ModuleType) and _is_harmless(name or ""):
        return True
    file = getattr(sys.modules.get(name or ""), "__file__", None)
    return file is not None and _in_project(Path(file))


def _file(path: Path) -> ModuleType:
    """A file as a module, by its own name unless another module has it."""
    path = path.resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        _pickle_by_value(known)
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
    _pickle_by_value(module)
    return module


def _pickle_by_value(module: ModuleType) -> None:
    """Pickle its functions and classes by value, as those of a script, for other processes."""
    try:
        import cloudpickle
    except ImportError:
        return
    cloudpickle.register_pickle_by_value(module)

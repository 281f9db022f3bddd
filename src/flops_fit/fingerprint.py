"""Fingerprints of the user's code and data: equal when a run would come out the same.

Code is compared by its syntax tree and the plain values it closes over, data by a spread of samples.
"""

import ast
import builtins
import dataclasses
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from flops_fit.batches import by_name, fields_of


def digest(parts: Iterable[str | bytes]) -> str:
    """First 16 hex digits of the SHA-256 over length-prefixed parts."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return sha.hexdigest()[:16]


def reference(obj: Any) -> str:
    """``module.qualname`` of a function, class or instance, for people to read."""
    if isinstance(obj, functools.partial):
        return f"partial({reference(obj.func)})"
    if isinstance(obj, MethodType):
        return f"{reference(obj.__self__)}.{obj.__name__}"
    named = obj if hasattr(obj, "__qualname__") else type(obj)
    return f"{named.__module__}.{named.__qualname__}"


def fingerprint_code(obj: Any) -> str:
    """A callable or class: its source without comments, its defaults and closed-over values."""
    return digest(_describe(obj, set()))


def fingerprint_any(value: Any) -> str:
    """A plain value, container, callable or object, by content and not by address."""
    return digest(_plain(value, set(), 4))


def fingerprint_values(value: Any, structure: bool = False) -> str:
    """Nested tensors, arrays and plain values by content; with ``structure`` by types and shapes alone."""
    return digest(_leaves(value, not structure))


def has_source(obj: Any) -> bool:
    """Whether the source of a function, class or instance can be read; not in ``exec``."""
    if isinstance(obj, functools.partial | MethodType):
        return has_source(obj.func if isinstance(obj, functools.partial) else obj.__func__)
    known = obj if isinstance(obj, FunctionType | type) else type(obj)
    if known.__module__ == "builtins" and known is getattr(builtins, known.__name__, None):
        return True
    try:
        inspect.getsource(known)
    except (OSError, TypeError):
        return False
    return True


def holds_tensors(value: Any, depth: int = 5) -> bool:
    """Whether a function or an object has tensors of its own, in what it closes over or names."""
    if _is_tensor(value) or depth == 0:
        return _is_tensor(value)
    if isinstance(value, FunctionType):
        inner = [value.__globals__.get(name) for name in _global_names(value.__code__)]
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # a name that is bound later
                inner.append(cell.cell_contents)
    elif isinstance(value, MethodType):
        inner = [value.__func__, value.__self__]
    elif isinstance(value, Mapping | list | tuple):
        inner = list(value.values() if isinstance(value, Mapping) else value)
    elif value is None or isinstance(value, type | ModuleType):
        return False
    else:
        inner = list(getattr(value, "__dict__", {}).values())
        if isinstance(value, functools.partial):
            inner += [value.func, value.args, value.keywords]
    return any(holds_tensors(v, depth - 1) for v in inner)


def _describe(obj: Any, seen: set[int], depth: int = 4) -> list[str]:
    """Parts that identify ``obj``; functions and classes of the same project are followed."""
    if id(obj) in seen or depth == 0:
        return [reference(obj) if callable(obj) else type(obj).__name__]
    seen.add(id(obj))
    if isinstance(obj, functools.partial):
        parts = ["partial", *_describe(obj.func, seen, depth), *_plain(obj.args, seen, depth)]
        return parts + _plain(obj.keywords, seen, depth)
    if isinstance(obj, MethodType):
        return ["method", *_describe(obj.__func__, seen, depth), *_plain(obj.__self__, seen, depth)]
    if isinstance(obj, FunctionType):
        return _describe_function(obj, seen, depth)
    if inspect.isclass(obj):
        return ["class", reference(obj), _source(obj)]
    if callable(obj):
        return ["instance", *_describe(type(obj), seen, depth), *_plain(_state(obj), seen, depth)]
    return [repr(obj)]


def _describe_function(function: FunctionType, seen: set[int], depth: int) -> list[str]:
    parts = ["function", reference(function), _source(function)]
    for defaults in (function.__defaults__, function.__kwdefaults__):
        parts += _plain(defaults, seen, depth)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            content = cell.cell_contents
        except ValueError:  # a name that is bound later, such as the function's own
            continue
        parts += [name, *_plain(content, seen, depth - 1)]
    for name in sorted(_global_names(function.__code__)):
        used = function.__globals__.get(name)
        # Helpers and constants of the user's own module decide the outcome too.
        if isinstance(used, int | float | str | bool | tuple):
            parts += [name, repr(used)]
        elif isinstance(used, FunctionType | type) and used.__module__ == function.__module__:
            parts += [name, *_describe(used, seen, depth - 1)]
    return parts


def _global_names(code: CodeType) -> set[str]:
    nested = (c for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*map(_global_names, nested))


def _state(obj: Any) -> Mapping[str, Any]:
    fields = fields_of(obj)
    return dict(getattr(obj, "__dict__", {})) if fields is None else fields


def _plain(value: Any, seen: set[int], depth: int) -> list[str]:
    """Parts that identify a value: its content, or that of what it holds."""
    if value is None or isinstance(value, int | float | str | bool | bytes | complex):
        return [repr(value)]
    if isinstance(value, Mapping):
        items = ((str(key), _plain(value[key], seen, depth)) for key in sorted(value, key=str))
        return ["{", *(part for name, parts in items for part in (name, *parts)), "}"]
    if isinstance(value, list | tuple):
        return ["[", *(part for item in value for part in _plain(item, seen, depth)), "]"]
    if isinstance(value, FunctionType | MethodType | functools.partial | type):
        return _describe(value, seen, depth)
    if dataclasses.is_dataclass(value) or callable(value):
        return [reference(type(value)), *_plain(_state(value), seen, depth - 1)] if depth else []
    if _is_tensor(value) or isinstance(value, np.ndarray):
        return [fingerprint_values(value)]
    if callable(getattr(value, "to_dict", None)) and depth:  # configurations of Hugging Face
        return [reference(type(value)), *_plain(value.to_dict(), seen, depth - 1)]
    return [reference(type(value))]


def _source(obj: Callable[..., Any] | type) -> str:
    """Source as a syntax tree without docstrings; else bytecode, of a class that of its methods."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(obj)))
    except (OSError, TypeError, SyntaxError):
        return _compiled(obj)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(ast.Constant(str())), *rest]:
                    node.body = rest or [ast.Pass()]
    return ast.dump(tree)


def _compiled(obj: Callable[..., Any] | type) -> str:
    code = getattr(obj, "__code__", None)
    if isinstance(code, CodeType):
        return _bytecode(code)
    if not isinstance(obj, type):
        return reference(obj)
    parts = [reference(base) for base in obj.__bases__]
    for name, value in sorted(vars(obj).items()):
        inner = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
        if isinstance(inner, FunctionType):
            parts += [name, _source(inner), repr(inner.__defaults__)]
        elif isinstance(value, int | float | str | bool | tuple) and not name.startswith("__"):
            parts += [name, repr(value)]
    return digest(parts)


def _bytecode(code: CodeType) -> str:
    """Instructions, names and constants; nested code by content, as its repr holds an address."""
    constants = [_bytecode(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return digest([code.co_code, " ".join(code.co_names), *constants])


def _is_tensor(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("detach", "dtype", "shape"))


def _leaves(value: Any, values: bool = True) -> list[str | bytes]:
    if (named := by_name(value)) is not None:
        keys = sorted(named, key=str)
        return [p for key in keys for p in (str(key), *_leaves(named[key], values))]
    if isinstance(value, list | tuple):
        return [p for item in value for p in _leaves(item, values)]
    if _is_tensor(value):
        kind = f"{value.dtype}{tuple(value.shape)}"
        if not values or value.device.type == "meta":
            return [kind]
        import torch

        array = value.detach().cpu().contiguous().reshape(-1)
        return [kind, array.view(torch.uint8).numpy().tobytes() if array.numel() else b""]
    if isinstance(value, np.ndarray):
        kind = f"{value.dtype}{value.shape}"
        return [kind, np.ascontiguousarray(value).tobytes()] if values else [kind]
    if callable(getattr(value, "to_dict", None)):  # graphs of PyG, which show their shapes alone
        return _leaves(value.to_dict(), values)
    return [repr(value)] if values else [type(value).__name__]

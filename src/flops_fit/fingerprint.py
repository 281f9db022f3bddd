"""Fingerprints of the user's code and data: equal when a run would come out the same.

Code is compared by its syntax tree and the values it closes over or names, data by a spread of samples.
"""

import ast
import builtins
import dataclasses
import dis
import functools
import hashlib
import inspect
import sys
import textwrap
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from enum import Enum
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace, UnionType
from typing import Any

import numpy as np

from flops_fit.batches import by_name, fields_of

_Seen = dict[int, tuple[int, Any]]  # by identity: the place in order, and the object, kept alive
_DEEPEST = -16  # objects within objects; code is followed while the depth is above zero
_ADDRESS = " at 0x"


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
    return digest(_describe(obj, {}))


def fingerprint_any(value: Any) -> str:
    """A plain value, container, callable or object, by content and not by address."""
    return digest(_plain(value, {}, 4))


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
        inner += _closed_over(value).values()
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


def _describe(obj: Any, seen: _Seen, depth: int = 4) -> list[str]:
    """Parts that identify ``obj``; functions and classes of the same project are followed."""
    if id(obj) in seen or depth <= 0:
        return [reference(obj) if callable(obj) else type(obj).__name__]
    seen[id(obj)] = len(seen), obj
    if isinstance(obj, functools.partial):
        parts = ["partial", *_describe(obj.func, seen, depth), *_plain(obj.args, seen, depth)]
        return parts + _plain(obj.keywords, seen, depth)
    if isinstance(obj, MethodType):
        return ["method", *_describe(obj.__func__, seen, depth), *_plain(obj.__self__, seen, depth)]
    if isinstance(obj, FunctionType):
        return _describe_function(obj, seen, depth)
    if inspect.isclass(obj):
        return ["class", reference(obj), _source(obj), *_used_by_class(obj, seen, depth)]
    if callable(obj):
        return ["instance", *_describe(type(obj), seen, depth), *_plain(_state(obj), seen, depth)]
    return [repr(obj)]


def _describe_function(function: FunctionType, seen: _Seen, depth: int) -> list[str]:
    parts = ["function", reference(function), _source(function)]
    for defaults in (function.__defaults__, function.__kwdefaults__):
        parts += _plain(defaults, seen, depth)
    for name, content in _closed_over(function).items():
        parts += [name, *_plain(content, seen, depth - 1)]
    loaded = _loaded(function.__code__)
    for name in sorted(_global_names(function.__code__)):
        used = function.__globals__.get(name)
        # Helpers and constants of the user's own module decide the outcome too.
        if isinstance(used, type) and used.__module__ == function.__module__:
            parts += [name, *_describe(used, seen, depth - 1)]
        elif isinstance(used, FunctionType) or _is_plain(used) or name in loaded:
            parts += _used(name, used, function.__module__, seen, depth)
    return parts


def _used(name: str, used: Any, module: str, seen: _Seen, depth: int) -> list[str]:
    """Parts of a value that code of a module uses by name; of another module's, only where it is data."""
    if used is None or isinstance(used, ModuleType | type | UnionType):
        return []
    if _is_plain(used):
        return [name, repr(used)]
    if type(used).__module__ == "typing" or (name in _imported(module) and not _is_data(used)):
        return []
    if hasattr(used, "__qualname__") and used.__module__ != module:
        return []
    parts = _plain(used, seen, depth - 1)
    return [] if parts == [reference(type(used))] else [name, *parts]


@functools.cache
def _imported(module: str) -> frozenset[str]:
    """The names that a module takes from others."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError, SyntaxError):
        return frozenset()
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return frozenset(alias.asname or alias.name for node in imports for alias in node.names)


def _is_data(value: Any) -> bool:
    """Whether a value holds no code, as registers of functions do, that libraries change as they run."""
    if type(value) in (dict, list, tuple, set, frozenset):
        return all(map(_is_data, value.values() if isinstance(value, dict) else value))
    if isinstance(value, Namespace | SimpleNamespace) or fields_of(value) is not None:
        return all(map(_is_data, _state(value).values()))
    return value is None or _is_plain(value) or isinstance(value, np.ndarray | np.generic | Enum)


def _used_by_class(kind: type, seen: _Seen, depth: int) -> list[str]:
    """Parts of the values that the body and the functions of a class use by name."""
    module = kind.__module__
    known = dict(vars(sys.modules.get(module, builtins)))
    names = set()
    for member in vars(kind).values():
        inner = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
        method = inspect.unwrap(inner) if callable(inner) else None
        if isinstance(method, FunctionType) and method.__module__ == module:
            names |= _loaded(method.__code__)
            known |= method.__globals__ | _closed_over(method)
    with suppress(OSError, TypeError, SyntaxError):  # defaults and attributes, where it can be read
        names |= _loaded(compile(textwrap.dedent(inspect.getsource(kind)), "", "exec"))
    values = {name: known.get(name) for name in sorted(names) if not name.startswith("__")}
    own = [base for base in kind.__bases__ if base.__module__ == module]
    parts = [part for base in own for part in _describe(base, seen, depth - 1)]
    return parts + [p for n, v in values.items() for p in _used(n, v, module, seen, depth)]


def _closed_over(function: FunctionType) -> dict[str, Any]:
    out = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with suppress(ValueError):  # a name that is bound later, such as the function's own
            out[name] = cell.cell_contents
    return out


def _codes(code: CodeType) -> list[CodeType]:
    nested = (c for c in code.co_consts if isinstance(c, CodeType))
    return [code, *(inner for c in nested for inner in _codes(c))]


def _global_names(code: CodeType) -> set[str]:
    """Names of globals, and of attributes."""
    return {name for c in _codes(code) for name in c.co_names}


def _loaded(code: CodeType) -> set[str]:
    """Names of globals, and of what a function around the code holds."""
    loads = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF")
    return {i.argval for c in _codes(code) for i in dis.get_instructions(c) if i.opname in loads}


def _state(obj: Any) -> Mapping[str, Any]:
    """What an object holds by name, also in slots, without what it works out when first asked."""
    if (fields := fields_of(obj)) is not None:
        return fields
    held: Any = object.__getstate__(obj)
    parts = held if isinstance(held, tuple) else (held,)
    both = {name: value for part in parts for name, value in (part or {}).items()}
    found, kept = inspect.getattr_static, functools.cached_property
    return {n: v for n, v in both.items() if not isinstance(found(type(obj), n, None), kept)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(v is None or _is_plain(v) for v in value)
    return isinstance(value, int | float | str | bool)


def _plain(value: Any, seen: _Seen, depth: int) -> list[str]:
    """Parts that identify a value: its content, or that of what it holds."""
    if value is None or isinstance(value, int | float | str | bool | bytes | complex):
        return [repr(value)]
    if isinstance(value, Mapping):
        items = ((_key(key), _plain(value[key], seen, depth)) for key in sorted(value, key=_key))
        return ["{", *(part for name, parts in items for part in (name, *parts)), "}"]
    if isinstance(value, list | tuple):
        return ["[", *(part for item in value for part in _plain(item, seen, depth)), "]"]
    if isinstance(value, FunctionType | MethodType | functools.partial | type):
        return _describe(value, seen, depth)
    if depth > 0 and (dataclasses.is_dataclass(value) or callable(value)):
        return [reference(type(value)), *_plain(_state(value), seen, depth - 1)]
    if _is_tensor(value) or isinstance(value, np.ndarray):
        return [fingerprint_values(value)]
    if callable(getattr(value, "to_dict", None)) and depth > 0:  # configurations of Hugging Face
        return [reference(type(value)), *_plain(value.to_dict(), seen, depth - 1)]
    return [reference(type(value)), *_content(value, seen, depth)]


def _key(key: Any) -> str:
    text = str(key)
    return fingerprint_any(key) if _ADDRESS in text or isinstance(key, Set) else text


def _content(value: Any, seen: _Seen, depth: int) -> list[str]:
    """Parts of any other object: what it holds, or its text where that tells a value, or nothing."""
    if isinstance(value, np.generic):
        return [repr(value.item())]
    if isinstance(value, Enum):
        return [str(value.name), *_plain(value.value, seen, depth)]
    if isinstance(value, Set):  # in an order that does not depend on hashes
        return sorted(digest(_plain(item, dict(seen), depth)) for item in value)
    if isinstance(value, deque):
        return _plain(list(value), seen, depth)
    if id(value) in seen or depth <= _DEEPEST:
        return [str(seen[id(value)][0])] if id(value) in seen else []
    # Loggers, locks and files hold what changes while a program runs.
    standard = type(value).__module__.partition(".")[0] in sys.stdlib_module_names
    if not standard or isinstance(value, Namespace | SimpleNamespace):
        seen[id(value)] = len(seen), value
        if held := _state(value):
            return _plain(held, seen, depth - 1)
    text = repr(value)
    where = reference(type(value)) == "torch.device"  # which does not decide how a run comes out
    return [] if where or text.startswith("<") or _ADDRESS in text else [text]


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
        if value.dtype.hasobject:  # whose bytes are addresses
            return [kind, *_leaves(value.tolist(), values)]
        return [kind, np.ascontiguousarray(value).tobytes()] if values else [kind]
    if callable(getattr(value, "to_dict", None)):  # graphs of PyG, which show their shapes alone
        return _leaves(value.to_dict(), values)
    return [repr(value)] if values else [type(value).__name__]

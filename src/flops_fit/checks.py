"""Arguments of the public functions: a near miss is answered with what was meant."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from flops_fit.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def names_near_matches(function: Callable[P, R]) -> Callable[P, R]:
    """Let a misspelt keyword argument raise a TypeError that names the nearest real one."""
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it takes {known}"
                raise TypeError(
                    f"{function.__name__}() got an unexpected keyword argument {name!r}; {hint}"
                )
        return function(*args, **kwargs)

    return checked


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse what is none of ``choices``, naming the nearest."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{name}: expected one of {list(choices)}; got {value!r}.{hint}")

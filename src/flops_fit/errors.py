"""Everything flops-fit raises on purpose, and checks of arguments.

::

    FlopsFitError
    ├── InputError (ValueError)         an argument cannot be used as it came
    │   ├── BudgetError                 compute budgets
    │   ├── ModelError                  the model class, its size parameter, its sizes
    │   ├── DataError                   the data set, its batches, its units
    │   ├── LossError                   the loss function and what it returned
    │   ├── PlanError                   no sweep can be planned from valid inputs
    │   └── TableError                  a table of runs that cannot be read
    ├── InputTypeError (TypeError)      an argument of a wrong type
    ├── OutputError (OSError)           the output directory
    ├── FitError (ValueError)           these runs determine no law
    ├── SweepError (RuntimeError)       the sweep was stopped
    └── MissingExtraError (ImportError) an optional dependency is not installed

Each message says what was expected, what came, and what to do next.
A poor fit is not an error: it is a status and a diagnostic in the result.
"""

import difflib
import functools
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeGuard, TypeVar

__all__ = [
    "BudgetError", "DataError", "FitError", "FlopsFitError", "InputError", "InputTypeError",
    "LossError", "MissingExtraError", "ModelError", "OutputError", "PlanError", "SweepError",
    "TableError",
]  # fmt: skip


class FlopsFitError(Exception):
    """Base of every error that flops-fit raises on purpose."""


class InputError(FlopsFitError, ValueError):
    """An argument has the right type and an unusable value."""


class BudgetError(InputError):
    """The compute budgets are not distinct positive finite numbers."""


class ModelError(InputError):
    """The model cannot be built, sized or counted."""


class DataError(InputError):
    """The data set is empty, unformatted or too small for what was asked."""


class LossError(InputError):
    """The loss function did not return a differentiable scalar."""


class PlanError(InputError):
    """The inputs are valid one by one, and no sweep can be made of them."""


class TableError(InputError):
    """A table of runs lacks a column or holds values that cannot be used."""


class InputTypeError(FlopsFitError, TypeError):
    """An argument has a type that flops-fit cannot use."""


class OutputError(FlopsFitError, OSError):
    """The output directory cannot be written, or belongs to something else."""


class FitError(FlopsFitError, ValueError):
    """The runs do not determine a law; the message says which runs to add."""


class SweepError(FlopsFitError, RuntimeError):
    """The sweep was stopped before it could end."""


class MissingExtraError(FlopsFitError, ImportError):
    """An optional dependency is missing; the message gives the install command."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f'Install it with: pip install "flops-fit[{extra}]"'
        )


P = ParamSpec("P")
R = TypeVar("R")


def explains_names(moved: Mapping[str, object]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let an unknown keyword argument raise an InputTypeError: what to give, or where it has moved."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in known:
                    raise InputTypeError(
                        f"{function.__name__}() got an unexpected keyword argument {name!r}; "
                        f"{unknown_name(name, known, moved)}"
                    )
            return function(*args, **kwargs)

        return checked

    return decorate


def unknown_name(name: str, known: Sequence[str], moved: Mapping[str, object]) -> str:
    """What to use instead of an unknown name: its new place, the nearest known one, or a list."""
    if name in moved:
        return f"it has moved: give {moved[name]}"
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"it takes {known}"


def nearest_name(value: object, names: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the name nearest to ``value``; empty where none is near."""
    given = {str(name).lower(): name for name in reversed(list(names))}
    near = difflib.get_close_matches(str(value).lower(), given, n=1)
    return f" Did you mean {given[near[0]]!r}?" if near else ""


def columns_there(value: object, names: Iterable[str]) -> str:
    """What a table has in place of a column that was named, or that it has no such column."""
    names = list(names)
    if not names:
        return "the table has no such column."
    return f"the table has {', '.join(map(repr, names))}.{nearest_name(value, names)}"


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse what is none of ``choices``, naming the nearest."""
    choices = list(choices)
    if value not in choices:
        hint = nearest_name(value, choices)
        raise InputError(f"{name}: expected one of {choices}; got {value!r}.{hint}")


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is an ``int``; ``True`` and ``False`` are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object, infinite: bool = False) -> TypeGuard[float]:
    """Whether a value is a real number, finite unless ``infinite``; bool and NaN are none."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value) or (infinite and not math.isnan(value))
    except OverflowError:  # a whole number beyond 1e308
        return False


def check_whole(name: str, value: object, at_least: int | None = 1, expected: str = "") -> int:
    """The value, where it is a whole number of at least ``at_least``; ``expected`` words the refusal."""
    if is_whole(value) and (at_least is None or value >= at_least):
        return value
    least = "" if at_least is None else f", {at_least} or more"
    raise _error(name, value, expected or f"a whole number{least}")


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    infinite: bool = False,
    expected: str = "",
) -> float:
    """The value as a float, where it is a finite real number inside the bounds; else an InputError.

    ``above`` and ``below`` exclude themselves; ``expected`` words the refusal.
    """
    bounds = (
        ("above", above, operator.gt),
        ("at least", at_least, operator.ge),
        ("below", below, operator.lt),
        ("at most", at_most, operator.le),
    )
    given = [(word, limit, holds) for word, limit, holds in bounds if limit is not None]
    if is_number(value, infinite) and all(holds(value, limit) for _, limit, holds in given):
        return float(value)
    words = [f"{word} {limit:g}" for word, limit, _ in given]
    default = "a positive number" if words == ["above 0"] else f"a number {' and '.join(words)}"
    raise _error(name, value, expected or default.strip())


def _error(name: str, value: object, expected: str) -> InputError | InputTypeError:
    is_value = isinstance(value, numbers.Real) and not isinstance(value, bool)
    kind = InputError if is_value else InputTypeError
    return kind(f"{name}: expected {expected}; got {value!r}.")

"""Executors by name."""

from __future__ import annotations

from collections.abc import Callable

from flops_fit.errors import InputError, InputTypeError
from flops_fit.execute._contract import Executor
from flops_fit.execute._inprocess import InProcessExecutor
from flops_fit.execute._pool import PoolExecutor

__all__ = ["EXECUTORS", "resolve_executor"]

EXECUTORS: dict[str, Callable[[], Executor]] = {
    "inprocess": InProcessExecutor,
    "pool": PoolExecutor,
}


def resolve_executor(executor: str | Executor) -> Executor:
    """An executor from its name, or the instance itself."""
    if isinstance(executor, str):
        if executor not in EXECUTORS:
            raise InputError(
                f"executor: expected one of {sorted(EXECUTORS)} or an instance; got {executor!r}."
            )
        return EXECUTORS[executor]()
    if not all(hasattr(executor, name) for name in ("start", "submit", "poll", "close")):
        raise InputTypeError(
            f"executor: expected one of {sorted(EXECUTORS)} or an object with start, submit, poll "
            f"and close; got {type(executor).__name__}."
        )
    return executor

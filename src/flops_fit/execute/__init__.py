"""Where runs happen, behind one contract."""

from collections.abc import Callable

from flops_fit.errors import InputTypeError, check_choice
from flops_fit.execute.command import CommandTask
from flops_fit.execute.executor import Executor, Handle, InProcessExecutor, Mock, Resources, Task
from flops_fit.execute.pool import PoolExecutor
from flops_fit.execute.ray import RayExecutor
from flops_fit.execute.slurm import SlurmExecutor

__all__ = [
    "EXECUTORS", "CommandTask", "Executor", "Handle", "InProcessExecutor", "Mock", "PoolExecutor",
    "RayExecutor", "Resources", "SlurmExecutor", "Task", "resolve_executor",
]  # fmt: skip

EXECUTORS: dict[str, Callable[[], Executor]] = {
    "inprocess": InProcessExecutor,
    "pool": PoolExecutor,
    "ray": RayExecutor,
    "slurm": SlurmExecutor,
}


def resolve_executor(executor: str | Executor) -> Executor:
    """An executor from its name, or the instance itself."""
    if isinstance(executor, str):
        check_choice("executor", executor, list(EXECUTORS))
        return EXECUTORS[executor]()
    needed = ("start", "submit", "poll", "close")
    if isinstance(executor, type) or not all(hasattr(executor, name) for name in needed):
        raise InputTypeError(
            f"executor: expected one of {list(EXECUTORS)} or an object with start, submit, poll and "
            f"close, such as PoolExecutor(workers=4); got {executor!r}."
        )
    return executor

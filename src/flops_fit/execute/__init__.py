"""Where runs happen, behind one contract."""

from flops_fit.execute._contract import Executor, Task
from flops_fit.execute._inprocess import InProcessExecutor
from flops_fit.execute._mock import MockTask
from flops_fit.execute._pool import PoolExecutor
from flops_fit.execute._ranks import follow, lead
from flops_fit.execute._resolve import EXECUTORS, resolve_executor

__all__ = [
    "EXECUTORS",
    "Executor",
    "InProcessExecutor",
    "MockTask",
    "PoolExecutor",
    "Task",
    "follow",
    "lead",
    "resolve_executor",
]

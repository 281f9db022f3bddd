"""Where runs happen, behind one contract."""

from flops_fit.execute._contract import Executor, Handle, Resources, Task
from flops_fit.execute._inprocess import InProcessExecutor
from flops_fit.execute._mock import MockTask
from flops_fit.execute._pool import PoolExecutor
from flops_fit.execute._ranks import follow, lead
from flops_fit.execute._ray import RayExecutor
from flops_fit.execute._resolve import EXECUTORS, resolve_executor
from flops_fit.execute._slurm import SlurmExecutor

__all__ = [
    "EXECUTORS",
    "Executor",
    "Handle",
    "InProcessExecutor",
    "MockTask",
    "PoolExecutor",
    "RayExecutor",
    "Resources",
    "SlurmExecutor",
    "Task",
    "follow",
    "lead",
    "resolve_executor",
]

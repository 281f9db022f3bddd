"""Where runs happen, behind one contract."""

from flops_fit.execute.executor import Executor, Handle, Resources, Task
from flops_fit.execute.inprocess import InProcessExecutor
from flops_fit.execute.mock import MockTask
from flops_fit.execute.multirank import follow, lead
from flops_fit.execute.pool import PoolExecutor
from flops_fit.execute.ray import RayExecutor
from flops_fit.execute.resolve import EXECUTORS, resolve_executor
from flops_fit.execute.slurm import SlurmExecutor

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

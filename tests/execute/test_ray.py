"""Ray keeps the contract of executors."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flops_fit.errors import InputError, MissingExtraError, SweepError
from flops_fit.execute import Executor, RayExecutor, Resources
from tests.conftest import make_experiment
from tests.execute import _tasks
from tests.execute.contract import Contract, drain

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayExecutor]:
    """One cluster for this file: it takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join([p for p in sys.path if p]))
        holder = RayExecutor(options={"num_cpus": 2})
        holder.start(_tasks.square, print)
        yield holder
        holder.close()
        assert not ray.is_initialized(), "what was started here is taken down"


@pytest.mark.usefixtures("cluster")
class TestRay(Contract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        made = RayExecutor()
        yield made
        made.close()
        assert ray.is_initialized(), "what others have started stays"


def test_a_run_that_this_machine_cannot_hold_is_refused(cluster: RayExecutor) -> None:
    with pytest.raises(InputError, match="expected at most the 2 CPUs"):
        cluster.submit(make_experiment(), Resources(cpus=3))


@pytest.mark.usefixtures("cluster")
def test_a_worker_of_rays_that_is_killed_makes_a_preempted_run() -> None:
    executor = RayExecutor()
    executor.start(_tasks.square, print)
    experiment = make_experiment(size=_tasks.SLOW)
    executor.submit(experiment)
    assert executor.poll(timeout=2.0) == []
    (worker,) = _processes(f"ray::{experiment.label}")
    os.kill(worker, signal.SIGKILL)
    (run,) = drain(executor, 1)
    executor.close()
    assert run.state == "preempted"
    assert run.reason.startswith("Ray lost the run: WorkerCrashedError")


def _processes(title: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(title.encode()):
                found.append(int(path.parent.name))
    return found


def test_without_ray_the_install_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"flops-fit\[ray\]"):
        RayExecutor().start(_tasks.square, print)


def test_a_cluster_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a plain Exception where a node times out."""

    def slow(**options: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(SweepError, match="no cluster at this machine .*timed out during startup"):
        RayExecutor(options={"num_cpus": 1}).start(_tasks.square, print)

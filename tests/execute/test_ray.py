"""Ray keeps the contract of executors."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator

import pytest

from flops_fit.errors import InputError, MissingExtraError
from flops_fit.execute import Executor, RayExecutor, Resources
from tests.conftest import make_experiment
from tests.execute import _tasks
from tests.execute.contract import Contract

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster for this file: it takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join([p for p in sys.path if p]))
        holder = RayExecutor(options={"num_cpus": 2})
        holder.start(_tasks.square, print)
        yield
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


@pytest.mark.usefixtures("cluster")
def test_a_run_that_no_machine_can_hold_is_refused() -> None:
    executor = RayExecutor()
    executor.start(_tasks.square, print)
    with pytest.raises(InputError, match="expected at most the 2 CPUs"):
        executor.submit(make_experiment(), Resources(cpus=3))
    executor.close()


def test_without_ray_the_install_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"flops-fit\[ray\]"):
        RayExecutor().start(_tasks.square, print)



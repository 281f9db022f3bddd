"""Every place where runs happen keeps the same contract."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flops_fit.errors import InputError, InputTypeError
from flops_fit.execute import Executor, InProcessExecutor, MockTask, PoolExecutor, resolve_executor
from flops_fit.laws import Hoffmann
from flops_fit.records import Experiment, Run
from flops_fit.train import Progress
from tests.conftest import make_experiment


def task(experiment: Experiment, report=None) -> Run:
    """Squares the size; kills its own process where it is 13."""
    if experiment.size == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if report is not None:
        report(Progress(experiment.id, 1, 1, 0.5))
    return Run(
        experiment, "completed", loss=float(experiment.size**2), seconds=torch.get_num_threads()
    )


@pytest.fixture(params=["inprocess", "pool"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    made = InProcessExecutor() if request.param == "inprocess" else PoolExecutor(2, 1)
    yield made
    made.close()


def drain(executor: Executor, n: int) -> list[Run]:
    runs: list[Run] = []
    while len(runs) < n:
        ended = executor.poll()
        assert ended
        runs += ended
    return runs


def test_every_submitted_run_comes_back_once(executor: Executor) -> None:
    heard: list[Progress] = []
    executor.start(task, heard.append)
    experiments = [make_experiment(size=s) for s in range(2, 9)]
    for experiment in experiments:
        executor.submit(experiment)
    runs = drain(executor, len(experiments))
    assert sorted(r.experiment.id for r in runs) == sorted(e.id for e in experiments)
    assert all(r.loss == r.experiment.size**2 for r in runs)
    assert {p.experiment_id for p in heard} == {e.id for e in experiments}


def test_nothing_submitted_is_nothing_to_wait_for(executor: Executor) -> None:
    executor.start(task, print)
    assert executor.poll() == []


def test_closing_twice_is_safe_and_forgets_the_queue(executor: Executor) -> None:
    executor.start(task, print)
    executor.submit(make_experiment())
    executor.close()
    executor.close()
    assert executor.poll() == []


def test_capacity_is_at_least_one(executor: Executor) -> None:
    assert executor.capacity >= 1


def test_a_killed_worker_is_a_failed_run_and_the_others_go_on() -> None:
    executor = PoolExecutor(2, 1)
    executor.start(task, print)
    for size in (13, 3, 4):
        executor.submit(make_experiment(size=size))
    runs = {r.experiment.size: r for r in drain(executor, 3)}
    executor.close()
    assert runs[13].state == "failed"
    assert "killed by signal 9" in runs[13].reason
    assert runs[3].loss == 9


def test_a_pool_sends_local_functions_and_sets_threads() -> None:
    offset = 5.0

    def local(experiment: Experiment, report=None) -> Run:
        return Run(experiment, "completed", loss=offset, seconds=torch.get_num_threads())

    executor = PoolExecutor(1, 1)
    executor.start(local, print)
    executor.submit(make_experiment())
    (run,) = drain(executor, 1)
    executor.close()
    assert (run.loss, run.seconds) == (5.0, 1)


def test_what_cannot_be_sent_is_told() -> None:
    lock = threading.Lock()
    with pytest.raises(InputTypeError, match="cannot be pickled"):
        PoolExecutor(1).start(lambda e, r=None: lock.locked(), print)


class _Unreadable:
    """Can be pickled, and not read back."""

    def __reduce__(self) -> tuple[object, ...]:
        return (int, ("not a number",))

    def __call__(self, experiment: Experiment, report=None) -> Run:
        raise AssertionError


def test_a_task_that_a_worker_cannot_read_fails_with_the_reason() -> None:
    executor = PoolExecutor(1, 1)
    executor.start(_Unreadable(), print)
    executor.submit(make_experiment())
    (run,) = drain(executor, 1)
    executor.close()
    assert run.state == "failed"
    assert "cannot be read in a worker: ValueError" in run.reason


@pytest.mark.parametrize("workers", [0, -1])
def test_a_pool_needs_a_worker(workers: int) -> None:
    with pytest.raises(InputError, match="workers: expected at least 1"):
        PoolExecutor(workers)


def test_executors_are_found_by_name() -> None:
    assert isinstance(resolve_executor("pool"), PoolExecutor)
    own = InProcessExecutor()
    assert resolve_executor(own) is own
    with pytest.raises(InputError, match=r"expected one of \['inprocess', 'pool'\]"):
        resolve_executor("slurn")
    with pytest.raises(InputTypeError, match="start, submit, poll"):
        resolve_executor(3)


UNGUARDED = """
import sys
sys.path.insert(0, {root!r})
import flops_fit
from tests.conftest import MLP, Blobs, cross_entropy

flops_fit.find_optimal(
    MLP, "width", None, Blobs(), cross_entropy, [1e6, 2e6], executor="pool", output_dir={out!r}
)
"""


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    root = str(Path(__file__).resolve().parents[2])
    script.write_text(UNGUARDED.format(root=root, out=str(tmp_path / "out")))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode != 0
    assert "SweepError" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr


def test_a_mock_answers_with_its_law() -> None:
    law = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)
    clean = MockTask(law, noise=0.0)(make_experiment())
    assert clean.loss == pytest.approx(float(law.loss(160, 400)))
    noisy = [
        MockTask(law, noise=0.01)(make_experiment(seed=s)).loss / clean.loss - 1 for s in range(300)
    ]
    assert abs(sum(noisy) / 300) < 0.002
    assert MockTask(law)(make_experiment()) == MockTask(law)(make_experiment())

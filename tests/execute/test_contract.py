"""Every place where runs happen keeps the same contract."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from flops_fit.errors import InputError, InputTypeError, OutputError
from flops_fit.execute import (
    CommandTask,
    Executor,
    InProcessExecutor,
    Mock,
    PoolExecutor,
    RayExecutor,
    Resources,
    SlurmExecutor,
    resolve_executor,
)
from flops_fit.execute.pool import Slots
from flops_fit.execute.process import pack, start_method
from flops_fit.laws import Hoffmann
from flops_fit.records import Experiment, Run
from tests._scripts import Scripts
from tests.conftest import MLP, Blobs, cross_entropy, make_experiment
from tests.execute import _tasks
from tests.execute.contract import Contract, drain

ROOT = Path(__file__).resolve().parents[2]


class TestInProcess(Contract):
    processes = False

    @pytest.fixture
    def executor(self) -> InProcessExecutor:
        return InProcessExecutor()


def test_a_full_disk_for_the_task_of_a_pool_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    pool = PoolExecutor(1, 1)
    with pytest.raises(OutputError, match=r"executor='pool': .* cannot be written \(No space left"):
        pool.start(_tasks.square, print)
    pool.close()


class TestPool(Contract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        made = PoolExecutor(2, 1)
        yield made
        made.close()


class TestSlurmLocally(Contract):
    @pytest.fixture
    def executor(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([p for p in sys.path if p]))
        made = SlurmExecutor(tmp_path / "jobs", cluster="local", max_jobs=2)
        yield made
        made.close()


def test_a_lost_process_is_told_by_its_signal() -> None:
    pool = PoolExecutor(1, 1)
    pool.start(_tasks.square, print)
    pool.submit(make_experiment(size=_tasks.KILLED))
    (run,) = drain(pool, 1)
    pool.close()
    assert run.reason == "its worker was killed by signal 9 before it had a result"


def test_what_the_users_code_leaves_in_a_worker_does_not_hold_the_pool() -> None:
    pool = PoolExecutor(1, 1)
    pool.start(_tasks.leaving, print)
    pool.submit(make_experiment())
    worker = next(iter(pool._running.values())).job
    assert drain(pool, 1)[0].state == "completed"
    assert worker.process.exitcode == 0, "it was waited for and killed"
    pool.close()


def test_a_run_that_starts_processes_is_told_where_it_may() -> None:
    pool = PoolExecutor(1, 1)
    pool.start(_tasks.parent, print)
    pool.submit(make_experiment())
    (run,) = drain(pool, 1)
    pool.close()
    assert run.state == "failed"
    assert 'executor="inprocess"' in run.reason


@pytest.mark.skipif(start_method() != "forkserver", reason="there is no server to fork from")
def test_a_pool_outlives_the_server_that_its_workers_are_forked_from() -> None:
    pool = PoolExecutor(1, 1)
    pool.start(_tasks.square, print)
    pool.submit(make_experiment(size=2))
    drain(pool, 1)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    pool.submit(make_experiment(size=3))
    assert drain(pool, 1)[0].loss == 9
    pool.close()


def test_workers_have_torch_only_where_the_driver_has_it() -> None:
    """A task without it does not wait for its import."""
    code = (
        "from flops_fit.execute import PoolExecutor\n"
        "from tests._drivers import experiments\n"
        "from tests.execute._tasks import modules\n"
        "pool = PoolExecutor(1, 1)\n"
        "pool.start(modules, print)\n"
        "pool.submit(experiments(1)[0])\n"
        "print(pool.poll()[0].versions)\n"
        "pool.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, cwd=ROOT
    )
    assert done.stdout == "{'torch': 'no'}\n", done.stderr


def test_a_pool_sends_local_functions_and_sets_threads() -> None:
    offset = 5.0

    def local(experiment: Experiment, report=None) -> Run:
        import torch

        return Run(experiment, "completed", loss=offset, seconds=torch.get_num_threads())

    executor = PoolExecutor(1, 1)
    executor.start(local, print)
    executor.submit(make_experiment())
    (run,) = drain(executor, 1)
    executor.close()
    assert (run.loss, run.seconds) == (5.0, 1)


def test_runs_are_spread_over_gpus_and_each_sees_its_own() -> None:
    """Two runs share each of two GPUs; a run of two GPUs has two ranks."""
    pool = PoolExecutor(gpus=["3", "5"], runs_per_gpu=2, threads=1)
    assert pool.capacity == 4
    pool.start(_tasks.environment, print)
    for seed in range(4):
        pool.submit(make_experiment(seed=seed))
    pool.submit(make_experiment(seed=4), Resources(gpus=2))
    runs = sorted(drain(pool, 5), key=lambda r: r.experiment.seed)
    pool.close()
    seen = [r.versions["CUDA_VISIBLE_DEVICES"] for r in runs]
    assert sorted(seen[:4]) == ["3", "3", "5", "5"]
    assert [r.versions["WORLD_SIZE"] for r in runs] == ["", "", "", "", "2"]
    with pytest.raises(InputError, match="expected at most the 2 GPUs"):
        pool.submit(make_experiment(), Resources(gpus=3))


def test_room_is_given_to_whom_it_fits_and_comes_back() -> None:
    room = Slots(3, ["0"], shares=2)
    first = room.take(2, 1)
    assert first == ("0",)
    assert room.take(2, 1) is None
    room.give_back(2, first)
    assert room.take(3, 1) == ("0",)


@pytest.mark.parametrize("place", ["pool", "slurm"])
def test_two_ranks_train_a_run_as_one_does(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flops_fit

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([p for p in sys.path if p]))

    def talking(prediction: Any, target: Any) -> Any:
        print("loss")
        return cross_entropy(prediction, target)

    plan = flops_fit.plan_sweep(
        MLP, "width", None, Blobs(), talking, [3e5], sizes=[8], batch_size=8
    )
    (experiment,) = plan.experiments
    alone = plan.task(experiment)
    executor = (
        PoolExecutor(2, 1, ranks_per_run=2)
        if place == "pool"
        else SlurmExecutor(tmp_path / "jobs", cluster="local", ranks_per_run=lambda e: 2)
    )
    (run,) = flops_fit.run_sweep(
        plan, executor=executor, output_dir=tmp_path / "out", progress=False
    )
    assert (run.state, run.ranks, run.tokens) == ("completed", 2, alone.tokens)
    assert run.loss == pytest.approx(alone.loss, rel=1e-5)
    if place == "pool":  # of rank 0 alone, and not on the terminal
        printed = tmp_path / "out" / "runs" / experiment.id / "output.txt"
        assert set(printed.read_text().split()) == {"loss"}


def test_a_rank_that_is_killed_makes_a_preempted_run() -> None:
    pool = PoolExecutor(2, 1, ranks_per_run=2)
    pool.start(_tasks.Pair(), print)
    pool.submit(make_experiment())
    (run,) = drain(pool, 1)
    pool.close()
    assert run.state == "preempted"
    assert run.reason == "rank 1 of 2 was killed by signal 9 before the run had a result"


def until(true: Callable[[], Any]) -> None:
    for _ in range(6000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def test_ranks_end_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    pool = PoolExecutor(2, 1, ranks_per_run=2)
    pool.start(_tasks.Waiting(tmp_path), print)
    pool.submit(make_experiment())
    until(lambda: len(list(tmp_path.iterdir())) == 2)
    (started,) = pool._running.values()
    started.job.process.kill()
    (run,) = drain(pool, 1)
    pool.close()
    assert (run.state, run.reason) == (
        "preempted",
        "its worker was killed by signal 9 before it had a result",
    )
    until(lambda: not any(Path("/proc", p.name).exists() for p in tmp_path.iterdir()))


def test_ranks_that_are_stopped_finish_their_step(tmp_path: Path) -> None:
    pool = PoolExecutor(2, 1, ranks_per_run=2)
    pool.start(_tasks.Long(tmp_path), print)
    experiment = make_experiment()
    handle = pool.submit(experiment)
    until(lambda: (tmp_path / experiment.id).with_suffix(".begun").exists())
    time.sleep(0.3)
    assert pool.cancel(handle)
    assert pool.poll(timeout=30) == []
    pool.close()
    assert (tmp_path / experiment.id).exists()


def test_a_cause_is_named_as_deep_as_it_lies() -> None:
    lock = threading.Lock()
    with pytest.raises(InputTypeError, match=r"a _thread.lock at task.lock"):
        pack(lambda e, r=None: lock.locked(), "pool")


def test_a_large_task_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flops_fit.execute.process.WARN_BYTES", 1000)
    data = bytes(5000)
    with pytest.warns(UserWarning, match="keep the path of a file"):
        pack(lambda e, r=None: data, "pool")


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
    with pytest.raises(InputError, match="workers: expected a whole number, 1 or more"):
        PoolExecutor(workers)


def test_executors_are_found_by_name() -> None:
    found = [type(resolve_executor(n)) for n in ("inprocess", "pool", "ray", "slurm")]
    assert found == [InProcessExecutor, PoolExecutor, RayExecutor, SlurmExecutor]
    own = InProcessExecutor()
    assert resolve_executor(own) is own
    with pytest.raises(InputError, match=r"'ray', 'slurm'\]; got 'slurn'. Did you mean 'slurm'"):
        resolve_executor("slurn")
    for wrong in (3, PoolExecutor):
        with pytest.raises(InputTypeError, match="start, submit, poll"):
            resolve_executor(wrong)


UNGUARDED = """
import sys
sys.path.insert(0, {root!r})
import flops_fit
from tests.conftest import MLP, Blobs, cross_entropy
print("the script runs")
plan = flops_fit.plan_sweep(MLP, "width", None, Blobs(), cross_entropy, [3e5], sizes=[4, 8])
runs = flops_fit.run_sweep(plan, executor="pool", output_dir={out!r}, progress=False)
print([run.state for run in runs])
"""


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path, scripts: Scripts) -> None:
    """Workers leave the script alone: what they need of it comes with the task."""
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED.format(root=str(ROOT), out=str(tmp_path / "out")))
    done = scripts.run(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the script runs\n['completed', 'completed']\n"


def test_a_mock_answers_with_its_law() -> None:
    law = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)
    clean = Mock(law, noise=0.0)(make_experiment())
    assert clean.loss == pytest.approx(float(law.loss(160, 400)))
    noisy = [
        Mock(law, noise=0.01)(make_experiment(seed=s)).loss / clean.loss - 1 for s in range(300)
    ]
    assert abs(sum(noisy) / 300) < 0.002
    assert Mock(law)(make_experiment()) == Mock(law)(make_experiment())


def test_a_cancelled_run_of_a_pool_takes_its_command_along(tmp_path: Path) -> None:
    text = 'cd "$FLOPS_FIT_RUN_DIR"; echo $$ > pid; mv pid begun; exec sleep 61'
    pool = PoolExecutor(1, 1)
    task = CommandTask(text, shell=True, folder=tmp_path)
    pool.start(task, lambda progress: None)
    handle = pool.submit(make_experiment())
    until = time.monotonic() + 60
    while not (begun := list(tmp_path.rglob("begun"))) and time.monotonic() < until:
        pool.poll(0.05)
    assert pool.cancel(handle)
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun[0].read_text()), 0)

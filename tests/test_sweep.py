"""Runs are made once, by whoever lives, and none that is on record is lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flops_fit.errors import OutputError, SweepError
from flops_fit.execute import InProcessExecutor, PoolExecutor
from flops_fit.records import Experiment, Run
from flops_fit.store import Store, examine
from flops_fit.store.lease import take_lease
from flops_fit.sweep import run_experiments
from flops_fit.train import Progress
from flops_fit.view import SilentView
from tests._drivers import Printing, Traced, experiments, start
from tests.conftest import make_experiment
from tests.execute._tasks import talking

PATIENCE = 60.0


def until(true: Callable[[], Any], driver: subprocess.Popen[str] | None = None) -> None:
    """Wait for what will come, unless the driver ends without it."""
    for _ in range(int(PATIENCE / 0.01)):
        if true():
            return
        if driver is not None and driver.poll() is not None:
            raise AssertionError(driver.communicate()[0])
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def losses(n: int) -> str:
    return " ".join(["losses", *(str(2.0 + i / 100) for i in range(n))])


def sweep(
    n: int | Iterable[Experiment], task: Any, store: Store, executor: Any = None, view: Any = None
) -> list[Run]:
    asked = experiments(n) if isinstance(n, int) else list(n)
    executor = executor or InProcessExecutor()
    return run_experiments(
        asked, task, executor, store, view or SilentView(), pauses=(0.001, 0.002, 0.003)
    )


def test_two_drivers_at_once_make_each_run_once_and_both_return_all(tmp_path: Path) -> None:
    """The second joins: real processes, one in-process and one with a pool."""
    traces = Traced(tmp_path / "traces")
    drivers = [
        start(kind, 30, tmp_path / "out", traces.folder, 0.05) for kind in ("inprocess", "pool")
    ]
    said = [driver.communicate(timeout=PATIENCE)[0] for driver in drivers]
    assert [d.returncode for d in drivers] == [0, 0], said
    assert [s.strip().splitlines()[-1] for s in said] == [losses(30)] * 2
    assert sorted(traces.begun()) == sorted(e.id for e in experiments(30))
    assert not list((tmp_path / "out").rglob("lease.json"))
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_a_driver_that_is_killed_waits_for_its_living_workers_when_started_again(
    tmp_path: Path,
) -> None:
    """No run is begun twice though its driver died by SIGKILL; the view tells who makes it."""
    traces = Traced(tmp_path / "traces")
    traces.hold.touch()
    arguments = ("detached", 2, tmp_path / "out", traces.folder, 0.0)
    first = start(*arguments)
    until(lambda: len(traces.begun()) == 2, first)
    first.kill()
    first.communicate()
    second = start(*arguments)
    assert second.stdout is not None
    assert "is being made by process" in second.stdout.readline()
    traces.hold.unlink()
    said = second.communicate(timeout=PATIENCE)[0]
    assert said.strip().splitlines()[-1] == losses(2)
    assert len(traces.begun()) == 2


def test_a_worker_that_is_killed_with_its_driver_is_replaced(tmp_path: Path) -> None:
    """Its lease is that of a process that is gone, which needs no waiting."""
    traces = Traced(tmp_path / "traces")
    first = start("inprocess", 3, tmp_path / "out", traces.folder, 60)
    until(traces.begun, first)
    first.kill()
    first.communicate()
    assert len(list((tmp_path / "out").rglob("lease.json"))) == 1
    began = time.monotonic()
    runs = sweep(3, Traced(traces.folder), Store.open(tmp_path / "out"))
    assert [r.state for r in runs] == ["completed"] * 3
    assert time.monotonic() - began < 30  # not the minute of a holder elsewhere


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("executor", ["inprocess", "pool"])
def test_a_driver_asked_to_stop_ends_its_workers_and_says_how_to_go_on(
    tmp_path: Path, executor: str, number: signal.Signals
) -> None:
    """No lease and no process is left, what had ended is there, and a new call finishes."""
    traces = Traced(tmp_path / "traces")
    driver = start(executor, 40, tmp_path / "out", traces.folder, 0.1)
    until(lambda: list((tmp_path / "out").rglob("run.json")), driver)
    driver.send_signal(number)
    said = driver.communicate(timeout=PATIENCE)[0]
    assert driver.returncode == (143 if number == signal.SIGTERM else -2)
    assert "Call again with the same arguments to go on" in said
    done = len(list((tmp_path / "out").rglob("run.json")))
    assert 0 < done < 40
    store = Store.open(tmp_path / "out")
    assert not store.holders()
    sweep(40, Traced(traces.folder, 0.0), store)
    assert len(traces.begun()) <= 40 + 2  # those that were cut short began twice


@dataclass
class Losing:
    """An executor whose workers are lost, as often as told for each seed."""

    times: dict[int, int]
    reason: str = "the machine went away"
    capacity = 2

    def __post_init__(self) -> None:
        self.queue: deque[Experiment] = deque()
        self.submitted: list[int] = []

    def start(self, task: Any, report: Any) -> None:
        self.task = task

    def submit(self, experiment: Experiment) -> None:
        self.submitted.append(experiment.seed)
        self.queue.append(experiment)

    def poll(self) -> list[Run]:
        experiment = self.queue.popleft()
        if self.times.get(experiment.seed, 0) > 0:
            self.times[experiment.seed] -= 1
            return [Run(experiment, "preempted", reason=self.reason)]
        return [self.task(experiment, None)]

    def close(self) -> None:
        self.queue.clear()


def test_what_the_surroundings_lost_is_tried_three_times_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a pause before each, in the worker; then the run is left with its reason."""
    slept: list[float] = []
    executor = Losing({0: 3, 1: 4})
    monkeypatch.setattr("flops_fit.store.store.time.sleep", slept.append)
    runs = sweep(3, lambda e, r: Run(e, "completed", loss=1.0), Store.open(tmp_path), executor)
    assert [r.state for r in runs] == ["completed", "preempted", "completed"]
    assert runs[1].reason == "the machine went away; given up after 4 attempts"
    assert [executor.submitted.count(seed) for seed in range(3)] == [4, 4, 1]
    assert slept == [0.003]  # only the third attempt reached a worker
    attempt = Store.open(tmp_path).attempt(runs[1].experiment.id)
    assert attempt is not None
    assert attempt.run.reason == runs[1].reason


@pytest.mark.parametrize(
    ("how", "attempts"),
    [("exited with 3", 2), ("was killed by signal 11", 2), ("was killed by signal 9", 4)],
)
def test_a_worker_that_ends_itself_twice_alike_is_not_tried_again(
    tmp_path: Path, how: str, attempts: int
) -> None:
    """But one that was killed from outside is."""
    executor = Losing({0: 9}, f"its worker {how} before it had a result")
    task = lambda e, r: Run(e, "completed", loss=1.0)  # noqa: E731
    first, second = sweep(2, task, Store.open(tmp_path), executor)
    assert executor.submitted.count(0) == attempts
    assert first.state == ("failed" if attempts == 2 else "preempted")
    assert how in first.reason
    assert second.state == "completed"


def test_who_watches_is_told_where_each_run_is(tmp_path: Path) -> None:
    """What is lost and what is begun elsewhere, and that a worker has begun before its first step."""
    told: list[tuple[str, int]] = []

    class Watching(SilentView):
        def moved(self, experiment: Experiment, to: str) -> None:
            told.append((to, experiment.seed))

        def progress(self, progress: Progress) -> None:
            told.append(("begun", progress.step))

        def note(self, message: str) -> None:
            if "is being made" in message:
                lease.release()

    task = lambda e, r: Run(e, "completed", loss=1.0)  # noqa: E731
    sweep(1, task, Store.open(tmp_path / "lost"), Losing({0: 1}), Watching())
    assert told == [("waiting", 0), ("lost", 0), ("waiting", 0)]
    told.clear()
    store = Store.open(tmp_path / "elsewhere")
    lease = take_lease(store.run_lease(experiments(1)[0].id))
    sweep(1, task, store, view=Watching())
    assert told == [("elsewhere", 0), ("waiting", 0), ("begun", 0)]


def test_a_new_call_tries_again_without_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = lambda e, r: Run(e, "completed", loss=1.0)  # noqa: E731
    sweep(1, task, Store.open(tmp_path), Losing({0: 4}))
    monkeypatch.setattr("flops_fit.store.store.time.sleep", lambda s: pytest.fail("slept"))
    (run,) = sweep(1, task, Store.open(tmp_path))
    assert run.state == "completed"
    assert Store.open(tmp_path).attempt(run.experiment.id) is None


@pytest.mark.parametrize("state", ["failed", "oom", "diverged"])
def test_what_the_users_code_does_is_not_tried_again_in_the_same_call(
    tmp_path: Path, state: Any
) -> None:
    made: list[int] = []

    def task(experiment: Experiment, report: Any) -> Run:
        made.append(experiment.seed)
        return Run(experiment, state, reason=f"{experiment.seed} is no good")

    runs = sweep(3, task, Store.open(tmp_path))
    assert [r.state for r in runs] == [state] * 3
    assert sorted(made) == [0, 1, 2]


def test_an_exception_of_a_task_is_a_failed_run_with_its_traceback(tmp_path: Path) -> None:
    def task(experiment: Experiment, report: Any) -> Run:
        if experiment.seed == 0:
            raise ValueError("seeds begin at 1")
        return Run(experiment, "completed", loss=1.0)

    runs = sweep(2, task, Store.open(tmp_path))
    assert (runs[0].state, runs[0].reason) == ("failed", "ValueError: seeds begin at 1")
    assert "raise ValueError" in runs[0].details
    assert not list(tmp_path.rglob("lease.json"))


def test_two_alike_failures_at_the_start_stop_the_sweep_with_the_traceback(tmp_path: Path) -> None:
    def task(experiment: Experiment, report: Any) -> Run:
        raise ValueError("broken")

    with pytest.raises(SweepError, match="raise ValueError"):
        sweep(5, task, Store.open(tmp_path))
    assert len(list(tmp_path.rglob("attempt.json"))) == 2


@pytest.mark.parametrize("where", ["fsync", "link", "write"])
def test_a_disk_that_fills_up_stops_the_sweep_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """At the third result; what was recorded is read back, and once there is room all is made."""
    store, made = Store.open(tmp_path), []

    def task(experiment: Experiment, report: Any) -> Run:
        made.append(experiment.seed)
        if len(made) == 3:
            fill(monkeypatch, where)
        return Run(experiment, "completed", loss=float(experiment.seed))

    with pytest.raises(OutputError, match="No space left.*kept. Free some space and call again"):
        sweep(5, task, store)
    monkeypatch.undo()
    assert len(Store.open(tmp_path).finished(experiments(5))) == 2
    assert not list(tmp_path.rglob("*.tmp"))
    assert [r.loss for r in sweep(5, task, Store.open(tmp_path))] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert len(made) == 6


def fill(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """No file of any size can be written any more."""

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where in ("fsync", "link"):
        monkeypatch.setattr(os, where, full)
    else:
        opened = Path.open

        def open_full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            handle = opened(self, mode, *args, **kwargs)
            if "w" in mode:
                handle.close()
                full()
            return handle

        monkeypatch.setattr(Path, "open", open_full)


def test_a_run_that_failed_in_other_hands_is_not_made_again_by_who_waited(tmp_path: Path) -> None:
    """The other sweep's failure is the answer here, too."""
    store = Store.open(tmp_path)
    (experiment,) = experiments(1)

    @dataclass
    class Other(SilentView):
        told: str = ""

        def note(self, message: str) -> None:
            self.told = message
            store.publish(Run(experiment, "failed", reason="no such file"))
            store.run_lease(experiment.id).unlink()

    lease = take_lease(store.run_lease(experiment.id))
    view = Other()
    (run,) = sweep(1, lambda e, r: pytest.fail("made again"), store, view=view)
    lease.release()
    assert (run.state, run.reason) == ("failed", "no such file")
    assert f"process {os.getpid()}" in view.told


def test_two_branches_of_a_trunk_are_never_made_at_once_by_two_sweeps(tmp_path: Path) -> None:
    """The lease of the trunk keeps the other branch waiting."""
    wsd = replace(make_experiment().hparams, schedule="wsd", cooldown=0.2)
    trunk = "0123456789abcdef"
    short, long = (
        make_experiment(steps=n, tokens=8 * n, trunk=trunk, hparams=wsd) for n in (100, 300)
    )
    store = Store.open(tmp_path)

    def task(experiment: Experiment, report: Any) -> Run:
        assert store.holder(short) is not None
        assert store.holder(long) is not None
        return Run(experiment, "completed", loss=1.0)

    runs = sweep([short, long], task, store, view=Printing())
    assert [r.state for r in runs] == ["completed"] * 2
    assert not store.trunks.exists()


def test_what_workers_print_goes_to_their_runs_and_not_over_the_display(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(tmp_path)
    asked = [make_experiment(size=size) for size in (1, 2, 3)]
    sweep(asked, talking, store, PoolExecutor(workers=2))
    assert capfd.readouterr() == ("", "")
    said = [store.run_dir(e.id) / "output.txt" for e in asked]
    assert [path.read_text() for path in (said[0], said[2])] == [
        "size 1\nshell\n",
        "size 3\nshell\n",
    ]
    assert not said[1].exists()
    assert examine(tmp_path).findings == ()
    sweep([make_experiment(size=4)], talking, store)
    assert capfd.readouterr() == ("size 4\n", "shell\n")

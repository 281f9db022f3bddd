"""What every executor has to keep, whatever it runs on."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

import flops_fit
from flops_fit.errors import InputTypeError
from flops_fit.execute import Executor, InProcessExecutor
from flops_fit.records import Run
from flops_fit.train import Progress
from tests.conftest import MLP, Blobs, cross_entropy, make_experiment
from tests.execute import _tasks


def drain(executor: Executor, n: int) -> list[Run]:
    runs: list[Run] = []
    while len(runs) < n:
        ended = executor.poll()
        assert ended
        runs += ended
    return runs


class Contract:
    """A subclass gives a fixture ``executor`` of two runs at a time, with one thread each."""

    processes = True

    def test_every_submitted_run_comes_back_once_and_is_heard_of(self, executor: Executor) -> None:
        heard: list[Progress] = []
        executor.start(_tasks.square, heard.append)
        experiments = [make_experiment(size=s) for s in range(2, 6)]
        handles = [executor.submit(e) for e in experiments]
        runs = drain(executor, len(experiments))
        assert len(set(handles)) == len(handles)
        assert sorted(r.experiment.id for r in runs) == sorted(e.id for e in experiments)
        assert all(r.loss == r.experiment.size**2 for r in runs)
        assert {p.experiment_id for p in heard} == {e.id for e in experiments}
        assert executor.poll() == []
        if self.processes:
            assert len({r.device for r in runs}) == len(runs), "each in a process of its own"

    def test_an_error_is_a_failed_run_and_a_lost_process_a_preempted_one(
        self, executor: Executor
    ) -> None:
        """The others go on."""
        sizes = [_tasks.WRONG, 3, *([_tasks.KILLED] if self.processes else [])]
        executor.start(_tasks.square, lambda progress: None)
        for size in sizes:
            executor.submit(make_experiment(size=size))
        runs = {r.experiment.size: r for r in drain(executor, len(sizes))}
        assert runs[_tasks.WRONG].state == "failed"
        assert runs[_tasks.WRONG].reason == "ValueError: a mistake of the user's"
        assert "_tasks.py" in runs[_tasks.WRONG].details
        assert runs[3].loss == 9
        if self.processes:
            assert runs[_tasks.KILLED].state == "preempted"
            assert runs[_tasks.KILLED].reason

    def test_a_cancelled_run_does_not_come_back(self, executor: Executor) -> None:
        """Neither one that waits nor one that is under way, whose place is free for the next."""
        executor.start(_tasks.square, lambda progress: None)
        slow = [make_experiment(size=_tasks.SLOW, seed=s) for s in range(3)]
        handles = [executor.submit(e) for e in slow]
        if self.processes:
            assert executor.poll(timeout=1.0) == []
        assert [executor.cancel(h) for h in reversed(handles)] == [True] * 3
        assert not executor.cancel(handles[0])
        executor.submit(make_experiment(size=4))
        assert [r.loss for r in drain(executor, 1)] == [16]
        assert executor.poll() == []

    def test_no_more_run_at_a_time_than_the_capacity(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        crowd = tmp_path / "crowd"
        crowd.mkdir()
        executor.start(_tasks.Crowd(crowd), lambda progress: None)
        for seed in range(3):
            executor.submit(make_experiment(seed=seed))
        assert 1 <= max(r.loss for r in drain(executor, 3)) <= executor.capacity

    def test_what_is_printed_keeps_its_order(self, executor: Executor, tmp_path: Path) -> None:
        """A worker's own lines and those of a process that it starts."""
        if not self.processes:  # the caller's own standard output is left as it is
            return
        executor.start(_tasks.Ordered(tmp_path), lambda progress: None)
        executor.submit(make_experiment())
        assert [r.details for r in drain(executor, 1)] == ["first\nsecond\n"]

    def test_a_command_is_a_run(self, executor: Executor, tmp_path: Path) -> None:
        """Its exit code and what it prints say how it ended."""
        text = "echo loss: {size}.5; exit $(({size} - 2))"
        task = flops_fit.CommandTask(text, "re:loss: (.*)", shell=True, folder=tmp_path / "runs")
        executor.start(task, lambda progress: None)
        for size in (2, 3):
            executor.submit(make_experiment(size=size))
        runs = sorted(drain(executor, 2), key=lambda r: r.experiment.size)
        assert [(r.state, r.loss) for r in runs] == [("completed", 2.5), ("failed", None)]
        assert runs[1].reason == "the command exited with 1: loss: 3.5"

    def test_closing_twice_is_safe_and_forgets_what_waits(self, executor: Executor) -> None:
        executor.start(_tasks.square, lambda progress: None)
        executor.submit(make_experiment(size=_tasks.SLOW))
        began = time.monotonic()
        executor.close()
        executor.close()
        assert executor.poll() == []
        assert time.monotonic() - began < 55  # and did not wait for it

    def test_what_cannot_be_sent_is_named(self, executor: Executor) -> None:
        plan = flops_fit.plan_sweep(
            MLP, "width", None, Blobs(), cross_entropy, [6e5], sizes=[4], batch_size=8
        )
        plan.task.data.dataset.file = threading.Lock()
        if not self.processes:  # nothing has to be sent
            executor.start(plan.task, lambda progress: None)
            return
        with pytest.raises(
            InputTypeError, match=r"the data set \(a _thread.lock at task.data.*file\)"
        ):
            executor.start(plan.task, print)

    def test_training_gives_the_same_digits_everywhere(self, executor: Executor) -> None:
        torch.set_num_threads(1)
        plan = flops_fit.plan_sweep(
            MLP, "width", None, Blobs(), cross_entropy, [6e5], sizes=[8], batch_size=8
        )
        alone = InProcessExecutor()
        told = []
        for place in (alone, executor):
            place.start(plan.task, lambda progress: None)
            place.submit(plan.experiments[0])
            (run,) = drain(place, 1)
            told.append((run.state, run.loss, run.train_loss, run.gradient_norm))
        assert told[0] == told[1]
        assert told[0][0] == "completed"

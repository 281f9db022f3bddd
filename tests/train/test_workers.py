"""Processes that read ahead change no bit of a run, and end with it however it ends."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from flops_fit import plan_sweep
from flops_fit.data import split_data
from flops_fit.errors import InputError, InputTypeError
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective
from flops_fit.plan import Reading, Speed, StepTimes
from flops_fit.records import Run
from flops_fit.train import Progress, Trainer, config
from flops_fit.train.config import TrainingConfig, reading_workers
from tests.conftest import MLP, Blobs, cross_entropy, make_experiment, with_changes
from tests.train.test_resume import Dropped, every_reading


class Augmented(Blobs):
    """Each sample is moved at random."""

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super().__getitem__(i)
        return x + 0.1 * torch.randn(16) + 0.1 * random.random(), y


class Stream(IterableDataset):
    """The same, one after another."""

    def __init__(self, size: int) -> None:
        self.samples = Augmented(size)

    def __iter__(self) -> Iterator[Any]:
        return (self.samples[i] for i in range(len(self.samples)))


def trainer(dataset: Any, workers: Any = 0, **changes: Any) -> Trainer:
    data, held_out = split_data(dataset, Blobs(64, seed=7))
    made = Trainer(ModelSpec(Dropped, "width"), data, held_out, Objective(cross_entropy))
    return with_changes(made, workers=workers, **changes)


def plain(run: Run) -> Run:
    return replace(run, seconds=0.0, units_per_second=0.0, resumed=0)


@pytest.fixture(autouse=True)
def leaves_no_process() -> Iterator[None]:
    """Every test ends with its readers ended, at once and not when garbage is collected."""
    yield
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("kind", [Blobs, Augmented, Stream])
def test_no_bit_depends_on_the_workers_also_where_a_run_goes_on(kind: type, tmp_path: Path) -> None:
    """Begun with two, interrupted by SIGTERM, ended with one: equal to the run that read by itself."""
    whole = trainer(kind(600))(make_experiment())
    assert whole.state == "completed"
    assert plain(trainer(kind(600), 2)(make_experiment())) == plain(whole)

    def terminate(progress: Progress) -> None:
        if progress.step == 23:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped, every_reading():
        trainer(kind(600), 2, folder=tmp_path)(make_experiment(), terminate)
    assert stopped.tb is not None  # and it holds on to every frame of the run
    assert not multiprocessing.active_children()
    again = trainer(kind(600), 1, folder=tmp_path)(make_experiment())
    assert again.resumed == 1
    assert plain(again) == plain(whole)


class _Explodes(Dropped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * float("nan")


class _Fails(Dropped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken on purpose")


@pytest.mark.parametrize(("model", "state"), [(_Explodes, "diverged"), (_Fails, "failed")])
def test_divergence_and_errors_end_the_readers(model: type, state: str) -> None:
    run = replace(trainer(Blobs(600), 2), model=ModelSpec(model, "width"))(make_experiment())
    assert run.state == state
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_reader_that_is_killed_fails_the_run_and_hangs_nothing(in_thread: bool) -> None:
    """kill −9, as by the system where memory runs out; in a thread no signal tells of it."""

    def kill(progress: Progress) -> None:
        if progress.step == 3:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
            time.sleep(0.1)

    ended: list[Run] = []

    def train() -> None:
        with every_reading():
            ended.append(trainer(Blobs(600), 1)(make_experiment(steps=300), kill))

    if in_thread:
        thread = threading.Thread(target=train)
        thread.start()
        thread.join(60)
    else:
        train()
    assert ended[0].state == "failed"
    assert ended[0].reason.startswith("a process that reads the data ")
    assert "workers=0" in ended[0].reason


def test_a_signal_to_all_processes_of_a_run_reaches_the_run_alone(tmp_path: Path) -> None:
    """A scheduler's SIGTERM comes to the readers, too: the run still keeps its checkpoint."""

    def terminate(progress: Progress) -> None:
        if progress.step == 20:
            readers = [str(child.pid) for child in multiprocessing.active_children()]
            for name in ("-TERM", "-INT"):
                subprocess.run(["kill", name, *readers], check=True)
            time.sleep(0.1)
        if progress.step == 30:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit), every_reading():
        trainer(Blobs(600), 2, folder=tmp_path)(make_experiment(), terminate)
    assert [p.name for p in tmp_path.glob("*/checkpoint/*")] == ["step-00000030"]


def speed(seconds: float, waiting: float, **changes: Any) -> Speed:
    """A step of 10 ms, and so much for reading a batch of 8."""
    experiment = make_experiment(steps=5000)
    reading = Reading(seconds / 8, waiting / 8, **changes)
    per_second = experiment.flops / 5000 / 0.01
    return Speed("cpu", (StepTimes(100.0, 0.0, per_second),), reading=reading)


@pytest.mark.parametrize(
    ("seconds", "waiting", "free", "workers"),
    [
        (0.0002, 0.0, 4, 0),  # text in memory: handing a batch over takes longer than reading it
        (0.008, 0.0, 4, 1),  # one reads as fast as the steps go
        (0.025, 0.0, 4, 3),  # three do
        (0.2, 0.0, 4, 4),  # and no more than there are cores to do it
        (0.025, 0.0, 0, 0),  # no core is free: reading costs the step what it costs anyway
        (0.025, 0.024, 0, 3),  # but waiting costs no core
        (0.003, 0.003, 0, 0),  # a gain within the error of what was measured
    ],
)
def test_auto_reads_ahead_where_that_gains_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float, waiting: float, free: int, workers: int
) -> None:
    monkeypatch.setattr(config, "cores", lambda: free + 1 if free else 4)
    monkeypatch.setattr(config, "_busy_cores", lambda device: 1 if free else 4)
    monkeypatch.setattr(config, "_forks", lambda: True)
    experiment = make_experiment(steps=5000)
    measured = speed(seconds, waiting)
    assert reading_workers("auto", None, measured, experiment) == workers
    assert reading_workers(7, None, measured, experiment) == 7
    assert reading_workers("auto", 5, measured, experiment) == 5
    assert reading_workers(0, 5, measured, experiment) == 0


def test_auto_is_none_where_nothing_is_known_or_processes_cannot_help(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config, "cores", lambda: 8)
    slow = speed(0.1, 0.1)
    long, short = make_experiment(steps=5000), make_experiment(steps=20)
    short = replace(short, tokens=160)
    monkeypatch.setattr(config, "_forks", lambda: True)
    assert reading_workers("auto", None, slow, long) == 8
    assert reading_workers("auto", None, None, long) == 0
    assert reading_workers("auto", None, speed(0.1, 0.1, on_host=False), long) == 0
    assert reading_workers("auto", None, slow, short) == 0
    monkeypatch.setattr(config, "_forks", lambda: False)
    assert reading_workers("auto", None, slow, long) == 0


def test_planning_measures_reading_and_hands_it_to_the_trainer() -> None:
    class Waits(Blobs):
        def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
            time.sleep(0.002)
            return super().__getitem__(i)

    def plan(dataset: Any, **changes: Any) -> Trainer:
        made = plan_sweep(
            MLP, "width", None, dataset, cross_entropy, [5e5], sizes=[8], batch_size=4, **changes
        )
        assert isinstance(made.task, Trainer)
        return made.task

    slow = plan(Waits(200))
    assert slow.speed is not None
    assert slow.speed.reading is not None
    assert slow.speed.reading.seconds >= slow.speed.reading.waiting > 0.001
    assert slow.speed.reading.size == 16 * 4 + 8
    wished = plan(DataLoader(Blobs(200), num_workers=2))
    assert (wished.config.workers, wished.data.workers) == ("auto", 2)
    assert plan(DataLoader(Blobs(200))).data.workers is None
    assert plan(Blobs(200), training=TrainingConfig(workers=2)).config.workers == 2


@pytest.mark.parametrize("workers", [-1, 1.0, True, "many", None])
def test_what_is_no_number_of_workers_is_refused(workers: Any) -> None:
    kind = InputError if workers in (-1, 1.0) and workers is not True else InputTypeError
    with pytest.raises(kind, match="workers: expected 'auto' or a whole number"):
        TrainingConfig(workers=workers)

"""A run that is killed and goes on equals the run that was never killed, to the last bit."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flops_fit.data import split_data
from flops_fit.errors import InputError
from flops_fit.execute.process import fresh_processes
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective
from flops_fit.records import Run
from flops_fit.train import Progress, Trainer
from tests.conftest import Blobs, cross_entropy, make_experiment, with_changes


class Dropped(nn.Module):
    """Dropout draws from torch's generator at every step: a resume has to restore it."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(16, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


def trainer(folder: Path | None = None, **changes: Any) -> Trainer:
    data, held_out = split_data(Blobs(1000), Blobs(300, seed=7))
    made = Trainer(ModelSpec(Dropped, "width"), data, held_out, Objective(cross_entropy))
    return with_changes(made, folder=folder, **changes)


def same(first: Run, second: Run) -> bool:
    """Equal but for times and how often a run went on."""
    times = {"seconds": 0.0, "units_per_second": 0.0, "resumed": 0}
    return replace(first, **times) == replace(second, **times)


@pytest.fixture(autouse=True)
def hears_interrupts() -> Iterator[None]:
    """Shells start background jobs with SIGINT ignored, and an ignored signal stays ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_terminated_run_keeps_a_checkpoint_and_leaves_with_the_signals_code(
    tmp_path: Path,
) -> None:
    """SIGTERM, as a scheduler sends it."""

    def terminate(progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        trainer(tmp_path)(make_experiment(), terminate)
    assert ended.value.code == 128 + signal.SIGTERM
    assert _checkpoints(tmp_path) == ["step-00000001"]
    assert same(trainer(tmp_path)(make_experiment()), trainer()(make_experiment()))


@pytest.mark.parametrize("stop", [1, 2, 31, 49])
def test_a_run_goes_on_from_where_it_was_interrupted(tmp_path: Path, stop: int) -> None:
    """After step 1, in the middle, before the last step."""
    whole = trainer()(make_experiment())

    def interrupt(progress: Progress) -> None:
        if progress.step >= stop:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), every_reading():
        trainer(tmp_path)(make_experiment(), interrupt)
    heard: list[Progress] = []
    again = trainer(tmp_path)(make_experiment(), heard.append)
    assert again.state == "completed"
    assert again.resumed == 1
    assert same(again, whole)
    assert heard[0].step == stop  # before it goes on, so that nobody takes it for speed
    assert heard[0].units_per_second is None


@contextmanager
def every_reading() -> Iterator[None]:
    """Read the loss at every step, so that a test can act at any of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flops_fit.train.trainer._REPORT_SECONDS", -1.0)
        yield


def test_the_curve_on_disk_has_each_step_once(tmp_path: Path) -> None:
    """Steps that were made again after a kill are not in it twice."""

    def fall(progress: Progress) -> None:
        if progress.step == 30:
            raise SystemExit(1)  # as a crash: no checkpoint at this step

    experiment = make_experiment()
    with every_reading():
        with pytest.raises(SystemExit):
            trainer(tmp_path, checkpoint_seconds=0.0)(experiment, fall)
        trainer(tmp_path, checkpoint_seconds=0.0)(experiment)
    lines = [
        json.loads(line)
        for line in (tmp_path / experiment.id / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == list(range(1, 51))
    assert [line["units"] for line in lines] == list(range(8, 401, 8))
    assert all(line["gradient_norm"] > 0 for line in lines)


def test_another_experiment_does_not_go_on_from_it(tmp_path: Path) -> None:
    """A checkpoint belongs to one experiment: under another's name it is set aside."""

    def interrupt(progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    first, other = make_experiment(), make_experiment(seed=2)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path)(first, interrupt)
    (tmp_path / first.id).rename(tmp_path / other.id)
    run = trainer(tmp_path)(other)
    assert run.resumed == 0
    assert run.notes
    assert replace(run, notes=()).loss == trainer()(other).loss


def _train(folder: Path | None, answer: Path) -> None:
    """One run in a process of its own, which saves after each step."""
    torch.set_num_threads(1)
    experiment = make_experiment(steps=400, tokens=3200, budget=704.0 * 3200)
    run = trainer(folder, checkpoint_seconds=0.0)(experiment)
    numbers = [run.state, run.loss.hex(), run.train_loss.hex(), run.tokens, run.resumed]
    answer.write_text(json.dumps(numbers))


def test_kill_nine_at_any_moment_changes_nothing(tmp_path: Path) -> None:
    """Processes are really killed, at random times; the last one's numbers are the undisturbed ones."""
    context = fresh_processes(pickle.dumps(_train))  # which import torch once for all of them
    folder, alone, answer = tmp_path / "kept", tmp_path / "alone.json", tmp_path / "answer.json"
    undisturbed = context.Process(target=_train, args=(None, alone))
    undisturbed.start()
    undisturbed.join()
    rng = random.Random(0)
    killed = 0
    for _ in range(40):
        process = context.Process(target=_train, args=(folder, answer))
        process.start()
        # The first checkpoint needs the imports to be over; after that any moment will do.
        until = time.monotonic() + 20
        before = _checkpoints(folder)
        while _checkpoints(folder) == before and time.monotonic() < until:
            if not process.is_alive():
                break
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.2))
        if process.is_alive() and killed < 3:
            process.kill()
            process.join()
            killed += 1
            continue
        process.join()
        break
    expected, found = json.loads(alone.read_text()), json.loads(answer.read_text())
    assert killed >= 2
    assert found[:4] == expected[:4]
    assert 1 <= found[4] <= killed


def _checkpoints(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("*/checkpoint/step-*"))


@pytest.mark.parametrize(
    "interval", [{"checkpoint_seconds": -1.0}, {"checkpoint_steps": 0}, {"checkpoint_steps": 2.5}]
)
def test_intervals_that_are_none_are_refused_with_the_trainer(interval: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(interval))):
        trainer(**interval)


def test_checkpoints_come_at_multiples_of_steps(tmp_path: Path) -> None:
    """Killed in its 47th step, a run goes on from its 40th."""

    def stop(progress: Progress) -> None:
        if progress.step >= 47:
            raise KeyboardInterrupt

    every = {"checkpoint_seconds": None, "checkpoint_steps": 20}
    with pytest.raises(KeyboardInterrupt), every_reading():
        trainer(tmp_path, **every)(make_experiment(), stop)
    assert _checkpoints(tmp_path) == ["step-00000020", "step-00000040"]
    assert same(trainer(tmp_path, **every)(make_experiment()), trainer()(make_experiment()))

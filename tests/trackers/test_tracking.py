"""A tracker hears of every run and can change none."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flops_fit
from flops_fit.errors import InputTypeError
from flops_fit.execute import PoolExecutor
from flops_fit.records import Experiment, Run
from flops_fit.rng import capture
from flops_fit.trackers import Tracker, check_trackers
from tests.conftest import make_experiment
from tests.train.test_resume import every_reading, same, trainer

METHODS = ("start", "log", "finish", "fail")


class Heard(Tracker):
    """Remembers every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def start(self, experiment: Experiment) -> None:
        self.calls.append(("start", experiment))

    def log(self, experiment: Experiment, values: Any) -> None:
        self.calls.append(("log", values))

    def finish(self, run: Run) -> None:
        self.calls.append(("finish", run))

    def fail(self, run: Run) -> None:
        self.calls.append(("fail", run))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


class Acts(Tracker):
    """Does something in one of its methods, or in each."""

    def __init__(self, action: Any, method: str = "") -> None:
        self.action, self.method, self.times = action, method, 0

    def _act(self, method: str, what: Any) -> None:
        if self.method in ("", method):
            self.times += 1
            self.action(what)

    def start(self, experiment: Experiment) -> None:
        self._act("start", experiment)

    def log(self, experiment: Experiment, values: Any) -> None:
        self._act("log", values)

    def finish(self, run: Run) -> None:
        self._act("finish", run)

    def fail(self, run: Run) -> None:
        self._act("fail", run)


def diverging() -> Experiment:
    hparams = replace(make_experiment().hparams, lr=1e30, clip=1e30, schedule="constant")
    return make_experiment(hparams=hparams)


def refuses(what: Any) -> None:
    raise ConnectionError("the service is gone\nand its page has many lines")


def draws(what: Any) -> None:
    torch.manual_seed(5)
    torch.rand(3)
    np.random.seed(5)  # noqa: NPY002 - the global one
    np.random.normal()  # noqa: NPY002 - the global one
    random.seed(5)
    random.random()


def meddles(what: Any) -> None:
    """Changes whatever it was given."""
    held = what.experiment if isinstance(what, Run) else what
    if isinstance(held, Experiment):
        held.model_kwargs["width"] = 1e9  # type: ignore[index]
    else:
        held.clear()


def test_a_run_is_started_logged_and_finished(tmp_path: Path) -> None:
    """Each reading is the line of metrics.jsonl, the last one of the last step."""
    heard, experiment = Heard(), make_experiment()
    with every_reading():
        run = trainer(tmp_path, trackers=(heard,))(experiment)
    assert heard.names == ["start", *["log"] * 50, "finish"]
    assert heard.calls[0][1].id == experiment.id
    assert heard.calls[-1][1] == run
    text = (tmp_path / experiment.id / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines == [values for name, values in heard.calls if name == "log"]
    assert list(lines[0]) == [
        *("step", "units", "loss", "rate", "gradient_norm", "seconds"),
        *("units_per_second", "mfu"),
    ]
    assert lines[-1]["step"] == 50


def test_a_run_that_diverges_or_breaks_fails_with_its_reason() -> None:
    class Broken(torch.nn.Module):
        def __init__(self, width: int) -> None:
            raise RuntimeError("no such width")

    for changes, experiment, state in (
        ({}, diverging(), "diverged"),
        ({"model": replace(trainer().model, factory=Broken)}, make_experiment(), "failed"),
    ):
        heard = Heard()
        run = trainer(trackers=(heard,), **changes)(experiment)
        assert (heard.names[0], heard.names[-1]) == ("start", "fail")
        assert "finish" not in heard.names
        assert heard.calls[-1][1] == run
        assert run.state == state


def test_an_interrupted_run_is_preempted_and_started_again(tmp_path: Path) -> None:
    """The second start has the same id; steps go on after the checkpoint."""
    heard, experiment = Heard(), make_experiment()

    def interrupt(progress: Any) -> None:
        if progress.step == 20:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with every_reading():
            with pytest.raises(KeyboardInterrupt):
                trainer(tmp_path, trackers=(heard,))(experiment, interrupt)
            trainer(tmp_path, trackers=(heard,))(experiment)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard.names == ["start", *["log"] * 20, "fail", "start", *["log"] * 30, "finish"]
    assert heard.calls[21][1].state == "preempted"
    assert "KeyboardInterrupt" in heard.calls[21][1].reason
    assert heard.calls[0][1].id == heard.calls[22][1].id


@pytest.mark.parametrize("method", METHODS)
def test_a_tracker_that_raises_changes_nothing_but_a_note(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is called no more in that run, the others hear everything, and one note says why."""
    monkeypatch.setattr("flops_fit.train.trainer._REPORT_SECONDS", -1.0)  # read at each step
    experiment = diverging() if method == "fail" else make_experiment()
    alone = trainer(tmp_path / "a")(experiment)
    bad, heard = Acts(refuses, method), Heard()
    run = trainer(tmp_path / "b", trackers=(bad, heard))(experiment)
    assert same(replace(run, notes=()), replace(alone, notes=()))
    assert run.notes[: len(alone.notes)] == alone.notes
    (note,) = run.notes[len(alone.notes) :]
    assert note == (
        f"tracker Acts failed in {method}() and was dropped for this run: "
        "ConnectionError: the service is gone"
    )
    assert bad.times == 1
    assert heard.names[-1] in ("finish", "fail")


def test_the_next_run_starts_a_tracker_anew() -> None:
    bad = Acts(refuses, "start")
    made = trainer(trackers=(bad,))
    assert [len(made(make_experiment(seed=s)).notes) for s in (1, 2)] == [1, 1]
    assert bad.times == 2


@pytest.mark.parametrize("action", [draws, meddles])
def test_a_tracker_that_draws_or_meddles_changes_no_bit(action: Any) -> None:
    """Random numbers are taken back and values are copies, at every reading of a run with dropout."""
    alone = trainer()(make_experiment())
    tracker, heard = Acts(action), Heard()
    before = capture()
    with every_reading():
        run = trainer(trackers=(tracker, heard))(make_experiment())
    assert tracker.times == 52
    assert same(run, alone)
    assert heard.calls[-1][1] == run
    assert heard.calls[5][1]["step"] == 5
    now = capture()
    assert torch.equal(before.pop("torch"), now.pop("torch"))
    assert before == now


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("method", ["log", "finish"])
def test_an_interruption_from_a_tracker_passes_through(
    method: str, interruption: type[BaseException]
) -> None:
    def interrupts(what: Any) -> None:
        raise interruption

    with pytest.raises(interruption):
        trainer(trackers=(Acts(interrupts, method),))(make_experiment())


def test_an_error_that_cannot_be_printed_is_noted_by_its_class() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError

    def raises(what: Any) -> None:
        raise MuteError

    run = trainer(trackers=(Acts(raises, "log"),))(make_experiment())
    assert run.state == "completed"
    assert run.notes[0].endswith("run: MuteError")


def test_a_curve_that_cannot_be_written_costs_a_note_and_not_the_run(tmp_path: Path) -> None:
    """metrics.jsonl is a tracker like others."""
    experiment = make_experiment()
    (tmp_path / experiment.id / "metrics.jsonl").mkdir(parents=True)
    run = trainer(tmp_path)(experiment)
    assert run.state == "completed"
    assert "tracker Metrics failed in start()" in run.notes[0]


class Files(Tracker):
    """One file a run, with the process that wrote it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def finish(self, run: Run) -> None:
        (self.folder / run.experiment.id).write_text(f"{os.getpid()} {run.state}")


def test_trackers_travel_to_workers_and_change_no_id(sweep: dict[str, Any], tmp_path: Path) -> None:
    """In a pool each run has its own copy, in the process that trains; runs are found again."""
    told = tmp_path / "told"
    told.mkdir()
    sweep.pop("progress")
    sweep |= {"compute_budgets": [5e5, 1e6], "sizes": [8]}
    plain = flops_fit.plan_sweep(**sweep)
    plan = flops_fit.plan_sweep(**sweep, training=flops_fit.TrainingConfig(trackers=[Files(told)]))
    assert [e.id for e in plan.experiments] == [e.id for e in plain.experiments]
    out = tmp_path / "out"
    runs = flops_fit.run_sweep(plan, executor=PoolExecutor(2, 1), output_dir=out, progress=False)
    assert {p.name for p in told.iterdir()} == {r.experiment.id for r in runs}
    assert all(int(p.read_text().split()[0]) != os.getpid() for p in told.iterdir())
    for path in told.iterdir():
        path.unlink()
    assert flops_fit.run_sweep(plan, output_dir=out, progress=False) == runs
    assert not list(told.iterdir())


def test_any_object_with_the_four_methods_will_do() -> None:
    class Plain:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def start(self, e: Any) -> None:
            self.seen.append("start")

        def log(self, *args: Any) -> None:
            self.seen.append("log")

        def finish(self, r: Any, note: str = "") -> None:
            self.seen.append("finish")

        def fail(self, r: Any) -> None:
            self.seen.append("fail")

    plain = Plain()
    (checked,) = check_trackers([plain])
    trainer(trackers=(checked,))(make_experiment())
    assert plain.seen[0] == "start"
    assert plain.seen[-1] == "finish"


class _Half:
    def start(self, experiment: Any) -> None: ...

    def log(self, experiment: Any, values: Any) -> None: ...


class _Short(Tracker):
    def log(self, values: Any) -> None: ...  # type: ignore[override]


class _Locked(Tracker):
    def __init__(self) -> None:
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("trackers", "message"),
    [
        (Heard(), r"expected a list of trackers; got Heard.*trackers=\[tracker\]"),
        ([Heard], r"trackers\[0\]: expected a tracker; got the class Heard. Make one: Heard"),
        ([Heard(), _Half()], r"trackers\[1\]: .*_Half lacks finish, fail. Inherit from"),
        ([_Short()], r"expected _Short.log\(experiment, values\); it takes \(values"),
        ([_Locked()], r"_Locked cannot \(TypeError: .*Open files and connections in start"),
    ],
)
def test_what_cannot_track_is_refused_at_planning(trackers: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        flops_fit.TrainingConfig(trackers=trackers)

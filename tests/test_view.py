"""A sweep can be watched: a bar in a terminal, few lines elsewhere, nothing where none is wanted."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from flops_fit.records import Run
from flops_fit.train import Progress
from flops_fit.view import LiveView, SilentView
from tests.conftest import make_experiment

EXPERIMENTS = [make_experiment(size=s) for s in range(2, 12)]


def watched(terminal: bool) -> str:
    stream = io.StringIO()
    view = LiveView(Console(file=stream, force_terminal=terminal, width=140, color_system=None))
    done = [Run(EXPERIMENTS[0], "completed", loss=2.0)]
    with view.open(EXPERIMENTS, done, 2):
        view.note("something odd")
        for experiment in EXPERIMENTS[1:]:
            view.progress(Progress(experiment.id, 25, 50, 1.25))
            view.ended(Run(experiment, "completed", loss=1.5))
    return stream.getvalue()


def test_a_terminal_sees_runs_loss_and_time_left() -> None:
    text = watched(terminal=True)
    for words in (
        "1 of 10 runs are finished already",
        "10/10 runs",
        "loss 1.250",
        "left",
        "something odd",
    ):
        assert words in text


def test_a_file_gets_few_lines_and_the_last() -> None:
    lines = watched(terminal=False).splitlines()
    assert len(lines) <= 5
    assert lines[-1].startswith("[10/10] C=")
    assert "100 % of FLOPs" in lines[-1]


@pytest.mark.parametrize("terminal", [True, False])
def test_what_went_wrong_is_always_shown(terminal: bool) -> None:
    stream = io.StringIO()
    view = LiveView(Console(file=stream, force_terminal=terminal, width=140, color_system=None))
    with view.open(EXPERIMENTS[:1], [], 1):
        view.ended(Run(EXPERIMENTS[0], "diverged", reason="training loss nan by step 7"))
    assert "diverged (training loss nan by step 7)" in stream.getvalue()


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    view = SilentView()
    with view.open(EXPERIMENTS, [], 1):
        view.progress(Progress("x", 1, 2, 3.0))
        view.note("x")
        view.ended(Run(EXPERIMENTS[0], "failed", reason="x"))
    assert capsys.readouterr() == ("", "")


def test_what_branches_share_counts_once() -> None:
    """By hand: 100 and 300 steps, of which the longer one begins at step 80."""
    wsd = {**make_experiment().hparams, "schedule": "wsd", "cooldown": 0.2}
    short, long = (
        make_experiment(steps=n, tokens=8 * n, budget=704.0 * 8 * n, trunk="t", hparams=wsd)
        for n in (100, 300)
    )
    stream = io.StringIO()
    view = LiveView(Console(file=stream, width=140, color_system=None))
    with view.open([short, long], [], 1):
        view.ended(Run(short, "completed", loss=2.0))
        assert view._spent() == pytest.approx(short.flops)
        view.progress(Progress(long.id, 190, 300, 1.0))
        assert view._spent() == pytest.approx(short.flops + 704.0 * 8 * 110)
        view.ended(Run(long, "completed", loss=1.0))
        assert view._spent() == pytest.approx(704.0 * 8 * (100 + 220))

"""A sweep can be watched: numbers in a terminal, few lines elsewhere, nothing where none is wanted."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from flops_fit.records import Experiment, Run
from flops_fit.text import render
from flops_fit.train import Progress
from flops_fit.view import LiveView, SilentView
from flops_fit.view.board import Board, Rate
from flops_fit.view.live import frame, status
from tests.conftest import make_experiment

EXPERIMENTS = [make_experiment(size=s) for s in range(2, 12)]
WSD = replace(make_experiment().hparams, schedule="wsd", cooldown=0.2)


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def said(view: LiveView) -> str:
    assert isinstance(view._console.file, io.StringIO)
    return view._console.file.getvalue()


def watched(terminal: bool) -> str:
    view = LiveView(console(terminal))
    done = [Run(EXPERIMENTS[0], "completed", loss=2.0)]
    with view.open(EXPERIMENTS, done, 2):
        view.note("something [/odd]")
        for experiment in EXPERIMENTS[1:]:
            view.progress(Progress(experiment.id, 25, 50, 1.25))
            view.ended(Run(experiment, "completed", loss=1.5))
    return said(view)


def begun(experiment: Experiment) -> Progress:
    return Progress(experiment.id, 0, experiment.steps, math.nan)


def at(experiment: Experiment, step: int, speed: float | None = 800.0) -> Progress:
    return Progress(experiment.id, step, experiment.steps, 1.25, speed)


def seen(board: Board, width: int = 100, height: int = 40, now: float = 0.0) -> list[str]:
    return render(frame(board.snapshot(now, 0.0), width, height), width).splitlines()


def board_of(experiments: Sequence[Experiment] = EXPERIMENTS) -> Board:
    return Board(experiments, [], 0.0)


def test_a_terminal_is_left_with_a_summary_and_its_cursor() -> None:
    text = watched(terminal=True)
    assert "1 of 10 runs are finished already" in text
    assert "something [/odd]" in text
    assert "10 runs · 10 completed · 2.82e+06 of 2.82e+06 FLOPs · " in text
    assert text.endswith("\x1b[?25h")


def test_a_file_gets_few_lines_and_the_last() -> None:
    lines = watched(terminal=False).splitlines()
    assert len(lines) <= 5
    assert lines[-1].startswith("[10/10] C=")
    assert "100 % of FLOPs" in lines[-1]


def test_a_file_gets_a_line_each_minute_while_no_run_ends() -> None:
    time = [0.0]
    view = LiveView(console(False), clock=lambda: time[0])
    with view.open(EXPERIMENTS, [], 1):
        for second in range(1, 301):
            time[0] = float(second)
            view.progress(at(EXPERIMENTS[0], second // 10))
    lines = said(view).splitlines()
    assert 4 <= len(lines) <= 6
    assert lines[-1].startswith("[0/10] 1 running; ")


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    text = watched(terminal=True)
    assert "\x1b" not in text
    assert "[10/10] C=" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_what_went_wrong_is_always_shown(terminal: bool) -> None:
    view = LiveView(console(terminal))
    with view.open(EXPERIMENTS[:2], [], 1):
        view.ended(Run(EXPERIMENTS[0], "diverged", reason="training loss [/nan] by step 7"))
        view.ended(Run(EXPERIMENTS[1], "oom", reason="8 GB"))
    assert "diverged (training loss [/nan] by step 7)" in said(view)
    assert "out of memory (8 GB)" in said(view)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_exception_leaves_a_clean_terminal(error: type[BaseException]) -> None:
    view = LiveView(console(True))

    def fall() -> None:
        with view.open(EXPERIMENTS, [], 1):
            view.progress(at(EXPERIMENTS[0], 25))
            raise error

    with pytest.raises(error):
        fall()
    last = said(view).split("FLOPs\n")[-1]
    assert "10 runs · 1 stopped · 9 waiting" in last
    assert "size=2" not in last  # no row of a run that does not go on
    assert said(view).endswith("\x1b[?25h")


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    view = SilentView()
    with view.open(EXPERIMENTS, [], 1):
        view.progress(Progress("x", 1, 2, 3.0))
        view.moved(EXPERIMENTS[0], "lost")
        view.note("x")
        view.step("x")
        view.ended(Run(EXPERIMENTS[0], "failed", reason="x"))
    assert capsys.readouterr() == ("", "")


def test_each_state_has_its_count() -> None:
    board = board_of()
    waiting, running, elsewhere, again, *ends = EXPERIMENTS[:9]
    board.progress(begun(running), 0.0)
    board.moved(elsewhere, "elsewhere")
    board.progress(at(again, 5), 0.0)
    board.moved(again, "lost")
    states = ("completed", "diverged", "oom", "failed", "preempted")
    for experiment, state in zip(ends, states, strict=True):
        board.ended(Run(experiment, state), 0.0)
    board.moved(waiting, "waiting")
    lines = seen(board)
    assert " ".join(lines[1:3]) == (
        "10 runs · 1 completed · 1 running · 3 waiting · 1 made elsewhere · 1 diverged · 1 out of memory "
        "1 failed · 1 preempted"
    )
    assert lines[3].endswith("1 retry")


def test_a_running_run_says_how_far_how_good_and_how_fast() -> None:
    board = board_of()
    board.progress(begun(EXPERIMENTS[0]), 0.0)
    board.progress(at(EXPERIMENTS[1], 25), 0.0)
    starting, going = seen(board)[-2:]
    assert starting.split()[-1] == "starting"
    assert going.split()[1] == "size=3"
    assert going.split()[-6:] == ["50", "%", "loss", "1.250", "800", "samples/s"]


def test_a_wide_terminal_shows_where_a_run_will_end(tmp_path: Path) -> None:
    """From its curve in the folder of the sweep, once a minute has passed."""
    run, time = make_experiment(steps=1000), [0.0]
    shown = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    view = LiveView(shown, lambda: time[0], folder=tmp_path)
    (tmp_path / "runs" / run.id).mkdir(parents=True)
    lines = [json.dumps({"step": s, "loss": 2 + 20 * s**-0.5}) for s in range(10, 810, 10)]
    (tmp_path / "runs" / run.id / "metrics.jsonl").write_text("\n".join(lines))
    with view.open([run], [], 1):
        view.progress(Progress(run.id, 800, 1000, 2.7))
        time[0] = 61.0
        text = render(frame(view._snapshot(), 140, 40), 140)
    assert re.search(r"loss 2\.700, expected 2\.\d\d–2\.\d\d", text)


def test_what_is_said_of_a_run_after_its_end_is_not_believed() -> None:
    board = board_of()
    board.ended(Run(EXPERIMENTS[0], "completed"), 0.0)
    board.progress(at(EXPERIMENTS[0], 25), 0.0)
    board.progress(Progress("of another sweep", 1, 2, 3.0), 0.0)
    snapshot = board.snapshot(0.0, 0.0)
    assert snapshot.running == ()
    assert snapshot.states == {"completed": 1, "waiting": 9}


@pytest.mark.parametrize("width", [30, 60, 100, 140])
@pytest.mark.parametrize("height", [8, 40])
def test_the_display_fits_the_terminal(width: int, height: int) -> None:
    runs = [make_experiment(size={"d_model": 64 * s, "layers": 100 + s}) for s in range(30)]
    board = board_of(runs)
    for experiment in runs[:20]:
        board.progress(at(experiment, 25, speed=1234567.0), 0.0)
    lines = seen(board, width, height)
    assert max(map(len, lines)) <= width
    assert len(lines) <= (12 if width > 30 else 14)
    if width >= 60:
        assert "…" not in "".join(lines)
        assert len(lines) <= height
        assert lines[-1] == f"  and {12 if height == 40 else 18} more"


def test_no_color_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shown = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=100)
    view = LiveView(shown)
    with view.open(EXPERIMENTS, [], 1):
        view.note("odd")
        view.ended(Run(EXPERIMENTS[0], "failed", reason="why"))
    assert "\x1b[3" not in said(view)  # where foreground colours begin


def test_what_branches_share_counts_once() -> None:
    """By hand: 100 and 300 steps, of which the longer one begins at step 80."""
    short, long = (
        make_experiment(steps=n, tokens=8 * n, budget=704.0 * 8 * n, trunk="t", hparams=WSD)
        for n in (100, 300)
    )
    board = board_of([short, long])
    assert board.snapshot(0.0, 0.0).planned == pytest.approx(704.0 * 8 * (100 + 220))
    board.ended(Run(short, "completed", loss=2.0), 1.0)
    assert board.snapshot(1.0, 0.0).spent == pytest.approx(short.flops)
    board.progress(at(long, 190), 2.0)
    assert board.snapshot(2.0, 0.0).spent == pytest.approx(short.flops + 704.0 * 8 * 110)
    board.ended(Run(long, "completed", loss=1.0), 3.0)
    assert board.snapshot(3.0, 0.0).share == 1.0


def test_a_run_cut_short_counts_with_what_it_spent_and_leaves_nothing_to_wait_for() -> None:
    one, other = make_experiment(steps=100), make_experiment(steps=100, seed=2)
    board = board_of([one, other])
    for second in range(1, 21):
        board.progress(at(one, second), float(second))
    board.ended(Run(one, "diverged", flops=0.2 * one.flops), 20.0)
    snapshot = board.snapshot(20.0, 0.0)
    assert snapshot.spent == pytest.approx(0.2 * one.flops)
    assert snapshot.left == pytest.approx(100.0)  # the other run alone, at a step a second


def test_time_left_is_of_the_flops_left_and_of_the_time_in_steps() -> None:
    """A minute of imports, then a step each second: 80 steps left are 80 seconds."""
    run = make_experiment(steps=100)
    board = board_of([run])
    board.progress(begun(run), 10.0)
    for step in range(1, 21):
        board.progress(at(run, step), 60.0 + step)
        left = board.snapshot(60.0 + step, 0.0).left
        assert left is None if step < 6 else left == pytest.approx(100 - step)


def test_what_an_earlier_attempt_did_is_no_speed() -> None:
    run = make_experiment(steps=1000)
    board = board_of([run])
    board.progress(begun(run), 0.0)
    board.progress(Progress(run.id, 500, 1000, math.nan), 1.0)
    for second in range(1, 21):
        board.progress(at(run, 500 + second), 1.0 + second)
    snapshot = board.snapshot(21.0, 0.0)
    assert snapshot.left == pytest.approx(480.0)
    assert snapshot.share == pytest.approx(0.52)


def test_the_rate_is_that_of_the_later_half() -> None:
    """Ten units a second for an hour, then one a second for as long."""
    rate, work = Rate(0.0), 0.0
    for second in range(1, 7201):
        work += 10.0 if second <= 3600 else 1.0
        rate.add(float(second), work)
    assert rate.at(7200.0, work) == pytest.approx(1.0, rel=0.1)
    assert len(rate._samples) < 300


def test_tasks_that_never_say_how_far_they_are_have_a_rate() -> None:
    """Ten minutes for each run: never off by more than a factor of two and a bit."""
    runs = [make_experiment(seed=s) for s in range(10)]
    board = board_of(runs)
    true = runs[0].flops / 600.0
    for i, run in enumerate(runs):
        board.progress(begun(run), 600.0 * i)
        board.ended(Run(run, "completed"), 600.0 * (i + 1))
        snapshot = board.snapshot(600.0 * (i + 1), 0.0)
        assert snapshot.rate is not None
        assert true / 2.5 < snapshot.rate < 2.5 * true


def test_opened_again_it_goes_on() -> None:
    """An adaptive sweep opens once for each batch, with all runs so far."""
    time = [0.0]
    view = LiveView(console(False), clock=lambda: time[0])
    first = [Run(e, "completed", loss=1.0) for e in EXPERIMENTS[:4]]
    with view.open(EXPERIMENTS[:4], first[:3], 1):
        time[0] = 50.0
        view.ended(first[3])
    view.step("next: 6 runs")
    with view.open(EXPERIMENTS, first, 1):
        time[0] = 100.0
        for experiment in EXPERIMENTS[4:]:
            view.ended(Run(experiment, "completed", loss=1.0))
    lines = said(view).splitlines()
    assert lines[0] == "3 of 4 runs are finished already."
    assert [line for line in lines if "already" in line] == lines[:1]
    assert "next: 6 runs" in lines
    assert lines[-1].endswith("100 % of FLOPs after 1 min 40 s")


def test_a_sweep_in_one_line() -> None:
    board = board_of([make_experiment(steps=100)])
    for step in range(1, 51):
        board.progress(at(make_experiment(steps=100), step), 60.0 * step)
    assert status(board.snapshot(3000.0, 0.0)) == (
        "[0/1] 1 running; 50 % of FLOPs at 46.9 FLOP/s after 50 min 00 s, about 50 min left"
    )

"""The benchmarks: published numbers are met, training is that of a loop by hand, goals are judged."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from benchmarks import __main__ as every
from benchmarks.calibration.methods import Span
from benchmarks.calibration.scores import Score
from benchmarks.calibration.sweeps import cuts, load, vertex
from benchmarks.common.command import run
from benchmarks.common.pairs import median_of
from benchmarks.common.report import Goal, IntervalGoal, at_most, goal_table, near
from benchmarks.execute import store_size
from benchmarks.fit import accuracy
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.tasks import MissedError
from benchmarks.models import kinds
from benchmarks.models.interfaces import names
from benchmarks.models.judge import faults, judge
from benchmarks.train import losses
from benchmarks.train.by_hand import Task
from benchmarks.train.engine import Text, train_by_engine
from benchmarks.train.turns import SKIPPED, Turns, steps_for

NAN = math.nan


@pytest.mark.parametrize("section", accuracy.SECTIONS)
def test_published_numbers_are_met(section):
    """No row of the section lies outside its tolerance."""
    goals = list(accuracy.SECTIONS[section](True))
    assert goals
    assert [f"{g.what}: {g.measured} not in {g.tolerance}" for g in goals if not g.met] == []


def test_a_missed_goal_says_by_how_much_and_fails_the_command(tmp_path, monkeypatch, capsys):
    """The exit status is 1, the last line names the goal, and the JSON holds it."""
    goals = [near("a", 0.53, 0.5, tol=0.01), at_most("b", 1.0, 2.0)]
    parts = {"part": lambda quick: ([goal_table("title", goals)], goals)}
    out = tmp_path / "deep" / "fit.json"
    monkeypatch.setattr("sys.argv", ["fit", "--output", str(out)])
    assert run(parts, __doc__, "fit") == 1
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("MISS  a: 0.53")
    assert "+0.02" in goals[0].missed_by
    rows = json.loads(out.read_text())["part"]["goals"]
    assert [row["met"] for row in rows] == [False, True]


def test_a_part_alone_keeps_the_others(tmp_path, monkeypatch):
    """Their results stay in the file, unless they are of quick runs and this is not."""
    parts = dict.fromkeys("ab", lambda quick: ([], [at_most("b", 1.0, 2.0)]))
    out = tmp_path / "fit.json"
    for given, kept in (
        (["--quick", "--only", "b"], "b"),
        (["--only", "a"], "a"),
        (["--only", "b"], "ab"),
    ):
        monkeypatch.setattr("sys.argv", ["fit", "--output", str(out), *given])
        assert run(parts, __doc__, "fit") == 0
        assert {*json.loads(out.read_text())} == {"machine", "quick", *kept}


def test_all_goals_met_is_success(tmp_path, monkeypatch):
    """The exit status is 0."""
    parts = {"part": lambda quick: ([], [at_most("b", 1.0, 2.0)])}
    monkeypatch.setattr("sys.argv", ["fit", "--output", str(tmp_path / "fit.json")])
    assert run(parts, __doc__, "fit") == 0


def test_each_check_of_a_gpu_has_a_verdict(monkeypatch, capsys):
    """What needs another device is not here; what is wrong, or breaks off, has failed."""

    def missed(device):
        raise MissedError("two losses")

    monkeypatch.setitem(gpu.CHECKS, "losses", missed)
    monkeypatch.setitem(gpu.CHECKS, "shared", lambda device: 1 / 0)
    monkeypatch.setitem(gpu.CHECKS, "timed", lambda device: f"on {device}")
    names = ("ranks", "halved", "known", "losses", "shared", "timed")
    verdicts = [gpu.judged(name, "cpu")["verdict"] for name in names]
    assert verdicts == ["not here"] * 3 + ["FAILED"] * 2 + ["ok"]
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_nan_is_a_miss():
    """What could not be measured is not met."""
    assert not Goal("x", math.nan, 0.0, 1.0, "").met
    assert not at_most("x", math.nan, 1.0).met


def test_training_gives_the_losses_of_a_loop_written_by_hand():
    """Every step's training loss and the held-out loss agree to 1e-6, relative."""
    _, goals = losses.losses(quick=True)
    assert len(goals) == 4
    assert [f"{g.what}: {g.measured}" for g in goals if not g.met] == []


def test_another_learning_rate_is_seen_as_another_loss(monkeypatch):
    """The comparison fails where the two sides do not train alike."""
    inner = losses.train_by_engine

    def faster(task, specs):
        return inner(dataclasses.replace(task, lr=task.lr * 1.001), specs)

    monkeypatch.setattr(losses, "train_by_engine", faster)
    training, _ = losses.compared(Task(width=16, steps=20))
    assert not training.met


def test_a_trainer_in_turns_with_the_loop_by_hand_trains_as_alone():
    """Being stopped every few steps changes no loss, and every turn but the first ones is timed."""
    task = Task(width=16, steps=steps_for(pairs=4, turn=3), batch_size=2)
    text = Text(task.seq_len, held_out=2)
    turns = Turns(task, text.windows(task), turn=3)
    together = train_by_engine(task, text.specs(), turns)
    alone = train_by_engine(task, text.specs())
    np.testing.assert_array_equal(together.losses, alone.losses)
    assert turns.worst_loss() < 1e-6
    assert [len(side) for side in turns.sides()] == [4, 4, 4]
    assert len(turns.trainer) == 4 + SKIPPED


def test_the_interval_of_a_median_covers_it():
    """In 95 of 100 samples of 41 values, within the noise of 300 samples."""
    rng = np.random.default_rng(0)
    found = [median_of(rng.normal(1.0, 0.1, 41), seed=i) for i in range(300)]
    covered = np.mean([e.low <= 1.0 <= e.high for e in found])
    assert 0.91 < covered < 0.99


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.9, 1.0, "met"), (1.0, 1.1, "inconclusive"), (1.05, 1.1, "missed"), (NAN, NAN, "missed")],
)
def test_an_interval_meets_misses_or_leaves_open_its_goal(low, high, outcome):
    """By which side of the limit it lies on, or that it holds it."""
    assert IntervalGoal("x", (low + high) / 2, low, high, 1.03).outcome == outcome


def test_a_goal_left_open_is_told_and_is_no_failure(tmp_path, monkeypatch, capsys):
    """The exit status is 0, and the last line names it."""
    goal = IntervalGoal("ratio", 1.02, 1.0, 1.05, 1.03)
    parts = {"part": lambda quick: ([], [goal])}
    monkeypatch.setattr("sys.argv", ["fit", "--output", str(tmp_path / "fit.json")])
    assert run(parts, __doc__, "fit") == 0
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("OPEN  ratio: 1.02")


def test_a_store_of_many_runs_is_measured(monkeypatch):
    """Every part makes its tables and the records that it times are sound."""
    monkeypatch.setattr(store_size, "RUNS", 20)
    (table,), (goal,) = store_size.opening(quick=True)
    assert [row[0] for row in table.rows] == ["open and read all", "doctor", "export to CSV"]
    assert goal.high == store_size.OPEN_GOAL
    (recording,), _ = store_size.recording(quick=True)
    assert len(recording.rows) == 2


def test_the_score_of_an_interval_is_its_width_and_twenty_times_what_it_misses():
    """Winkler's score at 90 %; with the vertex's own error the interval may reach the truth."""
    span = Span(1.0, ((0.8, 1.2), (0.9, 1.1)))
    held, missed = (Score.of("f", span, truth, 0.1) for truth in (1.15, 1.3))
    assert held.inside == (True, False)
    assert held.winkler == pytest.approx(0.4)
    assert missed.inside == (False, False)
    assert missed.inside_with_vertex == (True, False)
    assert missed.winkler == pytest.approx(0.4 + 20 * 0.1)


def test_the_vertex_of_a_noiseless_parabola_is_found():
    """Also where the sizes beyond ×5 lie on no parabola."""
    x = np.linspace(-3, 3, 13)
    z = np.where(np.abs(x - 0.2) <= np.log(5), 1.0 + 0.05 * (x - 0.2) ** 2, 3.0)
    found = vertex(np.exp(x), np.exp(z))
    assert found is not None
    assert found.log_n == pytest.approx(0.2, abs=1e-6)
    assert found.log_loss == pytest.approx(1.0, abs=1e-6)


def test_a_cut_holds_nothing_of_the_budgets_it_predicts():
    """On every packaged sweep, and more than one family has budgets to predict."""
    every = [cut for sweep in load(None) for cut in cuts(sweep)]
    assert len({cut.sweep.family for cut in every}) >= 4
    for cut in every:
        assert max(cut.left.flops) < min(b.compute for b in cut.budgets)


MLP_FLOPS = kinds.mlp_flops(8, 16, 4)


def test_a_kind_of_model_is_judged_by_what_is_known_of_it():
    """One that is planned and trained right, and the same with something else known of it."""
    kind = kinds.Kind("mlp", names, lambda w: MLP_FLOPS, sizes=(16,))
    verdict = judge(kind)
    assert verdict.wrong == []
    for change, wrong in (
        ({"told": frozenset({"lengths"})}, "expected the findings"),
        ({"refused": "sizes:"}, "expected 'sizes:'; got a plan"),
    ):
        other = dataclasses.replace(verdict, kind=dataclasses.replace(kind, **change))
        (found,) = faults(other)
        assert found.startswith(wrong)
    for ratio, wrong in (("flops", "FLOPs planned are 1.02"), ("D", "units trained are 1.02")):
        (found,) = faults(dataclasses.replace(verdict, **{ratio: 1.02}))
        assert found.startswith(wrong)


def test_a_refusal_is_read_and_a_traceback_is_wrong():
    """The sentence has to match, and only errors of this package are refusals."""

    def fails():
        return {**names(), "hparams": {"lr": -1.0}}

    def raises():
        return {"model_cls": dict, "dataset": FailingData()}

    right = kinds.Kind("refused", fails, lambda w: MLP_FLOPS, refused="a positive lr")
    assert judge(right).wrong == []
    wrong = judge(kinds.Kind("raises", raises, lambda w: MLP_FLOPS, refused="dataset")).wrong
    assert "a traceback: ZeroDivisionError" in wrong[0]


class FailingData:
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return 1 / 0


def test_a_goal_that_was_met_and_is_missed_fails_all_benchmarks(tmp_path, monkeypatch, capsys):
    """What moved is told; what is missed as before is not."""
    monkeypatch.setattr(every, "FOLDER", tmp_path)
    monkeypatch.setattr(every, "RECORDED", tmp_path / "recorded.json")

    def results(a: float, b: float) -> None:
        goals = [at_most("a", a, 2.0).to_dict(), at_most("b", b, 2.0).to_dict()]
        record = {"machine": {"cores": 2}, "quick": False, "part": {"tables": [], "goals": goals}}
        (tmp_path / "fit.json").write_text(json.dumps(record))

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["benchmarks", "fit", "--read", *arguments])
        return every.main(), capsys.readouterr().out

    results(1.0, 3.0)
    page = tmp_path / "page.md"
    assert call("--record", "--page", str(page))[0] == 0
    assert "| b | 3 | &lt;= 2 | **missed** |" in page.read_text()
    results(1.5, 3.0)
    status, told = call()
    assert (status, "moved a: 1 -> 1.5" in told, "MISSED" in told) == (0, True, False)
    results(2.5, 3.0)
    status, told = call()
    assert (status, "MISSED NOW a: 1 -> 2.5" in told) == (1, True)

"""The benchmark's accuracy part runs and every published number is met."""

from __future__ import annotations

import json
import math

import pytest
from benchmarks import accuracy, fit
from benchmarks.report import Goal, at_most, goal_table, near


@pytest.mark.parametrize("section", accuracy.SECTIONS)
def test_published_numbers_are_met(section):
    """No row of the section lies outside its tolerance."""
    goals = list(accuracy.SECTIONS[section](True))
    assert goals
    assert [f"{g.what}: {g.measured} not in {g.tolerance}" for g in goals if not g.met] == []


def test_a_missed_goal_says_by_how_much_and_fails_the_command(tmp_path, monkeypatch, capsys):
    """The exit status is 1, the last line names the goal, and the JSON holds it."""
    goals = [near("a", 0.53, 0.5, tol=0.01), at_most("b", 1.0, 2.0)]
    monkeypatch.setattr(fit, "PARTS", {"part": lambda quick: ([goal_table("title", goals)], goals)})
    out = tmp_path / "deep" / "fit.json"
    monkeypatch.setattr("sys.argv", ["fit", "--output", str(out)])
    assert fit.main() == 1
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("MISS  a: 0.53")
    assert "+0.02" in goals[0].missed_by
    rows = json.loads(out.read_text())["part"]["goals"]
    assert [row["met"] for row in rows] == [False, True]


def test_all_goals_met_is_success(tmp_path, monkeypatch):
    """The exit status is 0."""
    monkeypatch.setattr(fit, "PARTS", {"part": lambda quick: ([], [at_most("b", 1.0, 2.0)])})
    monkeypatch.setattr("sys.argv", ["fit", "--output", str(tmp_path / "fit.json")])
    assert fit.main() == 0


def test_nan_is_a_miss():
    """What could not be measured is not met."""
    assert not Goal("x", math.nan, 0.0, 1.0, "").met
    assert not at_most("x", math.nan, 1.0).met

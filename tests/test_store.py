"""What is recorded stays; what is torn or foreign is named and set aside."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from flops_fit.errors import OutputError
from flops_fit.records import Run
from flops_fit.store import Store, write_atomic
from tests.conftest import make_experiment


def completed(**changes: object) -> Run:
    return Run(
        make_experiment(**changes), "completed", loss=2.0, loss_se=0.1, tokens=400, flops=1e5
    )


def test_a_published_run_is_found_again(tmp_path: Path) -> None:
    run = completed()
    Store.open(tmp_path / "new" / "sweep").publish(run)
    store = Store.open(tmp_path / "new" / "sweep")
    assert store.finished([run.experiment]) == {run.experiment.id: run}
    assert store.finished([make_experiment(size=10)]) == {}


@pytest.mark.parametrize("state", ["failed", "oom", "preempted"])
def test_runs_that_may_come_out_otherwise_are_asked_for_again(tmp_path: Path, state: str) -> None:
    store = Store.open(tmp_path)
    store.publish(Run(make_experiment(), state, reason="x"))
    assert store.finished([make_experiment()]) == {}


def test_divergence_is_final(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.publish(Run(make_experiment(), "diverged", reason="nan"))
    assert list(store.finished([make_experiment()])) == [make_experiment().id]


@pytest.mark.parametrize("content", ["", "{", '{"state": "completed"}', "null", "[1]"])
def test_a_torn_record_is_set_aside_and_named(tmp_path: Path, content: str) -> None:
    store = Store.open(tmp_path)
    store.publish(completed())
    path = store.run_dir(make_experiment().id) / "run.json"
    path.write_text(content)
    assert store.finished([make_experiment()]) == {}
    assert "torn or foreign" in store.findings[0].message
    kept = [p for p in path.parent.iterdir() if "unreadable" in p.name]
    assert kept[0].read_text() == content


def test_a_record_under_another_id_is_set_aside(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.publish(completed(size=10))
    other = store.run_dir(make_experiment().id)
    store.run_dir(make_experiment(size=10).id).rename(other)
    assert store.finished([make_experiment()]) == {}
    assert "records run" in store.findings[0].message


def test_starting_anew_keeps_what_was_there(tmp_path: Path) -> None:
    Store.open(tmp_path).publish(completed())
    store = Store.open(tmp_path, resume=False)
    assert store.finished([make_experiment()]) == {}
    aside = [p for p in tmp_path.iterdir() if p.name.startswith("runs-set-aside")]
    assert (aside[0] / make_experiment().id / "run.json").exists()
    assert Store.open(tmp_path).finished([make_experiment()]) == {}


def test_runs_of_another_plan_stay_and_are_counted(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.publish(completed())
    store.publish(completed(size=10))
    assert store.others([make_experiment()]) == 1


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="thesis.tex.*choose another output_dir"):
        Store.open(tmp_path)


def test_sweeps_may_lie_inside_the_folder_of_another(tmp_path: Path) -> None:
    Store.open(tmp_path / "demo").publish(completed())
    Store.open(tmp_path).publish(completed(size=10))
    assert Store.open(tmp_path / "demo").others([]) == Store.open(tmp_path).others([]) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"format": "another tool"}'])
def test_a_sweep_of_another_tool_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(OutputError, match="not a record of flops-fit"):
        Store.open(tmp_path)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"format": "flops-fit sweep", "schema": 99}')
    with pytest.raises(OutputError, match="schema 99"):
        Store.open(tmp_path)


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        Store.open(tmp_path / "file")


def test_an_unwritable_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Permissions do not bind root, so the refusal itself is made.
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        Store.open(tmp_path)


def test_a_full_disk_loses_nothing_that_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path)
    store.publish(completed())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        store.publish(completed(size=10))
    with pytest.raises(OutputError, match="No space left"):
        store.publish(Run(make_experiment(), "failed"))
    monkeypatch.undo()
    assert store.finished([make_experiment()])[make_experiment().id].loss == 2.0


def test_an_atomic_write_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "one")
    write_atomic(tmp_path / "a", "two")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "two"


def test_the_table_lists_every_run_whatever_its_state(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    path = store.write_table([completed(), Run(make_experiment(size=10), "diverged", reason="nan")])
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [r["state"] for r in rows] == ["completed", "diverged"]
    assert float(rows[0]["loss"]) == 2.0
    store.write_plan([make_experiment()])
    assert (
        json.loads((tmp_path / "sweep.json").read_text())["experiments"][0]["id"]
        == make_experiment().id
    )


def test_starting_anew_does_not_go_on_from_earlier_trunks(tmp_path: Path) -> None:
    """They are set aside with the runs that left them."""
    store = Store.open(tmp_path)
    (store.trunks / "0123456789abcdef").mkdir(parents=True)
    Store.open(tmp_path, resume=False)
    assert not store.trunks.exists()
    assert len(list(tmp_path.glob("trunks-set-aside-*/0123456789abcdef"))) == 1

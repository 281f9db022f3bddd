"""What is recorded stays; what is torn or foreign is named and set aside."""

from __future__ import annotations

import csv
import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from flops_fit.errors import InputError, OutputError
from flops_fit.records import Run
from flops_fit.store import Store, examine, recorded_runs
from flops_fit.store.lease import take_lease
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
    assert "torn or foreign" in store.notes[0]
    kept = [p for p in path.parent.iterdir() if "unreadable" in p.name]
    assert kept[0].read_text() == content


def test_a_record_under_another_id_is_set_aside(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.publish(completed(size=10))
    other = store.run_dir(make_experiment().id)
    store.run_dir(make_experiment(size=10).id).rename(other)
    assert store.finished([make_experiment()]) == {}
    assert "records run" in store.notes[0]


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


@pytest.mark.parametrize("content", ["", '{"format": "flops-f'])
def test_a_torn_sweep_json_loses_no_result(tmp_path: Path, content: str) -> None:
    run = Store.open(tmp_path).publish(completed())
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(InputError, match="is torn. Run the sweep again with the same arguments"):
        recorded_runs(tmp_path)
    store = Store.open(tmp_path)
    assert store.result(run.experiment.id) == run
    assert store.notes[0].startswith(
        "sweep.json was torn; it was renamed to sweep.json.unreadable-"
    )
    assert recorded_runs(tmp_path, all_runs=True) == [run]


@pytest.mark.parametrize("schema", [1, 99])
def test_another_schema_is_refused(tmp_path: Path, schema: int) -> None:
    content = {"format": "flops-fit sweep", "schema": schema}
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    with pytest.raises(OutputError, match=f"schema {schema}; this version reads 2"):
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


OLD_RUN = """{
 "schema": 2,
 "experiment": {
  "id": "%s", "model": "tests.conftest.MLP", "model_kwargs": {}, "size": 8,
  "params": {"total": 160, "non_embedding": 160, "matmul": 160, "active": 160},
  "budget": 281600.0, "tokens": 400, "steps": 50, "batch_size": 8, "units_per_sample": 1.0,
  "unit": "samples", "flops_per_unit": 704.0, "flops_per_unit_6nd": 960.0,
  "hparams": {"lr": 0.01, "batch_units": 8, "warmup": 0.1, "schedule": "cosine",
   "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "clip": 1.0, "recipe": "test"},
  "seed": %d, "repeat": 0, "fingerprint": "abc", "epochs": 0.1
 },
 "state": "%s", "reason": "", "details": "", "loss": 1.75, "loss_se": 0.01, "train_loss": 1.7,
 "tokens": 400, "flops": 281600.0, "seconds": 1.5, "device": "cpu", "versions": {},
 "units_per_second": 300.0, "microbatch": 8, "resumed": 0, "spikes": [], "notes": []
}"""


def test_a_record_of_fewer_settings_is_found_by_its_id(tmp_path: Path) -> None:
    """A literal one: hyper-parameters that came later have their defaults."""
    store, done = Store.open(tmp_path), make_experiment()
    store.run_dir(done.id).mkdir(parents=True)
    (store.run_dir(done.id) / "run.json").write_text(OLD_RUN % (done.id, done.seed, "completed"))
    assert examine(tmp_path).states == {"completed": 1}
    assert store.finished([done])[done.id].loss == 1.75
    assert store.notes == []


def test_a_result_is_published_once_and_the_first_stays(tmp_path: Path) -> None:
    """Of many writers at once one wins, and every one of them is told what is on record."""
    store = Store.open(tmp_path)
    gate = threading.Barrier(8)

    def publish(loss: float) -> Run:
        gate.wait()
        return store.publish(replace(completed(), loss=loss))

    with ThreadPoolExecutor(8) as pool:
        told = [f.result() for f in [pool.submit(publish, float(i)) for i in range(8)]]
    assert len({run.loss for run in told}) == 1
    assert store.publish(Run(make_experiment(), "diverged", reason="nan")) == told[0]
    assert store.finished([make_experiment()])[make_experiment().id] == told[0]


def test_a_failure_never_stands_where_a_result_is(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.publish(completed())
    store.publish(Run(make_experiment(), "failed", reason="late"))
    assert store.finished([make_experiment()])[make_experiment().id].loss == 2.0


def test_temporary_files_never_count(tmp_path: Path) -> None:
    """A record that a killed process had half written is passed over, and the run made again."""
    store = Store.open(tmp_path)
    folder = store.run_dir(make_experiment().id)
    folder.mkdir()
    (folder / f".run.json.{'0' * 32}.tmp").write_text("{")
    assert store.finished([make_experiment()]) == {}
    assert store.notes == []


def test_runs_that_somebody_makes_are_not_set_aside(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    lease = take_lease(store.run_lease(make_experiment().id))
    with pytest.raises(OutputError, match=f"are being made, .* by process {os.getpid()}"):
        Store.open(tmp_path, resume=False)
    lease.release()
    Store.open(tmp_path, resume=False)


def test_a_read_only_file_system_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    store = Store.open(tmp_path)
    store.publish(completed())
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match="Read-only file system.*Make it writable"):
        Store.open(tmp_path)
    with pytest.raises(OutputError, match="Read-only file system"):
        store.publish(completed(size=10))
    assert len(store.finished([make_experiment()])) == 1

"""What is wrong in a folder is named; checking changes nothing and repairing loses nothing."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flops_fit.cli.program import as_text
from flops_fit.cli.sweep_commands import doctor
from flops_fit.errors import InputError
from flops_fit.records import Experiment, Run
from flops_fit.store import Store, examine, recorded_runs, repair, write_runs
from flops_fit.store.lease import Holder, take_lease
from flops_fit.table import RunTable
from tests.conftest import make_experiment

OLD = time.time() - 3600


def completed(experiment: Experiment) -> Run:
    return Run(
        experiment, "completed", loss=2.0 + experiment.seed, loss_se=0.1, tokens=400, flops=1e5
    )


@pytest.fixture
def experiments() -> list[Experiment]:
    return [make_experiment(seed=i) for i in range(6)]


@pytest.fixture
def store(tmp_path: Path, experiments: list[Experiment]) -> Store:
    """Four finished runs, one that failed and one that was not begun."""
    store = Store.open(tmp_path / "out")
    store.write_plan(experiments)
    runs = [completed(e) for e in experiments[:4]]
    runs.append(Run(experiments[4], "failed", reason="no such file"))
    for run in runs:
        store.publish(run)
    store.write_table(runs)
    return store


def content(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def told(store: Store) -> dict[str, str]:
    return {f.path.split("/")[-1]: f.grade for f in examine(store.path).findings}


def test_a_sound_folder_is_sound(store: Store) -> None:
    found = examine(store.path)
    assert found.sound
    assert found.findings == ()
    assert found.states == {"completed": 4, "failed": 1, "planned": 1}


def spoil(store: Store, experiments: list[Experiment]) -> None:
    """One of everything that can be wrong."""
    directories = [store.run_dir(e.id) for e in experiments]
    (directories[0] / "run.json").write_text("{")
    record = json.loads((directories[1] / "run.json").read_text())
    record["experiment"]["seed"] = 77
    (directories[1] / "run.json").write_text(json.dumps(record))
    (directories[2] / "checkpoint").mkdir()
    temporary = directories[2] / f".run.json.{'0' * 32}.tmp"
    temporary.write_text("half")
    os.utime(temporary, (OLD, OLD))
    (directories[3] / "lease.json").write_text(
        json.dumps({**vars(Holder.current()), "start": "1", "token": "a0"})
    )
    (directories[5] / "checkpoint" / "step-00000010").mkdir(parents=True)
    (store.runs / "thesis.tex").write_text("x")
    rows = (store.path / "runs.csv").read_text().replace("4.0,0.1", "1.0,0.1")
    (store.path / "runs.csv").write_text(rows)


def test_everything_that_is_wrong_is_named(store: Store, experiments: list[Experiment]) -> None:
    spoil(store, experiments)
    found = examine(store.path)
    assert not found.sound
    by_path = {(f.path.split("/")[-1], f.grade) for f in found.findings}
    assert {
        ("run.json", "wrong"),
        ("runs.csv", "wrong"),
        ("lease.json", "leftover"),
        ("checkpoint", "leftover"),
        (f".run.json.{'0' * 32}.tmp", "leftover"),
        ("checkpoint", "note"),
        ("thesis.tex", "note"),
    } == by_path
    messages = [f.message for f in found.findings]
    assert any("does not match its own id" in m for m in messages)
    assert found.states["begun"] == 3  # two torn, and one that has a checkpoint


def test_looking_changes_nothing(store: Store, experiments: list[Experiment]) -> None:
    spoil(store, experiments)
    before = content(store.path)
    examine(store.path)
    assert content(store.path) == before


def test_repair_loses_no_record_and_leaves_a_sound_folder(
    store: Store, experiments: list[Experiment]
) -> None:
    spoil(store, experiments)
    before = content(store.path)
    fixed = repair(examine(store.path))
    assert len(fixed) == 7  # two records, rows that differ and rows without a run, three leftovers
    assert examine(store.path).sound
    after = content(store.path)
    gone = set(before.values()) - set(after.values())
    kept = {v for k, v in before.items() if k.endswith("run.json")}
    assert not gone & kept
    assert len(Store.open(store.path).finished(experiments)) == 2
    assert (store.runs / "thesis.tex").exists()
    assert any("checkpoint/step-" in str(p) for p in store.runs.rglob("*"))


def test_a_living_sweep_is_left_alone(store: Store, experiments: list[Experiment]) -> None:
    (store.run_dir(experiments[5].id) / "checkpoint").mkdir(parents=True)
    with take_lease(store.run_lease(experiments[5].id)):
        (store.run_dir(experiments[5].id) / f".x.{'0' * 32}.tmp").touch()
        found = examine(store.path)
        assert found.states["running"] == 1
        assert found.findings == ()


def test_a_table_that_is_older_than_the_records_is_a_leftover(
    store: Store, experiments: list[Experiment]
) -> None:
    store.publish(completed(experiments[5]))
    found = examine(store.path)
    assert found.sound
    assert [f.message for f in found.findings] == [
        f"1 runs that ended after it was written ({experiments[5].id})"
    ]
    repair(found)
    rows = list(csv.DictReader((store.path / "runs.csv").read_text().splitlines()))
    assert len(rows) == 6
    assert examine(store.path).findings == ()


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flops_fit", *map(str, arguments)], capture_output=True, text=True
    )


def test_the_command_says_it_and_exits_with_one(
    store: Store, experiments: list[Experiment]
) -> None:
    sound = command("doctor", store.path)
    assert sound.returncode == 0, sound.stderr
    assert sound.stdout.splitlines() == ["6 runs: 4 completed, 1 failed, 1 planned.", "Sound."]
    spoil(store, experiments)
    done = command("doctor", store.path)
    assert done.returncode == 1
    assert "Nothing was changed. --repair does" in done.stdout
    assert done.stdout.splitlines()[-1] == "Not sound."
    assert command("doctor", store.path, "--repair").returncode == 0


def test_a_table_of_findings_is_whole_on_a_wide_terminal(
    store: Store, experiments: list[Experiment]
) -> None:
    spoil(store, experiments)
    answer = doctor(store.path)
    lines = as_text(answer.shown, width=200)
    assert not answer.good
    assert f"runs/{experiments[0].id}/run.json" in lines
    assert "rename, so that the run is made again" in lines


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_what_is_no_sweep_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="no sweep.json"):
        examine(tmp_path / name)
    done = command("doctor", tmp_path / name)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_runs_are_exported_and_read_again(
    store: Store, experiments: list[Experiment], tmp_path: Path, suffix: str
) -> None:
    """The same table as from the runs themselves, failures excluded with their reason."""
    other = completed(make_experiment(seed=99))
    store.publish(other)
    path = tmp_path / f"table.{suffix}"
    done = command("export", store.path, path)
    assert done.returncode == 0, done.stderr
    assert "5 runs" in done.stdout
    table = RunTable.read(path)
    expected = RunTable.read([completed(e) for e in experiments[:4]])
    for name in ("params", "tokens", "flops", "loss", "budget", "loss_se", "unique_tokens"):
        assert getattr(table, name).tolist() == getattr(expected, name).tolist()
    assert len(table.excluded) == 1
    assert "failed" in table.excluded[0].reason
    assert len(recorded_runs(store.path, all_runs=True)) == 6


def test_columns_of_several_kinds_become_text(tmp_path: Path) -> None:
    """Joint sizes, and columns of which nothing is known."""
    runs = [
        Run(make_experiment(size=size, epochs=None), "completed", loss=2.0, tokens=400, flops=1e5)
        for size in (8, {"width": 8, "depth": 2})
    ]
    assert len(RunTable.read(write_runs(runs, tmp_path / "runs.parquet"))) == 2
    assert len(RunTable.read(write_runs(runs, tmp_path / "runs.csv"))) == 2
    with pytest.raises(InputError, match=r"ends in \.csv or \.parquet"):
        write_runs(runs, tmp_path / "runs.xls")

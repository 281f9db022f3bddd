"""A damaged folder is named as such: every record is of the types that it should have, or is set aside."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flops_fit
from flops_fit import files
from flops_fit.api.run import DECISIONS, TUNING_FOLDER
from flops_fit.cli.program import call
from flops_fit.errors import FlopsFitError, OutputError, TableError
from flops_fit.plan.export import _HYDRA, _TEMPLATES, HOW
from flops_fit.records import Experiment, Run
from flops_fit.store import Store, examine, recorded_runs, repair
from tests.conftest import MLP, make_experiment

DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "sweep"
    budgets = [1e15, 3e15, 1e16]
    flops_fit.find_optimal(
        MLP, "width", compute_budgets=budgets, mode="mock", output_dir=folder, progress=False
    )
    return folder


def with_values(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = json.loads(path.read_text())
        for name, value in changes.items():
            *within, last = name.split("__")
            place = content
            for key in within:
                place = place[key]
            place[last] = value
        path.write_text(json.dumps(content))

    return change


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deep": lambda p: p.write_text(DEEP),
    "no text": lambda p: p.write_bytes(b"\xff\xfe\x00"),
    "a list": lambda p: p.write_text("[1]"),
    "empty": lambda p: p.write_text(""),
    "a folder": a_folder,
    "a pipe": a_pipe,
    "no tokens": with_values(tokens=None),
    "text as loss": with_values(loss="low"),
    "no loss": with_values(loss=None),
    "an unknown state": with_values(state=7),
    "notes that are a number": with_values(notes=5),
    "a spike without a loss": with_values(spikes=[[1]]),
    "an experiment that is a list": with_values(experiment=[1]),
    "no parameters": with_values(experiment__params=None),
    "hparams that are a text": with_values(experiment__hparams="x"),
    "a rate that is a text": with_values(experiment__hparams__lr="high"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_found_and_the_rest_is_read(
    tmp_path: Path, sweep: Path, damage: str
) -> None:
    folder = shutil.copytree(sweep, tmp_path / "sweep")
    first = sorted((folder / "runs").iterdir())[0]
    DAMAGES[damage](first / "run.json")
    found = [f for f in examine(folder).findings if f.grade == "wrong"]
    assert f"runs/{first.name}/run.json" in {f.path for f in found}
    assert len(recorded_runs(folder)) == len(recorded_runs(sweep)) - 1


@pytest.mark.parametrize("name", ["sweep.json", "fit.json", "runs.csv"])
@pytest.mark.parametrize("damage", ["deep", "no text", "a list", "empty", "a folder", "a pipe"])
def test_no_damaged_file_ends_a_command_in_an_error_of_python(
    tmp_path: Path, sweep: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(sweep, tmp_path / "sweep")
    DAMAGES[damage](folder / name)
    calls = [("doctor", folder), ("export", folder, tmp_path / "all.csv")]
    calls += [("predict", source, "1e17") for source in (folder, folder / "runs.csv")]
    for words in calls:
        call([str(word) for word in words])
        told = capsys.readouterr().err
        assert "--debug shows where" not in told, told


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
PLAN = json.loads(flops_fit.plan_sweep(MLP, "width", compute_budgets=[1e9]).to_json())
RECORD = Run(make_experiment(), "completed", loss=2.0, tokens=400, spikes=((3, 2.5),)).to_dict()


@given(name=st.sampled_from(sorted(RECORD)), value=PLAIN)
def test_a_record_with_any_other_value_is_read_or_refused(name: str, value: Any) -> None:
    try:
        run = Run.from_dict({**RECORD, name: value})
    except TableError:
        return
    assert isinstance(run.tokens, int)
    assert run.loss is None or isinstance(run.loss, float)
    json.dumps(run.to_dict())


@given(name=st.sampled_from(sorted(RECORD["experiment"])), value=PLAIN)
def test_an_experiment_with_any_other_value_is_read_or_refused(name: str, value: Any) -> None:
    try:
        experiment = Experiment.from_dict({**RECORD["experiment"], name: value})
    except TableError:
        return
    assert len(experiment.id) == 16
    assert experiment.label.startswith("C=")


@pytest.mark.parametrize("name", ["experiments", "layout", "speed", "flops", "diagnostics", "unit"])
@given(value=PLAIN)
def test_a_plan_with_any_other_value_is_read_or_refused(name: str, value: Any) -> None:
    try:
        read = flops_fit.SweepPlan.from_json(json.dumps({**PLAN, name: value}))
    except FlopsFitError:
        return
    assert str(read)
    assert flops_fit.SweepPlan.from_json(read.to_json()).experiments == read.experiments


@pytest.mark.parametrize(
    "name",
    [
        "runs.csv", "report.html", "plots", "runs", "runs/*", "runs/*/run.json", "trunks", "tuning",
        "tuning/runs", "joint.json", "command.json", "run.sh", "conf/flops_fit",
    ],
)  # fmt: skip
def test_a_link_out_of_the_folder_is_named_and_not_followed(
    sweep: Path, tmp_path: Path, name: str
) -> None:
    """Whoever gives a folder away could else have a sweep write anywhere."""
    folder, outside = tmp_path / "sweep", tmp_path / "outside"
    shutil.copytree(sweep, folder)
    (outside / "checkpoint").mkdir(parents=True)
    path = sorted(folder.glob(name))[0] if "*" in name else folder / name
    if path.is_dir():
        shutil.copytree(path, outside, dirs_exist_ok=True)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(outside)
    before = sorted(outside.rglob("*"))
    examination = examine(folder)
    named = {f.path for f in examination.findings if f.message == "a link out of the folder"}
    assert named == {str(path.relative_to(folder))}
    with pytest.raises(OutputError, match=rf"{path.name} leads out of .*, to {outside}"):
        Store.open(folder)
    with pytest.raises(OutputError, match=rf"folder: .*{path.name} leads out of"):
        flops_fit.SweepPlan.from_json(json.dumps(PLAN)).export("bash", folder, "train {lr}")
    repair(examination)
    assert sorted(outside.rglob("*")) == before


def test_links_are_sought_among_all_that_is_written() -> None:
    exported = {values["file"] for values in _TEMPLATES.values() if "file" in values}
    assert exported | {HOW, _HYDRA, DECISIONS, TUNING_FOLDER} <= {*files._WRITTEN}


def test_links_within_the_folder_and_in_what_a_command_writes_are_followed(
    sweep: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(sweep, folder)
    (folder / "report.html").symlink_to("other.html")
    work = next((folder / "runs").iterdir()) / "work"
    work.mkdir()
    (work / "latest").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    assert len(Store.open(tmp_path / "link").notes) == 0


@pytest.mark.parametrize("trunk", ["../../elsewhere", "/elsewhere", ".", "0" * 17])
def test_a_trunk_of_a_file_names_no_other_folder(trunk: str) -> None:
    values = {**make_experiment().to_dict(), "trunk": trunk}
    with pytest.raises(TableError, match="was edited: its trunk is"):
        Experiment.from_dict(values)

"""init writes a sweep that plans and runs as it is."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

import flops_fit
from flops_fit.cli import sweep_commands
from flops_fit.cli.sweep_file import SweepFile, read_sweep
from tests.cli._calls import called

pytestmark = pytest.mark.usefixtures("fresh_imports")
Capsys = pytest.CaptureFixture[str]

SMALL = ["--set", "compute_budgets=[1e7,2e7,4e7]", "--set", "sizes=[2,3,4,6]"]
SMALL += ["--set", "design=grid", "--set", "batch_size=1"]


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> Path:
    """A folder that init has written, as the current directory."""
    told = called(capsys, "init", tmp_path / "new")
    assert told.code == 0
    for words in ("Wrote", "cd ", "flops-fit plan", "flops-fit run", "flops-fit predict outputs"):
        assert words in told.out
    monkeypatch.chdir(tmp_path / "new")
    return tmp_path / "new"


def test_nothing_is_overwritten(begun: Path, capsys: Capsys) -> None:
    before = {p.name: p.read_bytes() for p in begun.iterdir()}
    (begun / "data.py").unlink()
    told = called(capsys, "init")
    assert told.code == 2
    assert "sweep.toml already exists. Nothing was written" in told.err
    del before["data.py"]
    assert {p.name: p.read_bytes() for p in begun.iterdir()} == before


def test_what_init_writes_plans_within_a_minute(begun: Path, capsys: Capsys) -> None:
    told = called(capsys, "plan", "--json", "--parallel", "2", "--dollars-per-hour", "3")
    assert told.code == 0, told.err
    plan = told.document
    assert len(plan["experiments"]) == 20
    assert sum(e["tokens"] * e["flops_per_unit"] for e in plan["experiments"]) < 4e10
    assert plan["cost"]["dollars"] > 0
    assert not (begun / "outputs").exists()


def test_what_init_writes_runs_answers_and_goes_on(begun: Path, capsys: Capsys) -> None:
    first = called(capsys, "run", *SMALL, "--no-progress")
    assert first.code in (0, 1), first.err
    assert "| Compute Budget" in first.out
    for name in ("report.html", "runs.csv", "fit.json", "plots/isoflop.png"):
        assert (begun / "outputs" / name).exists(), name
    n = len((begun / "outputs" / "runs.csv").read_text().splitlines()) - 1
    assert n >= 10
    again = called(capsys, "run", *SMALL, "--json")
    assert f"{n} of {n} runs are finished already" in again.err
    assert len(again.document["predictions"]) == 3
    planned = called(capsys, "plan", *SMALL)
    assert f"{n} of these runs are finished in outputs: nothing is missing." in planned.out
    more = called(capsys, "plan", *SMALL, "--seed", "1")
    assert f"0 of these runs are finished in outputs; {n} are missing" in more.out
    asked = called(capsys, "predict", "outputs", "4e7", "--json")
    assert asked.document["predictions"][0] == again.document["predictions"][-1]
    fitted = called(capsys, "fit", "outputs", "--json")
    assert fitted.document["predictions"] == again.document["predictions"]


def test_a_sweep_needs_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--model-cls", "tests.conftest:MLP", "--model-size-param", "width", "--mode", "mock"]
    flags += ["--compute-budgets", "1e9,3e9,1e10,3e10", "--output-dir", "here"]
    told = called(capsys, "run", *flags, "--no-progress", "--json")
    assert told.code in (0, 1), told.err
    assert told.document["output_dir"] == "here"
    planned = called(capsys, "plan", *flags, "--csv", "plan.csv", "--designs", "--on", "H100")
    assert planned.code == 0, planned.err
    assert "H100's" in planned.out
    assert "tapered" in planned.out
    assert len(list(csv.DictReader((tmp_path / "plan.csv").read_text().splitlines()))) == 28


def test_an_adaptive_sweep_tells_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.toml").write_text(
        'model_cls = "tests.conftest:MLP"\nmodel_size_param = "width"\nmode = "mock"\n'
        '[design]\nkind = "adaptive"\ntarget_compute = 1e13\nmax_flops = 1e12\nhalf_width = 0.5\n'
    )
    told = called(capsys, "run", "--no-progress", "--json", "--trust")
    assert told.code in (0, 1), told.err
    assert told.document["steps"]
    planned = called(capsys, "plan", "--trust")
    assert "the runs of the pilot" in planned.out


def test_an_interrupted_sweep_is_exit_code_130(
    begun: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flops_fit.train.Trainer.__call__", interrupted)
    told = called(capsys, "run", *SMALL)
    assert told.code == 130
    assert "Call again with the same arguments to go on" in " ".join(told.err.split())
    have, said, last = told.err.splitlines()[-3:]
    assert last == "flops-fit: interrupted."
    assert "finished, 0 more began and have a checkpoint. The same command goes on" in have
    assert "would say: expected runs with positive N and D" in said


def test_of_ranks_that_train_together_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = object.__new__(flops_fit.Result)
    monkeypatch.setattr(flops_fit, "find_optimal", lambda **_: kept, raising=False)
    monkeypatch.setattr(SweepFile, "arguments", lambda self, planning=False: {})
    monkeypatch.setenv("RANK", "1")
    assert sweep_commands.run(model_cls="unused") is None


def test_what_init_leaves_to_choose_can_be_chosen(begun: Path) -> None:
    """Each line that is commented out is a key that there is, once its comment is taken away."""
    lines = (begun / "sweep.toml").read_text().splitlines()
    offered = [line.removeprefix("# ") for line in lines if re.match(r"# [a-z_\[]+( =|\]$)", line)]
    assert len(offered) >= 9
    for line in offered:
        table = {"workers": "executor", "threads": "executor", "lr": "hparams"}
        table |= {"kind": "executor", "batch_units": "hparams"}
        table |= {"precision": "training", "trackers": "training"}
        if line.startswith("["):
            continue
        key = line.split(" =")[0]
        text = f"[{table[key]}]\n{line}" if key in table else line
        (begun / "other.toml").write_text('model_cls = "model.py:Model"\n' + text)
        if key in ("workers", "threads"):
            text = (begun / "other.toml").read_text() + '\nkind = "pool"'
            (begun / "other.toml").write_text(text)
        assert read_sweep(begun / "other.toml", {}).arguments(), line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--export", "nosuch"], "--export: expected one of csv"),
        (["--executor", "pol", "--set", "executor.workers=2"], "--executor: expected one of inprocess"),
        (["--on", "nosuch"], "--on: expected one of"),
    ],
)  # fmt: skip
def test_what_a_plan_is_given_is_named_by_its_option(
    begun: Path, capsys: Capsys, words: list[str], said: str
) -> None:
    told = called(capsys, "plan", *SMALL, "--set", "mode=mock", *words)
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith(f"flops-fit: {said}")

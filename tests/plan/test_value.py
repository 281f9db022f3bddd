"""A plan survives JSON, is written as CSV, and is held against what was run."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flops_fit import SweepPlan, Tapered, TrainingConfig, plan_sweep, run_sweep
from flops_fit.errors import InputTypeError, OutputError, TableError
from flops_fit.flops import SmoothFlops
from flops_fit.records import Run
from tests.conftest import MLP, Blobs, cross_entropy

ARGUMENTS: dict[str, Any] = {
    "model_cls": MLP,
    "model_size_param": "width",
    "dataset": Blobs(400),
    "loss_fn": cross_entropy,
    "compute_budgets": [5e5, 1e6],
    "sizes": [4, 8],
    "batch_size": 4,
}


@pytest.fixture(scope="module")
def plan() -> SweepPlan:
    return plan_sweep(**ARGUMENTS)


@pytest.fixture(scope="module")
def swept(plan: SweepPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "out"
    run_sweep(plan, output_dir=folder, progress=False)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"sizes": None, "design": Tapered(prior="hoffmann2022", width=2.0)},
        {"sizes": None, "compute_budgets": [1e8, 2e8], "design": "rectangular", "dataset": None},
        {"flops": "6nd"},
        {"flops": lambda model: 1000.0},
        {
            "training": TrainingConfig(branch=True),
            "hparams": {"schedule": "wsd", "warmup_units": 20, "batch_units": 4},
        },
        {"model_size_param": None, "sizes": [{"width": 4}, {"width": 8}]},
    ],
    ids=["sizes", "tapered", "no data", "6nd", "own", "branch", "dicts"],
)
def test_a_plan_comes_back_from_json_as_it_was(change: dict[str, Any]) -> None:
    plan = plan_sweep(**{**ARGUMENTS, **change})
    back = SweepPlan.from_json(plan.to_json())
    assert back.experiments == plan.experiments
    assert [e.id for e in back.experiments] == [e.id for e in plan.experiments]
    assert back.speed == plan.speed
    assert back.layout == plan.layout
    assert back.diagnostics == plan.diagnostics
    assert str(back) == str(plan)
    assert back.to_json() == plan.to_json()
    assert back.estimate("H100").to_dict() == plan.estimate("H100").to_dict()


def test_flops_of_a_unit_survive_json_between_the_counts_too(plan: SweepPlan) -> None:
    sizes = np.geomspace(80, 160, 9)
    expected = plan.flops(sizes)  # counts the powers of two around
    back = SweepPlan.from_json(plan.to_json())
    np.testing.assert_array_equal(back.flops(sizes), expected)
    assert back.flops.description == plan.flops.description


def test_a_smooth_function_survives_json(plan: SweepPlan) -> None:
    smooth = SmoothFlops(k=6.0, c=3.0, p=0.4, n0=1e6, n_min=1e5, n_max=1e9, misfit=0.01)
    assert SweepPlan.from_json(replace(plan, flops=smooth).to_json()).flops == smooth


def test_a_plan_from_a_file_can_be_run_with_a_task_and_finds_the_same_runs(
    plan: SweepPlan, swept: Path, tmp_path: Path
) -> None:
    plan.to_json(tmp_path / "plan.json")
    back = SweepPlan.from_json(tmp_path / "plan.json")
    assert back.task is None

    def refuse(experiment: Any, report: Any) -> Run:
        raise AssertionError("every run is there already")

    runs = run_sweep(back, refuse, output_dir=swept, progress=False)
    assert [r.state for r in runs] == ["completed"] * 4


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c["experiments"][0].update(seed=5), "does not match its own id"),
        (lambda c: c.update(format="x"), "this is something else"),
        (lambda c: c.update(schema=99), "schema 99"),
        (lambda c: c.pop("experiments"), "damaged or was edited"),
        (lambda c: c["flops"].pop("counts"), "damaged or was edited"),
    ],
)
def test_json_that_is_no_plan_is_reported(plan: SweepPlan, edit: Any, words: str) -> None:
    content = json.loads(plan.to_json())
    edit(content)
    with pytest.raises(TableError, match=words):
        SweepPlan.from_json(json.dumps(content))
    with pytest.raises(TableError, match="expected the JSON"):
        SweepPlan.from_json(plan.to_json()[:-20])


def test_a_plan_that_is_not_there_is_reported(tmp_path: Path, plan: SweepPlan) -> None:
    with pytest.raises(OutputError, match="cannot be read"):
        SweepPlan.from_json(tmp_path / "none.json")
    with pytest.raises(OutputError, match="cannot be written"):
        plan.to_csv(tmp_path / "none" / "plan.csv")


def test_csv_has_a_row_for_each_run_with_its_cost(plan: SweepPlan, tmp_path: Path) -> None:
    path = plan.to_csv(tmp_path / "plan.csv")
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["id"] for row in rows] == [e.id for e in plan.experiments]
    for row, e in zip(rows, plan.experiments, strict=True):
        assert float(row["flops"]) == e.flops
        assert int(row["tokens"]) == e.tokens
        assert float(row["hparams.lr"]) == e.hparams.lr
        assert float(row["flops_shared"]) == 0.0


def test_nothing_is_run_of_a_new_plan(plan: SweepPlan, tmp_path: Path) -> None:
    difference = plan.diff(tmp_path / "nowhere")
    assert difference.missing == plan.experiments
    assert difference.finished == difference.not_asked_for == ()
    assert difference.cost.flops == pytest.approx(plan.total_flops)
    assert not (tmp_path / "nowhere").exists()


def test_a_sweep_that_is_done_lacks_nothing(plan: SweepPlan, swept: Path) -> None:
    difference = plan.diff(swept)
    assert len(difference.finished) == 4
    assert difference.missing == ()
    assert difference.cost.flops == 0
    assert "4 runs finished, 0 missing, 0 not asked for" in str(difference)
    assert "Nothing is missing." in str(difference)


def test_a_wider_plan_lacks_its_new_runs_alone(plan: SweepPlan, swept: Path) -> None:
    wider = plan_sweep(**{**ARGUMENTS, "sizes": [8, 12]})
    difference = wider.diff(swept)
    assert {r.experiment.size for r in difference.finished} == {8}
    assert {e.size for e in difference.missing} == {12}
    assert {r.experiment.size for r in difference.not_asked_for} == {4}
    assert difference.cost.flops == pytest.approx(sum(e.flops for e in difference.missing))
    paid = difference.estimate("L4", dollars_per_hour=1.0)
    assert paid.dollars == pytest.approx(paid.flops / (0.3 * 121e12) / 3600)


def test_what_sets_an_unplanned_run_apart_is_named(swept: Path) -> None:
    difference = plan_sweep(**ARGUMENTS, hparams={"lr": 0.5}).diff(swept)
    assert len(difference.missing) == len(difference.not_asked_for) == 4
    assert "not asked for: another lr" in str(difference)


def test_failed_runs_are_missing_and_diverged_ones_are_not(plan: SweepPlan) -> None:
    states = ["completed", "diverged", "failed", "oom"]
    runs = [Run(e, s) for e, s in zip(plan.experiments, states, strict=True)]  # type: ignore[arg-type]
    difference = plan.diff(runs)
    assert [r.state for r in difference.finished] == ["completed", "diverged"]
    assert list(difference.missing) == list(plan.experiments[2:])
    assert "missing (oom before)" in str(difference)


def test_missing_branches_pay_for_the_trunk_that_none_of_them_shares() -> None:
    plan = plan_sweep(
        **{**ARGUMENTS, "compute_budgets": [5e5, 1e6, 2e6]},
        training=TrainingConfig(branch=True),
        hparams={"schedule": "wsd", "warmup_units": 20, "batch_units": 4},
    )
    by_size = [e for e in plan.experiments if e.size == 8]
    difference = plan.diff([Run(e, "completed") for e in plan.experiments if e.size != 8])
    cost = {run.id: run.flops for run in difference.cost.runs}
    assert cost[by_size[0].id] == pytest.approx(by_size[0].flops)
    assert cost[by_size[1].id] < 0.65 * by_size[1].flops


def test_a_torn_record_is_named_and_left_where_it_is(
    plan: SweepPlan, swept: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "runs" / plan.experiments[0].id / "run.json"
    torn.parent.mkdir(parents=True)
    torn.write_text("{")
    difference = plan.diff(tmp_path)
    assert len(difference.missing) == 4
    assert len(difference.unreadable) == 1
    assert str(torn) in str(difference)
    assert torn.read_text() == "{"


def test_only_runs_or_a_folder_can_be_held_against_a_plan(plan: SweepPlan) -> None:
    with pytest.raises(InputTypeError, match="expected runs"):
        plan.diff([3])  # type: ignore[list-item]
    with pytest.raises(InputTypeError, match="expected runs"):
        plan.diff(3)  # type: ignore[arg-type]


def test_runs_of_other_code_are_set_apart_by_it(plan: SweepPlan) -> None:
    others = [replace(e, fingerprint="other") for e in plan.experiments]
    text = str(plan.diff([Run(e, "completed", loss=1.0) for e in others]))
    assert text.count("not asked for: another model code, loss or data") == 4

"""Metrics are measured at the end of a run, recorded, and kept when the sweep goes on."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

import flops_fit
from flops_fit import Mock
from flops_fit.errors import InputError, InputTypeError
from flops_fit.fit import metric
from flops_fit.train.metrics import check_metrics
from tests.conftest import MLP

CALLS: list[int] = []


def accuracy(model: MLP, batches: Any) -> torch.Tensor:
    assert not model.training
    CALLS.append(model.up.out_features)
    return torch.cat([(model(x).argmax(1) == y).float() for x, y in batches]).mean()


def not_of_twelve(model: MLP, batches: Any) -> float:
    if model.up.out_features == 12:
        raise RuntimeError("a dozen is too many")
    return len(list(batches))


def test_scores_are_recorded_read_back_and_kept(tmp_path: Path, sweep: dict[str, Any]) -> None:
    """Metrics make no other runs; a second call trains nothing and measures nothing again."""
    del sweep["progress"]
    where: dict[str, Any] = {"output_dir": tmp_path, "progress": False}
    metrics = {"accuracy": accuracy, "batches": not_of_twelve}
    ids = [e.id for e in flops_fit.plan_sweep(**sweep).experiments]
    plan = flops_fit.plan_sweep(**sweep, metrics=metrics)
    runs = flops_fit.run_sweep(plan, **where)
    assert [r.experiment.id for r in runs] == ids
    assert all(0.25 < r.metrics["accuracy"] <= 1 for r in runs)
    failed = [r for r in runs if "batches" not in r.metrics]
    assert {r.experiment.size for r in failed} == {12}
    assert {r.state for r in failed} == {"completed"}
    assert "a dozen is too many (test_metrics.py, line" in failed[0].notes[-1]
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert [float(r["accuracy"]) for r in rows] == [r.metrics["accuracy"] for r in runs]
    CALLS.clear()
    assert [r.metrics for r in flops_fit.run_sweep(plan, **where)] == [r.metrics for r in runs]
    assert CALLS == []
    scores = metric(tmp_path / "runs.csv", "accuracy", chance=0.25).scores.tolist()
    assert scores == [r.metrics["accuracy"] for r in runs]


def test_a_metric_that_fails_is_told_before_anything_is_spent(
    tmp_path: Path, sweep: dict[str, Any]
) -> None:
    changes = {"metrics": {"text": lambda model, batches: "good"}, "output_dir": tmp_path / "out"}
    with pytest.raises(InputError, match=r"metric text: InputError: expected one finite number"):
        flops_fit.find_optimal(**sweep, **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["loss", "val_loss", "params", "D", ""])
def test_names_that_a_table_would_misread_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="Choose another"):
        check_metrics({name: len})


def test_names_of_benchmarks_are_free() -> None:
    names = ["hellaswag_acc", "arc_val_acc", "hellaswag_bpb", "pass@1", "perplexity on code"]
    assert list(check_metrics(dict.fromkeys(names, len))) == names


def test_metrics_need_functions_and_runs_that_train(sweep: dict[str, Any]) -> None:
    with pytest.raises(InputTypeError, match="dict of functions"):
        check_metrics([len])
    with pytest.raises(InputError, match="simulated runs"):
        flops_fit.plan_sweep(MLP, "width", mode=Mock(), metrics={"accuracy": accuracy})

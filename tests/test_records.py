"""Experiments are named by what decides them and survive being written down."""

from __future__ import annotations

import json

import pytest

from flops_fit.errors import TableError
from flops_fit.records import Experiment, Run
from tests.conftest import make_experiment


def test_the_id_survives_json() -> None:
    experiment = make_experiment()
    again = Experiment.from_dict(json.loads(json.dumps(experiment.to_dict())))
    assert again.id == experiment.id
    assert again == experiment


@pytest.mark.parametrize(
    "change",
    [
        {"size": 10},
        {"budget": 1.0},
        {"tokens": 1},
        {"steps": 1},
        {"batch_size": 4},
        {"seed": 2},
        {"repeat": 1},
        {"fingerprint": "other"},
        {"hparams": {"lr": 1.0}},
        {"model_kwargs": {"depth": 2}},
    ],
)
def test_whatever_decides_the_outcome_changes_the_id(change: dict[str, object]) -> None:
    assert make_experiment(**change).id != make_experiment().id


def test_the_id_is_the_same_on_every_machine() -> None:
    assert make_experiment().id == "1aa86379d103d5af"


def test_an_edited_record_is_refused() -> None:
    values = make_experiment().to_dict()
    values["steps"] = 51
    with pytest.raises(TableError, match="does not match its own id"):
        Experiment.from_dict(values)


def test_a_run_survives_json() -> None:
    run = Run(make_experiment(), "completed", loss=2.0, loss_se=0.1, tokens=400, flops=1e5)
    assert Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run


def test_a_record_without_a_width_is_read_and_keeps_its_id() -> None:
    experiment = make_experiment()
    written = json.loads(json.dumps(experiment.to_dict()))
    del written["params"]["width"]
    back = Experiment.from_dict(written)
    assert back.params.width == 0
    assert back.id == experiment.id

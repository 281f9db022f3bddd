"""Experiments are named by what decides them and survive being written down."""

from __future__ import annotations

import json
import pickle
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from flops_fit import records
from flops_fit.errors import TableError
from flops_fit.hparams import HParams
from flops_fit.recipes import default
from flops_fit.records import Diagnostic, Experiment, Findings, ParamCount, Run
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
        {"hparams": HParams(lr=1.0, batch_units=8)},
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


RECORDS = [  # hyper-parameters on record, and the id of a run trained with them
    ({"lr": 0.01, "batch_units": 8, "schedule": "cosine"}, "ce36be327a25d8a9"),
    (default(ParamCount(160, 160, 160, 160), 400, "samples").to_dict(), "df543eb829840f5d"),
    ({"lr": 0.01, "batch_units": 8, "momentum": 0.9, "nesterov": True}, "63262e1df4516bcc"),
]


@pytest.mark.parametrize(("hparams", "expected"), RECORDS)
def test_records_keep_their_ids_whatever_fields_they_hold(
    hparams: dict[str, Any], expected: str
) -> None:
    """Older records lack fields, and those of a subclass have more; they are written as they were."""
    values = {**make_experiment().to_dict(), "hparams": hparams, "id": expected}
    back = Experiment.from_dict(json.loads(json.dumps(values)))
    assert back.id == expected
    assert json.dumps(back.to_dict()) == json.dumps(values)
    assert Experiment.from_dict(back.to_dict()) == back
    assert pickle.loads(pickle.dumps(back)) == back
    assert dict(back.hparams) == hparams
    assert back.hparams.cooldown == 0.2


def test_records_of_values_that_no_run_can_have_are_refused() -> None:
    values = make_experiment().to_dict()
    values["hparams"]["lr"] = -1.0
    with pytest.raises(TableError, match="was edited.*positive lr"):
        Experiment.from_dict(values)


def test_hyper_parameters_are_read_by_attribute_and_by_item() -> None:
    hparams = HParams(lr=0.1, batch_units=64)
    assert hparams["lr"] == hparams.lr == hparams.get("lr")
    assert {**hparams, "lr": 0.2} == {**hparams.to_dict(), "lr": 0.2}
    with pytest.raises(KeyError):
        hparams["momentum"]
    with pytest.raises(TypeError):
        hparams["lr"] = 0.2  # type: ignore[index]


def test_findings_are_in_the_words_of_a_file_and_ok_ones_ask_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "findings.toml"
    text = 'severity = "warning"\nmessage = "{runs:,} runs {what!r}"\naction = "more data"'
    path.write_text(f"[few]\n{text}", encoding="utf-8")
    finding = Findings(path)
    assert str(finding("few", runs=1234, what="{x}")) == "[warning] 1,234 runs '{x}' → more data"
    assert str(finding("few", "note", runs=1, what="a")) == "[note] 1 runs 'a' → more data"
    assert str(finding("few", "note", False, runs=1, what="a")) == "[note] 1 runs 'a'"
    assert str(finding("few", "ok", runs=1, what="a")) == "[ok] 1 runs 'a'"


def test_a_run_counts_flops_by_each_convention_and_data_by_how_often_it_was_seen() -> None:
    params = ParamCount(total=1000, non_embedding=800, matmul=900, active=1000)
    hparams = HParams(lr=0.01, batch_units=100)
    experiment = Experiment(
        "GPT", {}, 8, params, budget=5e6, tokens=1000, steps=10, batch_size=10,
        units_per_sample=10.0, unit="tokens", flops_per_unit=5e3, flops_per_unit_6nd=6e3,
        hparams=hparams, seed=0, repeat=0, fingerprint="", epochs=4.0,
    )  # fmt: skip
    run = Run(experiment, "completed", tokens=1000, flops=5e6)
    assert (run.flops_6nd, run.flops_6nd_matmul, run.flops_6nd_non_embedding) == (6e6, 5.4e6, 4.8e6)
    assert (run.epochs, run.unique_tokens, run.repeated_tokens) == (4.0, 250, 750)


def test_every_finding_begins_small_and_has_no_full_stop() -> None:
    """Whoever words it: names and symbols keep their capitals."""
    files = [
        p for p in Path(records.__file__).parent.rglob("*.toml") if p.stem in ("findings", "notes")
    ]
    words = [
        text["message"] for f in files for text in tomllib.loads(f.read_text("utf-8")).values()
    ]
    assert len(words) > 100
    said = [Diagnostic("", "note", text).message for text in [*words, "The table has no FLOPs."]]
    assert said[-1] == "the table has no FLOPs"
    assert [text for text in said if text.endswith(".") or re.match("[A-Z][a-z]", text)] == []
    kept = "FLOPs follow the weights", "N counts all", "A = 400", "C is 2 times 6·N·D"
    assert [Diagnostic("", "note", text).message for text in kept] == [*kept]

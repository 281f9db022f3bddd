"""Training curves are read from a long table, and what is no curve is refused in words."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

import flops_fit
from flops_fit.errors import InputError, InputTypeError, TableError
from flops_fit.table.curves import Curves, read_points

ROWS: list[dict[str, Any]] = [
    {"run": run, "params": N, "tokens": D, "loss": 5 - 0.1 * D / N}
    for run, N in (("small", 1e6), ("large", 2e6))
    for D in (1e6, 2e6, 4e6)
]


def changed(index: int, **values: Any) -> list[dict[str, Any]]:
    return [{**row, **values} if i == index else row for i, row in enumerate(ROWS)]


def test_the_name_is_public() -> None:
    assert flops_fit.Curves is Curves


@pytest.mark.parametrize("kind", ["dicts", "columns", "csv", "jsonl", "parquet", "pandas"])
def test_every_kind_of_table_reads_the_same(kind: str, tmp_path) -> None:
    frame = pd.DataFrame(ROWS)
    source: Any = ROWS
    if kind == "columns":
        source = {name: list(frame[name]) for name in frame}
    elif kind == "pandas":
        source = frame
    elif kind != "dicts":
        source = tmp_path / f"curves.{kind}"
        if kind == "csv":
            frame.to_csv(source, index=False)
        elif kind == "jsonl":
            frame.to_json(source, orient="records", lines=True)
        else:
            frame.to_parquet(source)
    read = Curves.read(source)
    assert [c.label for c in read] == ["small", "large"]
    assert read.sizes.tolist() == [1e6, 2e6]
    for curve in read:
        np.testing.assert_array_equal(curve.tokens, [1e6, 2e6, 4e6])
        assert curve.flops is None
    assert Curves.read(read) is read


def test_rows_are_put_in_the_order_of_tokens() -> None:
    for straight, turned in zip(
        Curves.read(ROWS), Curves.read(ROWS[::-1]).curves[::-1], strict=True
    ):
        np.testing.assert_array_equal(straight.tokens, turned.tokens)
        np.testing.assert_array_equal(straight.loss, turned.loss)


@pytest.mark.parametrize("name", ["run_id", "Run_Name", "label", "name", "experiment"])
def test_usual_names_of_runs_are_found(name: str) -> None:
    rows = [{name: r["run"], **{k: r[k] for k in ("params", "tokens", "loss")}} for r in ROWS]
    assert len(Curves.read(rows)) == 2


def test_the_held_out_loss_is_taken_where_there_are_two_and_said() -> None:
    rows = [{**r, "val_loss": r["loss"] + 1} for r in ROWS]
    read = Curves.read(rows)
    assert read.curves[0].loss[0] == ROWS[0]["loss"] + 1
    (note,) = read.notes
    assert "'val_loss', which is held out" in note
    chosen = Curves.read(rows, {"loss": "loss"})
    assert chosen.curves[0].loss[0] == ROWS[0]["loss"]


def test_points_without_a_number_are_left_out_and_listed() -> None:
    """A log holds a held-out loss at some steps only, and begins at zero tokens."""
    read = Curves.read([*changed(1, loss=None), {**ROWS[0], "tokens": 0.0}])
    small = read.curves[0]
    np.testing.assert_array_equal(small.tokens, [1e6, 4e6])
    assert [(e.label, e.reason) for e in read.excluded] == [
        ("small", "2 of 4 points lack a positive finite tokens and loss")
    ]


def test_a_run_that_loses_its_points_is_left_out_and_listed() -> None:
    rows = [
        {**r, "loss": math.nan} if r["run"] == "small" and r["tokens"] > 1e6 else r for r in ROWS
    ]
    read = Curves.read(rows)
    assert [c.label for c in read] == ["large"]
    assert read.excluded[-1].reason == "1 points are left, no curve"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:4], "run 'large' has one point, which is no curve"),
        (changed(1, params=3e6), "run 'small' has 2 sizes, 1e\\+06 to 3e\\+06"),
        (changed(1, tokens=1e6), "run 'small' has 1e\\+06 tokens twice"),
        (changed(1, run=None), "row 2: expected the run's name, got None"),
        (changed(1, loss="low"), "column 'loss', row 2: expected a number, got 'low'"),
        ([{k: v for k, v in r.items() if k != "run"} for r in ROWS], "lacks 'run'.*your_column"),
        (
            [{**{k: v for k, v in r.items() if k != "tokens"}, "step": 1} for r in ROWS],
            "lacks 'tokens'.*step × tokens per step",
        ),
        ([{**r, "flops": 1e9} for r in ROWS], "FLOPs of run 'small' do not grow"),
        ([{**r, "val_loss": 1.1, "test_loss": 2.2} for r in ROWS], "could each be loss; say which"),
        ([{**r, "loss": math.nan} for r in ROWS], "no curve with two points"),
        ([], "is empty"),
    ],
)
def test_what_is_no_curve_is_refused_in_words(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(TableError, match=message):
        Curves.read(rows)


def test_columns_map_known_quantities_to_columns_that_exist() -> None:
    with pytest.raises(TableError, match="for curves it may map"):
        Curves.read(ROWS, {"budget": "run"})
    with pytest.raises(TableError, match="names 'weights' for params"):
        Curves.read(ROWS, {"params": "weights"})
    with pytest.raises(InputTypeError, match="expected a table"):
        Curves.read(3)


def test_smoothing_leaves_a_power_law_as_it_is_to_its_last_point() -> None:
    D = np.linspace(1e6, 1e8, 400)
    table = {"run": ["a"] * 400, "params": [1e6] * 400, "tokens": D, "loss": 9 * D**-0.1}
    curve = Curves.read(table)
    np.testing.assert_allclose(curve.smoothed(0.3).curves[0].loss, table["loss"], rtol=1e-9)


def test_smoothing_averages_noise() -> None:
    D, noise = np.geomspace(1e6, 1e8, 2000), np.random.default_rng(0).normal(size=2000)
    table = {"run": ["a"] * 2000, "params": [1e6] * 2000, "tokens": D}
    noisy = Curves.read({**table, "loss": 9 * D**-0.1 * np.exp(0.02 * noise)}).smoothed(0.5)
    error = np.log(noisy.curves[0].loss / (9 * D**-0.1))
    assert np.std(error) < 0.005
    with pytest.raises(InputError, match="width: expected a positive number"):
        noisy.smoothed(0)


def test_the_state_of_a_trainer_holds_a_curve(tmp_path) -> None:
    """Its log of steps, from the file or its content; not its last entry alone."""
    log = [{"step": step, "loss": 4 - step / 100} for step in (10, 20, 30)]
    state = {"global_step": 30, "log_history": [*log, {"step": 30, "eval_loss": 3.8}]}
    path = tmp_path / "checkpoint-30" / "trainer_state.json"
    path.parent.mkdir()
    path.write_text(json.dumps(state))
    for source in (state, path, str(path)):
        steps, loss = read_points(source, "curve")
        assert (steps.tolist(), loss.tolist()) == ([10, 20, 30], [3.9, 3.8, 3.7])


def test_steps_of_the_training_go_before_calls_of_log() -> None:
    """W&B counts the latter as ``_step``, whatever was logged."""
    history = pd.DataFrame({"_step": [0, 1], "train/loss": [4.0, 3.0]})
    assert read_points(history, "curve")[0].tolist() == [1]
    trained = history.assign(**{"train/global_step": [100, 200]})
    assert read_points(trained, "curve")[0].tolist() == [100, 200]

"""Tables of runs are read from anything that holds one, and what cannot be used is named."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flops_fit.errors import InputTypeError, TableError
from flops_fit.records import Run
from flops_fit.table import RunTable
from tests.conftest import make_experiment

ROWS = [
    {"params": 1e6, "tokens": 2e7, "loss": 3.1},
    {"params": 2e6, "tokens": 1e7, "loss": 3.0},
    {"params": 4e6, "tokens": 5e6, "loss": 3.2},
]


def test_only_completed_runs_become_rows_and_the_others_are_named() -> None:
    done = Run(make_experiment(), "completed", loss=2.0, tokens=400, flops=1e5)
    bad = Run(make_experiment(size=10), "diverged", reason="loss nan by step 3")
    nan = Run(make_experiment(size=12), "completed", loss=math.nan)
    table = RunTable.read([done, bad, nan])
    assert len(table) == 1
    assert [e.reason for e in table.excluded] == ["diverged: loss nan by step 3", "completed"]


def test_unique_units_are_those_of_one_epoch() -> None:
    run = Run(make_experiment(epochs=4.0), "completed", loss=2.0, tokens=400, flops=1e5)
    unique = RunTable.read([run]).unique_tokens
    assert unique is not None
    assert unique[0] == 100


@pytest.mark.parametrize(
    "kind", ["dicts", "columns", "csv", "jsonl", "parquet", "pandas", "polars"]
)
def test_every_kind_of_table_reads_the_same(kind: str, tmp_path) -> None:
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    source: object = ROWS
    if kind == "columns":
        source = columns
    elif kind == "csv":
        source = tmp_path / "runs.csv"
        pd.DataFrame(ROWS).to_csv(source, index=False)
    elif kind == "jsonl":
        source = tmp_path / "runs.jsonl"
        source.write_text("\n".join(json.dumps(row) for row in ROWS))
    elif kind == "parquet":
        source = tmp_path / "runs.parquet"
        pd.DataFrame(ROWS).to_parquet(source)
    elif kind == "pandas":
        source = pd.DataFrame(ROWS)
    elif kind == "polars":
        source = pl.DataFrame(ROWS)
    table = RunTable.read(source)
    np.testing.assert_array_equal(table.params, columns["params"])
    np.testing.assert_allclose(table.flops, 6 * table.params * table.tokens)
    assert "6·N·D was assumed" in table.notes[0]


@pytest.mark.parametrize(
    "names",
    [
        ("N", "D", "val_loss"),
        ("num_params", "training_tokens", "final_loss"),
        ("Parameters", "Tokens", "L"),
    ],
)
def test_usual_names_are_found(names: tuple[str, str, str]) -> None:
    rows = [dict(zip(names, row.values(), strict=True)) for row in ROWS]
    assert len(RunTable.read(rows)) == 3


def test_a_column_of_another_name_is_mapped() -> None:
    rows = [{"weights": r["params"], "tokens": r["tokens"], "loss": r["loss"]} for r in ROWS]
    with pytest.raises(TableError, match="lacks \\['params'\\].*columns={'params': 'weights'}"):
        RunTable.read(rows)
    assert len(RunTable.read(rows, {"params": "weights"})) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**ROWS[0], "loss": "three"}], "column 'loss', row 1: expected a number, got 'three'"),
        ([], "the table is empty"),
        ([{"N": 1, "num_params": 2, "tokens": 3, "loss": 4}], "could each be params"),
        ([{"params": 1, "loss": 4}], r"lacks \['tokens'\]"),
    ],
)
def test_a_bad_table_says_what_is_wrong(rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(TableError, match=message):
        RunTable.read(rows)


def test_tokens_are_derived_from_flops_and_said_so() -> None:
    table = RunTable.read([{"params": 2.0, "flops": 24.0, "loss": 1.0}])
    assert table.tokens[0] == 2.0
    assert "D = C/(6N) was assumed" in table.notes[0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_losses_that_are_not_finite_are_left_out_by_name(value: float) -> None:
    table = RunTable.read([*ROWS, {"params": 1e6, "tokens": 1e7, "loss": value, "label": "bad"}])
    assert len(table) == 3
    assert "loss is" in table.excluded[0].reason
    assert table.excluded[0].by_outcome
    assert table.excluded[0].budget == pytest.approx(6e13)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_losses_may_be_zero_or_negative(value: float) -> None:
    table = RunTable.read([*ROWS, {"params": 1e6, "tokens": 1e7, "loss": value}])
    assert table.loss[-1] == value
    assert not table.excluded


def test_what_is_no_table_is_a_type_error() -> None:
    with pytest.raises(InputTypeError, match="expected a table of runs"):
        RunTable.read(3)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(TableError, match="no_such_file.csv does not exist"):
        RunTable.read("no_such_file.csv")


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=30))
def test_budgets_group_runs_within_a_tenth(values: list[float]) -> None:
    rows = [{"params": 1.0, "tokens": 1.0, "flops": v, "loss": 1.0} for v in values]
    table = RunTable.read(rows)
    for budget in np.unique(table.budget):
        members = table.flops[table.budget == budget]
        assert members.max() <= members.min() * 1.1 * (1 + 1e-12)


def test_dropped_runs_are_listed_with_the_reason() -> None:
    table = RunTable.read(ROWS)
    kept = table.select(table.loss < 3.15, "too high")
    assert len(kept) == 2
    assert kept.excluded[0].reason == "too high"
    assert len(replace(kept)) == 2


@pytest.mark.parametrize("frame", [pl.DataFrame, pa.table])
def test_whole_numbers_that_no_float_holds_are_read(frame: Any, tmp_path: Path) -> None:
    """FLOPs are often int64, beyond 2**53; a frame and its Parquet file are read alike."""
    flops = [1234567890123456789, 3, 1 << 60]
    columns = {"loss": [3.1, 3.0, 2.9], "N": [1e6, 2e6, 3e6], "D": [1e7, 2e7, 3e7], "C": flops}
    pq.write_table(pa.table(columns), tmp_path / "runs.parquet")
    for source in (frame(columns), tmp_path / "runs.parquet"):
        assert RunTable.read(source).flops.tolist() == [float(c) for c in flops]


def test_structured_arrays_named_tuples_and_indices_are_tables() -> None:
    """What pandas makes of a frame: records, rows, and a column as its index."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"params": [1e8, 2e8], "tokens": [2e9, 2e9], "loss": [3.0, 2.9]})
    forms = (
        frame.to_records(index=False),
        [*frame.itertuples(index=False)],
        frame.set_index("params"),
        frame.set_index("params", drop=False),
    )
    assert all(RunTable.read(form).params.tolist() == [1e8, 2e8] for form in forms)


@dataclass
class Result:
    params: float
    tokens: float
    loss: float

    def model_dump(self) -> dict[str, float]:
        """As models of pydantic give their fields."""
        return vars(self)


def test_rows_are_whatever_has_fields_by_name() -> None:
    """Dataclasses, models, namespaces, rows of pandas, and lists below a list of headings."""
    rows = [[1e8, 2e9, 3.0], [2e8, 2e9, 2.9]]
    results = [Result(*row) for row in rows]
    frame = pd.DataFrame(results)
    forms: list[Any] = [results, [SimpleNamespace(**vars(r)) for r in results], frame.itertuples()]
    forms += [[row for _, row in frame.iterrows()], [list(vars(results[0])), *rows]]
    fields = make_dataclass("fields", ["params", "tokens", "loss"])
    forms += [[fields(*row) for row in rows]]
    assert all(RunTable.read(form).params.tolist() == [1e8, 2e8] for form in forms)
    with pytest.raises(InputTypeError, match="list of object"):
        RunTable.read([object()])


def test_levels_of_columns_are_paths() -> None:
    """As pandas groups them; of columns without a name, a number is one."""
    repeated = pd.DataFrame([r for r in ROWS for _ in range(2)])
    grouped = repeated.groupby(["params", "tokens"]).agg({"loss": ["mean", "std"]})
    for frame in (grouped, grouped.reset_index()):
        assert RunTable.read(frame).loss.tolist() == [r["loss"] for r in ROWS]
    plain = pd.DataFrame(pd.DataFrame(ROWS).to_numpy())
    assert len(RunTable.read(plain, {"params": "0", "tokens": "1", "loss": "2"})) == len(ROWS)


def test_words_of_a_state_that_no_tracker_has_do_not_end_all_runs() -> None:
    """Only what says that a run ended early does; its first word decides."""
    states = ["fine", "fine", "CANCELLED by 1000"]
    table = RunTable.read([{**r, "status": s} for r, s in zip(ROWS, states, strict=True)])
    assert len(table) == 2
    assert "CANCELLED by 1000" in table.excluded[0].reason


def test_masked_values_are_missing_and_sets_have_no_order() -> None:
    columns = {n: np.ma.masked_array([r[n] for r in ROWS], mask=[0, 1, 0]) for n in ROWS[0]}
    assert len(RunTable.read(columns)) == 2
    with pytest.raises(TableError, match="expected a number"):
        RunTable.read({n: {r[n] for r in ROWS} for n in ROWS[0]})


def test_text_is_no_path() -> None:
    for source in ("params,tokens,loss\n1e8,2e9,3\n", io.StringIO("params")):
        with pytest.raises(InputTypeError, match="expected the path of a file"):
            RunTable.read(source)


@pytest.mark.parametrize("spent", [{}, {"tokens": 1e6}, {"flops": 1e9}])
def test_a_completed_run_that_says_of_no_tokens_or_flops_is_left_out_and_named(spent):
    told = Run(make_experiment(), "completed", loss=3.0, tokens=1e6, flops=1e9)
    silent = Run(make_experiment(seed=2), "completed", loss=2.0, **spent)
    table = RunTable.from_runs([told, silent])
    assert table.loss.tolist() == [3.0]
    assert [e.reason for e in table.excluded] == ["completed: without tokens or FLOPs"]

"""Whatever table is brought, the answer is right or says in words what is wrong; nothing else comes out."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from flops_fit import reference
from flops_fit.errors import FitError, InputError, InputTypeError, MissingExtraError, TableError
from flops_fit.fit import fit_runs
from flops_fit.fit.table_checks import mixed_loss_units
from flops_fit.laws import Hoffmann, Kappa
from flops_fit.table import RunTable, sources, text_files
from tests.fit._runs import sweep

LAW = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)
JOINED = Kappa(E=1.7, A=9e4, B=2e6, alpha=0.7, beta=0.8, kappa=0.5)
ROWS = "1e6,2e7,3.1\n2e6,1e7,3.0\n4e6,5e6,3.2\n"
HEAD = "params,tokens,loss\n"
BITS = 1 / np.log(2)


def runs(**changed: Any) -> dict[str, Any]:
    """A sound sweep with some columns multiplied."""
    table: dict[str, Any] = sweep(LAW, sd=0.01)
    return {**table, **{name: table[name] * by for name, by in changed.items()}}


# --- files that are no table

FILES: list[tuple[str, bytes, str]] = [
    ("empty.csv", b"", "the table is empty"),
    ("blank.csv", b"\n \n\n", "the table is empty"),
    ("header.csv", HEAD.encode(), r"empty below its headings \['params'"),
    ("no_header.csv", ROWS.encode(), "first line holds numbers"),
    ("nul.csv", HEAD.encode() + b"1e6,\0,3\n", "NUL bytes"),
    ("late_nul.csv", (HEAD + ROWS * 200).encode() + b"1e6,\0,3\n", "NUL bytes"),
    ("latin.csv", HEAD.encode() + b"1e6,2e7,\x81\n", "not UTF-8 text .byte 0x81"),
    ("no_size.csv", HEAD.encode() + b",2e7,3\n" * 5, "none is left .run 1: params is missing"),
    ("utf16.csv", (HEAD + ROWS).encode("utf-16")[:-1], "not whole UTF-16"),
    ("no_mark.csv", (HEAD + ROWS).encode("utf-16-le"), "UTF-16 without its mark"),
    ("torn.csv.gz", gzip.compress((HEAD + ROWS).encode())[:-9], "cannot be read: .*ended before"),
    ("runs.csv.zst", b"\x28\xb5\x2f\xfd....", "Zstandard. Unpack it first"),
    ("runs.xlsx", b"PK\x03\x04....", "spreadsheet"),
    (
        "runs.yaml",
        b"- params: 1e6\n  tokens: 2e7\n",
        "is YAML. Write its runs as CSV, or as a JSON list",
    ),
    (
        "runs.html",
        b"\n<table><tr><th>params</th></tr></table>",
        "web page. Export its table as CSV",
    ),
    ("train.py", b"import torch\n", "is code. Write its runs"),
    ("runs.feather", b"ARROW1\0\0", "Feather file. Write it as Parquet"),
    ("runs.npy", b"\x93NUMPY\x01\0", "no headings"),
    ("line.csv", b"x" * (1 << 21), "longer than"),
    ("quote.csv", HEAD.encode() + b'"1e6,' + b"2e7,3\n" * 40_000, "quote that is not closed"),
    ("wide.csv", HEAD.encode() + b"1,000,000,2e7,3.1\n", "row 1: expected 3 values"),
    ("twice.csv", b"params,tokens,loss,loss\n1e6,2e7,3,4\n", "could each be loss"),
    ("three.csv", b'params,tokens,loss\n"125,000",2e7,3\n', "'params', row 1.*'125,000'"),
    ("units.csv", b"params,tokens,loss\n70Q,2e7,3\n", "'params', row 1.*such as 70e9"),
    ("torn.jsonl", b'{"params": 1e6}\n{"par', "line 2: expected one JSON object"),
    ("list.jsonl", b"[1, 2]\n", "line 1: expected one JSON object a line"),
    ("torn.json", b'[{"params": 1e6', "not valid JSON"),
    ("deep.json", b"[" * 200_000, "nests JSON too deeply|not valid JSON"),
    ("word.json", b'"runs"', "expected a JSON list"),
    ("torn.parquet", b"PAR1 and no more", "not a sound Parquet file"),
    ("text.parquet", HEAD.encode(), "not a sound Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES, ids=[f[0] for f in FILES])
def test_a_file_that_is_no_table_is_told_in_words(tmp_path, name, content, message):
    """No csv.Error, UnicodeDecodeError, JSONDecodeError or Arrow error comes through."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TableError, match=message):
        fit_runs(path)


@pytest.mark.parametrize("name", ["runs.csv.gz", "runs.json", "runs.json.gz"])
def test_what_unpacks_to_more_than_a_table_can_hold_is_refused(tmp_path, monkeypatch, name):
    """A small file may unpack to more than the memory; text that is small and packed is read."""
    rows = pd.DataFrame(runs())
    path = tmp_path / name
    text = rows.to_json(orient="records") if "json" in name else rows.to_csv(index=False)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert len(RunTable.read(path)) == len(rows)
    monkeypatch.setattr(text_files, "MOST_TEXT", len(text) // 2)
    with pytest.raises(TableError, match="has to be read whole, or of compressed text"):
        RunTable.read(path)


def test_a_name_that_is_nearly_right_is_met_with_the_right_one(tmp_path):
    """Of the files beside it."""
    (tmp_path / "runs.csv").write_text(HEAD + ROWS)
    with pytest.raises(TableError, match="is no file. Did you mean 'runs.csv'?"):
        fit_runs(tmp_path / "run.csv")


def test_a_directory_and_impossible_names_are_told(tmp_path):
    """What is no file is named."""
    with pytest.raises(TableError, match="is a directory"):
        fit_runs(tmp_path)
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(TableError, match="expected a file of runs"):
            fit_runs(name)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    """The install command is in the message."""
    (tmp_path / "runs.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"flops-fit\[parquet\]"):
        fit_runs(tmp_path / "runs.parquet")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "rows", "columns", "frame", "lazy", "parquet"])
def test_a_log_of_steps_is_refused_where_reading_stops(tmp_path, monkeypatch, kind):
    """More rows than a table of runs can have."""
    monkeypatch.setattr(sources, "MOST_ROWS", 5)
    frame = pd.DataFrame({name: np.arange(1.0, 7) for name in ("params", "tokens", "loss")})
    source: Any = tmp_path / f"log.{kind}"
    match kind:
        case "csv":
            frame.to_csv(source, index=False)
        case "jsonl":
            frame.to_json(source, orient="records", lines=True)
        case "parquet":
            frame.to_parquet(source)
        case "rows":
            source = iter(frame.to_dict("records"))
        case "columns":
            source = frame.to_dict("list")
        case "frame":
            source = frame
        case "lazy":
            source = pl.from_pandas(frame).lazy()
    with pytest.raises(TableError, match="log of steps"):
        fit_runs(source)


# --- tables that are told apart

MEMORY: list[tuple[str, Any, type[Exception], str]] = [
    ("lengths", {"params": [1, 2], "tokens": [1], "loss": [1, 2]}, TableError, "equal length"),
    ("single", {"params": [1, 2], "tokens": 3, "loss": [1, 2]}, TableError, "single values"),
    ("matrix", {"params": np.ones((2, 2)), "tokens": [1, 2], "loss": [1, 2]}, TableError, "matrix"),
    ("nothing", [], TableError, "the table is empty"),
    ("no columns", {}, TableError, "the table is empty"),
    ("numbers", [1, 2, 3], InputTypeError, "list of int"),
    ("none", None, InputTypeError, "NoneType"),
    ("bytes", b"runs.csv", InputTypeError, "bytes"),
    ("array", np.ones((3, 3)), InputTypeError, "ndarray"),
    ("flags", {"params": [1], "tokens": [1], "loss": [True]}, TableError, "got True"),
    ("lists", {"params": [1], "tokens": [1], "loss": [[1]]}, TableError, r"got \[1\]"),
    ("dates", pd.DataFrame({"N": [1], "D": [1], "loss": pd.to_datetime(["2024"])}), TableError, "'loss'"),
    ("same names", pd.DataFrame([[1, 2, 3]], columns=["N", "loss", "loss"]), TableError, "frame cannot"),
    ("two losses", [{"N": 1, "D": 1, "val_loss": 1, "test_loss": 2}], TableError, "could each be loss"),
    ("all missing", {"N": [None], "D": [1], "loss": [2]}, TableError, "none is left"),
    ("all crashed", {"N": [1], "D": [1], "loss": [2], "State": ["crashed"]}, TableError, "'crashed'"),
    ("unique", runs() | {"unique_tokens": -np.ones(35)}, TableError, "unique_tokens is -1"),
    ("overflow", {"N": [1e300], "D": [1e300], "loss": [2]}, TableError, "flops is inf"),
    ("huge", runs(loss=1e200), TableError, "from -1e.50 to 1e.50"),
    ("three points", {k: v[:3] for k, v in runs().items()}, FitError, "Add 3 or more"),
    ("few losses", runs() | {"val_loss": [3, 2, *[None] * 33]}, FitError, "Left out: run 3, loss is nan"),
    ("one budget", sweep(LAW, budgets=(1e19,)), FitError, "other budgets"),
    ("one size", runs() | {"params": np.full(35, 1e8)}, FitError, "other sizes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "error", "message"), [m[1:] for m in MEMORY], ids=[m[0] for m in MEMORY]
)
def test_a_table_that_cannot_be_fitted_is_told_in_words(source, error, message):
    """One of our errors, never one of numpy's, scipy's or a data frame's."""
    with pytest.raises(error, match=message):
        fit_runs(source)


@pytest.mark.parametrize("columns", [["params"], "params", 3])
def test_a_mapping_of_columns_is_a_dict(columns):
    """Its type is checked."""
    with pytest.raises(InputTypeError, match="columns=: expected a dict"):
        fit_runs(runs(), columns=columns)


# --- values that no run has: an answer, and no trust in it

rising = (runs()["params"] * runs()["tokens"] ** 1.1) ** 0.1
VALUES: list[tuple[str, dict[str, Any], str]] = [
    ("N in 1e9ths", runs(params=1e9), "implausible_units"),
    ("N in billions", runs(params=1e-9), "implausible_units"),
    ("D in billions of billions", runs(tokens=1e9), "implausible_units"),
    ("D in billions", runs(tokens=1e-9), "flops_implausible"),
    ("C in teraFLOPs", runs(flops=1e-12), "flops_implausible"),
    ("loss", runs(loss=1e5), "implausible_units"),
    ("rising", runs() | {"loss": rising}, "bound_hit"),
]


@pytest.mark.parametrize("law", ["auto", "kaplan"])
@pytest.mark.parametrize(("table", "code"), [v[1:] for v in VALUES], ids=[v[0] for v in VALUES])
def test_values_that_no_run_has_are_not_trusted(table, code, law):
    """A critical finding that asks for the unit, and no Python warning on the way."""
    fit = fit_runs(table, law)
    assert fit.trust == "no"
    found = {d.code for d in fit.diagnostics if d.severity == "critical"}
    assert code in found or (code == "bound_hit" and found)
    json.dumps({**fit.to_dict(), **fit.predict(1e21).to_dict()}, allow_nan=False)


def test_numbers_in_millions_are_told_by_the_compute_that_they_make():
    """N of thousands and D of ten thousands look like numbers of a run, and no run is so cheap."""
    large = sweep(LAW, budgets=(1e20, 3e20, 1e21, 3e21), sd=0.01)
    millions = {**large, "params": large["params"] / 1e6, "tokens": large["tokens"] / 1e6}
    fit = fit_runs(cheap := {**millions, "flops": large["flops"] / 1e12})
    assert fit.trust != "ok"
    assert any("a second's work" in d.message for d in fit.diagnostics)
    small = fit_runs({**cheap, "params": np.round(cheap["params"])})  # a toy
    assert not any("a second's work" in d.message for d in small.diagnostics)


def test_losses_that_rise_have_no_interval():
    """No confident number where no law holds."""
    prediction = fit_runs(runs() | {"loss": rising}).predict(1e21)
    assert all(v is None for v in prediction.intervals.values())


def test_compute_ten_times_off_is_a_warning():
    """A mixture of experts may have a reason for it."""
    found = {d.code: d.severity for d in fit_runs(runs(flops=0.05)).diagnostics}
    assert found["flops_implausible"] == "warning"


def test_a_row_logged_twice_makes_the_fit_no_surer():
    """The same interval as of the rows once; each copy is excluded with the row it repeats."""
    once, table = fit_runs(runs()), runs()
    twice = fit_runs({name: np.concatenate([c, c[:9]]) for name, c in table.items()})
    assert twice.predict(1e21).intervals == once.predict(1e21).intervals
    copies = [e for e in twice.excluded if e.reason.startswith("the same N")]
    assert [c.label for c in copies] == [f"run {i}" for i in range(36, 45)]
    assert copies[0].reason.endswith("as run 1")


# --- tables of other tools


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_marks_and_quotes_are_read(tmp_path, delimiter):
    """A byte order mark, quoted headings, spaces and grouped thousands where they are unambiguous."""
    path = tmp_path / "runs.txt"
    lines = [["N", '"D"', "loss"], ['"1,000,000"', "2e7", "3.1"], ['"125,000"', " 1e7", "3.0"]]
    path.write_text("\n".join(delimiter.join(cells) for cells in lines), encoding="utf-8-sig")
    table = RunTable.read(path)
    assert table.params.tolist() == [1e6, 1.25e5]
    assert table.tokens.tolist() == [2e7, 1e7]


@pytest.mark.parametrize(
    "text", ['[{"N": 1, "D": 2, "loss": 3}]', '{"N": [1], "D": [2], "loss": [3]}']
)
def test_json_is_a_list_of_runs_or_a_dict_of_columns(tmp_path, text):
    """Both are in use."""
    (tmp_path / "runs.json").write_text(text)
    assert RunTable.read(tmp_path / "runs.json").flops.tolist() == [12.0]


def test_exports_of_weights_and_biases_are_read():
    """Columns by the end of their path; the held-out loss before the training loss; crashed runs out."""
    rows = [
        {"Name": "a", "State": "finished", "config.n_params": 1e6, "config.tokens": 2e7,
         "summary.val/loss": 3.1, "summary.train/loss": 3.0, "summary.eval/tokens": 5},
        {"Name": "b", "State": "crashed", "config.n_params": 2e6, "config.tokens": 2e7,
         "summary.val/loss": 9.0, "summary.train/loss": 9.0, "summary.eval/tokens": 5},
    ]  # fmt: skip
    table = RunTable.read(rows)
    assert (table.labels, table.loss.tolist()) == (("a",), [3.1])
    assert table.excluded[0].label == "b"
    assert "crashed" in table.excluded[0].reason
    assert any("held out" in note for note in table.notes)
    nested = {"name": "c", "config": {"n_params": 1e6, "tokens": 2e7}, "summary": {"val/loss": 3.0}}
    assert RunTable.read([nested]).labels == ("c",)


def test_exports_of_mlflow_are_read():
    """Its parameters are text, and ``params`` is a folder there, no column."""
    row = {"run_id": "x", "status": "FINISHED", "params.d_model": "64", "params.n_params": "1e6",
           "params.tokens": "2e7", "metrics.val_loss": 3.1}  # fmt: skip
    table = RunTable.read([row, {**row, "run_id": "y", "status": "RUNNING"}])
    assert table.labels == ("x",)
    assert [e.label for e in table.excluded] == ["y"]


def test_a_training_loss_is_taken_and_called_that():
    """Where it is the only loss."""
    table = RunTable.read([{"N": 1, "D": 2, "train_loss": 3}])
    assert any("is a training loss" in note for note in table.notes)


@pytest.mark.parametrize("kind", ["nullable", "polars", "lazy", "pyarrow"])
def test_frames_with_missing_values_are_read(kind):
    """A missing value excludes its run by name."""
    columns = {"N": [1_000_000, None], "D": [2, 3], "loss": [3.0, 4.0], "name": ["a", "b"]}
    frame: Any = {
        "nullable": lambda: pd.DataFrame(columns).astype({"N": "Int64", "loss": "Float64"}),
        "polars": lambda: pl.DataFrame(columns),
        "lazy": lambda: pl.LazyFrame(columns),
        "pyarrow": lambda: pa.table(columns),
    }[kind]()
    table = RunTable.read(frame)
    assert (table.labels, table.params.tolist()) == (("a",), [1e6])
    assert table.excluded[0].label == "b"


# --- losses in bits among losses in nats


def mixed(seed: int, converted: float | None) -> RunTable:
    """Twenty to 42 runs with 2 % noise; a share of them, or one whole budget (None), in bits."""
    rng = np.random.default_rng(seed)
    budgets = np.geomspace(1e18, 1e21, 4 + seed % 3)
    table = sweep([LAW, JOINED][seed % 2], budgets, 5 + seed % 3, sd=0.02, seed=seed)
    count = len(table["loss"])
    if converted is None:
        moved = table["budget"] == rng.choice(table["budget"])
    else:
        moved = np.isin(
            np.arange(count), rng.permutation(count)[: max(2, round(converted * count))]
        )
    table["loss"] = table["loss"] * np.where(moved, BITS if seed % 3 else 1 / BITS, 1.0)
    return RunTable.read(table)


def test_mixed_units_of_loss_are_found():
    """In 76 of 80 sweeps at least, whichever unit the minority has."""
    shares = (0.05, 0.2, 0.45, None)
    found = [mixed_loss_units(mixed(seed, share)) for share in shares for seed in range(20)]
    assert sum(f is not None for f in found) >= 76


def test_the_runs_in_the_other_unit_are_named_and_the_fit_is_not_trusted():
    """Two runs in bits."""
    table = runs()
    table["loss"] = np.where(np.isin(np.arange(35), [4, 17]), table["loss"] * BITS, table["loss"])
    fit = fit_runs(table)
    (found,) = [d for d in fit.diagnostics if d.code == "mixed_loss_units"]
    assert "run 5, run 18" in found.message
    assert "in bits" in found.message
    assert fit.trust == "no"


def test_three_of_800_runs_in_another_unit_are_found():
    """Few among many move the scatter of all runs by a half only."""
    table = sweep(LAW, np.geomspace(1e18, 1e21, 20), 40, sd=0.02, seed=0)
    table["loss"][[30, 222, 640]] *= BITS
    found = mixed_loss_units(RunTable.read(table))
    assert found is not None
    assert "3 of 800" in found.message


def test_noise_and_outliers_are_no_other_unit():
    """None of 60 sweeps with 2 % noise and up to three runs 8 to 30 % off is called mixed."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        table = sweep([LAW, JOINED][seed % 2], sizes=5 + seed % 3, sd=0.02, seed=seed)
        off = rng.choice(len(table["loss"]), seed % 4, replace=False)
        table["loss"][off] *= np.exp(
            rng.choice([-1, 1], len(off)) * rng.uniform(0.08, 0.26, len(off))
        )
        assert mixed_loss_units(RunTable.read(table)) is None, seed


def test_a_late_start_is_no_other_unit():
    """No sweep of short runs, whose losses stay at ln 10 for a while and then fall steeply."""
    for seed in (1, 7, 10, 13, 19, 22, 25, 34, 37):  # these show two sheets
        rng = np.random.default_rng(seed)
        C, scale = np.repeat(np.geomspace(1e10, 1e11, 5), 6), np.tile(np.geomspace(2e3, 6e4, 6), 5)
        N = scale * np.sqrt(C / 3e10)
        D, floor = C / (600 * N), 0.25 + (N / 2e3) ** -0.6
        late = 1 + (D / (400 * (N / 1e4) ** 0.3)) ** (1 + seed % 3)
        loss = (floor + (np.log(10) - floor) / late) * np.exp(rng.normal(0, 0.03, 30))
        table = RunTable.read({"params": N, "tokens": D, "loss": loss, "flops": C})
        assert mixed_loss_units(table) is None, seed


def test_no_published_table_is_called_mixed():
    """Each configuration by itself too."""
    for name in reference.RUN_NAMES:
        assert mixed_loss_units(reference.runs(name)) is None
    table = reference.runs("porian2024_refinedweb")
    kinds = np.array([label.rsplit(" run", 1)[0] for label in table.labels])
    for kind in np.unique(kinds):
        assert mixed_loss_units(table.select(kinds == kind)) is None


# --- the command


@pytest.mark.parametrize("name", ["latin.csv", "torn.jsonl", "torn.csv.gz"])
def test_the_command_answers_a_bad_table_in_one_line(tmp_path: Path, name: str) -> None:
    """Exit code 2 and no traceback."""
    (tmp_path / name).write_bytes(next(content for n, content, _ in FILES if n == name))
    done = subprocess.run(
        [sys.executable, "-m", "flops_fit", "fit", str(tmp_path / name)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_numbers_beyond_all_measure_are_refused_in_words() -> None:
    """Neither NumPy's errors nor its warnings come of them."""
    fit = fit_runs(reference.runs("llama3_2024"))
    law = reference.law("hoffmann2022")
    for ask in (
        lambda: fit.predict(10**400),
        lambda: fit.compute_for(1e300),
        lambda: law.compute_for(1e300),
        lambda: law.optimal(10**400),
        lambda: fit.loss_at(-1, 1e9),
        lambda: fit.optimal_for_inference(2.8, 1e300),
        lambda: law.optimal_for_inference(2.8, 10**400),
    ):
        with pytest.raises(InputError, match="expected"):
            ask()


def test_a_run_without_a_budget_is_left_out() -> None:
    """As in a table that was made by hand or edited."""
    table = RunTable.read(sweep(LAW, sd=0.003))
    budget = table.budget.copy()
    budget[3] = np.nan
    fit = fit_runs(replace(table, budget=budget), "hoffmann")
    reasons = {e.label: e.reason for e in fit.excluded}
    assert "its budget" in reasons[table.labels[3]]


@pytest.mark.parametrize("lower", [0.0, 3.0])
def test_a_second_unit_is_not_looked_for_in_few_runs_or_beside_negative_losses(
    lower: float,
) -> None:
    """Half of them would be called bits where nothing is sure."""
    table = sweep(LAW, (1e18, 1e19) if not lower else np.geomspace(1e18, 1e20, 5), 5)
    table["loss"] = (
        table["loss"] * np.where(np.arange(len(table["loss"])) % 4 == 1, BITS, 1.0) - lower
    )
    assert mixed_loss_units(RunTable.read(table)) is None


def test_a_second_unit_is_found_among_more_runs_than_are_searched() -> None:
    table = sweep(LAW, np.geomspace(1e18, 1e21, 20), 80, sd=0.02, seed=0)
    table["loss"][::8] *= BITS
    found = mixed_loss_units(RunTable.read(table))
    assert found is not None
    assert "200 of 1600" in found.message


def test_a_crashed_run_of_unknown_length_is_counted_beside_all() -> None:
    table = sweep(LAW, sd=0.003)
    state = np.where(np.arange(35) == 9, "crashed", "finished")
    table["tokens"] = np.where(np.arange(35) == 9, np.nan, table["tokens"])
    fit = fit_runs({**{n: table[n] for n in ("params", "tokens", "loss")}, "state": state})
    (said,) = [d for d in fit.diagnostics if d.code == "selected_by_outcome"]
    assert "1 of 35 of all, their budget not known" in said.message

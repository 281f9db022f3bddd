"""A table that was torn, edited or overwritten in places is read, or refused in the library's own words."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flops_fit import Curves, RunTable
from flops_fit.errors import FlopsFitError
from tests._mutated import TOKENS, mutated_bytes, mutated_json

ROWS: list[dict[str, Any]] = [
    {
        "run": f"r{i}", "params": 1e6 * 2**i, "tokens": 5e8 / 2**i, "loss": 3.5 - 0.1 * i,
        "state": "finished", "lr": 3e-4, "epochs": 0.5, "step": 1000,
    }
    for i in range(6)
]  # fmt: skip
STEPS: list[dict[str, Any]] = [
    {"run": f"r{i % 2}", "params": 1e6 * (1 + i % 2), "tokens": 1e6 * (1 + i), "loss": 5 / (1 + i)}
    for i in range(12)
]


def _csv(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pl.DataFrame(rows).write_parquet(stream)
    return stream.getvalue()


def _markdown(rows: list[dict[str, Any]]) -> bytes:
    lines = [[*rows[0]], ["---"] * len(rows[0]), *([str(v) for v in r.values()] for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).encode()


def _columns(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps({name: [row[name] for row in rows] for name in rows[0]}).encode()


WRITERS = {
    "csv": _csv,
    "tsv": lambda rows: _csv(rows, "\t"),
    "md": _markdown,
    "utf16.csv": lambda rows: _csv(rows).decode().encode("utf-16"),
    "csv.gz": lambda rows: gzip.compress(_csv(rows), mtime=0),
    "json": lambda rows: json.dumps(rows).encode(),
    "columns.json": _columns,
    "jsonl": lambda rows: "\n".join(map(json.dumps, rows)).encode(),
    "parquet": _parquet,
}


@st.composite
def _mutated(draw: st.DrawFn, kind: str, rows: list[dict[str, Any]]) -> bytes:
    """A file changed by its bytes; or with other texts in cells, which are then written as they should be."""
    content = WRITERS[kind](rows)
    if kind in ("json", "columns.json"):
        return draw(mutated_json(content))
    if kind == "parquet" or draw(st.booleans()):
        return draw(mutated_bytes(content))
    changed = [dict(row) for row in rows]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.sampled_from(changed))
        texts = st.sampled_from(TOKENS).map(lambda token: token.decode(errors="ignore"))
        row[draw(st.sampled_from([*row]))] = draw(texts | st.text(max_size=8))
    try:
        return WRITERS[kind](changed)
    except UnicodeEncodeError:  # half a pair of UTF-16, which no file holds
        return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.mark.parametrize("kind", WRITERS)
@given(data=st.data())
def test_a_mutated_table_is_read_or_refused(folder: Path, kind: str, data: st.DataObject) -> None:
    path = folder / f"runs.{kind}"
    path.write_bytes(data.draw(_mutated(kind, ROWS)))
    try:
        table = RunTable.read(path)
    except FlopsFitError:
        return
    for name in ("params", "tokens", "loss"):
        column = getattr(table, name)
        assert len(column) == len(table)
        assert all(abs(column) < float("inf"))
    assert (table.params > 0).all()
    assert (table.tokens > 0).all()
    assert str(table)


@pytest.mark.parametrize("kind", WRITERS)
@given(data=st.data())
def test_mutated_curves_are_read_or_refused(folder: Path, kind: str, data: st.DataObject) -> None:
    path = folder / f"steps.{kind}"
    path.write_bytes(data.draw(_mutated(kind, STEPS)))
    try:
        curves = Curves.read(path)
    except FlopsFitError:
        return
    for curve in curves:
        assert len(curve) == len(curve.tokens) == len(curve.loss)

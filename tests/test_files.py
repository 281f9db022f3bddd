"""A file is replaced whole or not at all, and tables of numbers are read back as they were."""

from __future__ import annotations

import csv
import io
import os
import sys
import threading
from pathlib import Path

import pytest

from flops_fit import fit_runs, reference
from flops_fit.files import as_written, csv_text, write_atomic, write_output
from flops_fit.table import RunTable


def test_an_atomic_write_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "one")
    write_atomic(tmp_path / "a", "two")
    write_atomic(tmp_path / "b", "three", durable=False)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "two", "b": "three"}


def test_a_file_that_somebody_reads_is_replaced_once_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, refused = Path.replace, []

    def busy(self: Path, target: Path) -> Path:
        if len(refused) < 3:
            refused.append(target)
            raise PermissionError(13, "in use")
        return rename(self, target)

    path = tmp_path / "run.json"
    monkeypatch.setattr(Path, "replace", busy)
    with pytest.raises(PermissionError):
        write_atomic(path, "elsewhere a refusal is final")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(sys, "platform", "win32")
    write_atomic(path, "D ≥ 20·N")
    assert path.read_text(encoding="utf-8") == "D ≥ 20·N"
    assert len(refused) == 3


def test_a_link_or_pipe_that_the_user_names_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    write_output(tmp_path / "link", "linked")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "linked"
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_output(tmp_path / "pipe", "piped")
    reader.join()
    assert read == ["piped"]


def test_rows_that_lack_a_column_leave_its_cell_empty() -> None:
    rows = [{"a": 1.5, "b": None}, {"a": 2, "c": "x, y"}]
    assert csv_text(rows) == 'a,b,c\r\n1.5,,\r\n2,,"x, y"\r\n'
    assert csv_text([], ["id"], line_end="\n") == "id\n"


FORMULAS = ["=1+1", "+1+1", "-2+3", "@SUM(1)", "\tx", "\rx", "\nx", "＝1", "'=1", "''-x", '=a,"b"']


def test_a_spreadsheet_runs_no_text_of_a_table_and_reading_gives_it_back() -> None:
    """Of text, the first character decides (OWASP, CSV injection); numbers stay numbers."""
    plain = ["a=b", "'tis", "-1.5", "+2e9", "-inf", "", "'"]
    texts = [*FORMULAS, *plain]
    names = [f"=column{i}" for i in range(len(texts))]
    text = csv_text([dict(zip(names, texts, strict=True)), {names[0]: -1.5}])
    head, row, numbers = csv.reader(io.StringIO(text, newline=""))
    assert head == [f"'{name}" for name in names]
    assert row == [*(f"'{t}" for t in FORMULAS), *plain]
    assert numbers[0] == "-1.5"
    assert [as_written(cell) for cell in head + row] == names + texts


def test_a_table_of_runs_is_read_back_with_its_formulas(tmp_path: Path) -> None:
    rows = [
        {"label": t.strip(), "params": 1e6, "tokens": 1e8, "loss": 3.0, "=corpus": t.strip()}
        for t in [*FORMULAS, *FORMULAS]
    ]
    (tmp_path / "runs.csv").write_text(csv_text(rows), newline="")
    table = RunTable.read(tmp_path / "runs.csv")
    assert [*table.labels] == [row["label"] for row in rows]
    assert [*table.texts["=corpus"]] == [row["label"] for row in rows]


def test_a_path_that_could_not_be_decoded_is_written_as_it_is(tmp_path: Path) -> None:
    write_atomic(tmp_path / "page", os.fsdecode(b"f\xc3\xbcr \xff"))
    assert (tmp_path / "page").read_bytes() == b"f\xc3\xbcr \xff"


def test_rows_show_themselves_in_a_notebook() -> None:
    """The first ten with their headings, escaped, and how many more there are."""
    rows = [{"N": 1e8, "D": 2e9 + i, "loss": 3.0, "label": f"<b>{i}"} for i in range(12)]
    shown = RunTable.read(rows)._repr_html_()
    assert shown.count("<tr>") == 11
    assert "2 rows more" in shown
    assert "&lt;b&gt;0" in shown
    assert "<b>" not in shown
    assert ">1.000e+08<" in shown
    told = fit_runs(reference.runs("llama3_2024")).predict([1e22, 1e23])
    assert told._repr_html_().count("<tr>") == 3
    assert len(repr(told[0])) < 250
    assert "optimal_params" in told._repr_html_()

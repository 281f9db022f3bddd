"""Answers fit a terminal, and are whole where they are piped."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.text import Text

import flops_fit
from flops_fit.cli.program import as_text
from flops_fit.text import markdown_table
from tests.cli._calls import called
from tests.conftest import MLP

WIDE = markdown_table([["Budget", "Optimal N"], ["1e+24", "41.3 billion parameters (31.2–52.8)"]])


def test_lines_are_whole_where_nobody_looks() -> None:
    line = "word " * 100
    assert as_text([line.strip(), WIDE]).splitlines()[0] == line.strip()
    assert WIDE in as_text([WIDE])


def test_lines_fit_a_terminal_and_hang_below_their_text() -> None:
    bullet, named = "  • " + "word " * 30, "  name      " + "word " * 30
    lines = as_text([bullet + "\n" + named, WIDE], width=40).splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[1].startswith("    word")
    assert any(line.startswith(" " * 12 + "word") for line in lines)
    assert "│" not in "".join(lines)


def test_a_table_that_fits_is_left_alone() -> None:
    assert WIDE in as_text([WIDE], width=80)


def test_no_number_of_an_answer_is_broken_in_80_columns() -> None:
    """Neither a value nor an interval; a heading may go over several lines."""
    rows = [
        [
            "Compute Budget",
            "Optimal N",
            "Optimal D",
            "D/N Ratio",
            "Predicted Loss, Mean of Runs",
            "Loss, One Run",
        ],
        [
            "1e+21",
            "3.1B (2.61B–3.58B)",
            "50.8B (43.7B–60.8B)",
            "16.4 (12.2–23.2)",
            "2.810 (2.790–2.833)",
            "2.780–2.839",
        ],
    ]
    text = as_text([markdown_table(rows)], width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert {word for row in rows for cell in row for word in cell.split()} <= set(text.split())


def test_no_bracket_stands_alone_where_a_heading_is_wide_too() -> None:
    """Only the widest column is broken, at its interval's dash."""
    head = [
        "Compute Budget",
        "Optimal N",
        "Optimal D",
        "D/N Ratio",
        "Loss, Mean of Runs",
        "One Run",
    ]
    row = ["1e+20 (trust: no)", "418M (403M–434M)", "39.9B (38.4B–41.3B)", "95.4 (88.5–103)"]
    lines = as_text(
        [markdown_table([head, [*row, "2.741 (2.738–2.745)", "2.731–2.751"]])], width=80
    )
    words = lines.split()
    assert max(map(len, lines.splitlines())) <= 80
    assert ")" not in words
    assert {"(38.4B–", "41.3B)", "(2.738–2.745)", "(403M–434M)", "(88.5–103)"} <= {*words}


def test_ends_of_long_intervals_stand_below_each_other() -> None:
    sizes = "32.5T (3.94T–1.29e+15)"
    table = markdown_table([["A", "B", "C", "D", "E"], [sizes] * 5])
    shown = as_text([table], 80)
    assert shown.count("(3.94T–") == shown.count("1.29e+15)") == 5
    assert max(map(len, shown.splitlines())) <= 80


def test_a_plan_leaves_columns_out_where_a_terminal_is_narrow() -> None:
    plan = flops_fit.plan_sweep(MLP, "width", compute_budgets=[1e9, 3e9], mode="mock")
    narrow, wide = as_text([plan], width=80), as_text([plan], width=120)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "…" not in narrow
    assert "Left out to fit the width: C/6ND" in narrow
    assert "Left out" not in wide
    assert "C/6ND" in wide


def test_colour_is_kept_back_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    part = Text("Sound.", "green")
    assert "\x1b[32m" in as_text([part], 80, colour=True)
    assert "\x1b" not in as_text([part])
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in as_text([part], 80, colour=True)


def test_csv_is_never_broken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = called(capsys, "reference", "show", "llama3_2024", "--csv")
    (tmp_path / "runs.csv").write_text(told.out)
    assert len(told.out.splitlines()) == 134
    assert len(flops_fit.RunTable.read(tmp_path / "runs.csv")) == 133


def test_control_characters_of_a_table_reach_neither_terminal_nor_page(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = flops_fit.reference.runs("llama3_2024").to_dicts()
    for row in rows[:20]:
        row |= {"label": "a\x1b[2J\nTrust: ok \u202e\x9b31m", "loss": 0.0}
    path = tmp_path / "runs\x1b[2J.csv"
    path.write_text(flops_fit.files.csv_text(rows), encoding="utf-8")
    told = called(capsys, "fit", path, "--report", tmp_path / "page\x1b[2J.html")
    wrong = called(capsys, "fit", tmp_path / "\x1b[2J.csv")
    page = (tmp_path / "page\x1b[2J.html").read_text(encoding="utf-8")
    for text in (told.out, wrong.err, page):
        assert r"\x1b[2J" in text
        assert not set("\x1b\x9b\u202e") & set(text)
    assert "\nTrust: ok \\u202e" not in told.out
    assert "\x1b[32m" in as_text([Text("\x1b[2JSound.", "green")], 80, colour=True)

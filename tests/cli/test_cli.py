"""The command answers in a terminal, in one line where it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flops_fit import __version__, reference
from flops_fit.cli import sweep_commands
from flops_fit.cli.program import as_text
from flops_fit.cli.sweep_commands import held_out_check
from flops_fit.fit import HeldOut
from flops_fit.laws import Hoffmann
from tests.cli._calls import called
from tests.fit._curves import curves
from tests.fit._runs import sweep


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flops_fit", *arguments], capture_output=True, text=True
    )


def test_the_version_and_the_help() -> None:
    assert command("--version").stdout.strip() == f"flops-fit {__version__}"
    assert "demo" in command("--help").stdout
    assert "--output-dir" in command("demo", "--help").stdout


def test_a_foreign_folder_is_one_line_and_exit_code_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = command("demo", "--output-dir", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"flops-fit: {tmp_path} holds file and no sweep of flops-fit.")
    assert "choose another folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_option_is_exit_code_two() -> None:
    assert command("demo", "--ouput-dir", "x").returncode == 2


def test_the_demo_trains_checks_itself_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    small = {3e8: [8, 12, 16, 24], 6e8: [8, 12, 16, 24], 1.2e9: [8, 12, 16, 32]}
    monkeypatch.setattr(sweep_commands, "SIZES", small)
    first = sweep_commands.run_demo(tmp_path / "out")
    told = as_text(first.shown)
    for words in (
        "| Compute Budget",
        "Check on the largest budget",
        "predicted",
        "measured",
        "report.html",
    ):
        assert words in told
    assert (tmp_path / "out" / "plots" / "isoflop.png").stat().st_size > 10_000
    capfd.readouterr()
    again = sweep_commands.run_demo(tmp_path / "out")
    assert "12 of 12 runs are finished already" in capfd.readouterr().err
    assert again.document["predictions"] == first.document["predictions"]


def test_a_table_of_runs_is_fitted_and_answers(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    pd.DataFrame(reference.runs("llama3_2024").to_dicts()).rename(
        columns={"params": "weights"}
    ).to_csv(table, index=False)
    done = command(
        "fit", str(table), "--column", "params=weights", "--predict", "3.8e25", "--report",
        str(tmp_path / "page.html"),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # so far from the runs nothing is to be relied on
    assert "| 3.8e+25" in done.stdout
    assert "3.8e+03× the largest run's" in done.stdout
    assert (tmp_path / "page.html").exists()


def test_what_was_read_and_what_was_assumed_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line a column, with its unit, and a line for what the table has not."""
    table = tmp_path / "runs.csv"
    law = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)
    rows = sweep(law, sizes=5, sd=0.002)
    lines = zip(rows["params"] / 1e6, rows["tokens"] / 1e9, rows["loss"], strict=True)
    body = "\n".join(",".join(map(repr, map(float, line))) for line in lines)
    table.write_text(f"Params (M),Tokens (B),Val loss\n{body}\n")
    out = called(capsys, "fit", table).out
    assert "Columns read:\n  params: column 'Params (M)', in units of 1e+06\n" in out
    assert out.endswith("  The table has no FLOPs: C = 6·N·D was assumed.\n")


def test_a_missing_column_is_proposed_as_an_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line has no columns= argument."""
    table = tmp_path / "runs.csv"
    table.write_text("weights,tokens,entropy at end\n1e8,2e9,3.1\n")
    told = called(capsys, "fit", table)
    assert "--column params=weights --column 'loss=entropy at end'" in told.err
    assert "columns=" not in told.err


def test_training_curves_join_the_three_approaches(tmp_path: Path) -> None:
    law = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)
    pd.DataFrame(sweep(law, sd=0.003)).to_csv(tmp_path / "runs.csv", index=False)
    log = pd.DataFrame(curves(law, np.geomspace(3e7, 3e9, 9), points=40))
    log.to_csv(tmp_path / "curves.csv", index=False)
    done = command("fit", str(tmp_path / "runs.csv"), "--curves", str(tmp_path / "curves.csv"))
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| 1", "| 2", "| 3"))]
    standing = {r.split("|")[1].strip(): r.split("|")[-2].strip() for r in rows}
    assert standing["1 envelope"] == standing["2 isoflop"] == "check"
    assert standing["3 surface"] == "headline"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such.csv"], "does not exist"),
        (["{table}", "--law", "hofmann"], "law"),
        (["{table}", "--column", "params"], "--column: expected name=heading"),
        (["{empty}"], "the table is empty"),
    ],
)
def test_a_table_that_cannot_be_fitted_is_one_line(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "runs.csv").write_text("params,tokens,loss\n1e6,2e7,3.0\n")
    (tmp_path / "empty.csv").write_text("")
    names = {"table": str(tmp_path / "runs.csv"), "empty": str(tmp_path / "empty.csv")}
    done = command("fit", *(a.format(**names) for a in arguments))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr


@pytest.mark.parametrize(
    ("inside", "words"),
    [(True, "lies inside"), (False, "lies OUTSIDE"), (None, "no interval to judge by")],
)
def test_the_check_says_what_came_of_it(inside: bool | None, words: str) -> None:
    check = HeldOut(
        compute=5e11, runs=6, predicted_params=4e4, predicted_loss=1.5, params_interval=None,
        loss_interval=(1.4, 1.6), run_interval=(1.3, 1.7), vertex_params=4.2e4, vertex_loss=1.48, regret=0.0,
        best_label="C=5e+11 size=32", best_params=4e4, best_loss=1.47, params_inside=None, loss_inside=inside,
    )  # fmt: skip
    text = held_out_check(check, 4)
    assert words in text
    assert "1.400–1.600 for the law, 1.300–1.700 for a single run" in text

"""Rows that a column of yes and no calls no end of a run are left out."""

from __future__ import annotations

from typing import Any

import pytest

from flops_fit.table import RunTable

ROWS = [{"run": "a", "N": 1e8, "D": 1e9 * k, "loss": 4 - k / 10} for k in (1, 2, 3)]


def table(heading: str, flags: list[Any]) -> RunTable:
    """The runs that are kept of three, by a flag of each."""
    return RunTable.read([{**row, heading: flag} for row, flag in zip(ROWS, flags, strict=True)])


@pytest.mark.parametrize(
    ("heading", "flags"),
    [
        ("diverged", [True, True, False]), ("config.failed", ["yes", "Yes", "no"]), ("crashed", [1, 1, 0]),
        ("finished", [False, False, True]), ("converged", ["0", "0", "1"]),
    ],
)  # fmt: skip
def test_a_flag_says_that_a_run_failed(heading: str, flags: list[Any]) -> None:
    """By its own outcome, as a state would."""
    read = table(heading, flags)
    assert read.tokens.tolist() == [3e9]
    assert read.excluded[0].by_outcome
    assert read.excluded[0].reason == f"its {heading} is {flags[0]}"


@pytest.mark.parametrize("heading", ["done", "is_final", "last"])
def test_a_flag_says_which_row_is_the_last_of_a_run(heading: str) -> None:
    """Those before it are no lost runs."""
    read = table(heading, [False, False, True])
    assert read.tokens.tolist() == [3e9]
    assert not read.excluded[0].by_outcome


@pytest.mark.parametrize(
    ("heading", "flags"),
    [("done", [False] * 3), ("diverged", [True] * 3), ("finished", ["", "yes", "no"]),
     ("done", [3, 0, 1]), ("timeout", [1, 0, 0]), ("error", [0.1, 0.2, 0.0])],
)  # fmt: skip
def test_a_flag_that_leaves_no_run_or_is_none_says_nothing(heading: str, flags: list[Any]) -> None:
    """Numbers, empty cells, and what holds of all."""
    assert len(table(heading, flags)) == 3

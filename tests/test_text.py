"""Numbers read as people write them."""

from __future__ import annotations

import pytest

from flops_fit.text import fill, format_count, format_duration, listed, markdown_table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (999, "999"),
        (1234, "1.23k"),
        (108_106, "108k"),
        (7e10, "70B"),
        (1.4e12, "1.4T"),
        (5e17, "5e+17"),
    ],
)
def test_counts(value: float, text: str) -> None:
    assert format_count(value) == text


def test_counts_in_words_keep_their_zeros() -> None:
    assert (
        fill("{N:count} of {D:.2f} and {a!r}", {"N": 2.5e9, "D": 1, "a": "b"})
        == "2.50B of 1.00 and 'b'"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.42, "0.4 s"), (42, "42 s"), (200, "3 min 20 s"), (9000, "2.5 h"), (400_000, "4.6 d")],
)
def test_durations(value: float, text: str) -> None:
    assert format_duration(value) == text


@pytest.mark.parametrize(
    ("items", "separator", "text"),
    [
        (["a"], "; ", "a"),
        (["a", "b"], "; ", "a; b"),
        (["a", "b", "c", "d"], "; ", "a; b; and 2 more"),
        (["a", "b", "c"], ", ", "a, b and 1 more"),
    ],
)
def test_long_lists_name_the_first_and_count_the_rest(
    items: list[str], separator: str, text: str
) -> None:
    assert listed(items, 2, separator) == text


def test_a_markdown_table_is_aligned() -> None:
    assert markdown_table([["N", "loss"], ["108k", "2.5"]]).splitlines() == [
        "| N    | loss |",
        "|------|------|",
        "| 108k | 2.5  |",
    ]

"""The intervals of the library on held-out budgets, beside those of other methods."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from benchmarks.calibration.methods import QUANTITIES, Case, cases
from benchmarks.calibration.scores import POOLED, family_table, method_table
from benchmarks.calibration.sweeps import cuts, load
from benchmarks.common.report import Goal, Result, at_least, at_most

COVER = (0.85, 0.95)
FAMILY_COVER = 0.7
_MOST_WINKLER, _MOST_RMS, _MOST_LOSS_ERROR = 0.6, 0.145, 0.006


@cache
def all_cases(folder: Path | None, quick: bool) -> list[Case]:
    """Every held-out budget of every cut."""
    return [case for s in load(folder) for cut in cuts(s) for case in cases(cut, quick)]


def intervals(folder: Path | None, quick: bool) -> Result:
    """Coverage, width and score of each quantity, by family and beside other methods."""
    found = all_cases(folder, quick)
    tables, goals = [], []
    for quantity in QUANTITIES:
        table, families = family_table(found, quantity)
        tables += [table, method_table(found, quantity)]
        if quantity in ("N*", "loss"):
            for name, summary in families.items():
                what = f"{quantity}: 90 % intervals hold, {name}"
                cover = summary.cover[0]
                goals.append(
                    Goal(what, cover, *COVER, "0.9")
                    if name == POOLED
                    else at_least(what, cover, FAMILY_COVER)
                )
        if quantity == "N*":
            goals.append(at_most("Winkler score of ln N*", families[POOLED].winkler, _MOST_WINKLER))
            goals.append(at_most("rms of ln N*", families[POOLED].rms, _MOST_RMS))
        if quantity == "loss":
            error = families[POOLED].median_error
            goals.append(at_most("median |error| of ln L", error, _MOST_LOSS_ERROR))
    return tables, goals

"""Published runs, packaged so that fits can be compared without a download."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources

from flops_fit.checks import check_choice
from flops_fit.errors import InputError
from flops_fit.table.run_table import RunTable

_SOURCES: dict[str, str] = {
    "hoffmann2022_epoch": (
        "Hoffmann et al. 2022, 'Training Compute-Optimal Large Language Models' "
        "(arXiv:2203.15556), Figure 4, digitised by Besiroglu et al. 2024 (Epoch AI, "
        "arXiv:2404.10102); 245 points, facts read off a figure."
    ),
    "llama3_2024": (
        "'The Llama 3 Herd of Models', 2024 (arXiv:2407.21783), Figure 2, digitised; 133 points, "
        "facts read off a figure. The loss is a normalised negative log-likelihood."
    ),
    "marin2026_dclm": (
        "IsoFLOP runs on DCLM by the Marin community (github.com/marin-community/marin), 2026; "
        "85 runs, measurements from an open laboratory: credit it."
    ),
    "porian2024_refinedweb": (
        "Porian et al. 2024, 'Resolving Discrepancies in Compute-Optimal Scaling of Language "
        "Models' (arXiv:2406.19146), RefinedWeb runs from the authors' public repository "
        "(github.com/formll/resolving-scaling-law-discrepancies); 579 runs, measurements: credit "
        "the paper."
    ),
    "muennighoff2023_c4": (
        "Muennighoff et al. 2023, 'Scaling Data-Constrained Language Models' (arXiv:2305.16264), "
        "C4 runs from the authors' public repository (github.com/huggingface/datablations, "
        "Apache-2.0); 295 runs, measurements: credit the paper."
    ),
}
_MEASURED = frozenset({"params", "tokens", "unique_tokens", "flops", "loss"})
RUN_NAMES = tuple(_SOURCES)


def source(name: str) -> str:
    """Where the runs called ``name`` come from, and on what terms."""
    check_choice("published runs", name, _SOURCES)
    return _SOURCES[name]


def columns(name: str) -> dict[str, tuple[str, ...]]:
    """What :func:`runs` can select by: each column of a run's configuration, with its values.

    Examples
    --------
    >>> columns("porian2024_refinedweb")["warmup"]
    ('long', 'short')
    """
    return _choices(_read(name))


def runs(name: str, **where: str) -> RunTable:
    """Published runs as a :class:`~flops_fit.table.RunTable`; its notes carry the source.

    - ``"hoffmann2022_epoch"``: 245 points of Chinchilla's Figure 4. Besiroglu et al. keep the 240 whose
      loss is strictly below the fifth largest.
    - ``"llama3_2024"``: 133 IsoFLOP points of the Llama 3 report, Figure 2.
    - ``"marin2026_dclm"``: 85 IsoFLOP runs on DCLM at seven budgets.
    - ``"porian2024_refinedweb"``: 579 points of five configurations that lead from Kaplan's set-up to
      Chinchilla's. One fit is of one configuration: select it with ``where``.
    - ``"muennighoff2023_c4"``: 295 runs on C4 with repeated data, some for thousands of epochs
      and over-fitted; ``unique_tokens`` says how much was new.

    Measurements are facts; the sources are cited so that they can be credited.

    Parameters
    ----------
    name
        Which runs.
    **where
        Keep the runs whose configuration has these values: ``hparams="tuned"``. :func:`columns`
        lists what there is.

    Raises
    ------
    InputError
        No runs of that name, no such column, no such value, or no run with all of the values.

    Examples
    --------
    >>> len(runs("porian2024_refinedweb", hparams="tuned"))
    121
    """
    text = source(name)
    rows = _read(name)
    choices = _choices(rows)
    for column, value in where.items():
        _check_choice(name, column, value, choices)
    kept = [
        _Row(i, row)
        for i, row in enumerate(rows, start=1)
        if all(row[column] == value for column, value in where.items())
    ]
    if not kept:
        raise InputError(
            f"no run of {name!r} has {where}: its configurations are "
            f"{_configurations(rows, choices)}."
        )
    table = RunTable.read([r.labelled(choices) for r in kept])
    notes = [*table.notes, f"Source: {text}"]
    mixed = _configurations((r.values for r in kept), choices)
    if len(mixed) > 1:
        notes.append(f"{len(mixed)} configurations are mixed: {mixed}. Fit one at a time.")
    return replace(table, notes=tuple(notes))


@dataclass(frozen=True)
class _Row:
    number: int
    values: dict[str, str]

    def labelled(self, choices: Iterable[str]) -> dict[str, str]:
        """The measured columns, and a label that tells configuration and line of the table."""
        configuration = "/".join(self.values[c] for c in choices)
        label = f"{configuration} run {self.number}".strip()
        return {c: v for c, v in self.values.items() if c in _MEASURED} | {"label": label}


def _read(name: str) -> list[dict[str, str]]:
    source(name)
    file = resources.files(__package__) / "data" / f"{name}.csv"
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def _choices(rows: list[dict[str, str]]) -> dict[str, tuple[str, ...]]:
    names = [c for c in rows[0] if c not in _MEASURED]
    return {c: tuple(sorted({row[c] for row in rows})) for c in names}


def _configurations(rows: Iterable[dict[str, str]], choices: Iterable[str]) -> list[str]:
    return sorted({"/".join(row[c] for c in choices) for row in rows})


def _check_choice(name: str, column: str, value: str, choices: dict[str, tuple[str, ...]]) -> None:
    if column not in choices:
        known = f"one of {list(choices)}" if choices else "no selection, its runs are of one kind"
        raise InputError(f"{name!r}: expected {known}; got {column}={value!r}.")
    if value not in choices[column]:
        raise InputError(
            f"{name!r}: expected {column} out of {list(choices[column])}; got {value!r}."
        )

"""Laws as their papers print them, and published runs, packaged so that nothing is downloaded."""

import csv
import tomllib
from dataclasses import replace
from importlib import resources
from math import exp
from typing import Literal, overload

from flops_fit.errors import InputError, check_choice
from flops_fit.laws.kappa import Hoffmann, Muennighoff
from flops_fit.laws.law import Law
from flops_fit.laws.optimum import OptimumOnly
from flops_fit.table.run_table import RunTable

__all__ = ["LAW_NAMES", "RUN_NAMES", "columns", "law", "law_source", "runs", "source"]

_PF_DAY = 8.64e19  # FLOPs: 1e15 a second for a day

_LAWS: dict[str, Law | OptimumOnly] = {
    "hoffmann2022": Hoffmann(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
    "besiroglu2024": Hoffmann(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),
    "muennighoff2023": Muennighoff(
        E=exp(0.6254804), A=exp(6.255414), B=exp(7.3049974), alpha=0.3526596, beta=0.3526596,
        R_D=15.387756, R_N=5.309743,
    ),
    "kaplan2020": OptimumOnly(
        k_N=1.3e9 / _PF_DAY**0.73, a=0.73, k_D=2e10 / _PF_DAY**0.27, b=0.27,
        size="non-embedding parameters",
        compute="C_min, the least compute for a loss, at batches far below the critical one",
    ),
    "deepseek2024": OptimumOnly(
        0.1715, 0.5243, 5.8316, 0.4757, "non-embedding FLOPs per token", "C = N·D"
    ),
    "llama3_2024": OptimumOnly(k_N=1 / (6 * 0.299), a=1 - 0.537, k_D=0.299, b=0.537),
}  # fmt: skip
_DATA = resources.files("flops_fit.reference") / "data"
_SOURCES = tomllib.loads((_DATA / "sources.toml").read_text(encoding="utf-8"))
_RUNS: dict[str, str] = _SOURCES["runs"]
_MEASURED = frozenset({"params", "tokens", "unique_tokens", "flops", "loss"})
LAW_NAMES, RUN_NAMES = tuple(_LAWS), tuple(_RUNS)


@overload
def law(name: Literal["hoffmann2022", "besiroglu2024"]) -> Hoffmann: ...
@overload
def law(name: Literal["muennighoff2023"]) -> Muennighoff: ...
@overload
def law(name: Literal["kaplan2020", "deepseek2024", "llama3_2024"]) -> OptimumOnly: ...
@overload
def law(name: str) -> Law | OptimumOnly: ...
def law(name: str) -> Law | OptimumOnly:
    """A published law, ready to answer; InputError for an unknown name.

    Surfaces, which know the loss of any N and D; :func:`law_source` names the papers:

    - ``"hoffmann2022"``: approach 3 of the Chinchilla paper.
    - ``"besiroglu2024"``: the same runs fitted again, as published. An exact minimum of their
      stated objective lies slightly lower: ``fit_runs`` finds it.
    - ``"muennighoff2023"``: repeated data, fitted to 182 runs on C4. Ask ``.with_unique(U)``
      where only U tokens are different.

    Optima, which answer ``optimal(C)`` and have no loss (:class:`~flops_fit.laws.OptimumOnly`):

    - ``"kaplan2020"``: N* ∝ C^0.73. N is without embeddings and C is their C_min; at the critical
      batch, where runs take twice C_min, D* ≈ 2·C_min/(6·N*).
    - ``"deepseek2024"``: DeepSeek LLM. **N is no count of parameters** but the
      non-embedding FLOPs per token, attention included, so that C = N·D without a factor 6.
    - ``"llama3_2024"``: D* = 0.299·C^0.537, N* = C/(6·D*). The rounded
      constants give 389 billion parameters at 3.8e25 FLOPs where the report says 402.

    >>> f"{law('hoffmann2022').optimal(5.76e23).params:.3g}"
    '3.22e+10'
    """
    law_source(name)
    return _LAWS[name]


def law_source(name: str) -> str:
    """Where the law called ``name`` is published; InputError for an unknown name."""
    check_choice("published law", name, _LAWS)
    text: str = _SOURCES["laws"][name]
    return text


def source(name: str) -> str:
    """Where the runs called ``name`` come from, and on what terms."""
    check_choice("published runs", name, _RUNS)
    return _RUNS[name]


def columns(name: str) -> dict[str, tuple[str, ...]]:
    """What :func:`runs` can select by: each column of a run's configuration, with its values.

    >>> columns("porian2024_refinedweb")["warmup"]
    ('long', 'short')
    """
    rows = _read(name)
    names = [c for c in rows[0] if c not in _MEASURED]
    return {c: tuple(sorted({row[c] for row in rows})) for c in names}


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

    ``where`` keeps the runs whose configuration has these values, of those that :func:`columns`
    lists. InputError for an unknown name, column or value, or where no run has all of the values.

    >>> len(runs("porian2024_refinedweb", hparams="tuned"))
    121
    """
    rows, choices = _read(name), columns(name)
    for column, value in where.items():
        if column not in choices:
            known = f"one of {list(choices)}" if choices else "no selection: runs are of one kind"
            raise InputError(f"{name!r}: expected {known}; got {column}={value!r}.")
        check_choice(f"{name}: {column}", value, choices[column])

    def configuration(row: dict[str, str]) -> str:
        return "/".join(row[c] for c in choices)

    kept = [
        {**row, "label": f"{configuration(row)} run {i}".strip()}
        for i, row in enumerate(rows, start=1)
        if all(row[column] == value for column, value in where.items())
    ]
    if not kept:
        known = str(sorted(set(map(configuration, rows))))
        raise InputError(f"no run of {name!r} has {where}: its configurations are {known}.")
    read = _MEASURED | {"label"}
    table = RunTable.read([{c: v for c, v in row.items() if c in read} for row in kept])
    notes = [*table.notes, f"Source: {source(name)}"]
    mixed = sorted(set(map(configuration, kept)))
    if len(mixed) > 1:
        notes.append(f"{len(mixed)} configurations are mixed: {mixed}. Fit one at a time.")
    return replace(table, notes=tuple(notes))


def _read(name: str) -> list[dict[str, str]]:
    source(name)
    return list(csv.DictReader((_DATA / f"{name}.csv").read_text(encoding="utf-8").splitlines()))

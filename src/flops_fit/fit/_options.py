"""The options of a fit: what each may be, and what is said where it is something else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flops_fit.errors import InputError, InputTypeError, TableError
from flops_fit.laws import LAWS, Hoffmann, Kappa, Law
from flops_fit.table import RunTable

__all__ = ["check_options", "known_law", "parameters_of", "with_convention"]


def known_law(law: str | type[Law]) -> str | type[Law]:
    """``"auto"``, the name of a law with a solver of its own, or the class of any other."""
    if isinstance(law, type) and issubclass(law, Law):
        return law.name if law in (Hoffmann, Kappa) else law
    if isinstance(law, str):
        if law in ("auto", Hoffmann.name, Kappa.name):
            return law
        if law in LAWS:
            return LAWS[law]
        raise InputError(f"expected law='auto', one of {list(LAWS)} or a Law class; got {law!r}.")
    raise InputTypeError(f"expected law as a name or a Law class; got {type(law).__name__}.")


def parameters_of(kind: str | type[Law]) -> int:
    """How many parameters have to be fitted at least."""
    law = kind if isinstance(kind, type) else LAWS[Hoffmann.name if kind == "auto" else kind]
    return len(law.parameters())


def check_options(delta: Any, loss_space: Any, window: Any, n: Any) -> None:
    """Refuse what no option can be."""
    if delta != "mad" and not _positive(delta):
        raise InputError(
            f"expected delta='mad' or a positive number (inf: least squares); got {delta!r}."
        )
    if loss_space not in ("log", "linear"):
        raise InputError(f"expected loss_space='log' or 'linear'; got {loss_space!r}.")
    if window is not None and window != "auto" and not (_positive(window) and window > 1):
        raise InputError(f"expected window='auto', None or a factor above 1; got {window!r}.")
    if n not in ("total", "non_embedding"):
        raise InputError(f"expected n='total' or 'non_embedding'; got {n!r}.")


def with_convention(table: RunTable, n: str) -> RunTable:
    """The table with N counted as asked for."""
    if n == "total":
        return table
    if table.non_embedding is None:
        raise TableError(
            "expected a column of non-embedding parameters for n='non_embedding'; the table has "
            "none. Add a column 'non_embedding', or use n='total'."
        )
    return replace(table, params=table.non_embedding)


def _positive(value: Any) -> bool:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return bool(number and value > 0)

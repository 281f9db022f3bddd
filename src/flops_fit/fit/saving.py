"""A fit on disk: its answer, and the runs and options from which it is made again."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flops_fit._version import __version__
from flops_fit.errors import InputError, TableError
from flops_fit.files import read_json, write_json
from flops_fit.fit.valley import ValleyPrior
from flops_fit.flops.functions import flops_from_dict, flops_to_dict
from flops_fit.laws import LAWS
from flops_fit.laws.law import Law, as_flops
from flops_fit.records import Diagnostic, Excluded
from flops_fit.table.run_table import RunTable

if TYPE_CHECKING:
    from flops_fit.fit.fit import Fit

_LATER = ("mup",)  # what tables of earlier versions lack
_SAME_WITHIN = 1e-6  # relative, of the constants of a fit that is made again


@dataclass(frozen=True, eq=False)
class Question:
    """What :func:`flops_fit.fit.fit_runs` was asked: the law by name, a table as read, options."""

    law: str
    table: RunTable
    options: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; InputError where an option has none."""
        options = dict(self.options)
        if options["flops_per_unit"] is not None:
            flops = as_flops(options["flops_per_unit"])
            options["flops_per_unit"] = flops_to_dict(flops, self.table.params)
        if isinstance(options["hparams"], ValleyPrior):
            options["hparams"] = vars(options["hparams"])
        for name, value in options.items():
            plain = value.tolist() if isinstance(value, np.ndarray) else value
            options[name] = "inf" if plain is not None and plain == math.inf else plain
            if not isinstance(plain, str | int | float | list | tuple | dict | None):
                raise InputError(f"expected a fit without {name}= to save: that is not saved.")
        table = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self.table).items()
        }
        for name in ("excluded", "findings"):
            table[name] = [vars(item) for item in table[name]]
        return {"version": __version__, "law": self.law, "table": table, "options": options}


def save_fit(fit: Fit, path: Path) -> Path:
    """See :meth:`flops_fit.fit.Fit.save`."""
    made_of = fit._question.to_dict() if fit._question else None
    write_json(path, {**fit.to_dict(), "made_of": made_of})
    return path


def load_fit(path: str | Path, law: type[Law] | None = None) -> Fit:
    """The fit that :meth:`flops_fit.fit.Fit.save` or a sweep wrote, fitted again to its own runs.

    ``path`` is such as ``outputs/fit.json``, ``law`` the class of a law of your own, which a file does not
    hold. Raises TableError where it is no such file, or one of several groups, which are fitted together.
    """
    from flops_fit.fit.fitting import fit_runs

    try:
        content = read_json(Path(path))
        made_of = content["made_of"]
        if made_of is None:
            raise TableError(f"{path}: it has no runs of its own. Fit all groups again: fit_runs.")
        name, options = made_of["law"], dict(made_of["options"])
        for key, value in options.items():
            options[key] = float("inf") if value == "inf" else value
        if options["flops_per_unit"] is not None:
            options["flops_per_unit"] = flops_from_dict(options["flops_per_unit"])
        if isinstance(prior := options["hparams"], dict):
            pairs: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in prior.items()}
            options["hparams"] = ValleyPrior(**pairs)
        table = _table(made_of["table"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(
            f"{path}: expected a fit that Fit.save() or a sweep wrote; it cannot be read "
            f"({type(error).__name__}: {error})."
        ) from error
    if name not in (*LAWS, "auto") and law is None:
        raise InputError(f"expected law= with the class {name!r}, which the file does not hold.")
    fit = fit_runs(table, law or name, **options)
    said, now = content["params"], fit.params
    if said.keys() != now.keys() or not all(
        np.isclose(now[k], v if v is not None else np.inf, rtol=_SAME_WITHIN)
        for k, v in said.items()
    ):
        warnings.warn(
            f"{path}: this version, {__version__}, fits other constants to these runs than "
            f"{made_of['version']} did, {said}.",
            stacklevel=2,
        )
    return fit


def _table(values: dict[str, Any]) -> RunTable:
    read: dict[str, Any] = {}
    for f in (f for f in fields(RunTable) if f.name in values or f.name not in _LATER):
        value = values[f.name]
        if str(f.type).startswith("Floats") and value is not None:
            value = np.array(value, dtype=np.float64)
        elif f.name == "texts":
            value = {name: tuple(cells) for name, cells in value.items()}
        elif isinstance(value, list):
            kind: Any = {"excluded": Excluded, "findings": Diagnostic}.get(f.name)
            value = tuple(
                kind(**v) if kind else tuple(v) if isinstance(v, list) else v for v in value
            )
        read[f.name] = value
    return RunTable(**read)

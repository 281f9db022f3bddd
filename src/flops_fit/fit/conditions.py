"""What a law knows beyond N and D: the columns that it needs, and the questions under its conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np

from flops_fit.errors import InputError, TableError
from flops_fit.fit.experts import BestExperts, best_experts
from flops_fit.fit.intervals import Evidence
from flops_fit.fit.minima import IsoFLOP
from flops_fit.fit.prediction import check_target
from flops_fit.laws.experts import Experts
from flops_fit.laws.kappa import Repeating
from flops_fit.laws.law import Law
from flops_fit.laws.steps import Steps
from flops_fit.table.run_table import RunTable


class Conditions:
    """Questions of a fit under conditions of its law: a supply of data, experts, batches."""

    law: Law
    isoflop: IsoFLOP
    _evidence: Evidence

    def with_unique(self, unique_tokens: float) -> Self:
        """The same fit for ``unique_tokens`` different units; InputError for a law without them."""
        if not isinstance(self.law, Repeating):
            raise InputError(
                f"expected a law of repeated data to ask about unique units; the {self.law.name} law "
                'counts repeats as new. Fit with law="muennighoff".'
            )
        return self._of(self.law.with_unique(unique_tokens))

    def with_experts(self, sparsity: float, max_total_params: float | None = None) -> Self:
        """The same fit for models of N_total/N_active = ``sparsity``, within a cap on N_total.

        Without it the law of experts answers for dense models. InputError for a law without experts.
        """
        if not isinstance(self.law, Experts):
            raise InputError(
                f"expected a law of experts to ask about N_total; the {self.law.name} law does not know of "
                'them. Fit with law="experts".'
            )
        cap = math.inf if max_total_params is None else max_total_params
        return self._of(self.law.with_experts(sparsity, cap))

    def with_batch(self, batch_units: float) -> Self:
        """The same fit for batches of ``batch_units``; of the best at each D for 0, as it answers by default.

        InputError for a law that does not know of batches.
        """
        if not isinstance(self.law, Steps):
            raise InputError(
                f"expected a law of steps to ask about batches; the {self.law.name} law does not know of "
                'them. Fit with law="steps".'
            )
        return self._of(self.law.with_batch(batch_units))

    def _of(self, law: Law) -> Self:
        """The fit under another condition of its law."""
        lines = replace(self.isoflop, n_line=None, d_line=None)
        evidence = replace(self._evidence, solution=replace(self._evidence.solution, law=law))
        fit: Any = self
        changed: Self = replace(fit, law=law, isoflop=lines, _evidence=evidence)
        return changed

    def best_experts(
        self,
        C: float,
        max_total_params: float | None = None,
        *,
        sparsity: float | None = None,
        level: float = 0.9,
    ) -> BestExperts:
        """How sparse a model is best at C training FLOPs, and what it gains over a dense one.

        Experts cost memory, not compute: ``max_total_params`` caps N_total, and the largest N_total/N_active
        of the runs, or ``sparsity``, ends the search. InputError for a law without experts.
        """
        fit: Any = self
        return best_experts(fit, check_target(C, level), max_total_params, sparsity, level)


def read_for(law: type[Law] | None, runs: Any, columns: Mapping[str, str] | None) -> RunTable:
    """The table of runs, with the columns that a law of the user's names beside a table's own."""
    further = [c for c in (law.covariates if law else ()) if c not in RunTable.__dataclass_fields__]
    if not further or not isinstance(columns, Mapping | None):  # which reading refuses
        return RunTable.read(runs, columns)
    rest = dict(columns or {})
    headings = {name: rest.pop(name, name) for name in further}
    table = RunTable.read(runs, rest, tuple(headings.values()))
    own = {name: table.metrics[h] for name, h in headings.items() if h in table.metrics}
    return replace(table, metrics={**table.metrics, **own})


def with_covariates(table: RunTable, law: type[Law]) -> RunTable:
    """The runs that have all columns a law needs; TableError where the table lacks one."""
    for name in law.covariates:
        column = next(iter(table.covariates([name])), None)
        if column is None:
            epochs = "".join(f" Or {d.action}." for d in table.findings if d.code == "epochs")
            raise TableError(
                f"expected a column {name!r}, which {law.__name__} needs of every run; the table "
                f"has none. Add it, or say which it is: columns={{{name!r}: 'your_column'}}.{epochs}"
            )
        sound = np.isfinite(column) & (column > 0)
        if not np.any(sound):
            raise TableError(f"expected positive numbers in the column {name!r}; it has none.")
        if not np.all(sound):
            table = table.select(sound, f"{name} is not a positive finite number")
    return table

"""Does it pay to search for the form of the law? Chosen on budgets below, judged on those above."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from benchmarks.calibration.sweeps import cuts, load
from benchmarks.common.report import Result, Table, at_most
from flops_fit import fit_runs
from flops_fit.errors import FlopsFitError

LAWS = ("auto", "search", "hoffmann", "kappa", "kaplan")
GAINS = {"searched, a tenth better": 0.1, "searched, a quarter better": 0.25}
NO_WORSE = 1.05  # of the default's mean error


def forms(folder: Path, quick: bool) -> Result:
    """Mean errors at held-out budgets by form, each family of sweeps counting once."""
    losses: dict[str, dict[str, list[float]]] = {law: defaultdict(list) for law in (*LAWS, *GAINS)}
    sizes: dict[str, dict[str, list[float]]] = {law: defaultdict(list) for law in (*LAWS, *GAINS)}
    chosen: Counter[str] = Counter()
    tried = 0
    for sweep in load(folder)[: 4 if quick else None]:
        for cut in cuts(sweep):
            try:
                fits = {law: fit_runs(cut.left, law) for law in LAWS}
            except FlopsFitError:  # too few budgets are left to search on
                continue
            tried += 1
            search = fits["search"].search
            assert search is not None
            chosen[search.chosen] += 1
            for name, gain in GAINS.items():
                taken = search.better_by(gain)
                fits[name] = fits.get(taken) or fit_runs(cut.left, taken)
            for law, fit in fits.items():
                for budget in cut.budgets:
                    at, vertex = fit.optimal(budget.compute), budget.vertex
                    error = abs(float(np.log(at.loss)) - vertex.log_loss)
                    losses[law][sweep.family].append(error)
                    sizes[law][sweep.family].append(abs(float(np.log(at.params)) - vertex.log_n))
    means = {law: (_mean(losses[law]), _mean(sizes[law])) for law in losses}
    rows = [(law, f"{100 * loss:.2f}", f"{100 * size:.1f}") for law, (loss, size) in means.items()]
    notes = (
        f"{tried} cuts of {len(losses['auto'])} families; the search took "
        f"{', '.join(f'{name} {n} times' for name, n in chosen.most_common())}.",
    )
    table = Table(
        "Laws fitted below, judged above",
        ("law", "loss, error in %", "N*, error in %"),
        tuple(rows),
        notes,
    )
    goal = at_most(
        "error of the loss, searched over default", means["search"][0] / means["auto"][0], NO_WORSE
    )
    return [table], [goal]


def _mean(errors: dict[str, list[float]]) -> float:
    """The mean over families of the mean of each."""
    return float(np.mean([np.mean(each) for each in errors.values()]))

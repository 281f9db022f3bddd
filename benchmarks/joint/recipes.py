"""What the named recipes cost where the valley is known: StepLaw's cells, and the demo's text."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.report import Goal, Result, Table, at_most
from benchmarks.joint.replay import cells, read
from flops_fit import fit_runs
from flops_fit.recipes import RECIPES
from flops_fit.records import ParamCount

FILES = {
    "StepLaw, dense": "steplaw2025_lr_batch.csv",
    "StepLaw, mixtures": "steplaw2025_moe.csv",
}
MOST = {"StepLaw, dense": (0.2, 0.6), "text": (0.6, 1.5)}
"""Goals for the default: regret in %, mean and worst."""

Costs = Callable[[str], NDArray[np.float64]]


def recipes(folder: Path | None, trained: Path) -> Result:
    """The regret of each recipe, over the cells of each place of which there are runs."""
    places: dict[str, Costs] = {
        name: _at_cells(folder / file)
        for name, file in FILES.items()
        if folder is not None and (folder / file).is_file()
    }
    runs = [p for p in (trained / "joint-default-1", trained / "joint-4") if p.is_dir()]
    if runs:
        places["text"] = _on_text(runs)
    rows, goals = [], list[Goal]()
    for recipe in RECIPES:
        costs = {place: 100 * cost(recipe) for place, cost in places.items()}
        cells = (f"{c.mean():.2f}, {c.max():.2f}" for c in costs.values())
        rows.append((recipe, *cells))
        for place in (MOST.keys() & costs.keys()) if recipe == "default" else ():
            for name, value, most in zip(
                ("mean", "worst"),
                (costs[place].mean(), costs[place].max()),
                MOST[place],
                strict=True,
            ):
                goals.append(at_most(f"default, {place}: {name} regret, %", float(value), most))
    notes = (
        "Mean and worst regret, % of the loss. A rate or batch beyond StepLaw's grid counts as the "
        f"grid's edge, so large values are too small. Text: {len(runs)} sweeps that tuned themselves.",
    )
    return [Table("Regret of the named recipes", ("recipe", *places), tuple(rows), notes)], goals


def _chosen(recipe: str, n: float, tokens: float) -> NDArray[np.float64]:
    """ln rate and ln batch in tokens for n parameters without embeddings."""
    made = RECIPES[recipe](ParamCount(round(n), round(n), round(n), round(n)), tokens, "tokens")
    return np.log([made.lr, made.batch_units])


def _at_cells(path: Path) -> Costs:
    every = cells(read(path))

    def costs(recipe: str) -> NDArray[np.float64]:
        out = []
        for cell in every:
            assert cell.runs.lr is not None
            assert cell.runs.batch_units is not None
            tried = np.log([cell.runs.lr, cell.runs.batch_units])
            assert cell.runs.non_embedding is not None
            N, D = float(cell.runs.non_embedding[0]), cell.at[1]
            at = np.clip(_chosen(recipe, N, D), tried.min(axis=1), tried.max(axis=1))
            out.append(cell.regret(*np.exp(at)))
        return np.array(out)

    return costs


def _on_text(folders: list[Path]) -> Costs:
    """One valley through the runs of all sweeps, asked at the runs of the first."""
    rows = []
    for at in folders:
        with (at / "runs.csv").open(encoding="utf-8") as file:
            rows += [row for row in csv.DictReader(file) if row["state"] == "completed"]
    N, D, C, steps, lr, loss = (
        np.array([float(row[name]) for row in rows])
        for name in ("non_embedding", "tokens", "flops", "steps", "lr", "loss")
    )
    table = {"N": N, "D": D, "C": C, "lr": lr, "batch_tokens": D / steps, "loss": loss}
    valley = fit_runs(table).hparams
    assert valley is not None

    def costs(recipe: str) -> NDArray[np.float64]:
        out = []
        for n, tokens in zip(N, D, strict=True):
            rate, batch = np.exp(_chosen(recipe, n, tokens))
            out.append(valley.regret(n, tokens, lr=rate, batch_units=batch).value)
        return np.array(out)

    return costs

"""What does a batch cost? Forms of L(N, D, batch) on public runs, judged on the most expensive cells."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.common.report import Result, Table, at_most
from flops_fit import fit_runs
from flops_fit.laws import Steps

Floats = NDArray[np.float64]
SEQUENCE = 2048  # tokens
HELD_OUT = (2, 4, 8)  # of 41 pairs of N and D, those of the largest N·D
STARTS = 12
WORST_BATCH, WORST_SHAPE = 0.1, 0.25  # per cent of the loss


def _forms(
    n: Floats, d: Floats, b: Floats
) -> dict[str, tuple[Callable[[Floats], Floats], list[float]]]:
    """Losses by constants, at logs of N, D and the batch, and where their fits start."""
    s = d - b

    def term(t: Floats, i: int, x: Floats) -> Floats:
        return np.exp(t[i] - t[i + 1] * x)

    def two(t: Floats) -> Floats:
        return np.asarray(t[0] + term(t, 1, n) + term(t, 3, d))

    base = [1.5, -0.5, 0.3, -0.5, 0.3]
    return {
        "N, D": (two, base),
        "N, D and steps": (lambda t: two(t) + term(t, 5, s), [*base, -3.0, 0.5]),
        "N, D/(1 + batch/constant)": (
            lambda t: t[0] + term(t, 1, n) + term(t, 3, d - np.log1p(np.exp(b - t[5]))),
            [*base, 0.0],
        ),
        "N, D/(1 + batch/power of D)": (
            lambda t: t[0] + term(t, 1, n) + term(t, 3, d - np.log1p(np.exp(b - t[5] - t[6] * d))),
            [*base, 0.0, 0.3],
        ),
        "N, steps and batch": (
            lambda t: t[0] + term(t, 1, n) + term(t, 3, s) + term(t, 5, b),
            [1.5, -0.5, 0.3, -1.0, 0.3, -1.0, 0.3],
        ),
        "N, D, steps and batch": (
            lambda t: two(t) + term(t, 5, s) + term(t, 7, b),
            [*base, -3.0, 0.5, -3.0, 0.5],
        ),
    }


def _fitted(
    form: Callable[[Floats], Floats], start: list[float], log: Floats, used: Floats
) -> Floats:
    """ln L of every cell by a form fitted to those used, from several starts."""
    rng, best, lowest = np.random.default_rng(0), log, np.inf

    def off(t: Floats) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.nan_to_num(np.log(np.maximum(form(t), 1e-3)) - log, nan=9.0, posinf=9.0)

    for i in range(STARTS):
        at = np.array(start) + (0.4 * rng.normal(size=len(start)) if i else 0)
        found = least_squares(lambda t: off(t)[used], at, loss="huber", f_scale=0.003, max_nfev=500)
        if found.cost < lowest:
            best, lowest = off(found.x) + log, found.cost
    return best


def steps(folder: Path, quick: bool) -> Result:
    """Errors at held-out cells by form, and the default's surface of rates and batches beside them."""
    with (folder / "steplaw2025_lr_batch.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    runs = [
        {
            "params": float(r["non_embedding"]), "tokens": float(r["tokens"]), "lr": float(r["lr"]),
            "batch_tokens": SEQUENCE * float(r["batch_sequences"]), "loss": float(r["loss"]),
        }
        for r in rows
    ]  # fmt: skip
    tuned: dict[tuple[float, ...], dict[str, float]] = {}
    for run in runs:
        key = float(f"{run['params']:.3g}"), run["tokens"], run["batch_tokens"]
        tuned[key] = min(run, tuned.get(key, run), key=lambda r: r["loss"])
    N, D, b, L = (
        np.array([r[name] for r in tuned.values()])
        for name in ("params", "tokens", "batch_tokens", "loss")
    )
    cell_of = [key[:2] for key in tuned]
    cells = sorted(set(cell_of), key=lambda c: c[0] * c[1])
    log, forms = np.log(L), _forms(np.log(N / 3e8), np.log(D / 2e10), np.log(b / 5e5))
    out: dict[str, list[tuple[float, float, float]]] = {}
    cuts = HELD_OUT[: 1 if quick else None]
    for cut in cuts:
        held = np.array([c in cells[-cut:] for c in cell_of])
        groups = [
            np.array([i for i, c in enumerate(cell_of) if c == cell]) for cell in cells[-cut:]
        ]
        predicted = {name: _fitted(*form, log, ~held) for name, form in forms.items()}
        left = [r for r, out_ in zip(tuned.values(), held, strict=True) if not out_]
        law = fit_runs(left, law="steps").law
        assert isinstance(law, Steps)
        predicted['law="steps"'] = np.log(law.loss(N, D, b))
        predicted["the default, with rates and batches"] = _joint(runs, cells[-cut:], N, D, b)
        for name, value in predicted.items():
            out.setdefault(name, []).append(_judged(value - log, value, log, groups))
    means = {name: 100 * np.mean(values, axis=0) for name, values in out.items()}
    shown = [(name, *(f"{v:.2f}" for v in values)) for name, values in means.items()]
    columns = (
        "form",
        "loss, %",
        "what batches cost, %",
        "loss at the batch chosen above the best, %",
    )
    notes = (
        f"{len(L)} cells of N, D and batch at their best rate; of {len(cells)} pairs of N and D the "
        f"{', '.join(map(str, cuts))} most expensive are held out.",
    )
    own = means['law="steps"']
    goals = [
        at_most("what batches cost, error in %", float(own[1]), WORST_SHAPE),
        at_most("loss at the batch chosen, % above the best", float(own[2]), WORST_BATCH),
    ]
    return [Table("The cost of a batch, held out", columns, tuple(shown), notes)], goals


def _joint(
    runs: list[dict[str, float]], cells: list[tuple[float, ...]], N: Floats, D: Floats, b: Floats
) -> Floats:
    """ln L of cells at their best rate, by the law and the valley of all other runs."""
    left = [r for r in runs if (float(f"{r['params']:.3g}"), r["tokens"]) not in cells]
    fit = fit_runs(left)
    rule = fit.hparams
    assert rule is not None
    best = [rule.optimal(n, d).batch_units for n, d in zip(N, D, strict=True)]
    off = np.log(b / np.array(best, dtype=np.float64))
    curvature = float(np.mean(np.exp(rule.valley.draws[:, 8])))
    return np.asarray(np.log(fit.law.loss(N, D)) + curvature * off**2)


def _judged(
    error: Floats, predicted: Floats, log: Floats, groups: list[Floats]
) -> tuple[float, float, float]:
    """Root mean square errors of the loss, and within a cell, and what the batch chosen costs."""
    whole = float(np.sqrt(np.mean(np.concatenate([error[g] for g in groups]) ** 2)))
    shape = float(np.sqrt(np.mean([np.var(error[g]) for g in groups])))
    chosen = [log[g][np.argmin(predicted[g])] - np.min(log[g]) for g in groups]
    return whole, shape, float(np.mean(chosen))

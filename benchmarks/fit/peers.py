"""Other packages, each by its own documented call; runs under the interpreter they live in.

    .venv-bench/bin/python benchmarks/fit/peers.py chinchilla < runs.json

Reads {"params", "tokens", "loss", "delta", "refits"} and writes a JSON list of
{"what", "objective", "seconds", "refit_seconds", "predicted"}: the CPU seconds of one fit and
of that many case-bootstrap refits (null where the package has none) and the fitted losses, so that
one judge can weigh all of them. Imports nothing of flops-fit.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["POLARS_MAX_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import numpy as np

Runs = dict[str, Any]


def row(what: str, objective: str, seconds: float, predicted: Any, refits: float | None = None):
    losses = [float(v) for v in predicted]
    return {
        "what": what,
        "objective": objective,
        "seconds": seconds,
        "refit_seconds": refits,
        "predicted": losses,
    }


def chinchilla(runs: Runs) -> list[dict[str, Any]]:
    """The grid of its README (3,125 starts), the papers' loss, one process."""
    from chinchilla import Chinchilla
    from chinchilla._metrics import log_huber

    N, D, L = runs["params"], runs["tokens"], runs["loss"]
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"{6 * n * d!r},{n!r},{d!r},{v!r}" for n, d, v in zip(N, D, L, strict=True)]
        Path(folder, "df.csv").write_text("\n".join(["C,N,D,loss", *lines]) + "\n")
        model = Chinchilla(
            folder,
            param_grid={
                "E": np.linspace(1, 2, 5),
                "a": np.linspace(1, 10, 5),
                "b": np.linspace(1, 10, 5),
                "alpha": np.linspace(0.1, 0.7, 5),
                "beta": np.linspace(0.1, 0.7, 5),
            },
            loss_fn=functools.partial(log_huber, delta=runs["delta"]),
            log_level=50,
        )
        start = time.process_time()
        model.fit(parallel=False)
        seconds = time.process_time() - start
        predicted = model.predict_loss(np.array(N), np.array(D))
    return [row("chinchilla 0.2.0, README grid", "log-Huber", seconds, predicted)]


def simple_scaling_laws(runs: Runs) -> list[dict[str, Any]]:
    """Its two laws that are ours; its fit is least squares and always followed by a bootstrap."""
    import polars as pl
    from simple_scaling_laws import fit

    N, D, L = (np.array(runs[k]) for k in ("params", "tokens", "loss"))
    size, data, target = "model_size__n_params", "dataset_size__n_tokens", "test_loss__nll"
    table = pl.DataFrame(
        {
            "training_run_id": [str(i) for i in range(len(N))],
            "test_set_id": ["held out"] * len(N),
            size: N,
            data: D,
            target: L,
        }
    )
    rows = []
    for law in ("separable-power", "skaling-joint-power"):
        fit(table, law=law, n_draws=1, seed=0)
        start = time.process_time()
        model = fit(table, law=law, n_draws=1, seed=0)
        middle = time.process_time()
        fit(table, law=law, n_draws=runs["refits"], seed=0)
        end = time.process_time()
        p, domain = model.params(target), model.observed_domain
        n_part = (N / domain[size]["reference"]) ** -p["alpha"]
        d_part = (D / domain[data]["reference"]) ** -p["beta"]
        if law == "separable-power":
            predicted = p["E"] + p["A"] * n_part + p["B"] * d_part
        else:
            predicted = p["E"] + p["A"] * (n_part + p["R"] * d_part) ** p["k"]
        seconds, refits = middle - start, (end - middle) - (middle - start)
        name = f"simple-scaling-laws 0.2.0, {law}"
        rows.append(row(name, "linear least squares", seconds, predicted, refits))
    return rows


def vpnls(runs: Runs) -> list[dict[str, Any]]:
    """Its grid at the README's resolution, and L-BFGS-B from there; N in millions, D in billions."""
    from vpnls.api import fit_vpnls, huber

    N, D, L = (np.array(runs[k]) for k in ("params", "tokens", "loss"))
    N, D = N / 1e6, D / 1e9
    rows = []
    for method in ("grid", "scipy"):
        call = functools.partial(
            fit_vpnls, N, D, L, method=method, resolution=0.01, loss=huber(runs["delta"])
        )
        call()
        start = time.process_time()
        r = call()
        seconds = time.process_time() - start
        predicted = r.E + r.A * N**-r.alpha + r.B * D**-r.beta
        rows.append(row(f"vpnls, {method}", "linear Huber", seconds, predicted))
    return rows


PEERS = {"chinchilla": chinchilla, "simple-scaling-laws": simple_scaling_laws, "vpnls": vpnls}


if __name__ == "__main__":
    out = PEERS[sys.argv[1]](json.load(sys.stdin))
    print(json.dumps(out))

"""How often the default intervals hold the truth.

Simulates sweeps from known laws, fits each with the defaults as shipped (choice of law, robust
scale, window) and counts how often the 90 % intervals of N*, D*, loss and D/N hold the true value
at 1, 10 and 100 times the largest compute. Pooled over the cases that is to be 88 to 98 per cent of each
quantity; the exit status is 1 where it is not. Cases whose budgets share an error, which the intervals do
not know, stand apart: of them it counts how many fits warn.

    python -m benchmarks.coverage --sims 500      # of each case; 100, the default, take about ten minutes
    python -m benchmarks.coverage --sims 100 --case kappa0.5/asymmetric/t3/tapered
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool

from benchmarks.common.threads import one_thread

if __name__ == "__main__":  # read when NumPy is first imported
    one_thread()

import numpy as np

from benchmarks.common.command import run
from benchmarks.common.report import Goal, Result, Table
from flops_fit.errors import FitError
from flops_fit.fit import fit_runs
from flops_fit.laws import Kappa, Law

TARGETS = (1.0, 10.0, 100.0)
GOAL = (88.0, 98.0)
QUANTITIES = ("optimal_params", "optimal_tokens", "expected_loss", "tokens_per_param")
REST = {"given": 0, "kappa": 0, "warned": 0, "width": 2, "bias": 2, "mad": 2}
"""Further columns, and their digits."""


@dataclass(frozen=True)
class Case:
    """A true law, a noise and a design."""

    kappa: float
    asymmetric: bool
    noise: str
    design: str
    sd: float = 0.005
    shared: float = 0.0  # sd of an error that all runs of a budget have

    @property
    def name(self) -> str:
        shape = "asymmetric" if self.asymmetric else "symmetric"
        apart = f"/shared {self.shared:.1%}" if self.shared else ""
        return f"kappa{self.kappa:g}/{shape}/{self.noise}/{self.design}{apart}"

    @property
    def law(self) -> Law:
        """Slopes of .35 each, or .28 and .45, whatever κ; a term of about 1 at 1e8 and 2e9."""
        p, q = (0.28, 0.45) if self.asymmetric else (0.35, 0.35)
        k = self.kappa
        scale_n, scale_d = 1e8 ** (p / k) * 0.8 ** (1 / k), 2e9 ** (q / k) * 0.8 ** (1 / k)
        return Kappa(1.7, scale_n, scale_d, p / k, q / k, k)

    def design_points(self) -> tuple[np.ndarray, np.ndarray]:
        """N and C of each run."""
        budgets = np.geomspace(1e18, 1e20, 5)
        counts = {
            "uniform": (7, 7, 7, 7, 7),
            "tapered": (12, 9, 6, 4, 2),
            "small": (5, 5, 5, 5),
            "few": (5, 5),
        }
        sizes, compute = [], []
        for C, count in zip(budgets, counts[self.design], strict=False):
            best = self.law.optimal(C).params
            reach = 10.0 if self.design == "tapered" else 8.0
            sizes.append(best * np.geomspace(1 / reach, reach, count) * 1.15)
            compute.append(np.full(count, C))
        return np.concatenate(sizes), np.concatenate(compute)

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One simulated sweep as columns."""
        N, C = self.design_points()
        D = C / (6 * N)
        if self.noise == "normal":
            noise = rng.normal(size=len(N))
        else:
            noise = rng.standard_t(3, size=len(N)) / np.sqrt(3)
        budgets = np.unique(C, return_inverse=True)[1]
        noise = self.sd * noise + self.shared * rng.normal(size=budgets.max() + 1)[budgets]
        loss = self.law.loss(N, D) * np.exp(noise)
        return {"params": N, "tokens": D, "flops": C, "loss": loss, "budget": C}


def cases() -> Iterator[Case]:
    """The cases of the acceptance test, and two small noisy sweeps."""
    for kappa, asymmetric, noise, design in itertools.product(
        (1.0, 0.5), (False, True), ("normal", "t3"), ("uniform", "tapered")
    ):
        yield Case(kappa, asymmetric, noise, design)
    yield Case(1.0, False, "normal", "small", 0.01)
    yield Case(0.5, True, "normal", "small", 0.01)
    yield Case(1.0, False, "normal", "few")
    for shared in (0.005, 0.01):
        yield Case(1.0, False, "normal", "uniform", 0.003, shared)


def simulate(case: Case, sims: int, seed: int, options: dict[str, object]) -> dict[str, float]:
    """Coverage in per cent of each quantity and target, and how often each law was chosen."""
    hits = np.zeros((len(TARGETS), len(QUANTITIES)))
    widths: list[float] = []
    given = chosen = warned = 0
    top = float(case.design_points()[1].max())
    truth = [case.law.optimal(top * t) for t in TARGETS]
    errors = []
    for i in range(sims):
        rng = np.random.default_rng([seed, i])
        try:
            fit = fit_runs(case.draw(rng), **options)
        except FitError:
            continue
        warned += any(d.code == "shared_errors" for d in fit.diagnostics)
        chosen += fit.law.name == "kappa"
        predictions = [fit.predict(top * t) for t in TARGETS]
        if any(v is None for p in predictions for v in p.intervals.values()):
            continue
        given += 1
        errors.append(np.log(predictions[-1].optimal_params / truth[-1].params))
        for j, (p, best) in enumerate(zip(predictions, truth, strict=True)):
            values = (best.params, best.tokens, best.loss, best.tokens / best.params)
            for k, (name, value) in enumerate(zip(QUANTITIES, values, strict=True)):
                low, high = p.intervals[name]
                hits[j, k] += low <= value <= high
        low, high = predictions[-1].intervals["optimal_params"]
        widths.append(float(np.log(high / low)))
    row = {
        f"{q}@{t:g}x": 100 * hits[j, k] / max(given, 1)
        for j, t in enumerate(TARGETS)
        for k, q in enumerate(QUANTITIES)
    }
    error = np.array(errors or [np.nan])
    return {
        **row,
        "given": 100 * given / sims,
        "kappa": 100 * chosen / sims,
        "warned": 100 * warned / sims,
        "width": float(np.median(widths)) if widths else float("nan"),
        "bias": float(np.median(error)),
        "mad": float(1.4826 * np.median(np.abs(error - np.median(error)))),
    }


def _job(job: tuple[Case, int, int, dict[str, object]]) -> tuple[str, dict[str, float], float]:
    start = time.perf_counter()
    case, sims, seed, options = job
    return case.name, simulate(case, sims, seed, options), time.perf_counter() - start


def coverage(given: argparse.Namespace, quick: bool) -> Result:
    """A row a case, and the cases pooled."""
    options = {"law": given.law, "window": None if given.window == "none" else "auto"}
    sims = 10 if quick else given.sims
    jobs = [(c, sims, given.seed, options) for c in cases() if given.case in c.name]
    rows, found = [], []
    with Pool() as pool:
        for name, row, seconds in pool.imap(_job, jobs):
            found += [] if "shared" in name else [row]
            rest = (f"{row[key]:.{digits}f}" for key, digits in REST.items())
            rows.append((name, *_triples(row), *rest, f"{seconds / sims:.3f}"))
            print(*rows[-1], flush=True)
    keys = found[0] if found else ()
    pooled = {key: float(np.mean([row[key] for row in found])) for key in keys}
    rows += [("pooled", *_triples(pooled), *[""] * (len(REST) + 1))] if found else []
    columns = ("case", "N*", "D*", "loss", "D/N", *REST, "s a fit")
    notes = (
        f"{sims} sweeps of each case: how many of 100 intervals hold the truth at 1, 10 and 100 times the "
        "largest compute, for how many there were all intervals, the κ-law, and the warning of errors that a "
        "budget's runs share. Pooled: the cases without these. Width of the interval, "
        "bias and spread are of ln N* at 100 times.",
    )
    goals = [Goal(f"{k}, %", v, *GOAL, "90 %") for k, v in pooled.items() if "@" in k]
    return [Table("What nominal 90 % intervals hold", columns, tuple(rows), notes)], goals


def _triples(row: dict[str, float]) -> Iterator[str]:
    return ("/".join(f"{row[f'{q}@{t:g}x']:.0f}" for t in TARGETS) for q in QUANTITIES)


def main() -> int:
    """Run it; 1 where the cases pooled miss the goal."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--sims", type=int, default=100, help="sweeps of each case")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--case", default="", help="only cases whose name contains this")
    options.add_argument("--law", default="auto")
    options.add_argument("--window", default="auto", choices=("auto", "none"))
    given = options.parse_known_args()[0]
    return run({"coverage": partial(coverage, given)}, __doc__ or "", "coverage", options=options)


if __name__ == "__main__":
    sys.exit(main())

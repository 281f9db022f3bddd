"""Published numbers that the fit has to reproduce, one function a source.

A number without a stated error is met within half a unit of its last printed digit, or a little
more where the source used another estimator; each tolerance is printed beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from benchmarks.common.report import Goal, Result, at_least, at_most, goal_table, near
from benchmarks.fit.independent import LogHuber, chinchilla_runs, objective_of_losses, random_starts
from flops_fit import reference
from flops_fit.fit import Fit, fit_runs
from flops_fit.table import RunTable

GOPHER = 5.76e23  # FLOPs of Chinchilla's and Gopher's training
OPTIMUM = 0.0010182740176  # of the summed objective on the 240 points
PUBLISHED_LLAMA = (402e9, 16.55e12)

# From Kaplan's set-up to a tuned one, a correction a step, with the authors' exponents.
PORIAN = (
    ({"param_count": "kaplan"}, 0.835),
    ({"param_count": "standard", "warmup": "long"}, 0.707),
    ({"warmup": "short", "decay": "kaplan"}, 0.602),
    ({"decay": "chinchilla"}, 0.571),
    ({"hparams": "tuned"}, 0.497),
)


def papers_fit(runs: object, law: str = "hoffmann") -> Fit:
    """The papers' objective: log-Huber at δ = 1e-3 over all runs."""
    return fit_runs(runs, law, delta=1e-3, window=None)


def constants(fit: Fit, expected: dict[str, float], rel: float, name: str) -> Iterator[Goal]:
    for key, value in expected.items():
        yield near(f"{name}: {key}", fit.law.params[key], value, rel=rel)


def chinchilla(quick: bool) -> Iterator[Goal]:
    """Besiroglu et al. 2024 (arXiv:2404.10102) on Chinchilla's points."""
    runs = chinchilla_runs()
    fit = papers_fit(runs)
    yield near("240 points: objective", fit.objective, OPTIMUM, rel=1e-6)
    expected = {"E": 1.81722, "A": 477.83, "B": 2143.4, "alpha": 0.34731, "beta": 0.36717}
    yield from constants(fit, expected, 2e-5, "240 points")
    yield near("240 points: a", fit.exponents[0], 0.514, tol=5e-4)
    best = fit.law.optimal(GOPHER, fit.flops)
    yield near("240 points: N*(5.76e23), B", best.params / 1e9, 73.2, tol=0.1)
    yield near("240 points: D/N at 5.76e23", best.tokens / best.params, 17.9, tol=0.05)
    yield from _published_fit(runs, fit)
    everything = papers_fit(reference.runs("hoffmann2022_epoch"))
    yield near("245 points: a", everything.exponents[0], 0.565, tol=5e-4)
    yield near("245 points: beta", everything.law.params["beta"], 0.453, tol=5e-4)
    deltas = 10.0 ** np.arange(-6, 1, 3 if quick else 1)
    sizes = [
        fit_runs(runs, "hoffmann", delta=float(d), window=None).law.optimal(GOPHER).params / 1e9
        for d in deltas
    ]
    yield near("δ from 1e-6 to 1: least N*(5.76e23), B", min(sizes), 72.0, tol=0.5)
    yield near("δ from 1e-6 to 1: largest N*(5.76e23), B", max(sizes), 82.0, tol=0.5)


def _published_fit(runs: RunTable, fit: Fit) -> Iterator[Goal]:
    """The constants they print come from an estimator that is L1 in effect: δ towards 0."""
    flat = fit_runs(runs, "hoffmann", delta=1e-6, window=None)
    expected = {"E": 1.8169, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
    yield from constants(flat, expected, 3e-4, "δ = 1e-6, as published")
    there = objective_of_losses(flat.law.loss(runs.params, runs.tokens), runs)
    above = 100 * (there / fit.objective - 1)
    yield near("δ = 1e-6, as published: above the optimum, %", above, 0.036, tol=0.002)
    law = reference.law("besiroglu2024")
    printed = objective_of_losses(law.loss(runs.params, runs.tokens), runs)
    rounded = 100 * (printed / fit.objective - 1)
    yield at_least("constants as printed, four digits: above the optimum, %", rounded, 0.0)


def invariance(quick: bool) -> Iterator[Goal]:
    """The same optimum in any units and from any start."""
    runs = chinchilla_runs()
    for law, base in (("hoffmann", papers_fit(runs)), ("kappa", papers_fit(runs, "kappa"))):
        powers = (-9, 9) if quick else (-9, -4, 0, 5, 9)
        objectives, sizes = [], []
        for scale in product(*[10.0 ** np.array(powers, dtype=float)] * 3):
            n, d, loss = scale
            scaled = {"N": runs.params * n, "D": runs.tokens * d, "loss": runs.loss * loss}
            fit = papers_fit(scaled, law)
            objectives.append(fit.objective)
            sizes.append(fit.law.optimal(GOPHER * n * d).params / n)
        worst = np.max(np.abs(np.array(objectives) / base.objective - 1))
        moved = np.max(np.abs(np.array(sizes) / base.law.optimal(GOPHER).params - 1))
        count = len(powers) ** 3
        yield at_most(f"{law}: objective's change in {count} unit systems, rel", worst, 1e-6)
        yield at_most(f"{law}: N*(5.76e23)'s change in {count} unit systems, rel", moved, 1e-4)
        yield at_least(f"{law}: share of the solver's own starts that agree", _agree(base), 0.99)
    problem, best = LogHuber.of(runs), papers_fit(runs).objective
    reached = problem.minimum(random_starts(5 if quick else 200, seed=0))
    below = 1 - min(reached) / best
    yield at_most(f"scipy from {len(reached)} random starts: lowest below ours, rel", below, 1e-9)
    found = np.mean(np.array(reached) <= best * (1 + 1e-6))
    yield at_least("share of those starts that end at our optimum", found, 0.05)


def _agree(fit: Fit) -> float:
    return fit.starts_agree / fit.starts


def bootstrap(quick: bool) -> Iterator[Goal]:
    """80 % case-bootstrap intervals on Chinchilla's 240 points; theirs are a bootstrap as well."""
    fit = papers_fit(chinchilla_runs())
    draws = fit.bootstrap(1000 if quick else 10000)
    E, A, B, alpha, beta = draws.T
    a = beta / (alpha + beta)
    size = (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (GOPHER / 6) ** a
    ratio = GOPHER / 6 / size**2
    published = (
        ("A", A, 335, 645, 0.06),
        ("B", B, 1411, 3967, 0.06),
        ("E", E, 1.786, 1.851, 0.003),
        ("alpha", alpha, 0.326, 0.365, 0.01),
        ("beta", beta, 0.346, 0.397, 0.01),
        ("a", a, 0.492, 0.542, 0.01),
        ("N*(5.76e23), B", size / 1e9, 57.4, 97.8, 0.04),
        ("D/N at 5.76e23", ratio, 10.0, 29.1, 0.06),
    )
    for name, values, low, high, rel in published:
        found = np.quantile(values, [0.1, 0.9])
        yield near(f"{name}: 10 %", found[0], low, rel=rel)
        yield near(f"{name}: 90 %", found[1], high, rel=rel)


def llama(quick: bool) -> Iterator[Goal]:
    """Llama 3's IsoFLOP points (arXiv:2407.21783)."""
    del quick
    runs = reference.runs("llama3_2024")
    fit = papers_fit(runs)
    line, target = fit.isoflop.d_line, 3.8e25
    yield near("parabolas: k of D* = k·C^b", line.k, 0.2994, tol=5e-5)
    yield near("parabolas: b", line.a, 0.5368, tol=5e-5)
    tokens = line(target)
    params = target / (6 * tokens)
    yield near("parabolas: D*(3.8e25), T", tokens / 1e12, 16.1, tol=0.05)
    yield near("parabolas: N*(3.8e25), B", params / 1e9, 393, tol=0.5)
    yield near("parabolas: N over Meta's 402 B", params / PUBLISHED_LLAMA[0], 1, tol=0.03)
    yield near("parabolas: D over Meta's 16.55 T", tokens / PUBLISHED_LLAMA[1], 1, tol=0.03)
    fewer = runs.select(runs.budget < np.unique(runs.budget)[-2])
    short = papers_fit(fewer).isoflop.d_line(target)
    yield near("without two top budgets: N*(3.8e25), B", target / (6 * short) / 1e9, 656, tol=0.5)
    linear = fit_runs(runs, "hoffmann", delta=np.inf, loss_space="linear", window=None)
    expected = {"E": 0.6047, "A": 59.14, "B": 155.1, "alpha": 0.3100, "beta": 0.3136}
    yield from constants(linear, expected, 5e-4, "linear least squares")
    yield near("log-Huber 1e-3: objective", fit.objective, 0.0003904678, rel=1e-6)
    expected = {"E": 0.59419, "A": 38.329, "B": 160.226, "alpha": 0.28352, "beta": 0.31566}
    yield from constants(fit, expected, 2e-5, "log-Huber 1e-3")
    kappa = fit_runs(runs, "kappa", delta=np.inf, window=None)
    additive = fit_runs(runs, "hoffmann", delta=np.inf, window=None)
    yield near("log least squares: kappa", kappa.law.params["kappa"], 0.58, tol=0.005)
    yield near("residual sd of the additive law, %", 100 * additive.noise_sd, 0.50, tol=0.005)
    yield near("residual sd of the κ-law, %", 100 * kappa.noise_sd, 0.36, tol=0.005)


def marin(quick: bool) -> Iterator[Goal]:
    """Marin's IsoFLOP runs on DCLM, 2026."""
    del quick
    runs = reference.runs("marin2026_dclm")
    additive = fit_runs(runs, "hoffmann", delta=np.inf, window=None)
    yield near("parabolas: a", additive.isoflop.n_line.a, 0.424, tol=5e-4)
    yield near("parabolas: b", additive.isoflop.d_line.a, 0.552, tol=5e-4)
    yield near("additive, log least squares: a", additive.exponents[0], 0.395, tol=5e-4)
    kappa = fit_runs(runs, "kappa", window=None)
    yield near("κ-law, δ from the MAD: a", kappa.exponents[0], 0.376, tol=0.01)
    yield near("κ-law, δ from the MAD: kappa", kappa.law.params["kappa"], 0.44, tol=0.02)


def porian(quick: bool) -> Iterator[Goal]:
    """Porian et al. 2024 (arXiv:2406.19146): a in five set-ups; theirs from their own estimator."""
    del quick
    found = []
    for where, published in PORIAN:
        runs = reference.runs("porian2024_refinedweb", **where)
        line = fit_runs(runs).isoflop.n_line
        found.append(line.a)
        name = ", ".join(f"{k} {v}" for k, v in where.items())
        yield near(f"{name}: a of the parabolas", line.a, published, tol=0.03)
    yield at_most("a falls at every step: largest step", float(np.max(np.diff(found))), 0.0)


def packaged_laws(quick: bool) -> Iterator[Goal]:
    """Published laws as packaged."""
    del quick
    kaplan, deepseek = reference.law("kaplan2020"), reference.law("deepseek2024")
    yield near("Kaplan et al. 2020: a", kaplan.a, 0.73, tol=0.005)
    yield near("Kaplan et al. 2020: b", kaplan.b, 0.27, tol=0.005)
    yield near("DeepSeek 2024: a", deepseek.a, 0.524, tol=5e-4)
    yield near("DeepSeek 2024: b", deepseek.b, 0.476, tol=5e-4)
    first = reference.law("hoffmann2022")
    a = first.beta / (first.alpha + first.beta)
    yield near("Hoffmann et al. 2022: a of approach 3 (Table 2)", a, 0.46, tol=0.01)
    law = reference.law("muennighoff2023")
    logs = {"E": 0.62548, "A": 6.2554, "B": 7.3050}
    for key, value in logs.items():
        yield near(f"Muennighoff et al. 2023: ln {key}", np.log(law.params[key]), value, tol=5e-5)
    for key, value in {"alpha": 0.35266, "beta": 0.35266, "R_D": 15.388, "R_N": 5.310}.items():
        yield near(f"Muennighoff et al. 2023: {key}", law.params[key], value, rel=1e-4)


def notices(quick: bool) -> Iterator[Goal]:
    """What the fit has to say by itself; 1 where it does."""
    del quick
    repeated = fit_runs(reference.runs("muennighoff2023_c4"))
    said = {d.code for d in repeated.diagnostics if d.severity in ("warning", "critical")}
    law = float(repeated.law.name == "muennighoff")
    yield at_least("Muennighoff's 295 runs: the law of repeated data is taken", law, 1)
    yield at_least(
        "Muennighoff's 295 runs: rising losses are noticed", "repetition_hurts" in said, 1
    )
    yield at_least("Muennighoff's 295 runs: trust is not ok", repeated.trust != "ok", 1)
    everything = reference.runs("hoffmann2022_epoch")
    fit = fit_runs(everything)
    yield at_least("Chinchilla: the fit is fragile, trust is not ok", fit.trust != "ok", 1)
    largest = {everything.labels[i] for i in np.argsort(everything.loss)[-5:]}
    named = {o.label for o in fit.outliers} | {e.label for e in fit.excluded}
    yield at_least("Chinchilla: of its five largest losses, named", len(largest & named), 5)


SECTIONS: dict[str, Callable[[bool], Iterator[Goal]]] = {
    "Chinchilla": chinchilla,
    "Any units, any start (Chinchilla, δ = 1e-3)": invariance,
    "Chinchilla, 80 % case-bootstrap intervals": bootstrap,
    "Llama 3": llama,
    "Marin": marin,
    "Porian et al.": porian,
    "Packaged laws": packaged_laws,
    "What has to be noticed": notices,
}


def accuracy(quick: bool) -> Result:
    """Every section as a table, and all of its rows as goals."""
    tables, goals = [], []
    for title, section in SECTIONS.items():
        rows = list(section(quick))
        notes = (section.__doc__,) if section.__doc__ else ()
        tables.append(goal_table(title, rows, notes))
        goals += [Goal(f"{title}: {g.what}", g.measured, g.low, g.high, g.expected) for g in rows]
    return tables, goals

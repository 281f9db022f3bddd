"""What a table of runs allows: runs that determine no law are refused, the rest is checked.

Losses in bits among losses in nats are found by geometry. A run's ln L lies on a smooth surface
q(ln N, ln D), one in bits −ln ln 2 = 0.3665 higher. Runs scatter by per cents, so the two units
show as two parallel sheets. Each run is put on the nearer sheet, and the surface with the smallest
truncated residuals is taken, searched from surfaces through a few runs each. The units are mixed
where one sheet fits far worse, several runs lie on the second, hardly any between the two, and runs
scatter far less around a law when they are brought to one unit.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from flops_fit.errors import FitError, TableError
from flops_fit.fit.minima import IsoFLOP
from flops_fit.fit.repeated import epochs_of
from flops_fit.fit.solver import MAD_TO_SD, finding
from flops_fit.fit.surface import points_of
from flops_fit.fit.surface_solver import SurfaceSolver
from flops_fit.flops.functions import Bools, Floats, FlopsFunction
from flops_fit.laws.kappa import Kappa
from flops_fit.laws.law import Law
from flops_fit.records import Diagnostic, Severity
from flops_fit.table.left_out import Excluded
from flops_fit.table.run_table import RunTable
from flops_fit.text import listed, span

_LARGEST = 1e50  # powers and squares of anything beyond would overflow
_MOST_PARAMS, _MOST_TOKENS, _MOST_COMPUTE, _MOST_LOSS = 1e16, 1e19, 1e32, 1e4
_TINY_PARAMS, _TINY_TOKENS = 1e3, 1e4
_TINY_COMPUTE = 1e12  # of the largest run: a second on a laptop
_MOST_EPOCHS = 1e5
_MOST_RATIO = 1e6  # between N and D of one run, either way
_LEAST_FALL = 1e-3
_LEAST_RATIO, _SURELY_LOW = 0.5, 0.1  # D/N of half the runs of a table: doubted, and wrong
_HIGH_RATIO, _SURELY_HIGH = 2e4, 1e5
_HIGH_LOSS = 14.0  # nats a token of a vocabulary of a million
_COMPUTE_OFF, _COMPUTE_WRONG = 10.0, 100.0
_MOST_NAMED = 8  # budgets, each with a finding of its own
_FEW_SIZES, _FEW_BUDGETS = 5, 4

_BITS_OFFSET = float(-np.log(np.log(2)))
_FEWEST_RUNS, _FEWEST_IN_MINORITY = 12, 2
_LARGEST_SD = 0.06  # six of these fit between the sheets
_STRAY = 0.12  # a run this far off either sheet belongs to neither
_SURFACE_ERROR = 0.035  # of a quadratic against a law at the ends of a sweep
_CUT = 0.25 * _BITS_OFFSET  # residuals beyond this count alike
_NEEDED_GAIN = 0.4 * _CUT**2  # what a run on the second sheet must save
_MOST_MOVED = 12  # budgets that are tried as the ones in another unit
_NEEDED_FALL, _NEEDED_FALL_OF_MOVED = 2.0, 7.0  # of the scatter around a law, in one unit
_MOST_SEARCHED, _DRAWS = 1500, 800
_MOST_LOST = 0.1  # share of a budget's runs that may be lost without a warning
_SAME_BUDGET = np.log(1.1)


def check_runs(table: RunTable, parameters: int) -> RunTable:
    """The table's usable runs, each once; FitError or TableError where they determine no law."""
    columns = (table.params, table.tokens, table.flops, table.budget)
    usable: Bools = np.all([(c > 1 / _LARGEST) & (c < _LARGEST) for c in columns], axis=0)
    what = f"N, D, C or its budget is no positive number from {1 / _LARGEST:g} to {_LARGEST:g}"
    table = table.select(usable, what)
    what = f"its loss is no number from {-_LARGEST:g} to {_LARGEST:g}"
    table = table.select(np.abs(table.loss) < _LARGEST, what, lost=True)
    if len(table) == 0:
        reasons = listed([f"{e.label}: {e.reason}" for e in table.excluded[:3]])
        raise TableError(
            f"expected runs with positive N and D and a finite loss; none is left ({reasons})."
        )
    table = _without_repeated_rows(table)
    count = len(table)
    distinct = len(np.unique(np.column_stack([table.params, table.tokens]), axis=0))
    x, y = np.log(table.params), np.log(table.tokens)
    spread = np.linalg.svd(np.column_stack([x - x.mean(), y - y.mean()]), compute_uv=False)
    left = next((f" Left out: {e.label}, {e.reason}." for e in table.excluded), "")
    if distinct <= parameters:
        raise FitError(
            f"expected more than {parameters} runs of different N or D, as many as the law has "
            f"parameters; got {count} ({distinct} different). Add {parameters + 1 - distinct} or "
            f"more runs: five sizes at each of four budgets is a good sweep.{left}"
        )
    if len(np.unique(table.params)) < 2:
        raise FitError(
            f"expected several model sizes; all {count} runs have N = {table.params[0]:.3g}. "
            "Add runs at other sizes."
        )
    if len(np.unique(table.budget)) < 2:
        raise FitError(
            f"expected two budgets or more; all {count} runs have C ≈ {table.budget[0]:.3g}, where "
            f"N and D trade off exactly. Add runs at other budgets.{left}"
        )
    if spread[-1] < 1e-3 * spread[0]:
        raise FitError(
            f"expected N and D to vary independently; in these {count} runs one follows from the "
            "other. Add runs with other numbers of tokens at the same sizes."
        )
    if np.ptp(table.loss) <= 1e-12 * np.max(np.abs(table.loss)):
        raise FitError(
            f"expected losses that differ between runs; all {count} are {table.loss[0]:.6g}. "
            "Check the loss column."
        )
    return table


def _without_repeated_rows(table: RunTable) -> RunTable:
    """Rows equal in N, D, C and loss once: one run logged twice is no second observation."""
    rows = np.column_stack([*table.setting(), table.flops, table.loss])
    _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    original = enumerate(first[which.ravel()].tolist())
    same = "the same N, D, C and loss as"
    return table.without({i: f"{same} {table.labels[k]}" for i, k in original if i != k})


def table_findings(
    runs: RunTable, shape: IsoFLOP, flops: FlopsFunction, repeats_known: bool
) -> list[Diagnostic]:
    """Every finding about the table; ``repeats_known`` where the law takes repeats into account."""
    out = [finding("assumed", note=note) for note in runs.notes]
    if runs.excluded:
        shown = listed([f"{e.label}: {e.reason}" for e in runs.excluded])
        out.append(finding("excluded", count=len(runs.excluded), shown=shown))
    if negative := int(np.sum(runs.loss <= 0)):
        out.append(finding("negative_losses", count=negative, runs=len(runs)))
    out += [
        *runs.findings,
        *_lost_by_outcome(runs),
        *_implausible(runs),
        *_conventions(runs, flops),
    ]
    return [*out, *([] if repeats_known else _repeats(runs)), *_grid(runs), *_edges(shape)]


def _implausible(runs: RunTable) -> list[Diagnostic]:
    """Findings about the units of N, D, C and the loss; of samples not about the loss and 6·N·D."""
    N, D, C, L = (float(np.max(c)) for c in (runs.params, runs.tokens, runs.flops, runs.loss))
    n, d, half_loss = (float(np.median(c)) for c in (runs.params, runs.tokens, runs.loss))
    ratio, read = float(np.median(runs.tokens / runs.params)), bool(runs.recognised)
    counts_tokens = runs.unit == "tokens"
    few_n = N < _TINY_PARAMS and (ratio > _MOST_RATIO or read)
    few_d = D < _TINY_TOKENS and (ratio < 1 / _MOST_RATIO or (read and d < _TINY_PARAMS))
    few_d &= counts_tokens
    least = _LEAST_RATIO if counts_tokens else _LEAST_RATIO / 100
    odd = read and not few_n and not few_d and not least <= ratio <= _HIGH_RATIO
    wrong = counts_tokens and L >= _MOST_LOSS
    tiny = counts_tokens and read and C < _TINY_COMPUTE and bool(np.any(runs.params % 1))
    epochs = float(np.median(epochs_of(runs)))
    cases = {
        "params_large": N >= _MOST_PARAMS,
        "tokens_large": D >= _MOST_TOKENS,
        "compute_large": C >= _MOST_COMPUTE,
        "compute_small": tiny and not (few_n or few_d or odd),
        "params_small": few_n,
        "tokens_small": few_d,
        "ratio_odd": odd,
        "unique_small": epochs > _MOST_EPOCHS and not few_d,
        "loss_large": wrong,
        "loss_high": counts_tokens and read and half_loss > _HIGH_LOSS and not wrong,
    }
    values: dict[str, Any] = {"N": N, "D": D, "C": C, "L": L, "high": _HIGH_LOSS}
    values |= {"epochs": epochs, "n": n, "d": d, "ratio": ratio, "unit": runs.unit}
    graded: dict[str, Severity] = {}
    if _SURELY_LOW < ratio < _SURELY_HIGH:
        graded["ratio_odd"] = "warning"
    out = [finding(key, graded.get(key), **values) for key, bad in cases.items() if bad]
    off = float(np.median(runs.flops / (6 * runs.params * runs.tokens)))
    off_by = max(off, 1 / off)
    if counts_tokens and off_by >= _COMPUTE_OFF:
        severity: Severity = "critical" if off_by >= _COMPUTE_WRONG else "warning"
        out.append(finding("flops_implausible", severity, off=off))
    return out


def _conventions(runs: RunTable, flops: FlopsFunction) -> list[Diagnostic]:
    """Which compute and which N the table has."""
    out = []
    counted = np.asarray(flops(runs.params)) * runs.tokens
    misfit = float(np.max(np.abs(counted / runs.flops - 1)))
    if misfit > 0.05:
        out.append(finding("flops_misfit", percent=100 * misfit))
    per_product = runs.flops / (6 * runs.params * runs.tokens)
    if float(np.max(np.abs(np.log(per_product)))) > 0.05:
        out.append(finding("flops_convention", times=span(min(per_product), max(per_product))))
    if runs.non_embedding is not None:
        without = np.array_equal(runs.params, runs.non_embedding)
        what = "parameters without embeddings" if without else "all parameters"
        out.append(finding("n_convention", what=what))
    return out


def _repeats(runs: RunTable) -> list[Diagnostic]:
    epochs = float(np.max(epochs_of(runs), initial=1.0))
    if epochs <= 1.05:
        return []
    # Muennighoff et al. 2023 (arXiv:2305.16264): no loss up to 4 epochs, R* = 15.4.
    severity: Severity = "critical" if epochs > 16 else "warning" if epochs > 4 else "note"
    return [finding("repeated_data", severity, epochs > 4, epochs=epochs)]


def _grid(runs: RunTable) -> list[Diagnostic]:
    out = []
    budgets, counts = np.unique(runs.budget, return_counts=True)
    sizes = [len(np.unique(runs.params[runs.budget == b])) for b in budgets]
    if len(budgets) < _FEW_BUDGETS:
        severity: Severity = "critical" if len(budgets) < 3 else "warning"
        more = _FEW_BUDGETS - len(budgets)
        out.append(finding("few_budgets", severity, count=len(budgets), more=more))
    # Many runs of one size that differ in rate are no grid of sizes.
    grouped = float(np.median(counts if runs.regret is None else sizes)) >= 3
    fewest = int(np.median(sizes)) if grouped else len(np.unique(runs.params))
    if fewest < _FEW_SIZES:
        where = "a budget" if grouped else "in all"
        out.append(finding("few_sizes", fewest=fewest, where=where, enough=_FEW_SIZES))
    return out


def _edges(shape: IsoFLOP) -> list[Diagnostic]:
    outside = [p for p in shape.parabolas if not p.interior]
    few = shape.usable and len(outside) <= 0.25 * len(shape.parabolas)
    how: Severity = "note" if few else "warning"
    out = []
    for reason in dict.fromkeys(p.reason for p in outside):
        alike = [p for p in outside if p.reason == reason]
        if len(alike) > _MOST_NAMED:
            ends = {"low": alike[0].budget, "high": alike[-1].budget}
            words = {**vars(alike[-1]), **ends, "count": len(alike)}
            out.append(finding("edge_minima", how, **words))
        else:
            out += [finding("edge_minimum", how, **vars(p)) for p in alike]
    if shape.parabolas and not shape.usable:
        out.append(finding("isoflop_unusable", count=len(shape.interior)))
    return out


def flat(law: Law, runs: RunTable) -> list[Diagnostic]:
    """A critical finding where the law does not fall by 0.1 % over the runs' range of N, or of D."""
    N, D = (float(np.exp(np.mean(np.log(c)))) for c in (runs.params, runs.tokens))
    ends = {
        "N": (law.loss(np.min(runs.params), D), law.loss(np.max(runs.params), D)),
        "D": (law.loss(N, np.min(runs.tokens)), law.loss(N, np.max(runs.tokens))),
    }
    still = [n for n, (s, large) in ends.items() if not large < s - _LEAST_FALL * abs(s)]
    return [finding("flat_law", still=" or ".join(still))] if still else []


def mixed_loss_units(runs: RunTable) -> Diagnostic | None:
    """The finding that some losses, the smaller group, are in another unit; ``None`` where not."""
    if len(runs) < _FEWEST_RUNS or np.min(runs.loss) <= 0:
        return None
    x, y = (np.log(c) - np.log(c).mean() for c in (runs.params, runs.tokens))
    x, y = x / max(float(np.std(x)), 1e-12), y / max(float(np.std(y)), 1e-12)
    basis = np.column_stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    z = np.log(runs.loss)
    one = float(np.sum(_truncated(_search(basis, z, 0.0, runs.budget)[0])))
    if one <= _NEEDED_GAIN * _FEWEST_IN_MINORITY:
        return None
    residuals, upper = _search(basis, z, _BITS_OFFSET, runs.budget)
    bits = bool(2 * np.sum(upper) <= len(upper))
    minority = upper if bits else ~upper
    odd = np.flatnonzero(minority)
    sd = MAD_TO_SD * float(np.median(np.abs(residuals)))
    sd = max(sd * float(np.sqrt(len(z) / max(len(z) - basis.shape[1], 1))), 1e-6)
    if len(odd) < _FEWEST_IN_MINORITY or sd > _LARGEST_SD:
        return None
    # Outliers fall anywhere; a second unit puts its runs on the second sheet. A run that one
    # surface must give up costs the whole cut; two sheets take it in.
    off_sheet = float(np.sqrt(np.median(residuals[minority] ** 2)))
    stray = int(np.sum(np.abs(residuals) > max(4 * sd, _STRAY)))
    gain = one - float(np.sum(_truncated(residuals)))
    spread = off_sheet > max(2 * sd, _SURFACE_ERROR) or stray >= max(1.0, 0.25 * len(odd))
    if spread or gain <= _NEEDED_GAIN * len(odd):
        return None
    # The two sheets must be a law's: short runs' steep losses bend as sheets do.
    budgets = np.unique(runs.budget)[:_MOST_MOVED] if len(runs) <= _MOST_SEARCHED else ()
    whole = [(runs.budget == b, way) for b in budgets for way in (True, False)]
    before = _off_law(runs)
    tried = ((m, _off_law(runs, *m)) for m in [(minority, bits), *whole])
    moved = next((m for m, after in tried if _nearer(before, after, m[0])), None)
    if moved is None:
        return None
    odd, bits = np.flatnonzero(moved[0]), moved[1]
    shown = listed([runs.labels[i] for i in odd], separator=", ")
    unit = "bits" if bits else "nats"
    return finding("mixed_loss_units", count=len(odd), runs=len(runs), unit=unit, shown=shown)


def _off_law(runs: RunTable, moved: Bools | bool = False, bits: bool = True) -> Floats:
    """Residuals of a law, with the losses of some runs brought from bits to nats, or back."""
    loss = runs.loss * np.where(moved, np.log(2) if bits else 1 / np.log(2), 1.0)
    solver = SurfaceSolver(Kappa, points_of(replace(runs, loss=loss), log=True))
    return solver.fit(np.ones(len(loss)), "mad").residuals


def _nearer(before: Floats, after: Floats, moved: Bools) -> bool:
    """Whether moving them brought all runs much nearer to a law, or those moved very much."""
    falls = ((before, after, _NEEDED_FALL), (before[moved], after[moved], _NEEDED_FALL_OF_MOVED))
    return any(np.sum(b**2) > fall**2 * np.sum(a**2) for b, a, fall in falls)


def _search(basis: Floats, z: Floats, offset: float, budget: Floats) -> tuple[Floats, Bools]:
    """Residuals from the surface where they are smallest, truncated, and who is on its upper sheet."""
    rng = np.random.default_rng(0)
    sample = np.arange(len(z))
    if len(z) > _MOST_SEARCHED:
        sample = np.sort(rng.choice(sample, _MOST_SEARCHED, replace=False))
    B, t = basis[sample], z[sample]
    starts = _starts(B, t, budget[sample], offset, rng)
    distance = _folded(t - starts @ B.T, offset)[0]
    order = np.argsort(np.sum(np.minimum(np.abs(distance), _CUT), axis=1), kind="stable")
    ends = [_refine(B, t, starts[i], offset) for i in order[:16]]
    best = min(ends, key=lambda c: float(np.sum(_truncated(_folded(t - B @ c, offset)[0]))))
    return _folded(z - basis @ best, offset)


def _starts(
    B: Floats, t: Floats, budget: Floats, offset: float, rng: np.random.Generator
) -> Floats:
    """Surfaces through all runs, through a few at random, and with whole budgets moved."""
    runs, k = B.shape
    starts = [np.linalg.lstsq(B, t, rcond=None)[0]]
    for value in np.unique(budget)[:50] if offset else ():
        for moved in (budget == value, budget <= value):
            starts.append(np.linalg.lstsq(B, t - offset * moved, rcond=None)[0])
            starts.append(np.linalg.lstsq(B, t + offset * moved, rcond=None)[0])
    size = min(k + 2, runs)
    draws = _DRAWS if offset else _DRAWS // 8
    picked = np.argpartition(rng.random((draws, runs)), size - 1, axis=1)[:, :size]
    through = np.linalg.pinv(B[picked], rcond=1e-6) @ t[picked][..., None]
    surfaces = np.vstack([np.array(starts), through[..., 0]])
    if not offset:
        return surfaces
    lowered = surfaces.copy()  # the runs a surface goes through may be the upper sheet
    lowered[:, 0] -= offset
    return np.vstack([surfaces, lowered])


def _refine(B: Floats, t: Floats, start: Floats, offset: float) -> Floats:
    """Alternate sheets and a surface by Tukey's biweight, from wide to narrow."""
    c = start
    for _ in range(25):
        r, upper = _folded(t - B @ c, offset)
        scale = min(max(4.685 * MAD_TO_SD * float(np.median(np.abs(r))), 1e-6), 0.5 * _BITS_OFFSET)
        root = np.clip(1 - (r / scale) ** 2, 0, None)
        weighted = (t - offset * upper) * root
        new = np.asarray(np.linalg.lstsq(B * root[:, None], weighted, rcond=None)[0])
        if np.max(np.abs(new - c)) < 1e-9:
            break
        c = new
    return c


def _folded(r: Floats, offset: float) -> tuple[Floats, Bools]:
    """Residuals from the nearer sheet, and whether that is the upper one."""
    upper = r > offset / 2 if offset else np.zeros(r.shape, dtype=bool)
    return r - offset * upper, upper


def _truncated(r: Floats) -> Floats:
    return np.minimum(r * r, _CUT**2)


def _lost_by_outcome(runs: RunTable) -> list[Diagnostic]:
    """How many runs of each budget their own outcome left out, and whether that can bend the answer.

    It can where over a tenth of a budget is lost, or its largest run, or the one that looked best. Runs
    whose losses are known to lie above others of their budget are counted and cannot.
    """
    lost = [e for e in runs.excluded if e.by_outcome]
    if not lost:
        return []
    budgets, groups = np.unique(runs.budget), dict[float | None, list[Excluded]]()
    for e in lost:
        groups.setdefault(_nearest(budgets, e.budget), []).append(e)
    texts, severe = [], False
    for budget, group in sorted(groups.items(), key=lambda item: item[0] or 0.0):
        kept = np.ones(len(runs), bool) if budget is None else runs.budget == budget
        total = int(np.sum(kept)) + len(group)
        largest_kept = float(np.max(runs.params[kept], initial=0.0))
        lowest_kept = float(np.min(runs.loss[kept], initial=np.inf))
        open_ = [e for e in group if e.at_least is None or e.at_least <= lowest_kept]
        largest = any(e.params is not None and e.params >= largest_kept for e in open_)
        best = any(e.loss is not None and e.loss < lowest_kept for e in open_)
        severe |= len(open_) > _MOST_LOST * total or largest or best
        which = [w for w, true in (("its largest", largest), ("its best-looking", best)) if true]
        where = "of all, their budget not known" if budget is None else f"at C = {budget:.3g}"
        with_these = f", {' and '.join(which)} among them" if which else ""
        hopeless = len(group) - len(open_)
        stopped = f" ({hopeless} stopped, their losses known to be higher)" if hopeless else ""
        texts.append(f"{len(group)} of {total} {where}{with_these}{stopped}")
    severity: Severity = "warning" if severe else "note"
    return [finding("selected_by_outcome", severity, severe, texts=listed(texts, 8))]


def _nearest(budgets: Floats, compute: float | None) -> float | None:
    """The budget of runs that a compute belongs to, else the compute itself."""
    if compute is None or compute <= 0:
        return None
    off = np.abs(np.log(budgets / compute))
    return float(budgets[np.argmin(off)]) if np.min(off) < _SAME_BUDGET else compute

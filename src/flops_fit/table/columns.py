"""Which column holds which quantity."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import InputTypeError, TableError, nearest_name
from flops_fit.table.cells import HEADINGS, WORDS, Floats, is_missing, marks, numbers, typical
from flops_fit.table.headings import (
    FRACTIONAL,
    TEXT,
    TOOLS,
    USUAL,
    normalised,
    plain_name,
    rank,
    split_unit,
    words_of,
)
from flops_fit.text import listed

Cells = Sequence[Any] | NDArray[Any]
ColumnKind = Literal["", "number", "text", "other"]
Wanted = Callable[[str], ColumnKind]


_OPTIONAL = ("budget", "loss_se", "non_embedding", "unique_tokens")
NUMERIC = ("params", "tokens", "flops", "loss", *_OPTIONAL)
# The planned length of a run, and the quantity it is compared with.
HORIZON = {"planned_flops": "flops", "planned_tokens": "tokens", "planned_steps": "step"}
# What else tells how runs were made.
CIRCUMSTANCES = (
    *("epochs", "active_params", "experts", "experts_per_token", "flops_per_token", "ratio"),
    *("step", "batch_size"),
    *("batch_tokens", "seq_len", "samples", "lr", "seed"),
    *("units_per_second", "loss_at_least", "weight_decay"),
)
_MAPPED = (*NUMERIC, *HORIZON, "step", "epochs", "active_params", "experts", "experts_per_token")
_NAMED_DEVICES = re.compile(r"(\d+)\s*[x×*]?\s*[A-Za-z].*|.*\S\s*[x×*]\s*(\d+)")  # 8xH100
_OPTUNA = {"number", "value", "state", "datetime_start"}  # of its trials; value is the objective
_ALMOST = 0.06  # labels such as 4.6M are rounded
_SEVERAL = 3  # rows; that all losses of so many are whole numbers is no chance
_UNUSUAL = 5  # distance of a heading that only has a word for a loss in it
WHOLE_BATCH = re.compile("global|gbs|total|effective")


@dataclass(frozen=True)
class ColumnMatch:
    """The column that holds a quantity, its unit, how sure that is (0 best), and a note on it.

    ``also`` are columns of the same, for the cells that are empty; of a ``clash`` none can be taken.
    """

    column: str
    note: str = ""
    factor: float = 1.0
    distance: int = 0
    also: tuple[str, ...] = ()
    clash: tuple[str, ...] = ()

    def said(self, name: str) -> str:
        """What was recognised, in one line."""
        unit = "" if self.factor == 1 else f", in units of {self.factor:g}"
        tool = TOOLS.get((name, plain_name(self.column)))
        writer = f" (a heading of {tool})" if tool else ""
        return f"{name}: column {self.column!r}{unit}{writer}"


@dataclass(frozen=True)
class Raw:
    """All headings, the cells of the columns that may matter, and the number of rows."""

    headings: tuple[str, ...]
    cells: dict[str, Cells]
    rows: int
    free_comma: bool = False  # a comma cannot part columns

    @cached_property
    def decimal(self) -> str:
        """What stands before decimals in this table, a comma or a point; empty where that is not known."""
        columns = self.cells.items()
        found = set().union(*(marks(cells, bool(rank("loss", h))) for h, cells in columns))
        return found.pop() if len(found) == 1 else "," * (self.free_comma and not found)

    def filled(self) -> list[str]:
        """The headings under which there is any value that is not 0."""

        def tells(cell: Any) -> bool:  # trainers write 0 of what they do not count
            return not is_missing(cell) and str(cell) not in ("0", "0.0")

        return [heading for heading, cells in self.cells.items() if any(map(tells, cells))]

    def counts(self, heading: str) -> bool:
        """Whether any cell holds a digit: a column of words is no quantity."""
        cells = self.cells[heading]
        return isinstance(cells, np.ndarray) or any(re.search(r"\d", str(c)) for c in cells)

    def numbers(self, name: str, match: ColumnMatch) -> Floats:
        """The column of a quantity as numbers in its own unit."""
        counts = name not in FRACTIONAL
        units = {h: split_unit(h)[1] if counts else 1.0 for h in match.also} | {
            match.column: match.factor
        }
        values = np.full(self.rows, np.nan)
        for h, unit in reversed(units.items()):
            own = numbers(self.cells[h], h, unit, counts=counts, decimal=self.decimal)
            values = np.where(np.isnan(values), own, values)
        return values

    def parallel(self) -> list[str]:
        """The columns that say on how many devices, or in how many parts, a batch is computed."""
        out = []
        for h, cells in self.cells.items():
            last = re.split("[./:]", normalised(h).replace("data_parallel", "dp"))[-1]
            words = set(re.split(r"[\W_]+", last)) - {""}
            if words & WORDS["parallel"] and words <= WORDS["parallel"] | WORDS["how_many"]:
                texts = [_NAMED_DEVICES.sub(r"\1\2", str(cell)) for cell in cells]
                with suppress(TableError, ValueError):
                    if np.any(numbers(texts, h) > 1):
                        out.append(h)
        return out


def check_mapping(
    mapping: object, names: Sequence[str] = _MAPPED, who: str = "it"
) -> dict[str, str]:
    """``columns=`` as a dict from our names to headings, where it is one."""
    if not isinstance(mapping, Mapping):
        raise InputTypeError(
            f"columns=: expected a dict such as {{'params': 'n_weights'}}; "
            f"got {type(mapping).__name__}."
        )
    if unknown := sorted(str(name) for name in mapping if name not in names):
        raise TableError(f"columns= maps {unknown}; {who} may map {list(names)}.")
    return {str(name): str(heading) for name, heading in mapping.items()}


def wanted(mapping: Mapping[str, str]) -> Wanted:
    """The kind of value to read under each heading; other columns are kept of small tables."""
    own = frozenset(mapping.values())

    def kind(heading: str) -> ColumnKind:
        if heading in own or any(rank(name, heading) for name in USUAL):
            return "number"
        return "text" if any(plain_name(heading) in usual for usual in TEXT.values()) else "other"

    return kind


def find_numbers(
    raw: Raw, mapping: Mapping[str, str], names: Iterable[str] = NUMERIC
) -> dict[str, ColumnMatch]:
    """The column of each quantity that the table has; one that is not filled if no other fits."""
    matches = {}
    filled = raw.filled()
    for name in names:
        if name in mapping:
            heading = mapping[name]
            if heading not in raw.headings:
                raise TableError(
                    f"columns= names {heading!r} for {name}; the table has {list(raw.headings)}."
                )
            said = name not in FRACTIONAL and ("(" in heading or rank(name, heading))
            unit = split_unit(heading)[1] if said else 1.0
            matches[name] = ColumnMatch(heading, factor=unit)
            continue
        taken = {heading for other, heading in mapping.items() if other != name}
        ranks = {h: r for h in raw.headings if h not in taken and (r := rank(name, h))}
        candidates = {h: r for h, r in ranks.items() if h in filled} or ranks
        if name == "loss":
            candidates = _without_auxiliary(candidates, raw.headings)
            if not candidates and set(raw.headings) >= _OPTUNA and "value" in raw.cells:
                candidates = {"value": (1, 3, 0)}
            candidates = _plausible(candidates, raw)
        counted = {h: r for h, r in candidates.items() if h not in filled or raw.counts(h)}
        candidates = counted or (candidates if name in ("params", "tokens", "loss") else {})
        if name == "tokens" and "total_tokens" in candidates and "tokens" in candidates:
            candidates["tokens"] = candidates["total_tokens"]  # of one device, or of all?
            with suppress(TableError):
                one, every = (raw.numbers(name, ColumnMatch(h)) for h in ("tokens", "total_tokens"))
                with np.errstate(all="ignore"):
                    devices = every / one
                if typical(devices) >= 1 and np.allclose(devices % 1, 0, equal_nan=True):
                    del candidates["tokens"]
        if candidates:
            matches[name] = _best(name, candidates, raw)
    return matches


def scores(raw: Raw, headings: Sequence[str]) -> dict[str, Floats]:
    """The columns of benchmark scores, NaN where a cell is empty; TableError where there is none."""
    for heading in headings:
        if heading not in raw.headings:
            near = nearest_name(heading, raw.headings)
            raise TableError(
                f"expected a column {heading!r}; the table has {list(raw.headings)}.{near}"
            )
    return {heading: raw.numbers("loss", ColumnMatch(heading)) for heading in headings}


def find_text(name: str, headings: Sequence[str]) -> str | None:
    """The column of labels, states or clusters; the first of the usual headings that is there."""
    plain = {plain_name(heading): heading for heading in reversed(headings)}
    return next((plain[usual] for usual in TEXT[name] if usual in plain), None)


def likeliest(name: str, raw: Raw, taken: Iterable[str]) -> str:
    """The heading that most likely holds a quantity, by its words; a placeholder if none does."""
    hints = set(HEADINGS["hints"][name].split())
    best, most = "your_column", 0.0
    for heading in raw.headings:
        words = [w for w in re.split(r"[\W_]+", heading.lower()) if w]
        if heading in taken or any(rank(n, heading) for n in USUAL if n != name):
            continue
        if name != "loss" and (WORDS["rates"] | WORDS["held_out"]) & set(words):
            continue  # of one epoch, device or token, or of an evaluation
        near = difflib.SequenceMatcher(None, name, "".join(words)).ratio()
        score = sum(any((len(h) > 2 and h in w) or h == w for h in hints) for w in words) + near / 2
        score += 0.2 * bool(name == "loss" and WORDS["held_out"] & set(words))
        if score > max(most, 0.35):
            best, most = heading, score
    return best


def wide_hint(headings: Sequence[str]) -> str:
    """What to do where the headings are values: one column for each budget or number of tokens."""
    forms = [re.sub(r"\d[\d.,]*(?:e[+-]?\d+)?\s*[kmbt]?", "#", h.strip().lower()) for h in headings]
    wide = [h for h, f in zip(headings, forms, strict=True) if "#" in f and forms.count(f) > 2]
    if not wide or all(f != "#" and not rank("loss", f) for f in forms):
        return ""
    shown = listed([repr(h) for h in wide], 3, ", ")
    return f" One column for each of {shown}: give each loss a row of its own, with its N and D."


def _without_auxiliary(
    candidates: dict[str, tuple[int, int, int]], headings: Iterable[str]
) -> dict[str, tuple[int, int, int]]:
    """The losses less those with auxiliary ones in them, where another column is the model's alone."""

    def words(heading: str) -> set[str]:
        return set(words_of(normalised(heading).replace("cross_entropy", "ce")))

    alone = {h for h in candidates if WORDS["model_loss"] & words(h)}
    extra = any("loss" in words(h) and WORDS["auxiliary_loss"] & words(h) for h in headings)
    held_out = {bool(WORDS["held_out"] & words(h)) for h in alone}
    summed = {h for h in candidates if h not in alone and (extra or "total" in words(h))}
    replaced = {h for h in summed if bool(WORDS["held_out"] & words(h)) in held_out}
    return {h: r for h, r in candidates.items() if h not in replaced}


def _best(name: str, candidates: Mapping[str, tuple[int, int, int]], raw: Raw) -> ColumnMatch:
    best = min(candidates.values())
    purpose, distance, _ = best
    ties = [h for h, r in candidates.items() if r == best]
    if name in CIRCUMSTANCES:  # a usual heading at the end of a path is as good as one alone
        usual = min((r[2], r[1]) for r in candidates.values() if (r[1] > 2) == (distance > 2))
        ties = [
            h for h, r in candidates.items() if r[2] == usual[0] and (r[1] <= 2 or r[1] == usual[1])
        ]
        whole = [h for h in ties if WHOLE_BATCH.search(h.lower())] if "batch" in name else []
        ties = whole or ties
    if name == "lr" and (peak := _largest(ties, raw)):
        ties = [peak]
    ties.sort(key=lambda h: ("total" not in h, len(h.strip()) == 1))
    ends = [h for h in ties if {"last", "final"} & set(words_of(h))]
    ties = ends if len(ends) == 1 else ties
    same = _same(name, ties, raw)
    if name in ("params", "tokens", "flops") and distance <= 2:
        near = [h for h, r in candidates.items() if h not in ties and r[0] == purpose and r[1] <= 2]
        same = _same(name, [*ties, *near], raw) or same
    if not same and name in CIRCUMSTANCES:
        return ColumnMatch(ties[0], clash=tuple(ties))
    if not same:
        choice, wide = {name: ties[0]}, wide_hint(ties)
        raise TableError(f"{ties} could each be {name}; say which: columns={choice}.{wide}")
    column, *also = same
    others = [heading for heading, r in candidates.items() if r[0] > purpose and r[1] <= 5]
    note = f"The column {column!r} was taken for {name}." if distance >= 3 else ""
    if name == "loss" and purpose == 0 and others:
        note = f"The loss is {column!r}, which is held out; {others} is not used."
    elif name == "loss" and purpose == 2:
        note = (
            f"The loss {column!r} is a training loss: it is noisier than a held-out one, and "
            "lower where data repeats."
        )
    factor = split_unit(column)[1] if name not in FRACTIONAL else 1.0
    if also:
        joined = f"{column!r} is filled up from {listed(list(map(repr, also)), 3, ', ')}."
        note = f"{note} {joined}".strip()
    return ColumnMatch(column, note, factor, distance, tuple(also))


def _plausible(
    candidates: dict[str, tuple[int, int, int]], raw: Raw
) -> dict[str, tuple[int, int, int]]:
    """The losses less whole numbers, and less those of an unusual heading that are far from a usual one."""
    if len(candidates) < 2:
        return candidates
    typical = {}
    for h in candidates:
        with suppress(KeyError, TableError):
            values = raw.numbers("loss", ColumnMatch(h))
            values = values[np.isfinite(values)]
            if np.any(values % 1) or 0 < len(values) < _SEVERAL:
                typical[h] = float(np.median(values))
    usual = [typical[h] for h, r in candidates.items() if r[1] < _UNUSUAL and h in typical]
    near = {
        h: r
        for h, r in candidates.items()
        if h in typical
        and (r[1] < _UNUSUAL or not usual or any(0.5 <= typical[h] / u <= 2 for u in usual if u))
    }
    return near or candidates


def _largest(ties: Sequence[str], raw: Raw) -> str:
    """The column that is nowhere below another: rates fall along a run, and the peak is asked for."""
    columns = {}
    for h in ties:
        with suppress(KeyError, TableError):
            columns[h] = raw.numbers("lr", ColumnMatch(h))
    every = np.array([*columns.values()])
    tops = np.fmax.reduce(every) if len(every) > 1 else every
    return next((h for h, v in columns.items() if np.all((v == tops) | np.isnan(v))), "")


def _same(name: str, ties: Sequence[str], raw: Raw) -> list[str]:
    """Columns that hold the same, up to the rounding of labels, from the most complete and exact on.

    The first, and those that fill its gaps; none where any two differ.
    """
    if len(ties) == 1:
        return [*ties]
    columns = {}
    for h in ties:
        with suppress(KeyError, TableError):  # not kept, or a column of words
            columns[h] = raw.numbers(name, ColumnMatch(h, factor=split_unit(h)[1]))
    fullness = {
        h: (np.sum(~np.isnan(v)), len(np.unique(v)), sum(x != float(f"{x:.4g}") for x in v))
        for h, v in columns.items()
    }
    allowed = 1e-3 if name == "loss" else _ALMOST
    out: list[str] = []
    known = np.full(raw.rows, np.nan)
    for h in sorted(columns, key=fullness.__getitem__, reverse=True):
        both = ~np.isnan(columns[h]) & ~np.isnan(known)
        if not np.allclose(columns[h][both], known[both], rtol=allowed, atol=0):
            return []
        if np.any(np.isnan(known) & ~np.isnan(columns[h])) or not out:
            out.append(h)
            known = np.where(np.isnan(known), columns[h], known)
    return out


def unfinished(states: Sequence[Any] | NDArray[Any]) -> dict[int, str]:
    """The rows whose run did not finish, each with its state, if the words are those of trackers."""
    words = ["" if is_missing(s) else str(s).strip() for s in states]
    first = [w.lower().partition(" ")[0] for w in words]
    if any(w in WORDS["finished"] for w in first):
        return {i: w for i, w in enumerate(words) if w and first[i] not in WORDS["finished"]}
    return {i: w for i, w in enumerate(words) if first[i] in WORDS["unfinished"]}

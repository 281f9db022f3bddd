"""Cells of a table as numbers: units, powers of ten, and commas that mean one thing only."""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import TableError

Floats = NDArray[np.float64]

MOST_GROUPS, MOST_NUMBERS = 50, 6  # into which a column of texts, or of numbers, may split the runs

HEADINGS: Mapping[str, Any] = tomllib.loads(
    Path(__file__).with_name("headings.toml").read_text(encoding="utf-8")
)
WORDS = {name: frozenset(words.split()) for name, words in HEADINGS["words"].items()}
_MULTIPLIERS = {w: float(f) for f, ws in HEADINGS["multipliers"].items() for w in ws.split()}
_PREFIXES = {w: float(f) for f, ws in HEADINGS["prefixes"].items() for w in ws.split()} | {"": 1.0}
_PREFIX = "|".join(sorted(_PREFIXES, key=len, reverse=True))
_FLOPS = re.compile(rf"({_PREFIX})_?f(?:lop|lo)?s?(?:_?/?(?:s|sec))?((?:_?days?|_?d)?)")
# Marks that can only group thousands: two groups or more, or the other mark behind one.
_GROUPED = {
    ",": re.compile(r"[+-]?[1-9]\d{0,2}(?:(?:,\d{3}){2,}(?:\.\d*)?|,\d{3}\.\d*)"),
    ".": re.compile(r"[+-]?[1-9]\d{0,2}(?:(?:\.\d{3}){2,}(?:,\d*)?|\.\d{3},\d*)"),
}
# Marks that can only stand before decimals, and, in a loss, which is no number of thousands, any.
_DECIMAL = {
    m: re.compile(
        rf"[+-]?(?:0[{m}]\d+|\d+[{m}](?!0$)(?:\d{{1,2}}|\d{{4,}})|\d+[{m}]\d+e[+-]?\d+)", re.I
    )
    for m in ",."
}
_OF_LOSS = {m: re.compile(rf"[+-]?\d+[{m}]\d+") for m in ",."}
_THOUSANDS = {m: re.compile(rf"[+-]?[1-9]\d{{0,2}}(?:[{m}]\d{{3}})+(?!\d)") for m in ",."}
_OTHER = {",": ".", ".": ","}
_POWER = re.compile(r"(?:([\d.]+)\s*[x×·*]\s*)?10\s*(?:\^|\*\*)\s*\{?([+-]?\d+)\}?")
_SUFFIXED = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-z][a-z/\-_ ]*)", re.I)
# Behind a number: its standard error, or a remark in brackets.
_REMARK = re.compile(r"(?<=\w)\s*(?:(?:±|\+/-|\+-|\\pm)\s*[\d.,]+|\([^()]*\)|\[[^\[\]]*\])$")
_COMMA_SUFFIXED = re.compile(
    r"(0|\d+(?=,(?:\d{1,2}|\d{4,})\s*[a-z×·*])),(\d+)(?=\s*[a-z×·*])", re.I
)
_BEFORE_POINT = re.compile(r"(?<=\d),(?=\d{3}(?:,\d{3})*\.\d)")
_FRACTION = re.compile(r"([\d.]+)\s*(?:nats|bits|bpb|x|×|tok(?:en)?s?)(?:(?:/| per )\w+)?", re.I)
_LOOKED_AT = 50  # cells of a column, for its marks
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_COUNTED = re.compile(r"_?(?:tokens?|toks?|params?|parameters|samples?|images?|sequences?|of)$")


def is_missing(value: Any) -> bool:
    """Whether a cell holds no value: None, NaN, pandas.NA, an empty text or a word for it."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or str(value).strip().lower() in {"", *WORDS["missing"]}


def _raised(text: str) -> str:
    return re.sub("[⁰¹²³⁴-⁹⁺⁻]+", lambda m: f"^{m[0].translate(_RAISED)}", text)


def typical(values: Floats | float) -> float:
    """The median of those that are finite, NaN without any."""
    known = np.asarray(values)[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan


def unit_factor(text: str) -> float | None:
    """What a unit multiplies by: ``M`` 1e6, ``billion tokens`` 1e9, ``PF-days`` 8.64e19, ``1e21``."""
    words = re.sub(r"[\s\-]+", "_", text.strip().lower()).strip("_.")
    if words in {"flop", "flops", "flo", "flos", "nats", "nats/token", "bits", "bits/byte", "bpb"}:
        return 1.0
    if match := _FLOPS.fullmatch(words):
        return _PREFIXES[match[1]] * (86400 if match[2] else 1)
    bare = _COUNTED.sub("", words)
    if not bare or bare in _MULTIPLIERS:
        return _MULTIPLIERS.get(bare, 1.0)
    if match := re.fullmatch(r"(.+)_flops?", words):
        return unit_factor(match[1])
    bare = re.sub(r"^e(?=\d)", "1e", bare.strip("$").lstrip("x×·*_"))
    power = _POWER.fullmatch(_raised(bare))
    with suppress(ValueError):
        factor = float(f"1e{power[2]}" if power else bare)
        return factor if factor >= 10 and math.log10(factor) % 1 == 0 else None
    return None


def numbers(
    values: Sequence[Any] | NDArray[Any],
    column: str,
    factor: float = 1.0,
    *,
    counts: bool = False,
    decimal: str = "",
) -> Floats:
    """A column in units of ``factor`` as floats, NaN where empty; ``counts`` may bring a unit each.

    ``decimal`` stands before decimals in the rest of the table: a comma, a point, or empty: not known.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "iuf":
            return values.astype(np.float64) * factor
        values = values.tolist()
    if set(map(type, values)) <= {float, int, str} and decimal != ",":
        with suppress(ValueError, OverflowError):
            return np.array(list(map(float, values)), dtype=np.float64) * factor
    texts = [v.strip() for v in values if isinstance(v, str)]
    sure = [_OTHER[m] for m, form in _GROUPED.items() if any(map(form.fullmatch, texts))]
    if sure or any(map(_DECIMAL[","].fullmatch, texts)):
        decimal = sure[0] if sure else ","
    parsed = (_number(v, decimal, column, i, factor, counts) for i, v in enumerate(values, start=1))
    return np.fromiter(parsed, dtype=np.float64, count=len(values))


def is_grouped(text: str) -> bool:
    """Whether points may part thousands in a number, which is another number where they do not."""
    return bool(_THOUSANDS["."].fullmatch(text.strip()))


def marks(cells: Sequence[Any] | NDArray[Any], of_loss: bool) -> set[str]:
    """The marks, a point or a comma, that some cells of a column can only have before decimals."""
    some = cells[:_LOOKED_AT]
    if isinstance(some, np.ndarray):
        return {"."} if some.dtype.kind == "f" and np.any(some[np.isfinite(some)] % 1) else set()
    texts, forms = [str(c).strip() for c in some], _OF_LOSS if of_loss else _DECIMAL
    return {mark for mark, form in forms.items() if any(map(form.fullmatch, texts))}


def read_number(text: str) -> float | None:
    """A number as people type one, ``None`` where it is none or may mean two: 1T, 1,5e20, 3×10²⁰."""
    try:
        value = float(numbers([text], "", counts=True)[0])
    except TableError:
        return None
    return None if math.isnan(value) else value


def _number(value: Any, decimal: str, column: str, row: int, factor: float, counts: bool) -> float:
    if is_missing(value):
        return math.nan
    hint, text = "", value
    if isinstance(value, str):
        first = re.split(r"[\s(.:@]", words := value.strip().lower())[0]
        if words in WORDS["summaries"] or first in WORDS["without_result"]:
            return math.nan
        value = value.replace("−", "-")
        text = re.sub(r"(?<=\d)[\s'’](?=\d{3}(?!\d))", "", value.strip(" *$†‡§'\"=").lstrip("~≈"))
        text = _REMARK.sub("", text.replace("\\times", "×").replace("\\cdot", "·"))
        if decimal and (thousands := _THOUSANDS[_OTHER[decimal]].match(text)):
            text = thousands[0].replace(_OTHER[decimal], "") + text[thousands.end() :]
        text = text.replace(",", ".") if decimal == "," else text
        text = _COMMA_SUFFIXED.sub(r"\1.\2", _BEFORE_POINT.sub("", text))
        if "," in text:
            hint = " Write decimals with a point, and no commas between thousands."
        if two := re.fullmatch(r"2\s*(?:\^|\*\*)\s*(-?\d{1,2})", _raised(text)):
            text = str(2 ** int(two[1]))
        elif power := _POWER.fullmatch(_raised(text)):
            text = f"{power[1] or 1}e{power[2]}"
        elif counts and (match := _SUFFIXED.fullmatch(text)):
            unit = unit_factor(match[2])
            if unit is not None:
                return float(match[1]) * (factor if unit == 1 else unit)
            hint = " Write it out, such as 70e9."
        elif match := re.fullmatch(r"([+-]?[\d.]+)\s*%", text):
            text, factor = match[1], factor / 100
        elif match := _FRACTION.fullmatch(text):
            text = match[1]
    with suppress(TypeError, ValueError):
        if not isinstance(value, bool | np.bool_):
            try:
                return float(text) * factor
            except OverflowError:  # an integer beyond 1e308
                return math.inf
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}…"
    raise TableError(f"column {column!r}, row {row}: expected a number, got {shown}.{hint}")


def splits(cells: Sequence[Any] | NDArray[Any]) -> bool:
    """Whether a column splits its rows into a few groups, by texts or by very few numbers."""
    values = {str(c).strip() for c in cells if not is_missing(c)}
    most = MOST_GROUPS
    with suppress(ValueError):
        most = MOST_NUMBERS if list(map(float, values)) else 0
    return 2 <= len(values) <= most


def budgets_of(flops: Floats, spread: float = 0.1) -> Floats:
    """Each run's budget: from the cheapest up, runs within ``spread`` share their geometric mean."""
    order = np.argsort(flops, kind="stable")
    ordered, budgets, start = flops[order], np.empty_like(flops), 0
    logs = np.log(ordered)
    while start < len(ordered):
        end = int(np.searchsorted(ordered, ordered[start] * (1 + spread), side="right"))
        total = np.add.reduceat(logs[start:end], [0])[0]  # added in order
        budgets[order[start:end]] = np.exp(total / (end - start))
        start = end
    return budgets

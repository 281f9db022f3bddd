"""Text files of a table: their encoding, their headings and what parts their columns."""

import codecs
import csv
import gzip
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import numpy as np

from flops_fit.errors import TableError
from flops_fit.files import as_written
from flops_fit.table.cells import HEADINGS, is_grouped, is_missing, unit_factor
from flops_fit.table.columns import Cells, ColumnKind, Raw, Wanted

MOST_TEXT = 1 << 28  # characters of what has to be read whole, or is compressed
_LONGEST_LINE = 1 << 20
_ROWS_AT_ONCE = 50_000
_DELIMITERS = ",;\t|&"
_COMMENT = ("#", "%", "\\")
_END_OF_LATEX = re.compile(r"\s*\\\\(?:\s*\\\w+)*\s*$")
_FONT = re.compile(r"\\(?:text|math|emph|bf)\w*\{([^{}]*)\}|\\([%_#$])")
_HEAD = 20  # lines, a title and comments among them, in which the headings stand
_FOREIGN = {magic.encode("latin-1"): what for magic, what in HEADINGS["foreign"].items()}
_FORMATS: dict[str, str] = HEADINGS["formats"]


def refuse_foreign(path: Path, start: bytes, suffix: str) -> None:
    """TableError for a file that is no table by its first bytes or its ending, with what to write instead."""
    for magic, what in _FOREIGN.items():
        if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(magic):
            raise TableError(f"expected a table of runs; {path} {what}")
    if suffix in _FORMATS:
        raise TableError(
            f"expected a table of runs; {path} is {_FORMATS[suffix]}. Write its runs as CSV, or as a "
            'JSON list of objects such as {"params": 1e8, "tokens": 2e9, "loss": 3.1}.'
        )


def too_long(most: int, what: str = "the table") -> TableError:
    """The error that a table has more rows than a table of runs can have."""
    return TableError(
        f"expected one row a run; {what} has more than {most:,} rows and looks like a log of "
        "steps. Keep each run's last row, with its N, D and final loss; of curves, fewer points."
    )


def too_large(path: Path) -> TableError:
    """The error that a file holds more text than can be read whole, or than a table unpacks to."""
    return TableError(
        f"{path} holds more than {MOST_TEXT >> 20} MiB of JSON, which has to be read whole, or of "
        "compressed text. A table of runs is small; write one JSON object a line (.jsonl)."
    )


def keeps(kind: ColumnKind, small: bool) -> bool:
    """Whether a column of this kind is kept; of a small table every one is."""
    return bool(kind) and (small or kind != "other")


def encoding(start: bytes) -> str:
    """That of a text file, by its first bytes: spreadsheets write UTF-16 as "Unicode text"."""
    return "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"


def _windows(error: UnicodeError) -> tuple[str, int]:
    """A byte that is no UTF-8 as Western Windows means it: spreadsheets there write so."""
    if not isinstance(error, UnicodeDecodeError) or error.encoding != "utf-8":
        raise error
    with suppress(UnicodeDecodeError):
        return error.object[error.start : error.end].decode("cp1252"), error.end
    raise error


codecs.register_error("flops_fit.windows", _windows)


def is_zipped(path: Path) -> bool:
    """Whether a file is compressed by gzip."""
    with path.open("rb") as handle:
        return handle.read(2) == b"\x1f\x8b"


def opened_bytes(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked."""
    return cast(BinaryIO, gzip.open(path)) if is_zipped(path) else path.open("rb")


def opened(path: Path) -> TextIO:
    """A text file, unpacked and opened in its encoding."""
    handle = opened_bytes(path)
    start = handle.read(2)
    handle.seek(0)
    return io.TextIOWrapper(handle, encoding(start), errors="flops_fit.windows", newline="")


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file, none of them so long that it could fill the memory."""
    left = MOST_TEXT if is_zipped(path) else math.inf
    with opened(path) as handle:
        read = iter(lambda: handle.readline(_LONGEST_LINE), "")
        for number, line in enumerate(read, start=1):
            left -= len(line)
            if left < 0:
                raise too_large(path)
            if len(line) == _LONGEST_LINE:
                raise TableError(
                    f"{path}, line {number}: expected one run a line; this line is longer than "
                    f"{_LONGEST_LINE:,} characters. The file is no table of runs."
                )
            if "\0" in line:
                raise binary(path)
            yield line


def binary(path: Path) -> TableError:
    """The error that a file is no text."""
    return TableError(
        f"expected text or Parquet; {path} holds NUL bytes, so it is a binary file, or UTF-16 without "
        "its mark. Export the runs as CSV in UTF-8."
    )


def read_csv(path: Path, wanted: Wanted, most: int) -> Raw:
    """The wanted columns of a text file of at most so many rows."""
    bare = (
        _FONT.sub(r"\1\2", _END_OF_LATEX.sub("\n", line)) if "\\" in line else line
        for line in lines(path)
    )
    filled = (line for line in bare if line.strip())
    head = list(islice(filled, _HEAD))
    if not head:
        return Raw((), {}, 0)
    start, delimiter = _header(head, wanted)
    # A heading in quotes may go on in the next line, so the reader gets the first one again.
    rest = chain([head[start].lstrip("#% ")], head[start + 1 :], filled)
    width = head[start].count(delimiter)
    sound = (x for x in rest if not (x.startswith(_COMMENT) and x.count(delimiter) < width))
    reader = csv.reader(sound, delimiter=delimiter, skipinitialspace=True)
    headings = [as_written(name.strip(" \ufeff")) for name in next(reader)]
    chart = any(name.endswith(("__MIN", "__MAX")) for name in headings)
    if chart or list(map(str.lower, headings)) == ["wall time", "step", "value"]:
        what = "W&B, one column a run" if chart else "TensorBoard, the steps of one run"
        raise TableError(
            f"{path} is a chart exported from {what}: {headings[:3]}. Export the table "
            "of runs instead, or give rows of run, params, tokens and loss to curves=."
        )
    first = list(islice(reader, 2))
    if first and (united := _with_units(headings, first[0])):
        headings, first = united, first[1:]
    elif _named_rows(first, len(headings)):
        headings = ["", *headings]
    if first and not headings[0] and re.match(r"[^\W\d]", first[0][0].strip()):
        headings = ["index", *headings[1:]]  # names, as pandas writes them
    rows_left = chain(first, reader)
    small = path.stat().st_size < 1 << 22
    kinds = {i: k for i, name in enumerate(headings) if name and keeps(k := wanted(name), small)}
    repeated = [*headings]  # above each block of rows
    for i, name in enumerate(repeated):  # as pandas names them
        headings[i] = f"{name}.{n}" if name and (n := repeated[:i].count(name)) else name
    parts: dict[int, list[Cells]] = {i: [] for i in kinds}
    count = 0
    while rows := list(islice(rows_left, _ROWS_AT_ONCE)):
        _make_rectangular(rows, len(headings), count, path)
        rows = [row for row in rows if not _between(row, kinds) and row != repeated]
        count += len(rows)
        if count > most:
            raise too_long(most, str(path))
        for i, kind in kinds.items():
            column: Cells = [as_written(row[i]) for row in rows]
            if kind == "number" and not any(map(is_grouped, column)):
                with suppress(ValueError):  # floats take an eighth of the memory
                    column = np.array(list(map(float, column)), dtype=np.float64)
            parts[i].append(column)
    cells: dict[str, Cells] = {}
    for i, chunks in parts.items():
        plain = chunks and all(isinstance(chunk, np.ndarray) for chunk in chunks)
        cells[headings[i]] = np.concatenate(chunks) if plain else list(chain.from_iterable(chunks))
    return Raw(tuple(name for name in headings if name), cells, count, delimiter == ";")


def _header(head: Sequence[str], wanted: Wanted) -> tuple[int, str]:
    """The first line with two known headings, or else that is no comment, and what parts it."""

    def parts(line: str, delimiter: str) -> list[str]:
        return next(csv.reader([line.lstrip("#% ")], delimiter=delimiter, skipinitialspace=True))

    def known(line: str, delimiter: str) -> int:
        headings = filter(None, map(str.strip, parts(line, delimiter)))
        return sum(wanted(heading) in ("number", "text") for heading in headings)

    doubtful: list[tuple[int, str]] = []
    for i, line in enumerate(head):
        # The delimiter that splits the header into the most parts; the first of several.
        delimiter = max(_DELIMITERS, key=lambda d: len(parts(line, d)))
        if len(parts(line, delimiter)) == 1 and known(line, " ") >= 2:
            delimiter = " "
        if known(line, delimiter) >= 2:
            names = [x for x in parts(line, delimiter) if wanted(x.strip()) == "number"]
            if len(set(names)) == len(names) and not line.startswith(_COMMENT):
                return i, delimiter
            doubtful.append((i, delimiter))  # the upper one of two lines of headings
    if doubtful:
        return doubtful[0]
    first = next((i for i, line in enumerate(head) if not line.startswith(_COMMENT)), 0)
    return first, max(_DELIMITERS, key=lambda d: len(parts(head[first], d)))


def _with_units(headings: Sequence[str], cells: Sequence[str]) -> list[str]:
    """The headings with the units that a second line gives them; empty where it gives none."""
    units = [cell.strip(" ()[]*:-$").removeprefix("in ") for cell in cells]
    plain = {u for u in units if u and not is_missing(u)}
    form = r"[a-z][^0-9]*|[x×](?:1e\d+|10\^?\S+)|10(?:\^|\*\*|[⁰¹²³⁴-⁹])\S*"
    words = all(re.fullmatch(form, u, re.I) and unit_factor(u) for u in plain)
    if not plain or not words:
        return []
    pairs = zip_longest(headings, units, fillvalue="")
    return [f"{h} ({u})" if u in plain else h for h, u in pairs]


def _named_rows(rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether rows begin with a name or number that has no heading, as R and pandas print them."""
    first = [row[0].strip() for row in rows if len(row) == width + 1 and row[-1].strip()]
    named = not any(re.match(r"[\d.+-]", name) for name in first)
    return len(first) == 2 and (named or first in (["0", "1"], ["1", "2"]))


def _between(row: Sequence[str], kinds: Mapping[int, ColumnKind]) -> bool:
    """Whether a row is empty, a rule, or a line of words where a number is expected."""
    filled = [i for i, cell in enumerate(row) if cell.strip(" -:=\\")]
    values = [row[i] for i, kind in kinds.items() if kind == "number" and i in filled]
    sentence = any(len(row[i].split()) > 3 for i in filled)
    if values and sentence and not any(v.strip()[:1] in "0123456789.-~≈$" for v in values):
        return True
    if len(filled) != 1 or len(row) < 3 or kinds.get(filled[0], "number") != "number":
        return not filled
    return len(row[filled[0]].split()) > 2 or not re.match(
        r"[\d.,+~≈$-]*\d", row[filled[0]].strip()
    )


def _make_rectangular(rows: list[list[str]], width: int, before: int, path: Path) -> None:
    """Fill short rows; a longer one has shifted its values under the wrong headings."""
    for i, row in enumerate(rows, start=before + 1):
        if any(cell.strip() for cell in row[width:]):
            raise TableError(
                f"{path}, row {i}: expected {width} values, as many as headings; got "
                f"{len(row)}. Put numbers with commas in quotes, or leave the commas out."
            )
        row.extend([""] * (width - len(row)))

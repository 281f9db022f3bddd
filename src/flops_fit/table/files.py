"""Columns from a file: CSV and similar text, JSON, JSON lines, Parquet.

Files are not trusted: what cannot be a table of runs is refused with the reason, and reading stops
at the row limit, however large the file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import MissingExtraError, TableError
from flops_fit.table.columns import Wanted
from flops_fit.table.sources import MOST_ROWS, Raw, from_columns, from_rows, from_value, too_long

_LONGEST_LINE = 1 << 20
_LARGEST_JSON = 1 << 28
_CHUNK = 50_000
_DELIMITERS = ",;\t|"
_FOREIGN = {
    b"\x1f\x8b": "is compressed by gzip. Unpack it first.",
    b"\x28\xb5\x2f\xfd": "is compressed by Zstandard. Unpack it first.",
    b"BZh": "is compressed by bzip2. Unpack it first.",
    b"\xfd7zXZ": "is compressed by xz. Unpack it first.",
    b"PK\x03\x04": "is a ZIP archive or a spreadsheet. Unpack it, or export the sheet as CSV.",
    b"\xff\xfe": "is UTF-16 text. Save it as UTF-8.",
    b"\xfe\xff": "is UTF-16 text. Save it as UTF-8.",
}


def read_raw(source: Any, kind: Wanted) -> Raw:
    """The columns of a given kind, from a path or from anything in memory that holds a table."""
    if isinstance(source, str | Path):
        return from_file(Path(source), kind)
    return from_value(source, kind)


def from_file(path: Path, wanted: Wanted) -> Raw:
    """The columns of a file; its ending says what it is, and its first bytes where that does not.

    Raises
    ------
    TableError
        There is no such file, or it is no table of runs.
    MissingExtraError
        It is Parquet, and pyarrow is not installed.
    """
    try:
        return _read(path, wanted)
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path} is not UTF-8 text (byte 0x{error.object[error.start]:02x}). Save it as UTF-8."
        ) from None
    except json.JSONDecodeError as error:
        raise TableError(f"{path} is not valid JSON ({error}).") from None
    except RecursionError:
        raise TableError(f"{path} nests JSON too deeply for a table of runs.") from None
    except csv.Error as error:
        raise TableError(
            f"{path} cannot be read as CSV ({error}). Look for a quote that is not closed."
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(
            f"expected a file of runs; {path!s:.200} cannot be read: {error}."
        ) from None


def _read(path: Path, wanted: Wanted) -> Raw:
    if path.is_dir():
        raise TableError(f"expected a file of runs; {path} is a directory. Name a file inside it.")
    if not path.is_file():
        raise TableError(f"expected a file of runs; {path} does not exist or is no file.")
    with path.open("rb") as handle:
        start = handle.read(4096)
    suffix = path.suffix.lower()
    if start.startswith(b"PAR1") or suffix in {".parquet", ".pq"}:
        return _parquet(path, wanted)
    for magic, what in _FOREIGN.items():
        if start.startswith(magic):
            raise TableError(f"expected a table of runs; {path} {what}")
    if b"\0" in start:
        raise _binary(path)
    first = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if suffix in {".jsonl", ".ndjson"}:
        return from_rows(_json_lines(path), wanted)
    if suffix == ".json" or first in (b"{", b"["):
        return _json(path, first, wanted)
    return _csv(path, wanted)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, none of them so long that it could fill the memory."""
    with path.open(encoding="utf-8-sig", newline="") as handle:
        number = 0
        while line := handle.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE:
                raise TableError(
                    f"{path}, line {number}: expected one run a line; this line is longer than "
                    f"{_LONGEST_LINE:,} characters. The file is no table of runs."
                )
            if "\0" in line:
                raise _binary(path)
            yield line


def _binary(path: Path) -> TableError:
    return TableError(
        f"expected text or Parquet; {path} holds NUL bytes, so it is a binary file or UTF-16. "
        "Export the runs as CSV in UTF-8."
    )


def _csv(path: Path, wanted: Wanted) -> Raw:
    lines = (line for line in _lines(path) if line.strip())
    header = next(lines, None)
    if header is None:
        return Raw((), {}, 0)
    # The delimiter that splits the header furthest; a comma where several do.
    counts = {d: len(next(csv.reader([header], delimiter=d))) for d in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda d: counts[d])
    # A heading in quotes may go on in the next line, so the reader gets the first one again.
    reader = csv.reader(chain([header], lines), delimiter=delimiter, skipinitialspace=True)
    headings = [name.strip() for name in next(reader)]
    kinds = {i: wanted(name) for i, name in enumerate(headings) if name}
    kept = {i: kind for i, kind in kinds.items() if kind}
    for name in (headings[i] for i in kept):
        if headings.count(name) > 1:
            raise TableError(f"{path} has {headings.count(name)} columns {name!r}. Rename one.")
    parts: dict[int, list[Sequence[Any] | NDArray[Any]]] = {i: [] for i in kept}
    count = 0
    while rows := list(islice(reader, _CHUNK)):
        _square(rows, len(headings), count, path)
        count += len(rows)
        if count > MOST_ROWS:
            raise too_long(str(path))
        for i, kind in kept.items():
            column = [row[i] for row in rows]
            parts[i].append(_compact(column) if kind == "number" else column)
    cells = {headings[i]: _joined(chunks) for i, chunks in parts.items()}
    return Raw(tuple(name for name in headings if name), cells, count)


def _square(rows: list[list[str]], width: int, before: int, path: Path) -> None:
    """Fill short rows; a longer one has shifted its values under the wrong headings."""
    for i, row in enumerate(rows, start=before + 1):
        if len(row) != width:
            if len(row) > width and any(cell.strip() for cell in row[width:]):
                raise TableError(
                    f"{path}, row {i}: expected {width} values, as many as headings; got "
                    f"{len(row)}. Put numbers with commas in quotes, or leave the commas out."
                )
            row.extend([""] * (width - len(row)))


def _compact(column: list[str]) -> Sequence[Any] | NDArray[Any]:
    """Floats, at an eighth of the memory, where every cell is one."""
    try:
        return np.array(list(map(float, column)), dtype=np.float64)
    except ValueError:
        return column


def _joined(chunks: list[Sequence[Any] | NDArray[Any]]) -> Sequence[Any] | NDArray[Any]:
    if chunks and all(isinstance(c, np.ndarray) for c in chunks):
        return np.concatenate(chunks)
    return list(chain.from_iterable(c.tolist() if isinstance(c, np.ndarray) else c for c in chunks))


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise TableError(
                    f"{path}, line {number}: expected one JSON object ({error})."
                ) from None
            if not isinstance(row, dict):
                raise TableError(
                    f"{path}, line {number}: expected one JSON object a line, such as "
                    f'{{"params": 1e8, "tokens": 2e9, "loss": 3.1}}; got {type(row).__name__}.'
                )
            yield row


def _json(path: Path, first: bytes, wanted: Wanted) -> Raw:
    if first == b"{" and _is_lines(path):
        return from_rows(_json_lines(path), wanted)
    if path.stat().st_size > _LARGEST_JSON:
        raise TableError(
            f"{path} is larger than {_LARGEST_JSON >> 20} MiB, and JSON has to be read whole. "
            "A table of runs is small; write one JSON object a line (.jsonl)."
        )
    text = path.read_text(encoding="utf-8-sig")
    value = json.loads(text) if text.strip() else []
    if isinstance(value, dict):
        return from_columns(value, wanted)
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return from_rows(value, wanted)
    raise TableError(f"expected a JSON list of objects, one a run; {path} holds something else.")


def _is_lines(path: Path) -> bool:
    """Whether the first line is an object by itself and another one follows."""
    lines: Iterable[str] = (line for line in _lines(path) if line.strip())
    head = list(islice(lines, 2))
    try:
        return len(head) == 2 and isinstance(json.loads(head[0]), dict)
    except json.JSONDecodeError:
        return False


def _parquet(path: Path, wanted: Wanted) -> Raw:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", "reading Parquet") from None
    try:
        with parquet.ParquetFile(path) as file:
            headings = [str(name) for name in file.schema_arrow.names]
            rows = int(file.metadata.num_rows)
            if rows > MOST_ROWS:
                raise too_long(str(path))
            # A dot in a name also selects inside a nested column; those are left by name below.
            table = file.read(columns=[h for h in headings if wanted(h)])
    except (pyarrow.ArrowException, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise TableError(f"{path} is not a sound Parquet file ({first:.200}).") from None
    cells = {h: _arrow(table.column(h)) for h in table.column_names if wanted(h)}
    return Raw(tuple(headings), cells, rows)


def _arrow(column: Any) -> Sequence[Any] | NDArray[Any]:
    import pyarrow

    if pyarrow.types.is_floating(column.type) or pyarrow.types.is_integer(column.type):
        return np.asarray(column.cast(pyarrow.float64(), safe=False).to_numpy(), dtype=np.float64)
    values: list[Any] = column.to_pylist()
    return values

"""Columns from whatever holds a table: a file, a dict of columns, a list of dicts, a data frame.

Files are not trusted: what is no table is refused, and reading stops at the row limit.
"""

import ast
import csv
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.errors import InputTypeError, TableError, nearest_name
from flops_fit.lazy import import_extra
from flops_fit.table import text_files
from flops_fit.table.cells import is_missing
from flops_fit.table.columns import Cells, Raw, Wanted, find_numbers
from flops_fit.table.columns import wanted as wanted_by
from flops_fit.table.headings import rank
from flops_fit.table.text_files import binary, encoding, keeps, lines, opened, read_csv, too_long
from flops_fit.trackers.tracker import TrackedRun, TrackedRuns, flat

MOST_ROWS = 1_000_000
# What Python prints of numbers and cannot read: a nan, and NumPy's.
_NAN, _NUMPY = r"([\[(:,\s])-?(?:nan|inf)([\])},\s])", r"np\.\w+\(([^()]*)\)"
_SMALL = 10_000  # rows of a table whose columns are all kept


def read_raw(source: Any, wanted: Wanted) -> Raw:
    """The wanted columns, from a path or from anything in memory that holds a table."""
    raw = _read(source, wanted)
    folded = [h for h, cells in raw.cells.items() if _is_folded(cells)]
    if not folded:
        return raw
    # A column of dicts, or of their text, as W&B's example of its API writes config and summary.
    rows = [
        {h: _mapping(cells[i]) if h in folded else cells[i] for h, cells in raw.cells.items()}
        for i in range(raw.rows)
    ]
    return from_rows(rows, wanted)


def _is_folded(cells: Cells) -> bool:
    if isinstance(cells, np.ndarray) and cells.dtype.kind != "O":
        return False
    some = list(islice((c for c in cells if not is_missing(c)), 3))
    return bool(some) and all(isinstance(_mapping(c), Mapping) for c in some)


def _mapping(cell: Any) -> Any:
    """What the text of a dict says, as JSON or Python; other cells as they are."""
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            return json.loads(cell)
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return ast.literal_eval(re.sub(_NAN, r"\1None\2", re.sub(_NUMPY, r"\1", cell)))
    return cell


def _read(source: Any, wanted: Wanted) -> Raw:
    if isinstance(source, np.ndarray) and source.dtype.names:  # a structured array
        source = {name: source[name] for name in source.dtype.names}
    if isinstance(source, Mapping):
        return _from_columns(source, wanted)
    if hasattr(source, "read") or "\n" in (source if isinstance(source, str) else ""):
        raise InputTypeError("expected the path of a file, or rows; got the text of one. Save it.")
    if not isinstance(source, str | Path):
        if (framed := _from_frame(source, wanted)) is not None:
            return framed
        if isinstance(source, Iterable) and not isinstance(source, bytes):
            return from_rows(_below_headings(source), wanted)
        raise _no_table(source)
    path = Path(source).expanduser()
    try:
        return _from_file(path, wanted)
    except TableError:
        raise
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        what = "whole UTF-16" if error.encoding.startswith("utf-16") else "UTF-8"
        reason = f"{path} is not {what} text (byte 0x{byte:02x}). Save it as UTF-8."
    except json.JSONDecodeError as error:
        reason = f"{path} is not valid JSON ({error})."
    except RecursionError:
        reason = f"{path} nests JSON too deeply for a table of runs."
    except csv.Error as error:
        reason = f"{path} cannot be read as CSV ({error}). Look for a quote that is not closed."
    except (OSError, ValueError, EOFError, zlib.error) as error:
        reason = f"expected a file of runs; {path!s:.200} cannot be read: {error}."
    raise TableError(reason)


def _from_columns(source: Mapping[Any, Any], wanted: Wanted) -> Raw:
    """A dict of columns; one of plain values is a single run."""
    nested = [value for value in source.values() if isinstance(value, Mapping)]
    known = any(wanted(str(k)) == "number" or _is_listed(v) for k, v in source.items())
    if len(nested) == 1 and not known:  # a table beside what is told of it
        inner = nested[0].values()
        if inner and all(isinstance(v, Mapping) or _is_listed(v) for v in inner):
            return _from_columns(nested[0], wanted)
    if (inside := _rows_inside(source)) is not None:
        return from_rows(inside, wanted)
    listed = {str(k): _is_listed(v) for k, v in source.items()}
    if not any(listed.values()):
        return from_rows([source] if source else [], wanted)
    if single := [k for k, many in listed.items() if not many and wanted(k) == "number"]:
        raise TableError(f"expected a list of values for each column; {single} hold single values.")
    kept = {str(k): v for k, v in source.items() if listed[str(k)]}
    kept |= {k: np.ma.filled(v.astype(object), None) for k, v in kept.items() if np.ma.isMA(v)}
    columns = {k: v if isinstance(v, np.ndarray) else list(v) for k, v in kept.items()}
    if any(isinstance(v, np.ndarray) and v.ndim != 1 for v in columns.values()):
        raise TableError("expected columns of one dimension, one value a run; one is a matrix.")
    lengths = {k: len(v) for k, v in columns.items()}
    if len(set(lengths.values())) > 1:
        raise TableError(f"expected columns of equal length, one value a run; got {lengths}.")
    rows = next(iter(lengths.values()))
    if rows > MOST_ROWS:
        raise too_long(MOST_ROWS)
    return Raw(tuple(columns), {k: v for k, v in columns.items() if wanted(k)}, rows)


def _rows_inside(source: Mapping[Any, Any]) -> list[Any] | None:
    """The rows of what is a mapping for another reason than that it holds columns."""
    inside = list(source.values())
    if "log_history" in source:
        return [source]
    if {"columns", "data"} <= set(source):  # pandas, orient="split"
        return [dict(zip(source["columns"], row, strict=False)) for row in source["data"]]
    tables = [v for v in inside if isinstance(v, list) and v and isinstance(v[0], Mapping)]
    known = any(rank(name, str(key)) for name in ("params", "tokens", "loss") for key in source)
    if len(tables) == 1 and (not known or sum(map(_is_listed, inside)) == 1):
        return tables[0]
    if all(map(_holds_columns, inside)) and len(set(map(tuple, inside))) == 1:
        tables = [
            [dict(zip(v, row, strict=True)) for row in zip(*v.values(), strict=True)]
            for v in inside
        ]
        source = dict(zip(source, tables, strict=True))
    if len(tables) == len(inside) > 1:  # a list of runs for each budget or group
        with suppress(ValueError):
            return [{"budget": float(k), **row} for k, rows in source.items() for row in rows]
        return [{"group": k, **row} for k, rows in source.items() for row in rows]
    if inside and all(isinstance(v, Mapping) for v in inside) and len(set(map(tuple, inside))) == 1:
        if any(rank(name, str(key)) for name in ("params", "tokens", "loss") for key in inside[0]):
            return [{"label": name, **row} for name, row in source.items()]
        # pandas, orient="columns"
        return [{name: column[key] for name, column in source.items()} for key in inside[0]]
    return None


def _holds_columns(value: Any) -> bool:
    lists = [*value.values()] if isinstance(value, Mapping) else []
    return all(isinstance(v, list) for v in lists) and len(set(map(len, lists))) == 1


def _last_of_log(row: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A run's state with its log of steps, as its trainer saves it: the last value of each."""
    log = row.get("log_history")
    if not isinstance(log, list):
        return row
    last = {k: v for entry in log if isinstance(entry, Mapping) for k, v in entry.items()}
    return {**last, **{k: v for k, v in row.items() if k != "log_history"}}


def _unpaired(value: Any) -> Any:
    """Lists of keys and values as mappings: MLflow's server answers so."""
    if isinstance(value, Mapping):
        return {k: _unpaired(v) for k, v in value.items()}
    if (
        isinstance(value, list)
        and value
        and all(isinstance(v, Mapping) and {"key", "value"} <= set(v) for v in value)
    ):
        return {str(v["key"]): v["value"] for v in value}
    return value


def _is_listed(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | set)


def from_rows(rows: Iterable[Any], wanted: Wanted) -> Raw:
    """One mapping a run; mappings inside it count as columns ``outer.inner``."""
    cells: dict[str, list[Any] | None] = {}  # None: seen, and not wanted
    count = 0
    for row in rows:
        row = row if isinstance(row, Mapping) else _as_mapping(row)
        if not isinstance(row, Mapping):
            raise _no_table(rows, row)
        if count == MOST_ROWS:
            raise too_long(MOST_ROWS)
        if count == _SMALL:
            cells = {h: c if wanted(h) != "other" else None for h, c in cells.items()}
        for heading, value in flat(_unpaired(_last_of_log(row))).items():
            if heading not in cells:
                kept = wanted(heading)
                cells[heading] = [] if kept and (count < _SMALL or kept != "other") else None
            column = cells[heading]
            if column is not None:
                column.extend([None] * (count - len(column)))
                column.append(value)
        count += 1
    full = {h: c + [None] * (count - len(c)) for h, c in cells.items() if c is not None}
    return Raw(tuple(cells), dict(full), count)


def _as_mapping(row: Any) -> Any:
    """Named tuples, models of pydantic, rows of pandas, dataclasses and what has a loss."""
    if hasattr(row, "keys") and hasattr(row, "__getitem__"):  # of a database
        return {name: row[name] for name in row.keys()}  # noqa: SIM118  # iterating it gives values
    methods = ("_asdict", "model_dump", *(["to_dict"] if getattr(row, "ndim", 0) == 1 else []))
    for name in methods:
        if hasattr(row, name):
            return getattr(row, name)()
    slots: tuple[str, ...] = getattr(row, "__struct_fields__", getattr(row, "__slots__", ()))
    plain = getattr(row, "__dict__", {n: getattr(row, n) for n in slots if hasattr(row, n)})
    own = asdict(row) if is_dataclass(row) and not isinstance(row, type) else plain
    return own if any(rank("loss", name) for name in own) else row


def _below_headings(rows: Iterable[Any]) -> Iterable[Any]:
    """Rows of lists below one of headings as mappings; other rows as they are."""
    if not isinstance(rows, list) or len(rows) < 2 or hasattr(rows[0], "_asdict"):
        return rows
    if not all(isinstance(row, list | tuple) for row in rows):
        return rows
    return [dict(zip(map(str, rows[0]), row, strict=False)) for row in rows[1:]]


def _from_frame(source: Any, wanted: Wanted) -> Raw | None:
    """Any data frame that narwhals knows, lazy ones collected; ``None`` if it is none."""
    import narwhals as nw

    index: Any = getattr(source, "index", None)
    if getattr(index, "names", ()) == [None] and isinstance(next(iter(index), 0), str):
        index = (source := source.rename_axis("index")).index
    levels = [name for name in getattr(index, "names", ()) if name is not None]
    if levels:  # pandas: a column by itself, unless there is one of its name
        source = source.reset_index(drop=any(name in source for name in levels))
    headings = getattr(source, "columns", ()) if hasattr(source, "set_axis") else ()
    if not all(isinstance(h, str) for h in headings):  # pandas: in levels, or numbers
        levels = [map(str, h if isinstance(h, tuple) else (h,)) for h in headings]
        source = source.set_axis(["/".join(filter(None, h)) for h in levels], axis=1)
    try:
        frame = nw.from_native(source, pass_through=True)
        if not isinstance(frame, nw.DataFrame | nw.LazyFrame):
            return None
        headings = list(frame.collect_schema().names())
        small = isinstance(frame, nw.DataFrame) and len(frame) <= _SMALL
        kept = [h for h in headings if keeps(wanted(str(h)), small)]
        # Without a wanted column one is kept all the same: it tells the number of rows.
        picked = frame.select(kept or headings[:1]).head(MOST_ROWS + 1)
        eager = picked.collect() if isinstance(picked, nw.LazyFrame) else picked
        cells = {str(h): _cells(eager[h]) for h in kept}
    except Exception as error:  # each library behind narwhals has errors of its own
        raise TableError(
            f"the {type(source).__module__.split('.')[0]} frame cannot be read "
            f"({type(error).__name__}: {' '.join(str(error).split()):.120}). "
            "Give each column a name of its own, and collect a lazy frame first."
        ) from error
    if len(eager) > MOST_ROWS:
        raise too_long(MOST_ROWS, "the frame")
    return Raw(tuple(str(h) for h in headings), cells, len(eager))


def _cells(series: Any) -> Cells:
    """Numbers as floats, else values with None where there is none."""
    if series.dtype.is_numeric():
        return np.asarray(series.to_numpy(), dtype=np.float64)
    empty = series.is_null().to_list()
    return [None if e else v for v, e in zip(series.to_list(), empty, strict=True)]


def _no_table(source: Any, row: Any = None) -> InputTypeError:
    inside = "" if row is None else f" of {type(row).__name__}"
    return InputTypeError(
        "expected a table of runs (path, list of dicts, dict of columns, DataFrame, RunTable); "
        f"got {type(source).__name__}{inside}."
    )


def _from_file(path: Path, wanted: Wanted) -> Raw:
    """The ending says what a file is, and its first bytes where that does not."""
    if path.is_dir():
        raise TableError(f"expected a file of runs; {path} is a directory. Name a file inside it.")
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest_name(path.name, beside)
        raise TableError(f"expected a file of runs; {path} does not exist or is no file.{near}")
    with text_files.opened_bytes(path) as handle:
        start = handle.read(4096)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if start.startswith(b"PAR1") or suffix in {".parquet", ".pq"}:
        return _parquet(path, wanted)
    text_files.refuse_foreign(path, start, suffix)
    if b"\0" in start and encoding(start) != "utf-16":
        raise binary(path)
    first = start.decode(encoding(start), "ignore").lstrip()[:1]
    if suffix in {".jsonl", ".ndjson"}:
        return from_rows(_json_lines(path), wanted)
    if suffix == ".json" or first in ("{", "["):
        return _json(path, first, wanted)
    return read_csv(path, wanted, MOST_ROWS)


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}: expected one JSON object"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise TableError(f"{where} ({error}).") from None
        if not isinstance(row, dict):
            example = '{"params": 1e8, "tokens": 2e9, "loss": 3.1}'
            raise TableError(f"{where} a line, such as {example}; got {type(row).__name__}.")
        yield row


def _json(path: Path, first: str, wanted: Wanted) -> Raw:
    # Lines of JSON: the first is an object by itself, and another one follows.
    filled = (line for line in lines(path) if line.strip())
    head = list(islice(filled, 2)) if first == "{" else []
    with suppress(json.JSONDecodeError):
        if len(head) == 2 and isinstance(json.loads(head[0]), dict):
            return from_rows(_json_lines(path), wanted)
    with opened(path) as handle:
        text = handle.read(text_files.MOST_TEXT + 1)
    if len(text) > text_files.MOST_TEXT:
        raise text_files.too_large(path)
    value = json.loads(text) if text.strip() else []
    if isinstance(value, dict):
        return _from_columns(value, wanted)
    if isinstance(value, list):
        value = _below_headings(value)
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return from_rows(value, wanted)
    raise TableError(f"expected a JSON list of objects, one a run; {path} holds something else.")


def _parquet(path: Path, wanted: Wanted) -> Raw:
    import narwhals as nw

    pyarrow = import_extra("pyarrow", "parquet", "reading Parquet")
    parquet = import_extra("pyarrow.parquet", "parquet", "reading Parquet")

    try:
        with parquet.ParquetFile(path) as file:
            headings = [str(name) for name in file.schema_arrow.names]
            rows = int(file.metadata.num_rows)
            if rows > MOST_ROWS:
                raise too_long(MOST_ROWS, str(path))
            # A dot in a name also selects inside a nested column; those are left by name below.
            kept = [h for h in headings if keeps(wanted(h), rows <= _SMALL)]
            table = nw.from_native(file.read(columns=kept))
    except (pyarrow.ArrowException, OSError) as error:
        first = (str(error).strip().splitlines() or ["unreadable"])[0]
        raise TableError(f"{path} is not a sound Parquet file ({first:.200}).") from None
    cells = {h: _cells(table[h]) for h in table.columns if h in kept}
    return Raw(tuple(headings), cells, rows)


def final_rows(tracked: TrackedRuns, mapping: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row a run, as it was when its loss was last read; D and C of its end may be others."""
    ends = [_final_row(run, len(run.points)) for run in tracked]
    loss = column_of("loss", ends, mapping)
    if not loss:
        return ends
    rows = []
    for run in tracked:
        read = [i for i, p in enumerate(run.points, start=1) if not is_missing(p.get(loss))]
        rows.append(_final_row(run, read[-1] if read else len(run.points)))
    return rows


def _final_row(run: TrackedRun, points: int) -> dict[str, Any]:
    """What is known of a run after so many points; what was only logged later stands in too."""
    ended = {name: v for p in run.points for name, v in p.items()}
    known = {name: v for p in run.points[:points] for name, v in p.items()}
    head = {"label": run.label, "state": run.state}
    return {**head, **run.settings, **ended, **run.summary, **known}


def column_of(name: str, rows: Sequence[Mapping[str, Any]], mapping: Mapping[str, str]) -> str:
    """The column of a quantity in rows of a service; empty where there is none."""
    raw = from_rows(rows, wanted_by(mapping))
    known = {k: v for k, v in mapping.items() if k != name or v in raw.headings}
    matches = find_numbers(raw, known, (name,))
    return matches[name].column if name in matches else ""

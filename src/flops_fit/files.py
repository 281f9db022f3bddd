"""Write files so that a reader, or a crash, sees the old content or the new, and never a part."""

import csv
import errno
import io
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from flops_fit.errors import OutputError, TableError
from flops_fit.lazy import import_extra
from flops_fit.records import finite_json
from flops_fit.text import card

_FORMULA = re.compile(
    "'*[=+\\-@\t\r\n＝＋－＠]"
)  # what spreadsheets would run, also marked already
_RENAMES = 20  # attempts to replace a file that is being read, where the system forbids it
_RENAME_SECONDS = 0.05
_SHOWN = 10  # rows in a notebook
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
WORK = "work"  # in a run's folder: what a command writes, links as well
# What is written into the folder of a sweep, and of an exported plan.
_WRITTEN = (
    "sweep.json", "runs", "trunks", "plots", "runs.csv", "fit.json", "report.html", "tuning", "joint.json",
    "command.json", "plan.csv", "run.sh", "array.sbatch", "job.yaml", "sky.yaml", "ray_job.py", "conf",
)  # fmt: skip
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp|\..*lease(\.json)?\.\w+")


def temporary_beside(path: Path) -> Path:
    """A hidden name in the same folder that no other process, on any machine, would take."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file was to be renamed or linked, so that it never counts by itself."""
    return _TEMPORARY.fullmatch(name) is not None


def write_atomic(
    path: Path, content: str | bytes, *, durable: bool = True, private: bool = False
) -> None:
    """Replace a file as a whole; ``durable`` content is on the disk when this returns.

    A ``private`` file can be read and written by its owner alone.
    """
    with _written(path, content, durable, private) as temporary:
        _rename(temporary, path)
        if durable:
            flush_directory(path.parent)


def write_output(path: Path, content: str | bytes) -> None:
    """Write a file that the user named: a link, pipe or device is written to, not replaced."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_bytes(_bytes(content))
    else:
        write_atomic(path, content)


def write_new(path: Path, content: str, *, durable: bool = True) -> bool:
    """Create a whole file if there is none; whether this call did, as one of several does."""
    with _written(path, content, durable) as temporary:
        created = link_new(temporary, path)
        if created and durable:
            flush_directory(path.parent)
            flush_directory(path.parent.parent)  # which the folder itself may be new in
        return created


def link_new(temporary: Path, path: Path) -> bool:
    """Give a finished file a second name, if free, also on NFS; whether this call did."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        # An answer of NFS may be lost after the link was made; two names are the proof.
        return temporary.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        content = temporary.read_bytes()
        try:
            with path.open("xb") as handle:
                handle.write(content)
                flush_file(handle)
        except FileExistsError:
            return False
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return True


def flush_file(handle: IO[Any]) -> None:
    """Put what was written on the disk."""
    handle.flush()
    os.fsync(handle.fileno())


def flush_directory(path: Path) -> None:
    """Make renames in a directory permanent, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot
            raise
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """What a JSON file holds; TableError where it is torn, or no file that can be read to its end."""
    if path.exists() and not path.is_file():
        raise TableError(f"{path} is no file.")
    with open(path, "rb") as handle:
        content = handle.read()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TableError(f"{path} is torn or no JSON: {error}.") from error


def write_json(path: Path, content: Any) -> None:
    """Write plain values as strict JSON, with null for what is not finite; may raise OutputError."""
    text = json.dumps(finite_json(content), indent=1, allow_nan=False, default=float)
    with output_errors(path):
        write_atomic(path, text)


def csv_text(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str] = (), *, line_end: str = "\r\n"
) -> str:
    """Rows as CSV under a line of names: ``columns``, or all that the rows have, in their order.

    Text that a spreadsheet would run as a formula is marked by ``'`` before it; ``as_written`` takes that
    away.

    >>> csv_text([{"params": 8, "loss": 2.5}, {"params": 9, "note": None}], line_end=";")
    'params,loss,note;8,2.5,;9,,;'
    >>> csv_text([{"run": "=1+1", "loss": -2.5}], line_end=";")
    "run,loss;'=1+1,-2.5;"
    """
    rows = list(rows)
    names = list(columns or dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator=line_end)
    writer.writerow(map(_marked, names))
    writer.writerows([_marked(row.get(name, "")) for name in names] for row in rows)
    return stream.getvalue()


def _marked(cell: Any) -> Any:
    if not isinstance(cell, str) or _FORMULA.match(cell) is None:
        return cell
    with suppress(ValueError):
        float(cell)
        return cell
    return f"'{cell}"


def as_written(cell: str) -> str:
    """A cell of a CSV file without the mark that kept it from being run."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def links_out(folder: Path) -> Iterator[str]:
    """Links among the files of a sweep that lead out of its folder."""
    root = folder.resolve()
    left = [str(folder / name) for name in _WRITTEN]
    while left:
        path = left.pop()
        if os.path.islink(path):
            if not Path(path).resolve().is_relative_to(root):
                yield path
        elif os.path.isdir(path):
            with os.scandir(path) as entries:
                found = [p for p in entries if p.is_symlink() or (p.is_dir() and p.name != WORK)]
            left += [p.path for p in found]


def refuse_links(folder: Path, argument: str = "output_dir") -> None:
    """OutputError where a file of a sweep would be written elsewhere."""
    if link := next(links_out(folder), None):
        raise OutputError(
            f"{argument}: {link} leads out of {folder}, to {os.path.realpath(link)}, and a sweep would write "
            f"there. Remove the link, or choose another {argument}."
        )


@contextmanager
def output_errors(path: Path, argument: str = "output_dir") -> Iterator[None]:
    """Let an OSError of the block become an OutputError about ``path``, given by an argument."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise unwritable(path, error, argument) from error
    except ValueError as error:
        if "\0" not in str(path):
            raise
        raise OutputError(f"{argument}: expected a path; {str(path)!r} has a NUL.") from error


def unwritable(path: Path, error: OSError, argument: str = "output_dir") -> OutputError:
    """The system's reason why ``path`` cannot be written, and what to do."""
    sweep = argument == "output_dir"
    other = "output_dir" if sweep else "path"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        todo = "Free some space and call again with the same arguments"
    elif error.errno == errno.EROFS:
        todo = f"Make it writable, or choose another {other}"
    else:
        todo = f"Choose another {other}"
    kept = " What is recorded there is kept." if sweep else ""
    reason = error.strerror or str(error)
    return OutputError(f"{argument}: {path} cannot be written ({reason}).{kept} {todo}.")


@contextmanager
def _written(
    path: Path, content: str | bytes, durable: bool, private: bool = False
) -> Iterator[Path]:
    """A temporary file with the content; removed when the block ends."""
    temporary = temporary_beside(path)
    try:
        if private:
            temporary.touch(mode=0o600, exist_ok=False)
        with temporary.open("wb") as handle:
            handle.write(_bytes(content))
            if durable:
                flush_file(handle)
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _bytes(content: str | bytes) -> bytes:
    """Text in UTF-8; what Python could not decode of a path is written as the path has it."""
    return content.encode(errors="surrogateescape") if isinstance(content, str) else content


def _rename(temporary: Path, path: Path) -> None:
    """Put a finished file in place; on Windows that fails while somebody reads the old one."""
    for _ in range(_RENAMES if sys.platform == "win32" else 0):
        try:
            temporary.replace(path)
            return
        except PermissionError:
            time.sleep(_RENAME_SECONDS)
    temporary.replace(path)


class Rows:
    """What is a list of rows: data frames of them, and a table in a notebook."""

    __slots__ = ()

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict a row, with the same keys."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """:meth:`to_dicts` as a pandas DataFrame; MissingExtraError without it."""
        return import_extra("pandas", "pandas", "a DataFrame").DataFrame(self.to_dicts())

    def to_polars(self) -> Any:
        """:meth:`to_dicts` as a polars DataFrame; MissingExtraError without it."""
        return import_extra("polars", "polars", "a DataFrame").DataFrame(self.to_dicts())

    def _repr_html_(self) -> str:
        rows = self.to_dicts()
        cells = [[_cell(value) for value in row.values()] for row in rows[:_SHOWN]]
        left = [f"{len(rows) - _SHOWN:,} rows more"] if len(rows) > _SHOWN else []
        return card(type(self).__name__, [*map(list, rows[:1]), *cells], left)


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:#.4g}".rstrip(".") if isinstance(value, float) else str(value)

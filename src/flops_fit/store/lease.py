"""Who makes a run: one process at a time, on any machine that sees the folder.

A lease is a file that names its holder. It comes into being by an exclusive link and is touched
every ten seconds by a thread of the holder. It is stale where the holder's process is gone, which
this machine's process table tells at once; of a holder on another machine, where it was not
touched for a minute, by the clock of the file system alone: no two machines' clocks are compared.

To take a stale lease over, one needs a lease on that very lease, named by its token. Only who holds
it may replace the stale file, after reading it once more; so one taker wins, and there is no
instant without a lease.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from flops_fit.files import link_new, temporary_beside

BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
_UNKNOWN = "an unknown process"


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes
    ----------
    token
        Its own, new for each time that the lease is taken.
    host, pid
        For people to find the process by.
    machine
        The running system that ``pid`` is a number of: this boot of this host, and this space of
        process numbers, as containers have their own. Empty where that cannot be told.
    start
        When that process started, in the ticks of its system: numbers are used again.
    since
        When it took the lease, for people to read.
    """

    token: str
    host: str = _UNKNOWN
    pid: int = 0
    machine: str = ""
    start: str = ""
    since: str = ""

    @classmethod
    def here(cls) -> Holder:
        """The process that asks, with a new token."""
        return cls(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            start=_process_start(os.getpid()) or "",
            since=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )

    def __str__(self) -> str:
        return self.host if self.host == _UNKNOWN else f"process {self.pid} on {self.host}"


class Lease:
    """A lease that this process holds until :meth:`release`, or until it was taken away.

    Leaving a ``with`` block releases it.
    """

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self._lost = False
        self._ended = threading.Event()
        self._lock = threading.Lock()  # no touch may bring back what was just released
        self._thread = threading.Thread(target=self._keep, daemon=True, name="flops-fit lease")
        self._thread.start()

    def _keep(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # a network may be away for a while
                self.held()

    def held(self) -> bool:
        """Touch the lease; False where somebody else has taken it over, from then on."""
        with self._lock:
            return not self._ended.is_set() and self._touch()

    def _touch(self) -> bool:
        if self._lost:
            return False
        found = _read(self.path)
        if found is None:  # somebody tidied up
            self._lost = not _create(self.path, self.holder)
        elif found[0].token != self.holder.token:
            self._lost = True
        else:
            os.utime(self.path)
        return not self._lost

    @property
    def lost(self) -> bool:
        """Whether it is known, from the last touch, that somebody else has it."""
        return self._lost

    def release(self) -> None:
        """Let others have it; safe to call twice."""
        with self._lock, suppress(OSError):
            if self._ended.is_set():
                return
            self._ended.set()
            found = _read(self.path)
            if found is not None and found[0].token == self.holder.token:
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.release()


def take_lease(path: Path) -> Lease | Holder:
    """The lease at ``path`` for this process, or who has it.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    here = Holder.here()
    if _create(path, here):
        return Lease(path, here)
    found = _read(path)
    if found is None:  # released in between
        return Lease(path, here) if _create(path, here) else _holder_or_unknown(path)
    holder, touched = found
    if _lives(holder, touched, path.parent):
        return holder
    return Lease(path, here) if _take_over(path, holder, here) else _holder_or_unknown(path)


def living_holder(path: Path, *, now: float | None = None) -> Holder | None:
    """Who holds the lease at ``path`` and lives; nothing is changed.

    ``now`` is the time by which a holder on another machine is judged; without it the file system
    is asked, by making and removing a file there.
    """
    found = _read(path)
    if found is None:
        return None
    return found[0] if _lives(*found, path.parent, now) else None


def _take_over(path: Path, stale: Holder, here: Holder) -> bool:
    """Replace a stale lease; False where another taker did, or does."""
    right = take_lease(path.with_name(f".{path.name}.{stale.token}"))
    if isinstance(right, Holder):
        return False
    with right:
        found = _read(path)
        if found is None or found[0].token != stale.token:
            return False
        temporary = _write(path, here)
        temporary.replace(path)
    return True


def _holder_or_unknown(path: Path) -> Holder:
    found = _read(path)
    return Holder("") if found is None else found[0]


def _create(path: Path, holder: Holder) -> bool:
    temporary = _write(path, holder)
    try:
        return link_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, holder: Holder) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        temporary.write_text(json.dumps(asdict(holder)), encoding="utf-8")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _read(path: Path) -> tuple[Holder, float] | None:
    """The holder, and when it last touched the lease by the file system's clock.

    Opening the file, unlike asking for its status, makes NFS look at the server. What cannot be
    read names nobody, is stale by its age alone, and has its own text as token.
    """
    try:
        with path.open("rb") as handle:
            touched = os.fstat(handle.fileno()).st_mtime
            text = handle.read()
    except FileNotFoundError:
        return None
    try:
        content: Any = json.loads(text)
        known = {f.name: content[f.name] for f in fields(Holder)}
        if not (isinstance(known["token"], str) and known["token"].isalnum()):
            raise TypeError
        return Holder(**known), touched
    except (ValueError, KeyError, TypeError):
        return Holder(f"torn{len(text)}"), touched


def _lives(holder: Holder, touched: float, folder: Path, now: float | None = None) -> bool:
    if holder.machine and holder.machine == _machine():
        start = _process_start(holder.pid)
        return start is not None and start == holder.start
    return (_file_system_time(folder) if now is None else now) - touched < STALE_SECONDS


def _file_system_time(folder: Path) -> float:
    """The clock that touches are told by, also where a server in the network keeps it."""
    probe = temporary_beside(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _machine() -> str:
    """What process numbers belong to; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """When a process of this machine started; None where there is none, or only its remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]

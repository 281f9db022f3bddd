"""Who makes a run: one process at a time, on any machine that sees the folder.

A lease is a file that names its holder. It is created by an exclusive link, and a thread of the
holder touches it every ten seconds. On this machine it is stale once the holder's process is gone; on
another after a minute without a touch, by the clock of the file system alone.

To take over a stale lease, a process needs a lease on that lease, named by its token. Only its
holder may replace the stale file. So one process wins, and at no instant is there no lease.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from flops_fit.files import temporary_beside, write_atomic, write_new
from flops_fit.records import as_record

BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
_UNKNOWN = "an unknown process"


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    token: str  # new each time that the lease is taken
    host: str = _UNKNOWN
    pid: int = 0
    machine: str = ""  # what pid is valid in, by _machine()
    start: str = ""  # of the process, in ticks of its system: process ids are used again
    since: str = ""  # when it took the lease, for people

    @classmethod
    def current(cls) -> Holder:
        """The present process, with a new token."""
        token, host, pid = uuid.uuid4().hex, socket.gethostname(), os.getpid()
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return cls(token, host, pid, _machine(), _process_start(pid) or "", since)

    def __str__(self) -> str:
        return self.host if self.host == _UNKNOWN else f"process {self.pid} on {self.host}"


class LeaseHeldError(Exception):
    """Another living process holds the lease, or was faster to take it."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(str(holder))
        self.holder = holder


class Lease(AbstractContextManager["Lease"]):
    """A lease that this process holds until it is released, or taken away."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self.lost = False  # whether another process had it at the last touch
        self._ended = threading.Event()
        self._lock = threading.Lock()  # no touch may bring back what was just released
        self._thread = threading.Thread(target=self._keep, daemon=True, name="flops-fit lease")
        self._thread.start()

    def _keep(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # a network may be down for a while
                self.held()

    def held(self) -> bool:
        """Touch the lease; False once another process has taken it over."""
        with self._lock:
            if self._ended.is_set() or self.lost:
                return False
            current = _read(self.path)
            if current is None:  # it was removed
                self.lost = not _create(self.path, self.holder)
            elif current[0].token != self.holder.token:
                self.lost = True
            else:
                os.utime(self.path)
            return not self.lost

    def release(self) -> None:
        """Let others have it; safe to call twice."""
        with self._lock, suppress(OSError):
            if self._ended.is_set():
                return
            self._ended.set()
            current = _read(self.path)
            if current is not None and current[0].token == self.holder.token:
                self.path.unlink(missing_ok=True)

    def __exit__(self, *error: object) -> None:
        self.release()


def take_lease(path: Path) -> Lease:
    """The lease at ``path``, for this process; LeaseHeldError where another living one has it."""
    own = Holder.current()
    if _create(path, own):
        return Lease(path, own)
    current = _read(path)
    if current is not None and _lives(*current, path.parent):
        raise LeaseHeldError(current[0])
    # It may have been released in between.
    if not (_create(path, own) if current is None else _take_over(path, current[0], own)):
        current = _read(path)
        raise LeaseHeldError(Holder("") if current is None else current[0])
    return Lease(path, own)


def living_holder(path: Path, *, now: float | None = None) -> Holder | None:
    """The living process that holds the lease at ``path``, at ``now`` or the file system's time."""
    current = _read(path)
    return current[0] if current is not None and _lives(*current, path.parent, now) else None


def _take_over(path: Path, stale: Holder, own: Holder) -> bool:
    """Replace a stale lease; False where another process did, or does."""
    try:
        right = take_lease(path.with_name(f".{path.name}.{stale.token}"))
    except LeaseHeldError:
        return False
    with right:
        current = _read(path)
        if current is None or current[0].token != stale.token:
            return False
        write_atomic(path, json.dumps(asdict(own)), durable=False)
    return True


def _create(path: Path, holder: Holder) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_new(path, json.dumps(asdict(holder)), durable=False)


def _read(path: Path) -> tuple[Holder, float] | None:
    """The holder, and when it last touched the lease; a torn file has an unknown holder."""
    try:
        with path.open("rb") as handle:  # unlike stat, this makes NFS ask the server
            touched = os.fstat(handle.fileno()).st_mtime
            text = handle.read()
    except FileNotFoundError:
        return None
    with suppress(ValueError, RecursionError):
        holder = as_record(json.loads(text), Holder, "a lease")
        if holder.token.isalnum():
            return holder, touched
    return Holder(f"torn{len(text)}"), touched


def _lives(holder: Holder, touched: float, folder: Path, now: float | None = None) -> bool:
    if holder.machine and holder.machine == _machine():
        start = _process_start(holder.pid)
        return start is not None and start == holder.start
    if now is None:  # by the clock that dates files, which a server in the network may keep
        probe = temporary_beside(folder / "clock")
        try:
            probe.touch()
            now = probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)
    return now - touched < STALE_SECONDS


def _machine() -> str:
    """A boot of a host and a namespace of process ids, as containers have; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """When a process of this machine started; None where it has ended, even if not waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]

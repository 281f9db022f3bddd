"""The processes of a sweep, told apart by what the system says of them. Linux only."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A number of a process and what it is to its sweep."""

    pid: int
    kind: str


def processes_of(driver: int) -> list[Process]:
    """All that live in the session that a driver has begun, itself and those that outlived it."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == driver and state not in "ZX":
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(path.name)] = (int(parent), command)
    return [Process(pid, _kind(pid, found, driver)) for pid in sorted(found)]


def _kind(pid: int, found: dict[int, tuple[int, str]], driver: int) -> str:
    parent, command = found[pid]
    if pid == driver:
        return "driver"
    for word in ("resource_tracker", "raylet", "gcs_server"):
        if word in command.split(" --", 1)[0]:
            return word
    if command.startswith("ray::C="):
        return "ray worker"
    if "forkserver" in command:
        forks = any(above == pid for above, _ in found.values())
        return "fork server" if forks or parent == driver else "worker"
    return "other"


def kill(process: Process) -> bool:
    """Kill −9; whether it was there."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
        return True
    return False

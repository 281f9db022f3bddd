"""What may never happen to the folder of a sweep, whoever was killed, looked for again and again."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flops_fit.store import examine

RECORDS = ("run.json", "attempt.json")  # which the doctor reads


@dataclass
class Ledger:
    """Every result that was seen, as it was seen first.

    A file is known by its content and its number on the disk, so that it cannot be taken away and
    made anew between two looks unseen.
    """

    folder: Path
    broken: list[str] = field(default_factory=list)
    seen: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    ever: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    torn: dict[Path, bytes] = field(default_factory=dict)  # on purpose, and what is left of them
    looks: int = 0

    def look(self) -> None:
        """At all results: those seen before are there and unchanged, and new ones are whole."""
        self.looks += 1
        found = {}
        for path in self.folder.glob("runs/*/run.json"):
            with suppress(FileNotFoundError), path.open("rb") as handle:
                content = handle.read()
                if content != self.torn.get(path):
                    found[path.parent.name] = (content, os.fstat(handle.fileno()).st_ino)
        for name, first in self.seen.items():
            if name not in found:
                self._broken(f"{name}: the result of a finished run is gone")
            elif found[name] != first:
                self._broken(f"{name}: the result of a finished run has changed")
        for name, (content, number) in found.items():
            if name not in self.seen:
                try:
                    self.ever[name].add(json.loads(content)["device"])
                except ValueError:
                    self._broken(f"{name}: a result was published that is not whole")
                self.seen[name] = content, number

    def tear(self, path: Path, length: int) -> None:
        """Cut a file off, as a crash of the machine would; a result has to be made again."""
        os.truncate(path, length)
        if path.name in RECORDS:
            self.torn[path] = path.read_bytes()
        if path.name == "run.json":
            self.seen.pop(path.parent.name, None)

    def examine(self) -> None:
        """The doctor finds what was torn, and nothing else: what the killed have left is no fault."""
        if not (self.folder / "sweep.json").exists():
            return
        torn = {p for p, left in self.torn.items() if p.exists() and p.read_bytes() == left}
        wrong = {
            self.folder / f.path: f for f in examine(self.folder).findings if f.grade == "wrong"
        }
        for path, finding in wrong.items():
            table = path.name == "runs.csv" and any(p.name == "run.json" for p in self.torn)
            if path not in torn and not table:
                self._broken(f"doctor: {finding.path}: {finding.message}")
        for path in torn - wrong.keys():
            if path.exists() and path.read_bytes() == self.torn[path]:
                self._broken(
                    f"{path.parent.name}: the doctor does not see that {path.name} is torn"
                )

    def hear(self, heard: list[tuple[str, str]]) -> None:
        """Every result that a driver was handed is one that was on record under its id."""
        for name, made in heard:
            if made not in self.ever[name]:
                self._broken(f"{name}: a driver was handed a result that was never on record")

    def _broken(self, what: str) -> None:
        if what not in self.broken:
            self.broken.append(what)

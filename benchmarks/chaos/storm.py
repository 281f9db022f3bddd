"""Kill −9 on whoever works at a sweep, torn files and a full disk, until the kills are spent.

What happens follows from a seed; at which instruction it strikes does not.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.cheap_sweeps import AGAIN, full_of, said_of
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.processes import Process, kill, processes_of

Outside = Callable[[], list[Process]]  # processes that are not of the driver's session
ROOT = Path(__file__).resolve().parents[2]
_STEP = 0.02  # seconds between looks at the driver
_OLD = 120.0  # seconds by which a torn lease is older than it may be


def environment() -> dict[str, str]:
    """For processes that find these modules and the package beside them."""
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}


def said_load() -> str:
    """How busy the machine is."""
    load = ", ".join(f"{v:.1f}" for v in os.getloadavg())
    return f"Load of this machine's {os.cpu_count()} cores after it: {load}."


@dataclass(frozen=True)
class Weather:
    """How it storms.

    Attributes
    ----------
    kills
        How many processes are killed in all.
    victims
        How often each kind of process is chosen, relative to the others.
    calm
        Seconds between two kills, on average.
    torn, full
        How likely files are torn before a driver starts, and the disk full while one works.
    patience
        Seconds after which a driver that neither ends nor publishes is taken to hang.
    """

    kills: int
    victims: Mapping[str, float]
    calm: float
    torn: float = 0.3
    full: float = 0.15
    patience: float = 120.0
    torn_files: Sequence[str] = (
        "run.json", "lease.json", "attempt.json", "metrics.jsonl", "checkpoint/*/*", "*.lease",
    )  # fmt: skip


@dataclass
class Storm:
    """What happened to sweeps, and what was broken by it."""

    weather: Weather
    random: random.Random
    outside: Outside = list
    before: Sequence[str] = ()  # words before those of a driver
    killed: Counter[str] = field(default_factory=Counter)
    torn: Counter[str] = field(default_factory=Counter)
    drivers: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    victim: str = ""
    clusters: int = 0  # of Ray, struck before this driver
    begun: int = 0
    published: int = 0
    looks: int = 0
    sweeps: int = 0

    @property
    def spent(self) -> bool:
        return sum(self.killed.values()) >= self.weather.kills

    def sweep(self, command: Sequence[str], folder: Path, calm_fit: bytes) -> None:
        """One sweep from its beginning to its fit, by as many drivers as it takes."""
        ledger = Ledger(folder)
        while not self._ends(command, ledger):
            ledger.look()
            ledger.examine()
            if ledger.broken:
                break
            self._tear(ledger)
        ledger.look()
        ledger.examine()
        said = said_of(folder)
        text = said.read_text() if said.exists() else ""
        lines = [line.split(" ") for line in text.splitlines()]
        ledger.hear([(w[1], w[2]) for w in lines if w[0] == "heard"])
        fit = folder / "fit.json"
        if not fit.exists() or fit.read_bytes() != calm_fit:
            ledger.broken.append("the fit is not that of the undisturbed sweep")
        self.begun += sum(w[0] == "begun" for w in lines)
        self.published += len(ledger.seen)
        self.looks += ledger.looks
        self.sweeps += 1
        self.broken += [f"sweep {self.sweeps}: {what}" for what in ledger.broken]

    def _ends(self, command: Sequence[str], ledger: Ledger) -> bool:
        """Whether a new driver, killed or not, came to the fit."""
        full = full_of(ledger.folder)
        self.clusters = self.killed["raylet"] + self.killed["gcs_server"]
        full_at = self.random.uniform(0.0, 2.0) if self._happens(self.weather.full) else None
        with tempfile.TemporaryFile() as said:
            driver = subprocess.Popen(
                [*self.before, sys.executable, "-m", *command], cwd=ROOT, start_new_session=True,
                env=environment(),
                stdout=said, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                self._watch(driver, ledger, full, full_at)
            finally:
                was_full = full.exists()
                full.unlink(missing_ok=True)
                if driver.poll() is None:
                    driver.kill()
                code = driver.wait()
                if code == 0 or self.spent:
                    self._clear(driver.pid)
            said.seek(0)
            text = said.read().decode(errors="replace")
        return self._judged(code, was_full, text, ledger)

    def _watch(
        self, driver: subprocess.Popen[bytes], ledger: Ledger, full: Path, full_at: float | None
    ) -> None:
        began = moved = time.monotonic()
        strike, known = began + self._pause(), 0
        if not self.victim:
            self._choose()
        while driver.poll() is None:
            time.sleep(_STEP)
            now = time.monotonic()
            if full_at is not None and now - began > full_at:
                full.touch()
                full_at = None
            if now >= strike:
                if not self.spent and self._strike(driver.pid):
                    strike = now + self._pause()
                    self._choose()
                ledger.look()
                if len(ledger.seen) != known:
                    known, moved = len(ledger.seen), now
            if now - moved > self.weather.patience:
                ledger.broken.append(f"a driver hung for {self.weather.patience:.0f} s")
                return

    def _choose(self) -> None:
        kinds, chances = zip(*self.weather.victims.items(), strict=True)
        (self.victim,) = self.random.choices(kinds, chances)

    def _strike(self, driver: int) -> bool:
        """Kill one of the kind that is to be killed next, as soon as there is one."""
        there = [p for p in [*processes_of(driver), *self.outside()] if p.kind == self.victim]
        if not there or not kill(self.random.choice(there)):
            return False
        self.killed[self.victim] += 1
        return True

    def _judged(self, code: int, was_full: bool, text: str, ledger: Ledger) -> bool:
        """Whether the sweep is through; an end that nobody can explain is broken."""
        if code == 0:
            self.drivers["finished"] += 1
            return True
        if code == -9:
            self.drivers["killed"] += 1
        elif code == AGAIN:
            self.drivers["left runs to the next"] += 1
        elif "No space left on device" in text:
            self.drivers["said that the disk is full"] += 1
        elif "SweepError" in text:
            self.drivers["said that no worker or cluster starts"] += 1

        elif self.killed["raylet"] + self.killed["gcs_server"] > self.clusters:
            self.drivers["lost the cluster"] += 1
        else:
            ledger.broken.append(f"a driver exited with {code}: {text.strip()[-1500:]}")
        return False

    def _tear(self, ledger: Ledger) -> None:
        """Cut files off as a crash of the machine would, and let the doctor name each record."""
        if not self._happens(self.weather.torn):
            return
        pattern = self.random.choice(self.weather.torn_files)
        found = sorted(
            p for p in ledger.folder.rglob(pattern) if p.is_file() and p.stat().st_size > 1
        )
        if not found:
            return
        path = self.random.choice(found)
        ledger.tear(path, self.random.randrange(path.stat().st_size))
        if "lease" in path.name:
            os.utime(path, (time.time() - _OLD,) * 2)
        self.torn[pattern] += 1

    def _happens(self, chance: float) -> bool:
        return self.random.random() < chance

    def _pause(self) -> float:
        return self.random.expovariate(1 / self.weather.calm)

    def _clear(self, session: int) -> None:
        for process in processes_of(session):
            kill(process)

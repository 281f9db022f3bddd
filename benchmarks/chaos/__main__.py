"""Is anything lost when whoever works at a sweep is killed, files are torn and the disk is full?

    python -m benchmarks.chaos                  # everything, about 8 minutes on two cores
    python -m benchmarks.chaos --only cheap
    python -m benchmarks.chaos --quick          # fewer kills

Every sweep has to end with each finished run as it was first recorded, at most one result for each
id, the fit of the undisturbed sweep to the last digit, and nothing wrong in the doctor's eyes. Exits
with 1 where one did not. Linux only: it finds processes in /proc.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks.chaos import cheap_sweeps, command_sweep, real_sweep
from benchmarks.chaos.every_call import How, strike_everywhere
from benchmarks.chaos.storm import Outside, Storm, Weather, environment, said_load
from benchmarks.common.command import run
from benchmarks.common.report import Goal, Part, Result, Table, at_most

SEED = 20
RUNS, SECONDS = 30, 0.15
KILLS = {"cheap": 200, "training": 12, "commands": 40, "ray": 12}
QUICK = {"cheap": 20, "training": 3, "commands": 6, "ray": 2}
VICTIMS = {"driver": 3.0, "worker": 5.0, "fork server": 1.0, "resource_tracker": 0.5}
RAY_VICTIMS = {"driver": 1.0, "worker": 1.0, "ray worker": 2.0, "raylet": 1.5, "gcs_server": 1.0}


def calls(quick: bool) -> Result:
    """Killed, and out of space, at every single call that changes the disk."""
    rows, goals = [], []
    hows: tuple[How, ...] = ("killed", "disk full")
    for how in hows:
        with tempfile.TemporaryDirectory() as folder:
            struck = strike_everywhere(Path(folder), how, every=10 if quick else 1)
        rows.append((how, str(struck.times), str(len(struck.broken))))
        goals.append(_nothing_broken(f"at every call: {how}", struck.broken))
    title = "A sweep struck at each of its calls that change the disk, then gone on with"
    return [Table(title, ("how", "sweeps", "broken"), tuple(rows))], goals


def cheap(quick: bool) -> Result:
    """A pool of two, runs without PyTorch, a new sweep whenever one is through."""
    kills = (QUICK if quick else KILLS)["cheap"]
    weather = Weather(kills, VICTIMS, calm=0.3)
    return stormed("cheap runs in a pool", cheap_sweeps, "pool", weather, (RUNS, SECONDS))


def training(quick: bool) -> Result:
    """A cut-down demo sweep in a pool, with a checkpoint every 20 steps."""
    kills = (QUICK if quick else KILLS)["training"]
    weather = Weather(kills, {**VICTIMS, "worker": 9.0}, calm=0.7, torn=0.8)
    return stormed("training in a pool", real_sweep, "pool", weather, ())


def commands(quick: bool) -> Result:
    """Runs that are commands, which do not belong to the driver's session."""
    kills = (QUICK if quick else KILLS)["commands"]
    weather = Weather(kills, {"driver": 2.0, "worker": 2.0, "command": 4.0}, calm=0.5)
    told = (RUNS, 2 * SECONDS)
    return stormed(
        "commands in a pool", command_sweep, "pool", weather, told, command_sweep.commands
    )


def ray(quick: bool) -> Result:
    """Cheap runs on a cluster of this machine, of which any process is killed."""
    kills = (QUICK if quick else KILLS)["ray"]
    weather = Weather(kills, RAY_VICTIMS, calm=0.5)
    return stormed("cheap runs on Ray", cheap_sweeps, "ray", weather, (RUNS, 2 * SECONDS))


def stormed(
    what: str, module: ModuleType, executor: str, weather: Weather, arguments: Sequence[object],
    outside: Outside = list, before: Sequence[str] = (),
) -> Result:  # fmt: skip
    """Sweeps one after another until the kills are spent; the last one ends in calm."""
    storm = Storm(weather, random.Random(SEED), outside, before)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as base:
        calm = Path(base) / "calm"
        told = [str(a) for a in arguments]
        subprocess.run(
            [sys.executable, "-m", module.__name__, "inprocess", str(calm), *told],
            check=True, env=environment(),
        )  # fmt: skip
        fit = (calm / "fit.json").read_bytes()
        while not storm.spent and not storm.broken:
            folder = Path(base) / f"sweep{storm.sweeps}"
            storm.sweep([module.__name__, executor, str(folder), *told], folder, fit)
    seconds = time.perf_counter() - began
    return [_table(what, storm, seconds)], [_nothing_broken(what, storm.broken)]


def _table(what: str, storm: Storm, seconds: float) -> Table:
    rows = [
        ("kill −9", str(storm.killed.total()), _told(storm.killed)),
        ("files torn", str(storm.torn.total()), _told(storm.torn)),
        ("drivers", str(storm.drivers.total()), _told(storm.drivers)),
        ("sweeps brought to their fit", str(storm.sweeps), ""),
        ("runs begun", str(storm.begun), ""),
        ("results on record", str(storm.published), f"looked at {storm.looks} times"),
        ("broken", str(len(storm.broken)), ""),
    ]
    notes = (f"{seconds:.0f} s, seed {SEED}. {said_load()}",)
    return Table(f"Storm: {what}", ("what", "how many", "of which"), tuple(rows), notes)


def _told(counted: Counter[str]) -> str:
    return ", ".join(f"{n} {what}" for what, n in counted.most_common())


def _nothing_broken(what: str, broken: Sequence[str]) -> Goal:
    for line in broken:
        print(f"BROKEN  {what}: {line}", file=sys.stderr, flush=True)
    return at_most(f"what was lost or changed, {what}", len(broken), 0)


PARTS: dict[str, Part] = {
    "calls": calls, "cheap": cheap, "training": training, "commands": commands, "ray": ray,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(PARTS, __doc__, "chaos"))

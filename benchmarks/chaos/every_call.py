"""A sweep that dies, or finds the disk full, at every single call that changes the disk.

For n = 1, 2, ... a fresh process carries out a small sweep and is killed, or refused space from then
on, at its n-th such call; a second process goes on. It is the same at every time, and misses no place.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Literal

from benchmarks.chaos.cheap_sweeps import PAUSES, Cheap, Hearing, experiments, said_of
from benchmarks.chaos.full_disk import no_space, watch_calls
from benchmarks.chaos.ledger import Ledger
from flops_fit.errors import OutputError
from flops_fit.execute import InProcessExecutor
from flops_fit.files import write_json
from flops_fit.records import Run
from flops_fit.store import Store
from flops_fit.sweep import run_experiments

How = Literal["killed", "disk full"]
RUNS = 5
_TOLD, _CRASHED = 3, 4


@dataclass
class Struck:
    """How often a sweep was struck, and what was broken by it."""

    how: How
    times: int = 0
    lost: int = 0  # results that were on record when it was struck
    broken: list[str] = field(default_factory=list)


def small_sweep(folder: Path) -> list[Run]:
    """Runs in this process, two of them of one trunk; table and fit files at the end."""
    said, asked = said_of(folder), experiments(RUNS + 1)
    store = Store.open(folder)
    store.write_plan(asked)
    task = Cheap(said, 0.0)
    runs = run_experiments(
        asked, task, InProcessExecutor(), store, Hearing(said), pauses=(0.0,) * len(PAUSES)
    )
    store.write_table(runs)
    write_json(folder / "fit.json", {"losses": [run.loss for run in runs]})
    return runs


def strike_everywhere(folder: Path, how: How, every: int = 1) -> Struck:
    """Strike at every ``every``-th call, go on, and look; until the sweep ends before it is struck."""
    struck = Struck(how)
    calm = _forked(lambda: _calmly(folder / "calm"))
    assert calm == 0
    fit = (folder / "calm" / "fit.json").read_bytes()
    for n in count(1, every):
        out = folder / "struck"
        code = _forked(lambda n=n, out=out: _struck(out, how, n))
        if code == 0:
            return struck
        struck.times += 1
        expected = -signal.SIGKILL if how == "killed" else _TOLD
        if code != expected:
            struck.broken.append(f"call {n}: the sweep ended with {code}; expected {expected}")
        ledger = Ledger(out)
        ledger.look()
        ledger.examine()
        if _forked(lambda out=out: _calmly(out)) != 0:
            struck.broken.append(f"call {n}: the next driver could not go on")
        ledger.look()
        ledger.examine()
        lines = [line.split() for line in said_of(out).read_text().splitlines()]
        ledger.hear([(w[1], w[2]) for w in lines if w[0] == "heard"])
        if (out / "fit.json").read_bytes() != fit:
            ledger.broken.append("the fit is not that of the undisturbed sweep")
        struck.broken += [f"call {n}: {what}" for what in ledger.broken]
        shutil.rmtree(out)
        said_of(out).unlink()
    raise AssertionError


def _calmly(folder: Path) -> int:
    small_sweep(folder)
    return 0


def _struck(folder: Path, how: How, n: int) -> int:
    calls = count(1)

    def before(name: str) -> None:
        if next(calls) < n:
            return
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if name in ("mkdir", "link", "fsync"):
            raise no_space()

    watch_calls(before)
    try:
        small_sweep(folder)
    except OutputError as error:
        return _TOLD if "No space left on device" in str(error) else _CRASHED
    return 0


def _forked(work: Callable[[], int]) -> int:
    """The exit status of ``work`` in a process of its own, negative for the signal that ended it."""
    sys.stdout.flush()
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = _CRASHED
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

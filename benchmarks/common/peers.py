"""Run scripts such as benchmarks/fit/peers.py in the environment that holds the other packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.table import RunTable

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-bench"
_PEERS = {"chinchilla": 600, "simple-scaling-laws": 300, "vpnls": 120}  # seconds each may take
_SLOW = ("chinchilla",)


@dataclass(frozen=True)
class Peer:
    """What a package took and reached, or why there is nothing."""

    what: str
    reason: str = ""
    minimises: str = ""
    seconds: float = 0.0
    refit_seconds: float | None = None
    predicted: tuple[float, ...] = ()


def measure_peers(runs: RunTable, delta: float, refits: int, quick: bool) -> Iterator[Peer]:
    """One or more rows a package."""
    task = {
        "params": runs.params.tolist(),
        "tokens": runs.tokens.tolist(),
        "loss": runs.loss.tolist(),
        "delta": delta,
        "refits": refits,
    }
    for name, limit in _PEERS.items():
        if quick and name in _SLOW:
            yield Peer(name, "left out by --quick")
        else:
            yield from _measure(name, json.dumps(task), limit)


def _measure(name: str, task: str, limit: float) -> list[Peer]:
    said = ask("fit/peers.py", name, task, limit, "bench-fit")
    if isinstance(said, str):
        return [Peer(name, said)]
    return [
        Peer(r["what"], "", r["objective"], r["seconds"], r["refit_seconds"], tuple(r["predicted"]))
        for r in said
    ]


def ask(
    script: str, name: str, task: str, limit: float, target: str, path: Sequence[Path] = ()
) -> list[dict[str, Any]] | str:
    """What ``script name`` answers to ``task`` in the packages' environment, or why it does not.

    ``path`` is what it may import beside them, ``target`` the make target that installs them.
    """
    python = VENV / "bin" / "python"
    if not python.exists():
        return f"not installed: run `make {target}`"
    module = name.replace("-", "_")
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
        return f"not installable here: {_pip_said(name, target)}"
    command = [python, "-P", ROOT / "benchmarks" / script, name]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    try:
        done = subprocess.run(
            command, input=task, capture_output=True, text=True, timeout=limit, env=env
        )
    except subprocess.TimeoutExpired:
        return f"not done after {limit} s"
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or ['?'])[-1][:120]}"
    said: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


def _pip_said(name: str, target: str) -> str:
    """The reason in pip's log, which the Makefile keeps beside the environment's packages."""
    log = VENV / f"{name}.log"
    if not log.exists():
        return f"`make {target}` has not tried"
    text = log.read_text()
    needs = re.search(r"Requires-Python ([^\s;,]+)", text)
    if needs:
        return f"it needs Python {needs[1]}"
    if "from versions: none" in text:
        return "the package index has no such package"
    errors = [line for line in text.splitlines() if line.startswith("ERROR")]
    return errors[-1].removeprefix("ERROR: ") if errors else "its import fails"

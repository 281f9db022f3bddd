"""Every benchmark in one call, what its goals came to, and what has moved since they were last recorded.

    python -m benchmarks                       # everything: about five hours on two cores
    python -m benchmarks fit tables            # these alone
    python -m benchmarks --quick               # fewer repeats
    python -m benchmarks --read                # runs nothing: judges what outputs/bench holds
    python -m benchmarks fit --record          # and keeps the results in benchmarks/recorded.json
    python -m benchmarks --read --page FILE    # and writes them as a page of the documentation

Exits with 1 where a goal is missed that was met when it was recorded, or a benchmark broke off.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common.report import Table

PARTS = {
    "fit": "Accuracy, speed and size of the fit, beside other packages",
    "calibration": "Intervals on public sweeps, the largest budgets held out",
    "coverage": "Intervals where the law is right",
    "joint": "Rates and batches in the law",
    "beyond": "Scores, repeats and forecasts, from public runs that were held out",
    "hparams": "One rate over widths, and the demo untuned and tuned",
    "plan": "Cost, times, and FLOPs to an answer by design",
    "train": "Training beside a loop by hand and other trainers",
    "execute": "Runs side by side, and the overhead of a run",
    "models": "Kinds of model, data and loss",
    "tables": "Tables as tools write them",
    "report": "From runs to a page",
}
"""What each measures."""
RECORDED = Path(__file__).with_name("recorded.json")
FOLDER = Path("outputs/bench")
MOVED = 0.25
"""Relative change of a number from which on it is told."""


def main() -> int:
    """Run, judge, and say what moved."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all without any")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--read", action="store_true", help="run nothing")
    parser.add_argument(
        "--record", action="store_true", help=f"keep the results in {RECORDED.name}"
    )
    parser.add_argument("--page", type=Path, help="write what is recorded as a page")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no benchmark is called {sorted(unknown)}; there are {list(PARTS)}")
    if given.quick and given.record:
        parser.error("--record keeps full results: leave out --quick")
    recorded = json.loads(RECORDED.read_text()) if RECORDED.is_file() else {}
    rows, told, worse = [], [], False
    for name in given.parts or PARTS:
        broke = not given.read and _ran(name, given.quick)
        found = _results(name)
        if broke or found is None:
            rows.append((name, "broke off" if broke else "not measured", "", ""))
            worse |= broke
            continue
        lost, moved = _compared(found["goals"], recorded.get(name, {}).get("goals", {}))
        worse |= bool(lost)
        told += [f"{name}: {line}" for line in (*lost, *moved)]
        met = sum(goal["met"] for goal in found["goals"].values())
        rows.append((name, f"{met} of {len(found['goals'])}", str(len(lost)), str(len(moved))))
        if given.record and not found.pop("quick"):
            recorded[name] = found
    columns = ("benchmark", "goals met", "met before, missed now", f"moved by {MOVED:.0%} or more")
    print(f"\n{Table('All benchmarks', columns, tuple(rows))}", *told, sep="\n")
    if given.record:
        RECORDED.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")
    if given.page:
        given.page.write_text("\n".join(_page(recorded)) + "\n")
    return int(worse)


def _ran(name: str, quick: bool) -> bool:
    """Run one; whether it broke off: 1 is a missed goal."""
    print(f"\n=== {name}: {PARTS[name]}", flush=True)
    (FOLDER / f"{name}.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
    return subprocess.run(command).returncode not in (0, 1)


def _results(name: str) -> dict[str, Any] | None:
    """The goals that the file of a benchmark has, by what they say, and where they were measured."""
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    goals = {}
    for part in record.values():
        for goal in part["goals"] if isinstance(part, dict) and "goals" in part else ():
            limit = goal.get("tolerance") or f"<= {goal['limit']:.4g}"
            met = goal.get("met", goal.get("outcome") == "met")
            goals[goal["what"]] = {"measured": goal["measured"], "goal": limit, "met": met}
    day = datetime.date.fromtimestamp(path.stat().st_mtime).isoformat()
    machine = {name: told for name, told in record["machine"].items() if name != "platform"}
    return {"quick": record["quick"], "day": day, "machine": machine, "goals": goals}


def _compared(now: dict[str, Any], before: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What is missed that was met, and what else has moved."""
    lost, moved = [], []
    for what in now.keys() & before.keys():
        new, old = now[what], before[what]
        line = f"{what}: {old['measured']:.4g} -> {new['measured']:.4g} (goal {new['goal']})"
        if old["met"] and not new["met"]:
            lost.append("MISSED NOW " + line)
        elif abs(new["measured"] - old["measured"]) > MOVED * abs(old["measured"]):
            moved.append("moved " + line)
    return sorted(lost), sorted(moved)


PEERS = {
    "SciPy (`minimize`, `least_squares`)": "any form that you can write down; our solver knows its own laws",
    "chinchilla": "its starts are the grid that the paper has",
    "parabolas (Hoffmann's approach 2)": "no law can be wrong, where every budget has its minimum inside",
    "Hugging Face Trainer, Lightning Fabric": "a step of the smallest models takes 4 to 6 % less time",
    "vpnls, simple-scaling-laws": "not measured: no package of one is to be had, the other needs Python 3.12",
}
"""What peers that are measured here are better at."""


def _page(recorded: dict[str, Any]) -> Iterator[str]:
    """The page of what was measured last."""
    yield "# Benchmarks\n"
    yield "What was measured last, goal by goal. `make bench` runs all of them, `python -m benchmarks NAME`"
    yield "one, and both say what has moved since. Times are of a shared machine of two cores: those that"
    yield "matter are ratios to a peer in the same run."
    yield "\n| beside | what it is better at |\n|---|---|"
    yield from (f"| {peer} | {better} |" for peer, better in PEERS.items())
    for name, title in PARTS.items():
        yield f"\n## {title}\n"
        if name not in recorded:
            yield f"`python -m benchmarks {name}`: not recorded yet."
            continue
        found = recorded[name]
        about = ", ".join(f"{k} {v}" for k, v in found["machine"].items())
        met = sum(goal["met"] for goal in found["goals"].values())
        yield f"`python -m benchmarks {name}`, {found['day']}, {about}:"
        yield f"{met} of {len(found['goals'])} goals met.\n"
        yield "| what | measured | goal | |\n|---|---|---|---|"
        for what, goal in found["goals"].items():
            told = what.replace("|", "\\|").replace("<", "\\<")
            verdict = "" if goal["met"] else "**missed**"
            yield f"| {told} | {goal['measured']:.4g} | {goal['goal'].replace('<', '&lt;')} | {verdict} |"


if __name__ == "__main__":
    sys.exit(main())

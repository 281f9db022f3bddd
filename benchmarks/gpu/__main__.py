"""Does everything that runs on an accelerator do so here, and like on the host?

    python -m benchmarks.gpu                    # all checks on the GPU of this machine, in a few minutes
    python -m benchmarks.gpu --device mps
    python -m benchmarks.gpu --only losses resumed

One line a check: ok, FAILED, or not here, with what was measured. Exits with 1 where one failed, and with 2
where there is no accelerator.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.common.command import machine
from benchmarks.gpu import sweeps, training
from benchmarks.gpu.tasks import MissedError, NotHereError
from flops_fit.train.config import resolve_device

CHECKS: dict[str, Callable[[str], str]] = {
    check.__name__: check
    for check in (
        training.known,
        sweeps.counted,
        training.losses,
        training.convolutions,
        training.bfloat16,
        training.repeated,
        training.resumed,
        training.pinned,
        training.halved,
        training.exhausted,
        training.refused,
        training.memory,
        training.compiled,
        sweeps.timed,
        sweeps.shared,
        sweeps.answered,
        sweeps.transformers,
        sweeps.ranks,
    )
}


def main() -> int:
    """Run the checks, a line each, and write them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="auto", help="a torch device; by default the fastest")
    parser.add_argument("--only", nargs="+", choices=tuple(CHECKS), help="these alone")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench/gpu.json"))
    given = parser.parse_args()
    device = resolve_device(given.device)
    if given.device == "auto" and device == "cpu":
        print(f"expected an accelerator; torch {torch.__version__} sees none on this machine.")
        return 2
    found = [judged(name, device) for name in given.only or CHECKS]
    given.output.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": machine() | {"torch": torch.__version__, "device": device},
        "checks": found,
    }
    given.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    count = {v: sum(f["verdict"] == v for f in found) for v in ("ok", "FAILED", "not here")}
    told = ", ".join(f"{n} {verdict}" for verdict, n in count.items() if n)
    print(
        f"\n{told}, in {sum(float(f['seconds']) for f in found):.0f} s; written to {given.output}"
    )
    return int(count["FAILED"] > 0)


def judged(name: str, device: str) -> dict[str, str]:
    """One check's verdict, what it found, and its seconds; printed as a line."""
    started, details = time.perf_counter(), ""
    try:
        verdict, told = "ok", CHECKS[name](device)
    except NotHereError as why:
        verdict, told = "not here", str(why)
    except MissedError as why:
        verdict, told = "FAILED", str(why)
    except Exception as error:
        verdict, told, details = "FAILED", repr(error), traceback.format_exc()
    seconds = f"{time.perf_counter() - started:.1f}"
    print(f"{verdict:8}  {name:12}  {seconds:>5} s  {told}", flush=True)
    if details:
        print(details, flush=True)
    return {
        "check": name,
        "verdict": verdict,
        "found": told,
        "seconds": seconds,
        "details": details,
    }


if __name__ == "__main__":
    raise SystemExit(main())

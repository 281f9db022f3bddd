"""Two ranks that train one run: weights whole on both against cut over them; memory and time of a step."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.common.report import Goal, Result, Table, at_most

WIDTH, LAYERS, BATCH, STEPS = 512, 16, 4, 8
PAIRS = 3
MEMORY_GOAL = 0.75  # of what a rank with whole weights takes
SAME = 1e-4  # relative difference of losses


def sharding(quick: bool) -> Result:
    """In turns, each launched by torchrun over gloo."""
    found: dict[str, list[dict[str, float]]] = {"whole": [], "fsdp": []}
    for _ in range(1 if quick else PAIRS):
        for name, kept in found.items():
            kept.append(_launched(name))
    rows, middles = [], {}
    for name, kept in found.items():
        middle = {key: median(each[key] for each in kept) for key in kept[0]}
        middles[name] = middle
        rows.append(
            (name, f"{middle['mb']:.0f}", f"{middle['seconds']:.2f}", f"{middle['loss']:.6f}")
        )
    whole, cut = middles["whole"], middles["fsdp"]
    ratio = cut["mb"] / whole["mb"]
    notes = (
        f"A GPT of {cut['params'] / 1e6:.0f}M parameters, {BATCH} samples; memory on top of that before it.",
        f"Cut over ranks: {ratio:.2f} times the memory, {cut['seconds'] / whole['seconds']:.2f} times the "
        "time of a step.",
    )
    columns = ("weights", "MB a rank at most", "seconds a step", "held-out loss")
    table = Table("Two ranks of one core", columns, tuple(rows), notes)
    apart = abs(cut["loss"] / whole["loss"] - 1)
    goals: list[Goal] = [
        at_most("memory of a rank, cut over whole", ratio, MEMORY_GOAL),
        at_most("relative difference of losses", apart, SAME),
    ]
    return [table], goals


def _launched(name: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            "-m", "benchmarks.execute.sharding", name, str(out),
        ]  # fmt: skip
        # Else glibc keeps the holes between tensors, and the process's size does not say what they take.
        holes = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "65536")
        env = {**os.environ, **holes, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=env, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return dict(json.loads(out.read_text()))


def _as_rank(name: str, out: str) -> None:
    """Train a few steps, and write what they took."""
    import time

    from benchmarks.train.by_hand import Task
    from benchmarks.train.engine import Text, experiment
    from flops_fit import TrainingConfig
    from flops_fit.examples.gpt import GPTFactory, gpt_loss_fn
    from flops_fit.model import ModelSpec
    from flops_fit.objective import Objective
    from flops_fit.train import Trainer

    what = experiment(Task(WIDTH, STEPS, BATCH))
    config = TrainingConfig(sharding="fsdp" if name == "fsdp" else None)
    model, data = (
        ModelSpec(GPTFactory(num_layers=LAYERS), "d_model"),
        Text(seq_len=64, held_out=8).specs(),
    )
    trainer = Trainer(model, *data, Objective(gpt_loss_fn), config=config)
    before = _peak()
    started = time.perf_counter()
    run = trainer(what)
    seconds = (time.perf_counter() - started) / what.steps
    assert run.state == "completed", run.reason + run.details
    if os.environ["RANK"] == "0":
        found = {
            "mb": _peak() - before, "seconds": seconds, "loss": run.loss,
            "params": sum(p.numel() for p in model.build_meta(WIDTH).parameters()),
        }  # fmt: skip
        Path(out).write_text(json.dumps(found))


def _peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    _as_rank(*sys.argv[1:])

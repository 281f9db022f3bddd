"""Whole sweeps on the device: planned times, workers that share it, other trainers, several GPUs."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.gpu.tasks import SEQ_LEN, MissedError, NotHereError, expect, text_plan
from flops_fit import HFTask, TrainingConfig, find_optimal, plan_sweep, run_sweep
from flops_fit.examples.gpt import GPTFactory, gpt_loss_fn
from flops_fit.examples.text import SOTUDataset
from flops_fit.execute import PoolExecutor
from flops_fit.records import Run
from flops_fit.text import format_count

SIZES = {1e12: [64, 96, 128, 192], 2e12: [96, 128, 192, 256]}


def counted(device: str) -> str:
    """The plan's FLOPs, sizes and lengths are those of the host."""
    here, there = (text_plan(where, SIZES).experiments for where in (device, "cpu"))
    same = [
        (a.flops, a.params, a.steps) == (b.flops, b.params, b.steps)
        for a, b in zip(here, there, strict=True)
    ]
    return expect(all(same) and len(same) == 8, f"{sum(same)} of {len(same)} runs alike")


def timed(device: str) -> str:
    """The seconds of a sweep, as planned and as taken."""
    plan = text_plan(device, SIZES)
    planned = plan.seconds() or math.nan
    with TemporaryDirectory() as folder:
        runs = run_sweep(plan, output_dir=folder, progress=False)
    taken = sum(run.seconds for run in runs)
    known = [run.mfu for run in runs if run.mfu is not None]
    told = f"MFU up to {max(known):.2%}" if known else "no MFU"
    found = f"{planned:.1f} s planned, {taken:.1f} s taken; {told}"
    fine = all(0 < mfu < 1 for mfu in known) and bool(known) == device.startswith("cuda")
    return expect(0.5 < planned / taken < 2 and fine, found)


def shared(device: str) -> str:
    """A pool whose processes share the device, its driver having used it: the same losses."""
    kind = torch.device(device).type
    plan = text_plan(kind, SIZES, training={"precision": "fp32"})
    share = {"gpus": 1, "runs_per_gpu": 2} if kind == "cuda" else {"workers": 2}
    with TemporaryDirectory() as folder:
        alone = run_sweep(plan, output_dir=Path(folder) / "alone", progress=False)
        pool = PoolExecutor(**share)
        runs = run_sweep(plan, output_dir=Path(folder) / "pool", executor=pool, progress=False)
    gap = _apart(alone, runs)
    places = {run.device for run in runs}
    return expect(gap < 1e-2, f"{len(runs)} runs on {places}, {gap:.1e} apart")


def _apart(one: Any, other: Any) -> float:
    """The largest relative difference of two sweeps' losses."""
    losses = {run.experiment.id: _loss(run) for run in one}
    return max(abs(_loss(run) / losses[run.experiment.id] - 1) for run in other)


def _loss(run: Run) -> float:
    if run.state != "completed" or run.loss is None:
        raise MissedError(f"a run is {run.state}: {run.reason} {run.details}")
    return run.loss


def answered(device: str) -> str:
    """find_optimal, whose sweep tunes itself, from text to an answer."""
    sizes = {3e10: [16, 24, 32, 48, 64], 1e11: [24, 32, 48, 64, 96], 3e11: [32, 48, 64, 96, 128]}
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a sweep this small warns of
        result = find_optimal(
            GPTFactory(num_layers=2), "d_model", {}, SOTUDataset("train", SEQ_LEN), gpt_loss_fn,
            list(sizes), sizes=sizes, eval_dataset=SOTUDataset("validation", SEQ_LEN),
            device=device, tune="joint", hparams={"batch_units": 1024},  # few steps, of 16 samples
            training=TrainingConfig(eval_samples=512), output_dir=folder, progress=False,
        )  # fmt: skip
        answer = result.predict(1e12)
    done = sum(run.state == "completed" for run in result.runs)
    size, loss = format_count(answer.optimal_params), answer.expected_loss
    return expect(
        done == 15 and 1 < loss < 4, f"{done} of 15 runs; at 1e12 {size} parameters, {loss:.3f}"
    )


def transformers(device: str) -> str:
    """A run by Hugging Face's Trainer on the device: the host's loss, every token counted."""
    try:
        import transformers as hf
    except ImportError as error:
        raise NotHereError("transformers is not installed") from error
    hf.utils.logging.set_verbosity_error()
    here, there = (_by_trainer(hf, where) for where in (device, "cpu"))
    gap = abs(_loss(here) / _loss(there) - 1)
    exact = here.tokens == here.experiment.tokens == there.tokens
    return expect(exact and gap < 5e-3, f"{here.tokens} tokens on {here.device}, {gap:.1e} apart")


class Blocks(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The bundled text as the Trainer takes it, in blocks of 64 bytes."""

    def __init__(self, split: str) -> None:
        self.windows = SOTUDataset(split, SEQ_LEN)

    def __len__(self) -> int:
        return min(len(self.windows), 8192)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index >= len(self):
            raise IndexError(index)
        tokens = self.windows[index][0]
        return {"input_ids": tokens, "labels": tokens}


def _by_trainer(hf: Any, device: str) -> Run:
    """One run of a small GPT-2 by Hugging Face's Trainer."""

    def make(n_embd: int) -> Any:
        shape = {"n_layer": 2, "n_head": 4, "vocab_size": 256, "n_positions": SEQ_LEN}
        drop = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
        return hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=n_embd, **shape, **drop))

    with TemporaryDirectory() as folder:
        train, held_out = Blocks("train"), torch.utils.data.Subset(Blocks("validation"), range(256))
        plan = plan_sweep(
            make,
            "n_embd",
            {},
            train,
            None,
            [1e11],
            sizes={1e11: [64]},
            batch_size=64,
            device=device,
        )
        on_host = device == "cpu"
        args = hf.TrainingArguments(
            folder, report_to=[], disable_tqdm=True, use_cpu=on_host, save_strategy="no",
            dataloader_pin_memory=not on_host,
        )  # fmt: skip
        [experiment] = plan.experiments
        with redirect_stdout(io.StringIO()):  # the Trainer prints its losses
            return HFTask(make, args, train, held_out)(experiment)


def ranks(device: str) -> str:
    """Two GPUs train a run together by NCCL, whole and cut over them: one GPU's loss."""
    count = torch.cuda.device_count() if device.startswith("cuda") else 0
    if count < 2:
        raise NotHereError(f"it needs two CUDA GPUs; here {'is one' if count else 'are none'}")
    alone = _loss(_launched(1, None))
    found = []
    for sharding in (None, "fsdp"):
        gap = abs(_loss(_launched(2, sharding)) / alone - 1)
        found.append(f"{sharding or 'whole'}: {gap:.1e} apart")
        expect(gap < 1e-3, found[-1])
    return "; ".join(found)


def _launched(processes: int, sharding: str | None) -> Run:
    """The run of this module's main, launched by torchrun."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
            str(processes), "-m", "benchmarks.gpu.sweeps", str(sharding or ""), str(out),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
        if not out.is_file():
            raise MissedError(f"torchrun ended with {done.returncode}: {done.stderr[-400:]}")
        return Run.from_dict(json.loads(out.read_text()))


def _rank_main(sharding: str, out: str) -> None:
    plan = text_plan(
        "cuda", {2e11: [64]}, training={"precision": "fp32", "sharding": sharding or None}
    )
    [experiment] = plan.experiments
    run = plan.task(experiment, None)
    if os.environ.get("RANK", "0") == "0":
        Path(out).write_text(json.dumps(run.to_dict()))


if __name__ == "__main__":
    _rank_main(*sys.argv[1:])

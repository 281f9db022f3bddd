"""One run on the device: the same losses as on the host, in every way in which it can be trained."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.gpu.tasks import (
    Losses,
    NotHereError,
    Trained,
    apart,
    apart_at_end,
    expect,
    gpt_run,
    image_plan,
    image_run,
    on_host,
    only,
    text_plan,
    trained,
)
from flops_fit.data.spec import DataSpec
from flops_fit.examples.gpt import gpt_loss_fn
from flops_fit.train import Precision
from flops_fit.train.config import device_peak
from flops_fit.train.memory import device_bytes, memory_of

GB = 1e9


def kind(device: str) -> str:
    """``"cuda"`` for ``"cuda:0"``."""
    return torch.device(device).type


def only_on_cuda(device: str) -> None:
    """NotHereError on another device, whose memory cannot be limited or read."""
    if kind(device) != "cuda":
        raise NotHereError("its memory can be limited and read on CUDA alone")


@contextmanager
def limited(device: str, size: float) -> Iterator[None]:
    """The memory of a CUDA device, cut to ``size`` bytes for this process."""
    torch.cuda.empty_cache()
    index = torch.device(device).index or 0
    torch.cuda.set_per_process_memory_fraction(size / device_bytes(device), index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)
        torch.cuda.empty_cache()


def known(device: str) -> str:
    """The device's name, memory, and peak by its data sheet, from which MFU is told."""
    if kind(device) != "cuda":
        raise NotHereError(f"{device} does not say what it is")
    name, peak = torch.cuda.get_device_name(device), device_peak(device, Precision("bf16"))
    told = f"{peak / 1e12:.0f} TFLOP/s in bf16" if peak else "a peak that is not listed"
    found = f"{name}, {device_bytes(device) / GB:.0f} GB, {told}; torch {torch.__version__}"
    return expect(peak is not None, found)


@functools.cache
def on_device(device: str) -> Trained:
    """The run of the GPT in float32, which others are held against."""
    return gpt_run(device, precision="fp32")


def losses(device: str) -> str:
    """A GPT in float32: each step's loss is the host's."""
    return as_there(on_device(device), on_host())


def as_there(here: Trained, there: Trained) -> str:
    """How far two runs of the same sums lie apart, early, where rounding is all, and at most."""
    early = float((here.losses[:20] / there.losses[:20] - 1).abs().max())
    whole, steps = apart(here, there), len(there.losses)
    found = f"{early:.1e} apart in 20 steps, {whole:.1e} in all {steps}, at most"
    return expect(early < 1e-4 and whole < 2e-2, found)


def convolutions(device: str) -> str:
    """A convolutional network with batch statistics, in float32: each step's loss is the host's."""
    return as_there(image_run(device, precision="fp32"), image_run("cpu", precision="fp32"))


def bfloat16(device: str) -> str:
    """bfloat16: the held-out loss is float32's, the weights stay float32, torch's flags stay."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    here = gpt_run(device, precision="bf16")
    after = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    gap = apart_at_end(here, on_device(device))
    return expect(before == after and 0 < gap < 0.01, f"{gap:.1e} apart at the end")


def repeated(device: str) -> str:
    """The same run twice: what the device's own order of sums changes."""
    gap = apart(gpt_run(device, precision="fp32"), on_device(device))
    return expect(gap < 1e-2, "the same to the last bit" if gap == 0 else f"{gap:.1e} apart")


def resumed(device: str) -> str:
    """Stopped half-way and continued, dropout too: no further apart than the same run twice."""

    found = []
    for run in (gpt_run, functools.partial(image_run, drop=0.1)):
        whole, again = run(device, precision="fp32"), run(device, precision="fp32")
        with TemporaryDirectory() as folder:
            where = {"folder": Path(folder), "precision": "fp32", "checkpoint_steps": 20}
            with suppress(KeyboardInterrupt):
                run(device, stop_at=30, **where)
            continued = run(device, **where)
        done = len(whole.losses) - len(continued.losses)
        own, gap = apart_at_end(whole, again), apart_at_end(continued, whole)
        found.append(f"after {done} steps {gap:.1e} apart at the end, twice {own:.1e}")
        expect(continued.run.resumed == 1 and done > 0 and gap <= max(3 * own, 1e-6), found[-1])
    return "; ".join(found)


def compiled(device: str) -> str:
    """torch.compile: the same losses for two sizes in one process, and noted."""
    found = []
    for width in (64, 96):
        plain = gpt_run(device, width, precision="fp32")
        here = gpt_run(device, width, precision="fp32", compile=True)
        gap = apart_at_end(here, plain)
        noted = any("compiled by torch.compile" in note for note in here.run.notes)
        found.append(f"width {width}: {gap:.1e} apart at the end, {here.seconds:.0f} s")
        expect(noted and gap < 5e-3, f"{found[-1]}; notes: {here.run.notes}")
    return "; ".join(found)


def pinned(device: str) -> str:
    """Batches are read ahead into page-locked memory, also by other processes; no loss depends on it."""
    plan = text_plan(device, {2e11: [64]})
    data: DataSpec = plan.task.data
    for workers in (0, 2):
        batches = data.batches(64, 4, 0, workers=workers, pin=True)
        locked = [tensor.is_pinned() for batch in batches for tensor in batch]
        if kind(device) == "cuda":
            expect(len(locked) == 8 and all(locked), f"workers={workers}: pinned {locked}")
    here = gpt_run(device, precision="fp32", workers=2)
    gap = apart(here, on_device(device))
    return expect(gap < 1e-2, f"{gap:.1e} apart with two readers")


def halved(device: str) -> str:
    """Memory for a part of a batch alone: the batch is cut, and the loss is the whole batch's."""
    only_on_cuda(device)
    plan = text_plan(device, {2e13: [128]}, batch_size=2048, training={"precision": "fp32"})
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    whole = plan.task(only(plan), None)
    peak = torch.cuda.max_memory_allocated(device)
    with limited(device, 0.4 * peak):
        cut = plan.task(only(plan), None)
    expect(whole.state == cut.state == "completed", f"{cut.state}: {cut.reason} {cut.details}")
    gap = abs(cut.loss / whole.loss - 1)
    return expect(
        cut.microbatch < 2048 and gap < 5e-3,
        f"{cut.microbatch} of 2048 samples at once in {0.4 * peak / GB:.2g} of {peak / GB:.2g} GB, "
        f"{gap:.1e} apart",
    )


def exhausted(device: str) -> str:
    """No memory for one sample, or for a batch that cannot be cut: out of memory; the next run is well."""
    only_on_cuda(device)
    plans = [
        text_plan(device, {2e11: [64]}, training={"precision": "fp32"}),
        image_plan(device, 2e11, torch.nn.functional.cross_entropy, precision="fp32"),
    ]
    torch.cuda.empty_cache()
    with limited(device, torch.cuda.memory_reserved(device) + 2e6):
        lost = [plan.task(only(plan), None) for plan in plans]
    states = [run.state for run in lost]
    gap = apart(gpt_run(device, precision="fp32"), on_device(device))
    found = f"{' and '.join(states)} ({lost[-1].reason[:60]}); the next run {gap:.1e} apart"
    return expect(states == ["oom", "oom"] and gap < 1e-2, found)


def refused(device: str) -> str:
    """A model larger than the device is refused before any of it is taken."""
    only_on_cuda(device)
    width = 128 * math.ceil(math.sqrt(device_bytes(device) / 16 / 24) / 128 * 1.2)
    before = torch.cuda.max_memory_allocated(device)
    plan = text_plan(device, {1e24: [width]}, batch_size=2)
    run = plan.task(only(plan), None)
    taken = torch.cuda.max_memory_allocated(device) - before
    said = any(finding.code == "memory" for finding in plan.diagnostics)
    return expect(
        run.state == "oom" and said and taken < GB,
        f"{run.state}: {run.reason[:90]}; {taken / GB:.2g} GB taken",
    )


def memory(device: str) -> str:
    """Planned memory beside what the allocator gave, and less of it with activations computed again."""
    only_on_cuda(device)
    found, runs = [], []
    for again in (False, True):
        losses = Losses(gpt_loss_fn)
        training = {"precision": "fp32", "activation_checkpointing": again, "eval_samples": 64}
        plan = text_plan(device, {4e13: [512]}, losses, batch_size=512, training=training)
        trainer = plan.task
        batch = trainer.data.first_batch(4)
        planned = memory_of(trainer.model.build_meta(512), trainer.objective, batch, 512, 1, again)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        runs.append(trained(plan, losses))
        found.append((planned.total, float(torch.cuda.max_memory_allocated(device))))
    text = "; ".join(f"{p / GB:.2f} GB planned, {a / GB:.2f} taken" for p, a in found)
    close = all(0.6 < planned / taken < 1.5 for planned, taken in found)
    expect(close and found[1][1] < found[0][1], f"{text} with activations again")
    return f"{text} with activations again; {as_there(runs[1], runs[0])}"

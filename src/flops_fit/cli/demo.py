"""``flops-fit demo``: a real IsoFLOP sweep on two cores, of GPTs on English or of ViTs on images."""

from __future__ import annotations  # evaluated, they would import what --help does without

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import flops_fit
from flops_fit.cli.answer import WORDS, Answer, Json, option
from flops_fit.text import format_count, format_duration

SEQ_LEN = 64
_WORDS: dict[str, Any] = WORDS["demo"]
SIZES: dict[float, list[int]] = {float(C): widths for C, widths in _WORDS["sizes"].items()}
"""Widths at each budget in FLOPs."""


def demo(
    output_dir: Annotated[Path | None, option("demo_folder")] = None,
    images: Annotated[bool, option("images")] = False,
    data_dir: Annotated[Path | None, option("data_dir")] = None,
    workers: Annotated[int, option("workers", min=1)] = 2,
    as_json: Json = False,
) -> Answer:
    """Train a sweep of small models on real text or images, and answer; minutes on two cores."""
    images = images or data_dir is not None
    folder = output_dir or Path("outputs/demo-images" if images else "outputs/demo")
    result = run_demo(
        folder, workers, flops_fit.examples.fashion_sweep(data_dir) if images else None
    )
    check = flops_fit.fit.backtest(result.runs).held_out[-1]
    predictions = [result.predict(c).to_dict() for c in result.plan.budgets]
    document = {"fit": result.fit.to_dict(), "predictions": predictions}
    return Answer((), {**document, "held_out": asdict(check), "output_dir": str(folder)})


def run_demo(
    output_dir: Path, workers: int = 2, images: dict[str, Any] | None = None
) -> flops_fit.Result:
    """Train the sweep, print its answer, and check it against its own largest budget."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    started = time.monotonic()
    sweep = images or demo_sweep(SIZES)
    sizes, repeats = sweep["sizes"], sweep.get("repeats", 1)
    about = _WORDS["images" if images else "text"]
    runs = repeats * sum(map(len, sizes.values()))
    console.print(f"{about}: {len(sizes)} budgets, {runs} runs, {workers} at a time.\n")
    result = flops_fit.find_optimal(
        **sweep,
        executor=flops_fit.execute.PoolExecutor(workers=workers, threads=1),
        output_dir=output_dir,
    )
    assert isinstance(result, flops_fit.Result)
    console.print(f"\n{result}\n")
    console.print(held_out_check(flops_fit.fit.backtest(result.runs).held_out[-1], len(sizes) - 1))
    result.plot(show=False)
    console.print(
        f"\nFigures: {output_dir / 'plots'}\nReport:  {result.report()}\n"
        f"Runs:    {output_dir / 'runs.csv'}\nTook {format_duration(time.monotonic() - started)}."
    )
    return result


def demo_sweep(sizes: dict[float, list[int]]) -> dict[str, Any]:
    """Arguments of a sweep of the demo's model, data and loss with these sizes at each budget."""
    shape = {"num_layers": 2, "vocab_size": 256, "max_seq_len": SEQ_LEN}
    library = flops_fit.examples
    return {
        "model_cls": library.GPT, "model_size_param": "d_model", "model_kwargs": shape,
        "dataset": library.SOTUDataset("train", seq_len=SEQ_LEN),
        "eval_dataset": library.SOTUDataset("validation", seq_len=SEQ_LEN),
        "loss_fn": library.gpt_loss_fn, "compute_budgets": list(sizes), "sizes": sizes,
    }  # fmt: skip


def held_out_check(check: flops_fit.fit.HeldOut, smaller: int) -> str:
    """What the smaller budgets predict of the largest, and what was measured, in words."""
    spans = (check.loss_interval, check.run_interval)
    law, one_run = ("none" if s is None else f"{s[0]:.3f}–{s[1]:.3f}" for s in spans)
    measured = ""
    if check.vertex_loss is not None and check.vertex_params is not None:
        measured = _WORDS["measured"].format(check=check, size=format_count(check.vertex_params))
    verdict = _WORDS[{True: "inside", False: "outside", None: "no_interval"}[check.loss_inside]]
    words = {"law": law, "one_run": one_run, "measured": measured, "verdict": verdict}
    size = format_count(check.predicted_params)
    return str(_WORDS["check"].format(check=check, smaller=smaller, size=size, **words))

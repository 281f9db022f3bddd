"""The options that the commands which plan and run a sweep share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer

from flops_fit.cli.sweep_file import SweepFile, read_sweep
from flops_fit.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def _option(flag: str, metavar: str, text: str, **more: Any) -> Any:
    panel = "The sweep: flags override the file"
    return typer.Option(flag, metavar=metavar, rich_help_panel=panel, help=text, **more)


_MODEL = "The model's class or factory: package.module:name or file.py:name."
_DATA = "The data: an object, or what is called without arguments to make it."
_SET = (
    "Any other key of the file, such as batch_size=16, hparams.lr=0.01 or training.precision=bf16; "
    "may be repeated."
)
Sweep = Annotated[
    Path | None,
    typer.Argument(
        metavar="SWEEP",
        help="The sweep as a TOML file.",
        show_default="sweep.toml where there is one",
    ),
]
Model = Annotated[str | None, _option("--model-cls", "REF", _MODEL)]
SizeParam = Annotated[
    str | None, _option("--model-size-param", "NAME", "The argument that sets its size.")
]
Data = Annotated[str | None, _option("--dataset", "REF", _DATA)]
Loss = Annotated[
    str | None, _option("--loss-fn", "REF", "The loss: (model output, targets) to a mean.")
]
Budgets = Annotated[
    str | None,
    _option(
        "--compute-budgets",
        "FLOPS,...",
        "Training FLOPs of each tier, separated by commas: 1e15,3e15,1e16.",
    ),
]
Design = Annotated[
    str | None, _option("--design", "NAME", "grid, tapered, rectangular or adaptive.")
]
Mode = Annotated[
    str | None,
    _option("--mode", "NAME", "local trains; mock simulates the runs by a known law."),
]
Executor = Annotated[
    str | None, _option("--executor", "NAME", "Where runs happen: inprocess, pool, ray or slurm.")
]
Seed = Annotated[int | None, _option("--seed", "NUMBER", "Every run derives its own from it.")]
Output = Annotated[
    Path | None,
    _option(
        "--output-dir",
        "FOLDER",
        "Where records, tables and figures go.",
        show_default="outputs, beside the file",
    ),
]
Settings = Annotated[list[str] | None, _option("--set", "KEY=VALUE", _SET)]


def sweep_of(
    sweep: Sweep = None,
    model_cls: Model = None,
    model_size_param: SizeParam = None,
    dataset: Data = None,
    loss_fn: Loss = None,
    compute_budgets: Budgets = None,
    design: Design = None,
    mode: Mode = None,
    executor: Executor = None,
    seed: Seed = None,
    output_dir: Output = None,
    settings: Settings = None,
) -> SweepFile:
    """The sweep that the options describe."""
    flags = {
        "model_cls": model_cls,
        "model_size_param": model_size_param,
        "dataset": dataset,
        "loss_fn": loss_fn,
        "compute_budgets": None if compute_budgets is None else _numbers(compute_budgets),
        "design": design,
        "mode": mode,
        "executor": executor,
        "seed": seed,
        "output_dir": output_dir,
    }
    return read_sweep(sweep, flags, settings or ())


def takes_sweep(command: Callable[Concatenate[SweepFile, P], R]) -> Callable[P, R]:
    """Give a command the options of :func:`sweep_of`, and what they describe as its first argument."""
    shared = inspect.signature(sweep_of, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        options: dict[str, Any] = {name: kwargs.pop(name, None) for name in shared}
        return command(sweep_of(**options), *args, **kwargs)

    parameters = [*shared.values(), *own]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            "--compute-budgets: expected training FLOPs separated by commas, such as 1e15,3e15; got "
            f"{text!r}."
        ) from None

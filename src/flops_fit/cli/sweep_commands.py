"""A sweep: ``init``, ``plan``, ``run`` from its file, ``doctor`` and ``export`` on its folder, ``demo``."""

from __future__ import annotations  # evaluated, they would import what --help does without

import functools
import inspect
import json
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flops_fit
from flops_fit.cli import answer
from flops_fit.cli.answer import (
    SWEEP_KEYS,
    WORDS,
    Answer,
    Csv,
    Json,
    argument,
    column_names,
    option,
)
from flops_fit.cli.sweep_file import SweepFile, read_sweep
from flops_fit.errors import FlopsFitError, InputError, OutputError
from flops_fit.text import format_count, format_duration

if TYPE_CHECKING:
    from rich.table import Table


_PANEL = "The sweep: flags override the file"
_LAW_PARAMETERS = 5  # of the simplest law
_MAX_ROWS = 100  # of findings
_KINDS = {"seed": int, "output_dir": Path}  # of values that are no texts
_SWEEP = Annotated[Path | None, argument("sweep")]
_FLAGS = {
    name: Annotated[_KINDS.get(name, str) | None, option(name, rich_help_panel=_PANEL)]
    for name in SWEEP_KEYS
}
_SETTINGS = Annotated[list[str] | None, option("set", "--set", rich_help_panel=_PANEL)]
_TRUST = Annotated[bool, option("trust", "--trust", rich_help_panel=_PANEL)]
SEQ_LEN = 64
_DEMO: dict[str, Any] = WORDS["demo"]
SIZES: dict[float, list[int]] = {float(C): widths for C, widths in _DEMO["sizes"].items()}
"""Widths at each budget in FLOPs."""


def takes_sweep(command: Callable[..., Answer | None]) -> Callable[..., Answer | None]:
    """Add the options of a sweep to a command, which gets the sweep as its first argument."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=a)
        for name, a in {"sweep": _SWEEP, **_FLAGS, "settings": _SETTINGS, "trust": _TRUST}.items()
    ]

    @functools.wraps(command)
    def call(
        sweep: Path | None = None, settings: Any = None, trust: bool = False, **options: Any
    ) -> Answer | None:
        flags = {name: options.pop(name, None) for name in _FLAGS}
        if (budgets := flags["compute_budgets"]) is not None:
            values = [answer.number(part) for part in budgets.split(",")]
            if None in values:
                raise InputError(
                    "--compute-budgets: expected training FLOPs separated by commas, such as "
                    f"1e15,3e15; got {budgets!r}."
                )
            flags["compute_budgets"] = values
        return command(read_sweep(sweep, flags, settings or (), trust), **options)

    signature = inspect.Signature([*shared, *own])
    call.__signature__ = signature  # type: ignore[attr-defined]  # typer reads it, types do not
    call.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return call


FILES = ("sweep.toml", "model.py", "data.py")


def init(folder: Annotated[Path, argument("directory")] = Path(), as_json: Json = False) -> Answer:
    """Write a sweep to start from; it runs as it is within a minute on a CPU.

    Three files: sweep.toml, model.py and data.py. Nothing is overwritten.
    """
    if taken := [name for name in FILES if os.path.exists(folder / name)]:
        raise InputError(
            f"init: expected a folder without {', '.join(FILES)}; {folder / taken[0]} already exists. "
            "Nothing was written: choose another folder."
        )
    source = resources.files("flops_fit.cli") / "skeleton"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write((source / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"init: {folder} cannot be written ({error.strerror}).") from error
    steps = {} if folder == Path() else {f"cd {shlex.quote(str(folder))}": ""}
    steps |= answer.WORDS["next"]
    width = max(map(len, steps))
    lines = [f"  {step:<{width}}   {text}".rstrip() for step, text in steps.items()]
    written = [f"Wrote {folder / name}" for name in FILES]
    last = "Then replace the model and the data with your own."
    shown = (*written, "", "Next:", *lines, "", last)
    return Answer(shown, {"written": [str(folder / n) for n in FILES], "next": list(steps)})


_price = functools.partial(option, rich_help_panel="The price")
_exporting = functools.partial(option, rich_help_panel="Elsewhere")
Command = Annotated[str | None, _exporting("command", "--command")]
LossFrom = Annotated[str | None, _exporting("loss_from", "--loss-from")]


@takes_sweep
def plan(
    sweep: SweepFile,
    on: Annotated[str | None, _price("on")] = None,
    mfu: Annotated[float | None, _price("mfu")] = None,
    parallel: Annotated[int, _price("parallel", min=1)] = 1,
    dollars_per_hour: Annotated[float | None, _price("dollars")] = None,
    designs: Annotated[bool, _price("designs", "--designs")] = False,
    target: Annotated[str | None, _exporting("export_target", "--export")] = None,
    to: Annotated[Path | None, _exporting("export_to", "--to")] = None,
    command: Command = None,
    loss_from: LossFrom = None,
    settings_of: Annotated[list[str] | None, _exporting("export_option", "--option")] = None,
    out: Csv = None,
    as_json: Json = False,
) -> Answer:
    """Show every run of a sweep, with its cost, before anything is spent.

    A few steps are trained to measure the time. Nothing is written. Code that the file names is run.
    """
    arguments = _by_command(sweep, command, loss_from).arguments(planning=True)
    planned = flops_fit.find_optimal(**arguments, train=False)
    assert isinstance(planned, flops_fit.SweepPlan)
    cost = planned.estimate(on, dollars_per_hour, parallel, mfu)
    folder = Path(arguments.get("output_dir", "outputs"))
    shown: list[Any] = [planned, "", f"{cost.headline}.", cost.basis, *_done(planned, folder)]
    design = arguments.get("design", "grid")
    if adaptive := getattr(design, "kind", design) == "adaptive":
        shown.append("These are the runs of the pilot; the sweep chooses the others as it goes.")
    shown += [str(d) for d in planned.diagnostics]
    document = {**json.loads(planned.to_json()), "cost": cost, "pilot": adaptive}
    if designs:
        compared = planned.compare_designs(on, dollars_per_hour, parallel, mfu)
        shown += ["", compared]
        document["designs"] = [
            {"design": d.design, "runs": len(d.experiments), "notes": d.notes}
            | {name: getattr(d.cost, name, None) for name in ("flops", "wall_seconds")}
            for d in compared.designs
        ]
    unwritten = None
    try:
        if out is not None:
            shown.append(f"Runs: {planned.to_csv(out)}")
        if target is not None:
            options: dict[str, Any] = dict(column_names(settings_of, "--option"))
            written = planned.export(target, to or folder, **options)
            shown.append(f"Exported: {written}")
            document["exported"] = str(written)
    except OutputError as error:
        unwritten = error  # the plan is not lost with it
    return Answer(tuple(shown), document, unwritten=unwritten)


def _done(plan: flops_fit.SweepPlan, folder: Path) -> list[str]:
    """How much of the plan is finished already."""
    if not (folder / "sweep.json").exists():
        return []
    diff = plan.diff(folder)
    text = f"{len(diff.finished)} of these runs are finished in {folder}"
    if not diff.missing:
        return [f"{text}: nothing is missing."]
    time = diff.cost.wall_seconds
    left = "" if time is None else f", about {format_duration(time)} one after another"
    return [f"{text}; {len(diff.missing)} are missing, {diff.cost.flops:.3g} FLOPs{left}."]


def _by_command(sweep: SweepFile, command: str | None, loss: str | None) -> SweepFile:
    """The sweep with a command in place of the trainer, where one is given."""
    given = {"command": command, "loss": loss}
    if new := {name: text for name, text in given.items() if text is not None}:
        known = sweep.values.get("mode")
        # The file's other settings, such as an environment, decide what a command does.
        trusted = sweep.untrusted is None or command is None or "mode" not in sweep.folders
        kept = known if isinstance(known, dict) and trusted else {}
        sweep.values["mode"] = {**kept, "kind": "command", **new}
        if command is not None:
            sweep.folders.pop("mode", None)
    return sweep


@takes_sweep
def run(
    sweep: SweepFile,
    command: Command = None,
    loss_from: LossFrom = None,
    resume: Annotated[bool | None, option("resume", "--resume/--no-resume")] = None,
    progress: Annotated[bool | None, option("progress", "--progress/--no-progress")] = None,
    as_json: Json = False,
) -> Answer | None:
    """Train a sweep, fit a law and answer; called again, go on where it was interrupted.

    Code that the file names is run: read a file that is not your own first.
    """
    for key, value in {"resume": resume, "progress": progress}.items():
        if value is not None:
            sweep.values[key] = value
    arguments = _by_command(sweep, command, loss_from).arguments()
    try:
        result = flops_fit.find_optimal(**arguments)
    except KeyboardInterrupt:
        answer.complain(_stopped(Path(arguments.get("output_dir", "outputs"))))
        raise
    assert isinstance(result, flops_fit.Result)
    if os.environ.get("RANK", "0") != "0":  # of several processes that train together one answers
        return None
    predictions = [result.predict(c) for c in result.plan.budgets]
    result.plot(show=False)
    folder = result.output_dir
    paths = {
        "report": result.report(), "plots": folder / "plots", "runs": folder / "runs.csv",
        "fit": folder / "fit.json",
    }  # fmt: skip
    shown = [*result.steps, *([""] if result.steps else []), str(result), ""]
    shown += [f"{name.capitalize() + ':':<8}{path}" for name, path in paths.items()]
    document = {
        "fit": result.fit, "predictions": predictions, "steps": result.steps, "output_dir": str(folder),
        "paths": {name: str(path) for name, path in paths.items()},
    }  # fmt: skip
    findings = [*result.diagnostics, *predictions[-1].diagnostics]
    return Answer(tuple(shown), document, answer.relied_on(result.fit, findings))


def _stopped(folder: Path) -> str:
    """What an interrupted sweep has on disk, and what ``report`` would say of it."""
    try:
        runs = flops_fit.store.recorded_runs(folder)
        states = flops_fit.store.examine(folder).states
    except FlopsFitError:
        return "Nothing was trained yet."
    done = {run.experiment.id for run in runs if run.state == "completed"}
    saved = len({p.parent.name for p in folder.glob("runs/*/checkpoint")} - done)
    have = f"{len(done)} of {sum(states.values())} runs are finished"
    have += f", {saved} more began and have a checkpoint"
    try:
        flops_fit.fit.table_checks.check_runs(flops_fit.RunTable.from_runs(runs), _LAW_PARAMETERS)
        report = f"flops-fit report {folder} answers from those that are finished."
    except FlopsFitError as error:
        report = f"flops-fit report {folder} would say: {error}"
    return f"{have}. The same command goes on from there.\n{report}"


_STYLES = {"wrong": "red", "leftover": "yellow", "note": ""}
Folder = Annotated[Path, argument("folder")]


def doctor(
    output_dir: Folder,
    repair: Annotated[bool, option("repair", "--repair")] = False,
    as_json: Json = False,
) -> Answer:
    """Check every record of a sweep; exit code 1 if something is wrong."""
    from rich.text import Text

    examination = flops_fit.store.examine(output_dir)
    shown: list[str | Table | Text] = list(_findings(examination))
    fixed = []
    able = any(f.repair for f in examination.findings)
    if able and repair:
        fixed = flops_fit.store.repair(examination)
        shown.append(f"\nFixed {len(fixed)} of {len(examination.findings)}. What is left:")
        examination = flops_fit.store.examine(output_dir)
        shown += _findings(examination)
    elif able:
        shown.append("\nNothing was changed. --repair does what the last column says.")
    shown.append(Text("Sound.", "green") if examination.sound else Text("Not sound.", "red"))
    findings = [
        {"grade": f.grade, "path": f.path, "message": f.message, "repair": f.fix}
        for f in examination.findings
    ]
    document = {"sound": examination.sound, "states": examination.states, "findings": findings}
    document["repaired"] = [f.path for f in fixed]
    return Answer(tuple(shown), document, examination.sound)


def collect(output_dir: Folder, loss_from: LossFrom = None, as_json: Json = False) -> Answer:
    """Record what exported runs have left, and write runs.csv; may be called at any time."""
    runs, path = flops_fit.collect(output_dir, loss_from), output_dir / "runs.csv"
    states = Counter(run.state for run in runs)
    missing = len(flops_fit.store.doctor.planned(output_dir)) - len(runs)
    ended = ", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none"
    reasons = {run.reason: run.experiment.label for run in runs if run.reason}
    shown = [f"{len(runs)} runs have ended: {ended}; {missing} have not.", f"Runs: {path}"]
    shown += [f"{label}: {reason}" for reason, label in list(reasons.items())[:_MAX_ROWS]]
    return Answer(tuple(shown), {"states": states, "missing": missing, "path": str(path)})


def _findings(examination: flops_fit.store.Examination) -> Iterator[str | Table]:
    from rich.table import Column, Table

    total = sum(examination.states.values())
    states = ", ".join(f"{n} {state}" for state, n in sorted(examination.states.items()))
    yield f"{total} runs: {states}." if total else "No runs."
    if examination.findings:
        table = Table("", Column("where", overflow="fold"), "what", "repair")
        for f in examination.findings[:_MAX_ROWS]:
            table.add_row(f.grade, f.path, f.message, f.fix, style=_STYLES[f.grade])
        yield table
    if (more := len(examination.findings) - _MAX_ROWS) > 0:
        yield f"... and {more} more."


def export(
    output_dir: Folder,
    table: Annotated[Path, argument("table", callback=answer.output)],
    everything: Annotated[bool, option("all", "--all")] = False,
    as_json: Json = False,
) -> Answer:
    """Write the runs of a sweep, in every state, as one table."""
    runs = flops_fit.store.recorded_runs(output_dir, all_runs=everything)
    path = flops_fit.store.write_runs(runs, table)
    return Answer((f"{len(runs)} runs: {path}",), {"runs": len(runs), "path": str(path)})


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
    return run_demo(folder, workers, flops_fit.examples.fashion_sweep(data_dir) if images else None)


def run_demo(output_dir: Path, workers: int = 2, images: dict[str, Any] | None = None) -> Answer:
    """Train the sweep, and check its answer against its own largest budget."""
    started = time.monotonic()
    sweep = images or demo_sweep(SIZES)
    sizes, about = sweep["sizes"], _DEMO["images" if images else "text"]
    runs = getattr(sweep.get("design"), "repeats", 1) * sum(map(len, sizes.values()))
    typer.echo(f"{about}: {len(sizes)} budgets, {runs} runs, {workers} at a time.\n")
    pool = flops_fit.execute.PoolExecutor(workers=workers, threads=1)
    result = flops_fit.find_optimal(**sweep, executor=pool, output_dir=output_dir)
    assert isinstance(result, flops_fit.Result)
    check = flops_fit.fit.backtest(result.runs).held_out[-1]
    result.plot(show=False)
    paths = (
        f"Figures: {output_dir / 'plots'}\nReport:  {result.report()}\n"
        f"Runs:    {output_dir / 'runs.csv'}\nTook {format_duration(time.monotonic() - started)}."
    )
    predictions = [result.predict(c) for c in result.plan.budgets]
    document = {"fit": result.fit, "predictions": predictions, "held_out": check}
    shown = ("", str(result), "", held_out_check(check, len(sizes) - 1), "", paths)
    return Answer(shown, {**document, "output_dir": str(output_dir)})


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
        measured = _DEMO["measured"].format(check=check, size=format_count(check.vertex_params))
    verdict = _DEMO[{True: "inside", False: "outside", None: "no_interval"}[check.loss_inside]]
    words = {"law": law, "one_run": one_run, "measured": measured, "verdict": verdict}
    size = format_count(check.predicted_params)
    return str(_DEMO["check"].format(check=check, smaller=smaller, size=size, **words))

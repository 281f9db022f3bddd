"""``flops-fit init``: a sweep to begin with."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from flops_fit.cli._answer import Answer, Json
from flops_fit.errors import InputError, OutputError

__all__ = ["init"]

FILES = ("sweep.toml", "model.py", "data.py")


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to write; made where it is missing.")
    ] = Path(),
    as_json: Json = False,
) -> Answer:
    """Write a sweep to begin with, which runs as it is within a minute on a CPU.

    Three files: sweep.toml, model.py and data.py. Nothing is overwritten.
    """
    if there := [name for name in FILES if (folder / name).exists()]:
        raise InputError(
            f"init: expected a folder without {', '.join(FILES)}; {folder / there[0]} is there. "
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
    steps = ["flops-fit plan", "flops-fit run", "flops-fit predict outputs 1e10"]
    says = ["what will run, and what it costs", "train it, and answer", "ask for another compute"]
    if folder != Path():
        steps.insert(0, f"cd {shlex.quote(str(folder))}")
        says.insert(0, "")
    width = max(map(len, steps))
    written = [f"Wrote {folder / name}" for name in FILES]
    lines = [f"  {s:<{width}}   {t}".rstrip() for s, t in zip(steps, says, strict=True)]
    shown = (*written, "", "Next:", *lines, "", "Then put your own model and data in their place.")
    return Answer(shown, {"written": [str(folder / n) for n in FILES], "next": steps})

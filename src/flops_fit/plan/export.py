"""Plans as files that other tools run: by templates of ``export.toml``."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import InputError, OutputError, check_choice, is_number, unknown_name
from flops_fit.files import csv_text, output_errors, write_json, write_output
from flops_fit.plan.io import plan_rows, sweep_record
from flops_fit.plan.template import Command, fill, planned_values
from flops_fit.records import Experiment

if TYPE_CHECKING:
    from flops_fit.plan.sweep_plan import SweepPlan

HOW = "command.json"  # in an exported sweep's folder: how `collect` finds the results
_TEMPLATES = tomllib.loads(Path(__file__).with_name("export.toml").read_text(encoding="utf-8"))
TARGETS = (*(name for name in _TEMPLATES if name != "script"), "hydra")
_RUN_DIR = "\x1a"  # stands for {run_dir} until words are quoted
_HYDRA = "conf"


def export_plan(
    plan: SweepPlan, target: str, folder: Path, task: Any, options: Mapping[str, Any]
) -> Path:
    """See :meth:`SweepPlan.export`."""
    command = getattr(task, "command", task)
    if not isinstance(command, str):
        raise InputError(
            f"command: expected a text or a CommandTask that makes a run of the plan; got {task!r}."
        )
    loss = getattr(task, "loss", None)
    check_choice("target", target, TARGETS)
    template = _TEMPLATES.get(target, {"file": _HYDRA, "options": {}})
    defaults: Mapping[str, Any] = template["options"]
    values = {name: type(value)(options.get(name, value)) for name, value in defaults.items()}
    for name in options:
        if name not in defaults:
            hint = unknown_name(name, list(defaults), {})
            raise InputError(f"{target}: unknown option {name!r}; {hint}")
    if missing := [name for name, value in values.items() if value == ""]:
        raise InputError(f"{target}: expected {', '.join(f'{name}=' for name in missing)} too.")
    folder = folder.absolute()
    with output_errors(folder, "folder"):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / "sweep.json").exists():
            raise OutputError(
                f"folder: expected an empty or new one, or that of a sweep; {folder} holds other files."
            )
        written = _write(
            plan, target, folder, Command(command, getattr(task, "shell", False)), template, values
        )
        write_json(folder / "sweep.json", sweep_record(plan.experiments, plan.diagnostics))
        write_json(
            folder / HOW, {"command": command, "loss": loss if isinstance(loss, str) else None}
        )
    return written


def _write(
    plan: SweepPlan, target: str, folder: Path, command: Command, template: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Path:  # fmt: skip
    if target == "hydra":
        return _hydra(plan.experiments, folder, command.text)
    lines = [_line(command, e) for e in plan.experiments]
    where = shlex.quote(str(options.get("mount", folder)))
    made = {"runs": len(plan), "last": len(plan) - 1, "folder": where}
    if target == "csv":
        rows = plan_rows(plan.experiments, plan.speed)
        made["table"] = csv_text(
            [{**row, "command": line} for row, line in zip(rows, lines, strict=True)]
        )
    cases = zip(range(len(plan)), plan.experiments, lines, strict=True)
    made["cases"] = "\n".join(
        f"    {i}) if begin {e.id}; then run {line}; fi ;;" for i, e, line in cases
    )
    # JSON is YAML; what stands in other files needs no quotes, or has none.
    in_yaml = template["file"].endswith("yaml")
    values = {k: json.dumps(v, ensure_ascii=False) if in_yaml else v for k, v in options.items()}
    path = folder / str(template["file"])
    if target == "ray-job":
        _write(plan, "bash", folder, command, _TEMPLATES["bash"], {})
    write_output(path, _filled(template["text"].lstrip("\n"), {**values, **made}))
    return path


def _filled(text: str, values: Mapping[str, Any]) -> str:
    """A template with its words, in one pass: what they stand for may contain such words."""

    def indented(match: re.Match[str]) -> str:
        lines = _TEMPLATES["script"]["text"] if match[2] == "script" else str(values[match[2]])
        return textwrap.indent(lines.rstrip("\n"), match[1], lambda line: True)

    def put(match: re.Match[str]) -> str:
        return indented(match) if match[2] else str(values.get(match[3], match[0]))

    text = re.sub(r"^( *)@(script)@$", indented, text, flags=re.MULTILINE)
    return re.sub(r"^( *)@(cases)@$|@([a-z_]+)@", put, text, flags=re.MULTILINE)


def _line(command: Command, e: Experiment) -> str:
    """A run's command as a line of bash; ``{run_dir}`` becomes a variable that ``run`` sets."""
    words = command.words({**planned_values(e), "run_dir": _RUN_DIR})
    if command.shell:
        words[-1] = words[-1].replace(f"'{_RUN_DIR}'", '"$FLOPS_FIT_RUN_DIR"')
    variable = '"$FLOPS_FIT_RUN_DIR"'  # between the quotes of its word
    line = " ".join(map(shlex.quote, words)).replace(_RUN_DIR, f"'{variable}'")
    return line.replace(f"''{variable}", variable).replace(f"{variable}''", variable)


def _hydra(experiments: Sequence[Experiment], folder: Path, overrides: str) -> Path:
    """A configuration a run, of overrides such as ``model.dim={size}``."""
    group, texts = folder / _HYDRA / "flops_fit", []
    for e in experiments:
        values = {**planned_values(e), "run_dir": str(folder / "runs" / e.id / "work")}
        content: dict[str, Any] = {}
        for word in shlex.split(overrides):
            keys, equals, text = word.partition("=")
            if not equals:
                raise InputError(f"hydra: expected key={{placeholder}} words; got {word!r}.")
            *parents, last = keys.lstrip("+").split(".")
            inner = content
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = fill(text, values)
            alone = re.fullmatch(r"{(\w+)(:.*)?}", text)  # a number stays one
            if alone is not None and is_number(number := values[alone[1]]):
                inner[last] = float(inner[last]) if alone[2] else number
        texts.append(f"# @package _global_\n{json.dumps(content, indent=2)}\n")
    group.mkdir(parents=True, exist_ok=True)
    for index, text in enumerate(texts):
        write_output(group / f"run{index}.yaml", text)
    return group.parent


def export_run(e: Experiment, path: Path, more: Mapping[str, Any]) -> Path:
    """One run's settings as JSON, TOML, YAML, or lines ``key=value``, by the ending of ``path``."""
    lines = {
        ".json": ("{\n", '  "{}": {}', ",\n", "\n}\n"), ".toml": ("", "{} = {}", "\n", "\n"),
        ".yaml": ("", "{}: {}", "\n", "\n"), ".txt": ("", "{}={}", "\n", "\n"),
    }  # fmt: skip
    check_choice("path", path.suffix, lines)
    first, line, between, last = lines[path.suffix]
    skipped = {"run_id", "label", "repeat", "seed", "units"}
    values = {**more, **planned_values(e)}
    known = {
        k: v for k, v in values.items() if k not in skipped and isinstance(v, int | float | str)
    }
    # To YAML a number without a point is a text.
    texts = {k: re.sub(r"^(-?\d+)e", r"\1.0e", json.dumps(v)) for k, v in known.items()}
    with output_errors(path, "path"):
        write_output(path, first + between.join(line.format(*kv) for kv in texts.items()) + last)
    return path

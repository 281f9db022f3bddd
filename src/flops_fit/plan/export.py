"""Runs as commands: their words, filled with what is planned; and plans as files that other tools run."""

from __future__ import annotations

import json
import re
import shlex
import string
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import (
    InputError,
    InputTypeError,
    OutputError,
    check_choice,
    check_number,
    is_number,
    nearest_name,
    unknown_name,
)
from flops_fit.files import WORK, csv_text, output_errors, refuse_links, write_json, write_output
from flops_fit.plan.io import plan_rows, sweep_record
from flops_fit.records import Experiment

if TYPE_CHECKING:
    from flops_fit.plan.sweep_plan import SweepPlan

HOW = "command.json"  # in an exported sweep's folder: how `collect` finds the results
_TEMPLATES = tomllib.loads(Path(__file__).with_name("export.toml").read_text(encoding="utf-8"))
TARGETS = (*(name for name in _TEMPLATES if name != "script"), "hydra")
_RUN_DIR = "\x1a"  # stands for {run_dir} until words are quoted
_HYDRA = "conf"


def planned_values(e: Experiment) -> dict[str, Any]:
    """All that is planned of a run, by the names of its placeholders; arguments of the model too."""
    h, size = e.hparams, e.size
    own = dict(size) if isinstance(size, Mapping) else {}
    warmup = h.warmup if h.warmup_units is None else h.warmup_units / e.tokens
    batch = e.batch_size * e.units_per_sample
    return {
        **e.model_kwargs, **own, "size": "-".join(map(str, own.values())) or size, "run_id": e.id,
        "params": e.params.total, "tokens": e.tokens, "units": e.tokens, "unit": e.unit,
        "samples": e.batch_size * e.steps, "steps": e.steps, "batch": e.batch_size,
        "batch_units": round(batch), "units_per_sample": round(e.units_per_sample),
        "lr": h.lr, "schedule": h.schedule, "final": h.final, "warmup": warmup,
        "warmup_steps": round(warmup * e.steps), "warmup_units": round(warmup * e.tokens),
        "cooldown": h.cooldown, "cooldown_steps": round(h.cooldown * e.steps),
        "weight_decay": h.weight_decay, "beta1": h.beta1, "beta2": h.beta2, "clip": h.clip,
        "flops": e.flops, "flops_per_unit": e.flops_per_unit, "budget": e.budget, "seed": e.seed,
        "repeat": e.repeat, "label": e.label,
    }  # fmt: skip


class _Filled(string.Formatter):
    """Puts values into placeholders that are plain names; ``quoted`` for a shell."""

    def __init__(self, what: str, quoted: bool) -> None:
        self.what, self.quoted = what, quoted

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        if field_name not in kwargs:
            raise InputError(
                f"{self.what}: expected placeholders {', '.join(map('{{{}}}'.format, kwargs))}; got "
                f"{{{field_name}}}.{nearest_name(field_name, kwargs)} A brace itself is written twice."
            )
        return kwargs[field_name], field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        text = str(super().format_field(value, format_spec))
        return shlex.quote(text) if self.quoted else text


def fill(text: str, values: Mapping[str, Any], what: str = "command", quoted: bool = False) -> str:
    """The text with its placeholders filled; InputError names those that there are.

    >>> fill("--lr {lr:.1e}", {"lr": 0.00031})
    '--lr 3.1e-04'
    """
    try:
        return _Filled(what, quoted).vformat(text, (), values)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"{what}: expected placeholders as in Python's format strings; {text!r} has: {error}."
        ) from error


@dataclass(frozen=True)
class Command:
    """The words of a command, as a shell would split it, or a text for a ``shell``."""

    text: str
    shell: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InputTypeError(f"command: expected a text; got {type(self.text).__name__}.")
        try:
            words = shlex.split(self.text)
        except ValueError as error:
            raise InputError(f"command: expected a command line; {error}.") from error
        if not words:
            raise InputError("command: expected a program and its arguments; got nothing.")

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """What to start: each value stays in its word, whatever it contains."""
        if self.shell:
            return ["/bin/sh", "-c", fill(self.text, values, quoted=True)]
        return [fill(word, values) for word in shlex.split(self.text)]


def export_plan(
    plan: SweepPlan, target: str, folder: Path, task: Any, options: Mapping[str, Any]
) -> Path:
    """See :meth:`SweepPlan.export`."""
    command = getattr(task, "command", task)
    check_choice("target", target, TARGETS)
    template = _TEMPLATES.get(target, {"file": _HYDRA, "options": {}})
    values = _options(target, template["options"], options)
    loss = getattr(task, "loss", None)
    if "command" in template:
        if task is not None and task is not plan.task:
            raise InputError(
                f"{target}: expected no command, as it has its own. Take target 'bash'."
            )
        command, loss = _filled(template["command"], values).replace("\n", ""), template["loss"]
        target, template = template["like"], _TEMPLATES[template["like"]]
    if not isinstance(command, str):
        raise InputError(
            "command: expected a text or a CommandTask that makes a run of the plan; got a "
            f"{type(task).__name__}."
        )
    folder = folder.absolute()
    with output_errors(folder, "folder"):
        folder.mkdir(parents=True, exist_ok=True)
        refuse_links(folder, "folder")
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


def _options(
    target: str, defaults: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of a target; InputError names those that are unknown or missing."""
    values = dict(defaults)
    for name, given in options.items():
        if name not in defaults:
            hint = unknown_name(name, list(defaults), {})
            raise InputError(f"{target}: unknown option {name!r}; {hint}")
        if isinstance(defaults[name], str):
            values[name] = str(given)
            continue
        with suppress(TypeError, ValueError):  # of the command line, where all is text
            given = json.loads(given)
        check_number(f"{target}: {name}", given, at_least=0)
        values[name] = given
    if missing := [name for name, value in values.items() if value == ""]:
        raise InputError(f"{target}: expected {', '.join(f'{name}=' for name in missing)} too.")
    return values


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
        values = {**planned_values(e), "run_dir": str(folder / "runs" / e.id / WORK)}
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

"""A sweep from a TOML file and flags, as the keyword arguments of ``find_optimal``.

Keys are the names of these arguments, read from its signature: what it takes can be set here. Texts
such as ``"model.py:make"`` stand for Python objects, tables with ``ref`` for what such an object
returns. Tables of the keys in ``_BUILT`` are the settings of an object by its ``kind``.

Code is imported and called: :mod:`flops_fit.cli.references` says which.
"""

from __future__ import annotations  # evaluated, they would import what --help does without

import functools
import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flops_fit
from flops_fit.cli.answer import number
from flops_fit.cli.references import is_reference, load
from flops_fit.errors import InputError, check_choice, unknown_name

DEFAULT_FILE = Path("sweep.toml")
_CALLED = ("dataset", "eval_dataset", "example_batch")  # a class or function of these is called
_VALUES = ("model_kwargs", "sizes", "hparams", "metrics")  # tables where ref is a mere name
_NOT_SET = ("train",)  # the command decides
# Options of Slurm and Ray that only ask for resources; others may hold commands, or name a cluster.
_RESOURCES = {
    "account", "comment", "constraint", "exclude", "exclusive", "gres", "mem", "mem_per_cpu",
    "mem_per_gpu", "nodelist", "qos", "wckey", "num_cpus", "num_gpus", "object_store_memory",
}  # fmt: skip
# Tables of an object's settings.
_BUILT = ("executor", "design", "mode", "training", "tune", "model_cls")
_NAMED = ("executor", "design", "mode", "tune")  # those that the name of a kind stands for


@dataclass
class SweepFile:
    """Keys with their values as written, and the folder that each one's paths are relative to.

    A key without a folder was given by the user himself, who trusts it.
    """

    values: dict[str, Any]
    folders: dict[str, Path] = field(default_factory=dict)
    untrusted: Path | None = None

    def arguments(self, planning: bool = False) -> dict[str, Any]:
        """The keyword arguments of ``find_optimal``; ``planning`` checks an executor only."""
        return {key: self._argument(key, value, planning) for key, value in self.values.items()}

    def _argument(self, key: str, value: Any, planning: bool) -> Any:
        folder = self.folders.get(key, Path())
        untrusted = self.untrusted if key in self.folders else None
        find = functools.partial(load, folder=folder, untrusted=untrusted)
        if value == "none":
            return None
        if key == "output_dir":
            return folder / str(value)
        if key in _BUILT and isinstance(value, Mapping) and "ref" not in value:
            if untrusted is not None and key == "mode" and value.get("kind") == "command":
                raise InputError(
                    f"mode: expected no command in {untrusted}, which is not trusted; got "
                    f"{value.get('command')!r}. Read it, then add --trust; or give it as --command."
                )
            if untrusted is not None and key == "executor":
                _check_executor(value, untrusted)
            make = _built(key, value, find, folder)
            return "inprocess" if planning and key == "executor" else make()
        if key == "sizes" and isinstance(value, Mapping):
            if wrong := [budget for budget in value if number(budget) is None]:
                raise InputError(
                    'sizes: expected budgets as keys, such as "1e15" = [64, 128]; got '
                    f"{wrong[0]!r}."
                )
            return {float(budget): sizes for budget, sizes in value.items()}
        if isinstance(value, Mapping) and key in _VALUES:
            code = key == "metrics"
            return {k: _resolved(v, find, f"{key}.{k}", names=code) for k, v in value.items()}
        thing = _resolved(value, find, key, names=True)
        if key in _CALLED and isinstance(value, str) and _is_factory(thing):
            return _called(thing, {}, key)
        return thing


def _is_factory(thing: Any) -> bool:
    """A class, or a function that needs no argument: one that does makes data of a design's axes."""
    if not inspect.isroutine(thing):
        return isinstance(thing, type)
    return all(p.default is not p.empty for p in inspect.signature(thing).parameters.values())


def _check_executor(table: Mapping[str, Any], untrusted: Path) -> None:
    """InputError where the table of an executor may run commands, or send the task elsewhere."""
    options = table.get("options")
    names = {"address"} & table.keys() | set(options if isinstance(options, Mapping) else ())
    if more := sorted(names - _RESOURCES):
        raise InputError(
            f"executor: expected options that ask for resources, since {untrusted} is not trusted; got "
            f"{more[0]!r}, which can run commands or send the sweep elsewhere. Read it, then add --trust."
        )


def read_sweep(
    path: Path | None, flags: Mapping[str, Any], settings: Sequence[str] = (), trust: bool = False
) -> SweepFile:
    """A sweep from a file, overridden by settings (``KEY=VALUE``) and these by flags, if given."""
    if path is None and DEFAULT_FILE.exists():
        path = DEFAULT_FILE
    sweep = SweepFile({}, untrusted=None if trust else path)
    if path is not None:
        sweep.values = _read(path)
        _check_keys(sweep.values, str(path))
        sweep.folders = dict.fromkeys(sweep.values, path.parent)
        sweep.values.setdefault("output_dir", "outputs")
        sweep.folders["output_dir"] = path.parent
    given = {key: value for key, value in flags.items() if value is not None}
    for key in _NAMED:  # first, so that settings are of the kind that a flag names
        if key in given:
            _put(sweep, key, given[key])
    for setting in settings:
        _set(sweep, setting)
    for key, value in given.items():
        _put(sweep, key, value)
    if "model_cls" not in sweep.values:
        what = "no sweep.toml is here" if path is None else f"{path} does not say"
        raise InputError(
            f"expected a sweep, with at least its model (model_cls); {what}. flops-fit init writes one "
            "to begin with; or give a file, or --model-cls."
        )
    return sweep


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: expected a TOML file of a sweep; {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: expected TOML; {error}.") from error


def _check_keys(keys: Iterable[str], where: str) -> None:
    known = [k for k in inspect.signature(flops_fit.find_optimal).parameters if k not in _NOT_SET]
    for key in keys:
        if key in known:
            continue
        if key in _NOT_SET:
            hint = "leave it out: flops-fit plan plans, and flops-fit run trains."
        elif place := flops_fit.api.plan.MOVED.get(key):
            table = place.argument
            hint = f"it has moved into the table [{table}]: {table}.{place.field}."
        else:
            hint = unknown_name(key, known, {})
        raise InputError(f"{where}: unknown key {key!r}; {hint}")


def _put(sweep: SweepFile, key: str, value: Any) -> None:
    """A value of the user's own; the name of a kind keeps the settings that its table has for it."""
    table = sweep.values.get(key)
    name = isinstance(value, str) and value != "none" and not is_reference(value)
    if not (key in _NAMED and name and isinstance(table, Mapping) and "ref" not in table):
        sweep.values[key] = value
        sweep.folders.pop(key, None)
        return
    kinds = _kinds(key)
    if value in kinds and table.get("kind", value) != value:
        taken = inspect.signature(kinds[value]).parameters
        table = {k: v for k, v in table.items() if k in taken}
    sweep.values[key] = {**table, "kind": value}  # of the file's folder still, as its settings are


def _set(sweep: SweepFile, setting: str) -> None:
    """One ``KEY=VALUE``, into the values."""
    path, equals, text = setting.partition("=")
    keys = path.strip().split(".")
    if not (equals and all(keys)):
        raise InputError(f"--set: expected KEY=VALUE, such as batch_size=16; got {setting!r}.")
    _check_keys(keys[:1], "--set")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text.strip()
    table = sweep.values
    if len(keys) == 1:
        sweep.folders.pop(keys[0], None)
    elif isinstance(name := table.get(keys[0]), str):  # which stands for a table that has it
        table[keys[0]] = {"kind" if keys[0] in _NAMED else "ref": name}
    for key in keys[:-1]:
        inside = table.get(key)
        table[key] = dict(inside) if isinstance(inside, Mapping) else {}
        table = table[key]
    table[keys[-1]] = value


_Find = Callable[[str, str], Any]  # from a reference and its key


def _resolved(value: Any, find: _Find, key: str, names: bool) -> Any:
    """A value with its references resolved: tables with ``ref``, and texts where ``names`` is set."""
    if isinstance(value, str):
        return find(value, key) if names and is_reference(value) else value
    if isinstance(value, Sequence):
        return [_resolved(v, find, f"{key}[{i}]", names) for i, v in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    if "ref" not in value:
        return {k: _resolved(v, find, f"{key}.{k}", names=False) for k, v in value.items()}
    if unknown := [k for k in value if k not in ("ref", "args")]:
        raise InputError(
            f"{key}: expected ref and args in a table that refers to Python; got {unknown[0]!r}. Put "
            f"arguments into [{key}.args]."
        )
    given = value.get("args", {})
    if not isinstance(given, Mapping):
        raise InputError(f"{key}.args: expected a table of arguments; got {given!r}.")
    args = {k: _resolved(v, find, f"{key}.args.{k}", names=False) for k, v in given.items()}
    return _called(find(value["ref"], key), args, key)


def _called(function: Callable[..., Any], args: Mapping[str, Any], key: str) -> Any:
    if not callable(function):
        raise InputError(f"{key}: expected a class or function to call; got {function!r}.")
    try:
        inspect.signature(function).bind(**args)
    except TypeError as error:
        name = getattr(function, "__name__", repr(function))
        raise InputError(f"{key}: {name} cannot be called so: {error}.") from error
    except ValueError:  # a function of C has no signature
        pass
    return function(**args)


def _kinds(key: str) -> Mapping[str, Any]:
    """What makes each kind of an object; one of a single kind has the name of its key."""
    kinds: dict[str, Mapping[str, Any]] = {
        "executor": flops_fit.execute.EXECUTORS,
        "design": flops_fit.plan.designs.DESIGNS,
        "mode": {
            "local": lambda: "local",
            "mock": flops_fit.Mock,
            "command": flops_fit.CommandTask,
        },
        "model_cls": {"model_cls": flops_fit.ModelSizes},
        "training": {"training": flops_fit.TrainingConfig},
        "tune": {"tune": flops_fit.tune.Tune},
    }
    return kinds[key]


def _built(key: str, table: Mapping[str, Any], find: _Find, folder: Path) -> Callable[[], Any]:
    """What makes the object of a table: by its kind, with the other entries as its settings."""
    kinds = _kinds(key)
    values: dict[str, Any] = {}
    command = key == "mode" and table.get("kind") == "command"
    for name, value in table.items():
        if value == "none":
            values[name] = None
        elif (key, name) == ("mode", "law") and isinstance(value, str) and not is_reference(value):
            values[name] = flops_fit.reference.law(value)
        else:
            values[name] = _resolved(value, find, f"{key}.{name}", names=not command)
    if command:
        values["cwd"] = folder / values.get("cwd", "")
        codes = values.get("exit_codes", {})
        values["exit_codes"] = {number(code): state for code, state in codes.items()}
    if isinstance(params := values.get("params"), str):
        values["params"] = folder / params
    elif isinstance(params, Mapping):  # a key of TOML is a text
        values["params"] = {int(k) if k.isdigit() else k: v for k, v in params.items()}
    kind = values.pop("kind", None) if len(kinds) > 1 else key
    check_choice(f"{key}.kind", kind, kinds)
    known = list(inspect.signature(kinds[kind]).parameters)
    for name in values:
        if name not in known:
            hint = unknown_name(name, known, {})
            raise InputError(f"{key}: {kind} has no option {name!r}; {hint}")
    return functools.partial(kinds[kind], **values)

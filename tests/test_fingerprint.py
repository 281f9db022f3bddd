"""Equal code and data have equal fingerprints; what changes an outcome changes them."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import importlib.util
import logging
import os
import subprocess
import sys
import textwrap
from argparse import Namespace
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from flops_fit.fingerprint import fingerprint_any, fingerprint_code, fingerprint_values

PROGRAM = """
from flops_fit.fingerprint import fingerprint_code
{code}
print(fingerprint_code(f))
"""


def of(code: str, tmp_path, seed: int = 0) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(code=textwrap.dedent(code)))
    env = {**os.environ, "PYTHONHASHSEED": str(seed)}
    command = [sys.executable, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return done.stdout.strip()


def test_comments_docstrings_and_spaces_do_not_matter_and_code_does(tmp_path) -> None:
    plain = of("def f(x):\n    return x + 1", tmp_path)
    dressed = of('def f(x):\n    """Adds."""\n    # one more\n    return   x + 1', tmp_path)
    other = of("def f(x):\n    return x + 2", tmp_path)
    assert plain == dressed
    assert plain != other


def test_helpers_and_constants_of_the_module_count(tmp_path) -> None:
    code = "SCALE = {}\ndef g(x):\n    return x * {}\ndef f(x):\n    return g(x) + SCALE"
    prints = {of(code.format(*v), tmp_path) for v in [(1, 1), (2, 1), (1, 2)]}
    assert len(prints) == 3


def test_closed_over_values_count() -> None:
    def make(n: int):
        def f(x: int) -> int:
            return x + n

        return f

    assert fingerprint_code(make(1)) == fingerprint_code(make(1))
    assert fingerprint_code(make(1)) != fingerprint_code(make(2))


def test_bound_arguments_count() -> None:
    def f(x: int, y: int) -> int:
        return x + y

    assert fingerprint_code(functools.partial(f, 1)) != fingerprint_code(functools.partial(f, 2))
    assert fingerprint_code(functools.partial(f, 1)) == fingerprint_code(functools.partial(f, 1))


def test_an_object_counts_by_content_and_not_by_address() -> None:
    class Box:
        def __init__(self, n: int) -> None:
            self.n = n

        def __call__(self) -> int:
            return self.n

    assert fingerprint_any({"box": Box(1)}) == fingerprint_any({"box": Box(1)})
    assert fingerprint_any({"box": Box(1)}) != fingerprint_any({"box": Box(2)})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(3), torch.zeros(4)),
        (torch.zeros(3), torch.tensor([0.0, 0.0, 1e-7])),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int32)),
        (np.zeros(3), np.ones(3)),
        ({"a": torch.zeros(1)}, {"b": torch.zeros(1)}),
        ((torch.zeros(1), 1), (torch.zeros(1), 2)),
    ],
)
def test_different_values_differ(one: object, other: object) -> None:
    assert fingerprint_values(one) == fingerprint_values(one)
    assert fingerprint_values(one) != fingerprint_values(other)


def test_tensors_without_values_count_by_their_shape() -> None:
    one, other = torch.zeros(3, device="meta"), torch.zeros(4, device="meta")
    assert fingerprint_values(one) == fingerprint_values(torch.ones(3, device="meta"))
    assert fingerprint_values(one) != fingerprint_values(other)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value


class Slotted:
    __slots__ = ("_value", "other")

    def __init__(self, value: object) -> None:
        self._value = value


class CallableSlots(Slotted):
    def __call__(self) -> object:
        return self._value


def deep(value: object) -> object:
    return functools.reduce(lambda inner, _: SimpleNamespace(inner=inner), range(8), value)


@dataclasses.dataclass
class Node:
    inner: object


def deep_nodes(value: object) -> object:
    return functools.reduce(lambda inner, _: Node(inner), range(8), value)


@pytest.mark.parametrize(
    "make",
    [
        np.float32, np.int64, np.bool_, Fraction, Namespace, SimpleNamespace, Plain, Slotted,
        CallableSlots, deep, deep_nodes,
        lambda v: Path(str(v)), lambda v: {v, "other"}, lambda v: frozenset([Plain(v)]),
        lambda v: range(3 + int(v)),
        lambda v: bytearray([int(v)]), lambda v: Colour(int(v) + 1), lambda v: collections.deque([v]),
        lambda v: np.array([{"a": v}, None]), lambda v: {Plain: Plain(v)},
        lambda v: [torch.float16, torch.float32][int(v)],
    ],
)  # fmt: skip
def test_values_of_every_kind_count_by_content_in_closures_and_arguments(make) -> None:
    def value(v: float) -> object:
        return make(v=v) if make in (Namespace, SimpleNamespace) else make(v)

    def loss_of(held: object):
        return lambda out: (out, held)

    for print_of in (fingerprint_any, lambda v: fingerprint_code(loss_of(v))):
        assert print_of(value(0)) == print_of(value(0))
        assert print_of(value(0)) != print_of(value(1))


def test_what_is_held_twice_or_in_a_circle_counts_once() -> None:
    def circle(value: int) -> Plain:
        first, second = Plain(value), Plain({"a": [value]})
        first.other, second.others = second, {first}
        return first

    assert fingerprint_any(circle(1)) == fingerprint_any(circle(1))
    assert fingerprint_any(circle(1)) != fingerprint_any(circle(2))
    one, other = Plain(1), Plain(2)
    assert fingerprint_any([one, other, one]) != fingerprint_any([one, other, other])


def test_what_changes_while_a_program_runs_does_not_count() -> None:
    class Config:
        def __init__(self) -> None:
            self.log, self.device = logging.getLogger("a.b"), torch.device("cpu")
            self.file, self.module = sys.stdout, np

        @functools.cached_property
        def doubled(self) -> int:
            return 2

    config, before = Config(), fingerprint_any(Config())
    config.log.isEnabledFor(10), config.doubled
    config.device = torch.device("meta")
    assert fingerprint_any(config) == before


EVERYTHING = """
import enum, fractions, pathlib, types
import numpy as np
class Colour(enum.Enum):
    RED = 1
class Config:
    def __init__(self):
        self.names, self.me, self.call = {"a", "b", "c", "d"}, self, {print, len}
        self.rest = types.SimpleNamespace(at=pathlib.Path("a"), one=fractions.Fraction(1, 2))
CONFIG, LISTED, SHAPES = Config(), [{"x": {"p", "q", "r"}}], (Config(), frozenset("abc"))
class Model:
    scale = LISTED
    def run(self):
        return CONFIG, np.float32(1)
def f(x, colour=Colour.RED, by={frozenset("xyz"): 1, len: 2}):
    return CONFIG, LISTED, SHAPES, Model
"""


def test_prints_are_those_of_any_other_process(tmp_path) -> None:
    assert len({of(EVERYTHING, tmp_path, seed) for seed in (1, 2)}) == 1


GLOBALS = """
import types
import numpy as np
from settings import IMPORTED
VALUE = {value}
def g():
    return VALUE
class Model:
    def forward(self):
        return VALUE
class Importing:
    def forward(self):
        return IMPORTED
def value(x):
    return VALUE, x.attribute
def by_class(x):
    return Model
def by_helper(x):
    return g()
def imported(x):
    return IMPORTED
"""


def module(name: str, code: str, folder: Path, monkeypatch) -> ModuleType:
    """The module of a file, as if it were the only one of its name."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(name, path)
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, made)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    "value",
    ["{}", "[{}]", "{{'a': {}}}", "np.array([{}])", "types.SimpleNamespace(a={})", "{{{}}}"],
)
def test_globals_of_functions_and_classes_count(value: str, tmp_path, monkeypatch) -> None:
    prints = []
    for number in (1, 2, 2):
        text, folder = value.format(number), tmp_path / str(len(prints))
        settings = f"import types\nimport numpy as np\nIMPORTED = {text}"
        module("settings", settings, folder, monkeypatch)
        program = module("program", GLOBALS.format(value=text), folder, monkeypatch)
        names = ("value", "by_class", "by_helper", "imported", "Model", "Importing")
        prints.append({name: fingerprint_code(getattr(program, name)) for name in names})
    assert prints[1] == prints[2]
    assert all(prints[0][name] != prints[1][name] for name in prints[0])


def test_loggers_and_what_libraries_register_leave_code_as_it_was(tmp_path, monkeypatch) -> None:
    module("registers", "def act(): pass\nACTS = {'act': act}", tmp_path, monkeypatch)
    code = "import logging\nfrom registers import ACTS\nlog = {}\nclass f:\n    def g(self): {}"
    for i, body in enumerate(("log.info(ACTS)", "return ACTS, log")):
        one, other = (
            module("program", code.format(log, body), tmp_path / f"{i}{j}", monkeypatch).f
            for j, log in enumerate(("logging.getLogger('a')", "logging.getLogger('b')"))
        )
        assert fingerprint_code(one) == fingerprint_code(other)


def test_a_class_counts_with_what_it_closes_over_and_its_defaults(tmp_path, monkeypatch) -> None:
    def make(scale: float) -> type:
        class Model:
            def run(self) -> float:
                return scale

        return Model

    assert fingerprint_code(make(1)) == fingerprint_code(make(1))
    assert fingerprint_code(make(1)) != fingerprint_code(make(2))
    code = "RATE = {}\nclass f:\n    def __init__(self, rate=RATE):\n        pass"
    one, other = (module("p", code.format(r), tmp_path / f"{r}", monkeypatch).f for r in (0.1, 0.2))
    assert fingerprint_code(one) != fingerprint_code(other)


def test_what_was_told_apart_before_keeps_its_print() -> None:
    """Else the runs of earlier output folders are made again."""

    @dataclasses.dataclass
    class Config:
        width: int

    Config.__module__, Config.__qualname__ = "a", "Config"
    values = {"width": 8, "act": "gelu", "rest": (1.5, None, [b"x", Config(3)])}
    assert fingerprint_any(values) == "70777c7a8e15886c"
    assert fingerprint_any({"x": np.arange(3.0), "t": torch.zeros(2)}) == "b048742ec6b8af67"


@pytest.mark.parametrize(
    "code",
    [
        "def act(x):\n    return {} * x\nclass f:\n    def g(self, x):\n        return act(x)",
        "class Base:\n    def act(self, x):\n        return {} * x\nclass f(Base):\n    pass",
    ],
)
def test_a_class_counts_with_the_functions_and_bases_of_its_module(
    code, tmp_path, monkeypatch
) -> None:
    prints = [
        fingerprint_code(module("program", code.format(k), tmp_path / f"{i}", monkeypatch).f)
        for i, k in enumerate((1, 2, 2))
    ]
    assert prints[0] != prints[1] == prints[2]

"""Equal code and data have equal fingerprints; what changes an outcome changes them."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from flops_fit.fingerprint import fingerprint_any, fingerprint_code, fingerprint_values

PROGRAM = """
from flops_fit.fingerprint import fingerprint_code
{code}
print(fingerprint_code(f))
"""


def of(code: str, tmp_path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(code=textwrap.dedent(code)))
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True)
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

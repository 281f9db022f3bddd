"""The command, called in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from flops_fit.cli.program import call


@dataclass(frozen=True)
class Called:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> Called:
    capsys.readouterr()
    code = call([str(a) for a in arguments])
    told = capsys.readouterr()
    return Called(code, told.out, told.err)

"""Answers are readable in a terminal of any encoding, and JSON is ASCII."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


def told(encoding: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "flops_fit", *arguments]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_an_encoding_lacks_is_spelt_out(encoding: str) -> None:
    text = told(encoding, "predict", "--law", "hoffmann2022", "1e21")
    assert "alpha = 0.34" in text
    assert "?" not in text


def test_json_is_ascii_in_any_terminal() -> None:
    text = told("utf-8", "predict", "--law", "hoffmann2022", "1e21", "--json")
    assert text.isascii()
    assert json.loads(text)

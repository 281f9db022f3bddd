"""The words of findings and the calls that fill them belong together."""

from __future__ import annotations

import ast
import string
import tomllib
from pathlib import Path

import pytest

import flops_fit.fit

FOLDER = Path(flops_fit.fit.__file__).parent
WORDS = tomllib.loads((FOLDER / "findings.toml").read_text(encoding="utf-8"))
FILES = sorted([*FOLDER.glob("*.py"), *(FOLDER.parent / "adaptive").glob("*.py")])
TREES = [ast.parse(p.read_text(encoding="utf-8")) for p in FILES]
NODES = [node for tree in TREES for node in ast.walk(tree)]
CALLS = [
    n for n in NODES if isinstance(n, ast.Call) and getattr(n.func, "id", None) == "finding"
]  # fmt: skip


def slots(key: str) -> set[str]:
    """What the words under a heading leave open."""
    words = WORDS[key]
    texts = (words["message"], words.get("action", ""), words.get("code", key))
    parsed = (part for text in texts for part in string.Formatter().parse(text))
    return {name for _, name, _, _ in parsed if name is not None}


def test_every_heading_is_used_and_is_a_name():
    named = {n.value for n in NODES if isinstance(n, ast.Constant)}
    assert set(WORDS) <= named


@pytest.mark.parametrize("call", CALLS, ids=lambda c: ast.unparse(c.args[0]))
def test_a_call_fills_what_its_words_leave_open(call: ast.Call):
    given = {k.arg for k in call.keywords}
    if isinstance(call.args[0], ast.Constant) and None not in given:
        assert slots(call.args[0].value) == given


@pytest.mark.parametrize("key", WORDS)
def test_a_finding_says_something_and_is_graded_here_or_where_it_is_made(key: str):
    words = WORDS[key]
    assert set(words) <= {"code", "severity", "message", "action"}
    assert words["message"]
    graded = {
        c.args[0].value for c in CALLS if isinstance(c.args[0], ast.Constant) and (len(c.args) > 1)
    }
    by_kind = {"leave_one_budget_out", "outlier_pull", "undertrained"}
    assert words.get("severity") or key in graded | by_kind

"""Findings by their code; what each says and asks for is in ``findings.toml``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from flops_fit.records import Diagnostic

Severity = Literal["ok", "note", "warning", "critical"]

_WORDS = tomllib.loads(Path(__file__).with_name("findings.toml").read_text(encoding="utf-8"))


def finding(
    key: str, severity: Severity | None = None, /, *, act: bool = True, **values: Any
) -> Diagnostic:
    """The finding under a heading of the file, of its usual severity unless one is given.

    ``values`` fill its words. An ok one asks for nothing, nor does one without ``act``.
    """
    words = _WORDS[key]
    how = severity or words["severity"]
    action = words.get("action", "") if act and how != "ok" else ""
    texts = (text.format(**values) for text in (words["message"], action))
    return Diagnostic(words.get("code", key).format(**values), how, *texts)

"""Models of a given size."""

from __future__ import annotations

from flops_fit.records import ParamCount


def params(n: int) -> ParamCount:
    return ParamCount(n, n, n, n)

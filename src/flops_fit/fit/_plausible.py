"""Magnitudes that no run has: most often a column in millions or billions, or another quantity."""

from __future__ import annotations

import numpy as np

from flops_fit.laws import Law
from flops_fit.records import Diagnostic
from flops_fit.table import RunTable

__all__ = ["flat", "implausible"]

_MOST_PARAMS, _MOST_TOKENS, _MOST_COMPUTE, _MOST_LOSS = 1e16, 1e19, 1e32, 1e4
_FEW_PARAMS, _FEW_TOKENS = 1e3, 1e4
_APART = 1e6  # between N and D of one run, either way
_FALL = 1e-3
_COMPUTE_OFF, _COMPUTE_WRONG = 10.0, 1e4


def implausible(runs: RunTable) -> list[Diagnostic]:
    """Findings about the units of N, D, C and the loss.

    Above 1e16 parameters, 1e19 tokens, 1e32 FLOPs or a loss of 1e4, and where one of N and D is
    tiny and the other a million times larger, a unit is wrong for certain and the finding is
    critical. C off 6·N·D by ten times or more may have a reason (experts, samples of many
    tokens), so that is a warning; beyond ten thousand times it has none. Runs that count
    samples are judged by N, D and C alone.
    """
    found = []
    for name, values, most, ask in (
        ("N", runs.params, _MOST_PARAMS, "are N parameters, one by one?"),
        ("D", runs.tokens, _MOST_TOKENS, "are D tokens, one by one?"),
        ("C", runs.flops, _MOST_COMPUTE, "are C FLOPs, one by one?"),
    ):
        if np.max(values) >= most:
            found.append(_critical(f"{name} reaches {np.max(values):.3g}", ask))
    ratio = float(np.median(runs.tokens / runs.params))
    if np.max(runs.params) < _FEW_PARAMS and ratio > _APART:
        text = f"N is at most {np.max(runs.params):.3g} and D is {ratio:.2g} times it"
        found.append(_critical(text, "are N in millions or billions? Give parameters one by one"))
    if np.max(runs.tokens) < _FEW_TOKENS and ratio < 1 / _APART:
        text = f"D is at most {np.max(runs.tokens):.3g} and N is {1 / ratio:.2g} times it"
        found.append(_critical(text, "are D in millions or billions? Give tokens one by one"))
    if runs.unit != "tokens":
        return found
    if np.max(runs.loss) >= _MOST_LOSS:
        text = f"the loss reaches {np.max(runs.loss):.3g}"
        found.append(_critical(text, "is it a cross-entropy in nats a token?"))
    off = float(np.median(runs.flops / (6 * runs.params * runs.tokens)))
    if max(off, 1 / off) >= _COMPUTE_OFF:
        found.append(
            Diagnostic(
                "flops_implausible",
                "critical" if max(off, 1 / off) >= _COMPUTE_WRONG else "warning",
                f"C is {off:.2g} times 6·N·D",
                "check the units of N, D and C: one may be in millions, billions or petaFLOPs",
            )
        )
    return found


def flat(law: Law, runs: RunTable) -> list[Diagnostic]:
    """A critical finding where the law does not fall by 0.1 % over the runs' range of N, or of D."""
    N, D = (float(np.exp(np.mean(np.log(c)))) for c in (runs.params, runs.tokens))
    ends = {
        "N": (law.loss(np.min(runs.params), D), law.loss(np.max(runs.params), D)),
        "D": (law.loss(N, np.min(runs.tokens)), law.loss(N, np.max(runs.tokens))),
    }
    still = [name for name, (low, high) in ends.items() if not high < (1 - _FALL) * low]
    if not still:
        return []
    text = f"the fitted loss does not fall with {' or '.join(still)}: there is no optimum to find"
    return [Diagnostic("flat_law", "critical", text, "check the losses, and add other sizes")]


def _critical(message: str, action: str) -> Diagnostic:
    return Diagnostic("implausible_units", "critical", message, action)

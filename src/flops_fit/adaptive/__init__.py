"""The runs that answer with the fewest FLOPs: what to run next, and a sweep that decides itself.

:func:`next_experiments` proposes a batch to people who train elsewhere; :func:`run_adaptive` goes
from a pilot to an answer with any :class:`Oracle` that makes the runs.
"""

from flops_fit.adaptive.candidates import Candidates, Oracle
from flops_fit.adaptive.propose import Proposal, next_experiments
from flops_fit.adaptive.sweep import AdaptiveResult, Check, run_adaptive

__all__ = [
    "AdaptiveResult", "Candidates", "Check", "Oracle", "Proposal", "next_experiments",
    "run_adaptive",
]  # fmt: skip

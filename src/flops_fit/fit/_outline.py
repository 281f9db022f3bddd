"""The law and its intervals alone: a fit for loops that ask again after every few runs."""

from __future__ import annotations

import numpy as np

from flops_fit.fit._estimate import Evidence
from flops_fit.fit._forms import Task, WindowRule
from flops_fit.fit._surface import points_of
from flops_fit.flops import FlopsFunction
from flops_fit.table import RunTable

__all__ = ["outline"]


def outline(runs: RunTable, flops: FlopsFunction, window: WindowRule = None) -> Evidence:
    """What :func:`flops_fit.fit.fit_runs` solves, without what it checks and tells.

    Forms, choice, window and intervals are the same; refits without parts of the runs, approaches
    1 and 2 and findings are left out, which are most of the time.
    """
    points = points_of(runs, log=True)
    task = Task(runs, flops, points, "mad", np.ones(len(runs)))
    fitted, _ = task.windowed("auto", window)
    return Evidence(fitted.chosen, fitted.rival, runs, flops)

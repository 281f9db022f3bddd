"""Runs out of Weights & Biases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from flops_fit.errors import InputTypeError
from flops_fit.tracked._runs import Add, TrackedRun, TrackedRuns, flat, tracked_runs

__all__ = ["read_wandb"]

_ASKED = ("config", "summary", "state", "name")


def read_wandb(runs: Any, *, complete: bool = False, add: Add | None = None) -> TrackedRuns:
    """Runs of W&B, with their histories.

    Config becomes the columns ``config.x``, what was logged ``summary.x``. W&B's own ``_step``
    counts calls of ``log``, so it is no step of the training unless ``add`` says that it is.

    Parameters
    ----------
    runs
        ``wandb.Api().runs("user/project")``, or any runs with ``config``, ``summary``, ``state``,
        ``name`` or ``id``, and ``scan_history()`` or ``history()``. Each history is read once,
        over the network.
    complete
        Vouch that each finished run went to the end of its schedule, where runs do not say so.
    add
        Makes columns from those there are: it gets the settings of a run with one point of its
        history and ``label``, its name.

    Returns
    -------
    TrackedRuns
        For ``fit_runs(tracked, curves=tracked)``, with ``columns=`` for unusual names.

    Raises
    ------
    InputTypeError
        These are no runs of W&B.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> run = SimpleNamespace(
    ...     id="1a", name="small", state="finished", config={"n_params": 1e6, "horizon": 2e7},
    ...     summary={}, history=lambda pandas: [{"tokens": 2e7, "val_loss": 3.1}],
    ... )
    >>> runs = read_wandb([run])
    >>> RunTable.read(runs, {"planned_tokens": "config.horizon"}).loss.tolist()
    [3.1]
    """
    if isinstance(runs, str | Mapping) or not isinstance(runs, Iterable):
        raise InputTypeError(
            f"expected runs of W&B, wandb.Api().runs('user/project'); got {type(runs).__name__}."
        )
    read: list[tuple[str, TrackedRun]] = []
    sampled = False
    for run in runs:
        lacks = [name for name in _ASKED if not hasattr(run, name)]
        if lacks:
            raise InputTypeError(
                f"expected runs of W&B, which have {', '.join(_ASKED)}; "
                f"{type(run).__name__} lacks {', '.join(lacks)}."
            )
        points, part = _points(run)
        sampled = sampled or part
        last = {k: v for k, v in _plain(run.summary).items() if not any(k in p for p in points)}
        config = flat(dict(run.config), "config.")
        name = str(run.name or run.id)
        id = str(getattr(run, "id", "") or len(read) + 1)
        read.append((id, TrackedRun(name, str(run.state or ""), config, last, points)))
    told = "Histories are samples, as history() gives them: the last point may be missing."
    return tracked_runs(read, "W&B's runs", complete, add, (told,) if sampled else ())


def _points(run: Any) -> tuple[tuple[Mapping[str, Any], ...], bool]:
    """The history in the order of logging, and whether it may be a sample only."""
    if hasattr(run, "scan_history"):
        return tuple(map(_plain, run.scan_history())), False
    if hasattr(run, "history"):
        return tuple(map(_plain, run.history(pandas=False))), True
    return (), False


def _plain(values: Any) -> dict[str, Any]:
    """Numbers and texts under headings, without those that are missing at this point."""
    found = flat({str(name): values[name] for name in values.keys()}, "summary.")  # noqa: SIM118
    return {k: v for k, v in found.items() if isinstance(v, str | int | float) and not _nan(v)}


def _nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)

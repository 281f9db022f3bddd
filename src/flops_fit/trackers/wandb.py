"""Weights & Biases: follow runs there, and read runs from there; and trackio, which has its interface."""

import io
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

from flops_fit.errors import InputError, InputTypeError, TableError, check_choice
from flops_fit.records import Experiment, Run
from flops_fit.trackers import tracker
from flops_fit.trackers.tracker import Add, Service, TrackedRun, TrackedRuns, flat

_EXIT_CODES = {"completed": 0, "preempted": 143}  # 143: a shell's code for SIGTERM
_ATTRIBUTES = ("config", "summary", "state", "name")  # of a run of W&B


class WandbTracker(Service):
    """Each run as a run of one W&B project, under the experiment's id.

    Settings are its config, readings its history over ``tokens``; ``state`` and ``reason`` stand in its
    summary. A resumed run keeps its id. Without a login, runs are kept offline. MissingExtraError where
    W&B is not installed.

    ``project`` and ``entity`` are as W&B has them; it keeps its files in ``folder``. ``mode`` is
    ``"online"``, ``"offline"``, or ``"auto"``: what ``WANDB_MODE`` says, and offline where the process that
    trains has no login.
    """

    def __init__(
        self,
        project: str = "flops-fit",
        entity: str | None = None,
        *,
        mode: Literal["auto", "online", "offline"] = "auto",
        folder: str | Path = ".",
    ):
        tracker.needs("wandb", "WandbTracker")
        check_choice("mode", mode, ("auto", "online", "offline"))
        self.project, self.entity = project, entity
        self.mode, self.folder = mode, Path(folder).resolve()

    def start(self, experiment: Experiment) -> None:
        """Begin the run, or go on with it."""
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        self.opened = wandb.init(
            project=self.project,
            entity=self.entity,
            id=experiment.id,
            name=experiment.label,
            config=tracker.settings(experiment),
            dir=str(self.folder),
            mode=self._mode(),
            resume="allow",
            reinit="create_new",
            # The console belongs to the sweep, and a run to its experiment, not to a git commit; W&B's
            # own metadata name the host, the user and the paths of the program.
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, host="", x_disable_meta=True
            ),
        )
        self.opened.define_metric("tokens")
        self.opened.define_metric("*", step_metric="tokens")

    def log(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """One row of the history."""
        self.opened.log(tracker.reading(experiment, values))

    def finish(self, run: Run) -> None:
        """A last row; the state and its reason in the summary; W&B's own state."""
        if run.state == "preempted":
            self.opened.mark_preempting()
        self.opened.log(tracker.ending(run))
        self.opened.summary.update({"state": run.state, "reason": run.reason})
        self.opened.finish(exit_code=_EXIT_CODES.get(run.state, 1))

    def _mode(self) -> Any:
        """The mode to open with, so that W&B has nothing to ask."""
        import wandb

        mode = str(wandb.setup().settings.mode) if self.mode == "auto" else self.mode
        if mode != "online" or wandb.login(prompt=False):
            return mode
        if self.mode == "online":
            raise InputError(
                "WandbTracker(mode='online'): expected a W&B login where runs are trained; there is "
                "none. Run `wandb login` there or set WANDB_API_KEY, or take mode='offline'."
            )
        return "offline"


class TrackioTracker(Service):
    """Each run as a run of one trackio project, named by its label and id.

    Settings are its config, readings its metrics by step; the last ones have ``state`` and ``reason``.
    MissingExtraError where trackio is not installed.

    ``project`` and ``space`` are as trackio has them; the space is a Hugging Face one, ``"user/name"``, by
    default what ``TRACKIO_SPACE_ID`` says, else the folder ``TRACKIO_DIR`` of this machine.
    """

    def __init__(self, project: str = "flops-fit", space: str | None = None):
        tracker.needs("trackio", "TrackioTracker")
        self.project, self.space = project, space

    def start(self, experiment: Experiment) -> None:
        """Begin the run, or go on with it."""
        import trackio

        with redirect_stdout(io.StringIO()):  # its greetings would break the live display
            self.opened = trackio.init(
                project=self.project,
                name=f"{experiment.label} {experiment.id}",
                space_id=self.space,
                config=tracker.settings(experiment),
                resume="allow",
                embed=False,
            )

    def log(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """One row of metrics."""
        self.opened.log(tracker.reading(experiment, values), step=values["step"])

    def finish(self, run: Run) -> None:
        """A last row with the state and its reason, and the held-out loss of a complete run."""
        import trackio

        last = {**tracker.ending(run), "state": run.state, "reason": run.reason}
        self.opened.log(last, step=tracker.last_step(run))
        with redirect_stdout(io.StringIO()):
            trackio.finish()


def read_wandb(runs: Any, *, complete: bool = False, add: Add | None = None) -> TrackedRuns:
    """Runs of W&B, with their histories.

    Config becomes the columns ``config.x``, what was logged ``summary.x``. W&B's own ``_step``
    counts calls of ``log``: it becomes a step of the training only through ``add``. InputTypeError
    where these are no runs of W&B.

    ``runs`` are ``wandb.Api().runs("user/project")``, or any with their attributes, and ``scan_history()``
    or ``history()``; ``complete`` and ``add`` are as for :func:`~flops_fit.trackers.read_mlflow`.

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
        if lacks := [name for name in _ATTRIBUTES if not hasattr(run, name)]:
            raise InputTypeError(
                f"expected runs of W&B, which have {', '.join(_ATTRIBUTES)}; "
                f"{type(run).__name__} lacks {', '.join(lacks)}."
            )
        whole = hasattr(run, "scan_history")
        history = run.scan_history() if whole else ()
        if not whole and hasattr(run, "history"):
            history, sampled = run.history(pandas=False), True
        points = tuple(map(_plain, history))
        last = {k: v for k, v in _plain(run.summary).items() if not any(k in p for p in points)}
        config = flat(dict(run.config), "config.")
        name = str(run.name or run.id)
        id = str(getattr(run, "id", "") or len(read) + 1)
        read.append((id, TrackedRun(name, str(run.state or ""), config, last, points)))
    if not read:
        raise TableError(
            "expected at least one run of W&B; the table is empty. Look at its filters."
        )
    note = "Histories are samples, as history() gives them: the last point may be missing."
    return tracker.tracked_runs(read, "W&B's runs", complete, add, (note,) if sampled else ())


def _plain(values: Any) -> dict[str, Any]:
    """Numbers and texts under headings, without those that are missing at this point."""
    named = flat({str(name): values[name] for name in values.keys()}, "summary.")  # noqa: SIM118
    return {k: v for k, v in named.items() if isinstance(v, str | int | float) and v == v}

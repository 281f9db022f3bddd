"""Runs in Weights & Biases, or in folders to be sent there later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from flops_fit.arguments import check_choice
from flops_fit.errors import InputError
from flops_fit.records import Experiment, Run
from flops_fit.services import needs
from flops_fit.track._service import Service, ending, reading, settings

__all__ = ["WandbTracker"]

_INTERRUPTED = 143  # what a shell says of a process that was told to end


class WandbTracker(Service):
    """Each run as a run of one W&B project, under the experiment's id.

    Settings are its config, readings its history, drawn over ``tokens``; ``state`` and ``reason`` stand
    in its summary. A run that goes on is continued under its id. Nothing is ever asked for: with no
    login, runs are kept offline.

    Parameters
    ----------
    project, entity
        As W&B has them; the entity is by default the user's.
    mode
        ``"online"``, ``"offline"``, or ``"auto"``: what ``WANDB_MODE`` says, and offline where the
        process that trains has no login.
    folder
        Where W&B keeps its files.

    Raises
    ------
    MissingExtraError
        W&B is not installed.
    """

    def __init__(
        self,
        project: str = "flops-fit",
        entity: str | None = None,
        *,
        mode: Literal["auto", "online", "offline"] = "auto",
        folder: str | Path = ".",
    ):
        needs("wandb", "wandb", "WandbTracker")
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
            config=settings(experiment),
            dir=str(self.folder),
            mode=self._mode(),
            resume="allow",
            reinit="create_new",
            # The console belongs to the sweep, and a run to its experiment, not to a git commit.
            settings=wandb.Settings(console="off", silent=True, disable_git=True),
        )
        self.opened.define_metric("tokens")
        self.opened.define_metric("*", step_metric="tokens")

    def log(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """One row of the history."""
        self.opened.log(reading(experiment, values))

    def finish(self, run: Run) -> None:
        """A last row with the held-out loss."""
        self._end(run, 0)

    def fail(self, run: Run) -> None:
        """The reason in the summary; the run counts as failed, or as preempted."""
        if run.state == "preempted":
            self.opened.mark_preempting()
            self._end(run, _INTERRUPTED)
        else:
            self._end(run, 1)

    def _end(self, run: Run, code: int) -> None:
        opened = self.taken()
        opened.log(ending(run))
        opened.summary.update({"state": run.state, "reason": run.reason})
        opened.finish(exit_code=code)

    def _mode(self) -> Any:
        """The mode to open with, so that W&B has nothing to ask."""
        import wandb

        asked = str(wandb.setup().settings.mode) if self.mode == "auto" else self.mode
        if asked != "online" or wandb.login(prompt=False):
            return asked
        if self.mode == "online":
            raise InputError(
                "WandbTracker(mode='online'): expected a W&B login where runs are trained; there is "
                "none. Run `wandb login` there or set WANDB_API_KEY, or take mode='offline'."
            )
        return "offline"

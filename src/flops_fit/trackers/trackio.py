"""trackio: follow runs there, on this machine or in a Hugging Face Space."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from flops_fit.records import Experiment, Run
from flops_fit.trackers import service
from flops_fit.trackers.service import Service


class TrackioTracker(Service):
    """Each run as a run of one trackio project, named by its label and id.

    Settings are its config, readings its metrics by step; the last ones have ``state`` and ``reason``.

    Parameters
    ----------
    project
        As trackio has it.
    space
        A Hugging Face Space, ``"user/name"``; by default what ``TRACKIO_SPACE_ID`` says, else the
        folder ``TRACKIO_DIR`` of this machine.

    Raises
    ------
    MissingExtraError
        trackio is not installed.
    """

    def __init__(self, project: str = "flops-fit", space: str | None = None):
        service.needs("trackio", "trackio", "TrackioTracker")
        self.project, self.space = project, space

    def start(self, experiment: Experiment) -> None:
        """Begin the run, or go on with it."""
        import trackio

        with redirect_stdout(io.StringIO()):  # its greetings would break the live display
            self.opened = trackio.init(
                project=self.project,
                name=f"{experiment.label} {experiment.id}",
                space_id=self.space,
                config=service.settings(experiment),
                resume="allow",
                embed=False,
            )

    def log(self, experiment: Experiment, values: Mapping[str, Any]) -> None:
        """One row of metrics."""
        self.opened.log(service.reading(experiment, values), step=values["step"])

    def end(self, run: Run) -> None:
        """A last row with the state and its reason, and the held-out loss of a complete run."""
        import trackio

        last = {**service.ending(run), "state": run.state, "reason": run.reason}
        self.release().log(last, step=service.last_step(run))
        with redirect_stdout(io.StringIO()):
            trackio.finish()

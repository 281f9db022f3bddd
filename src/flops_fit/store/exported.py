"""What exported runs have left in the folder of a sweep, as its records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flops_fit.errors import OutputError
from flops_fit.execute.command import EXIT_CODE, OUTPUT, WORK, LossFrom, Reader
from flops_fit.files import read_json
from flops_fit.plan.export import HOW
from flops_fit.plan.template import planned_values
from flops_fit.records import Experiment, Run, as_record
from flops_fit.store.doctor import planned
from flops_fit.store.store import Store


def collect(folder: str | Path, loss: LossFrom = None) -> list[Run]:
    """Record the runs of :meth:`SweepPlan.export` that have ended, and write them all to ``runs.csv``.

    A run has ended once its ``exit_code`` is there, or without one its loss. ``loss`` is as for
    :class:`CommandTask`, by default that of the export. The runs come in the order of the plan; those that
    have not ended are missing. What is recorded stays as it is, so that it may be called at any time, and
    ``run_sweep`` with the same folder makes what is missing. OutputError where it is no sweep's folder.
    """
    path = Path(folder)
    plan, store = planned(path), Store.open(path)
    how = path / HOW
    if loss is None and how.exists():
        loss = as_record(read_json(how), dict[str, Any], HOW).get("loss")
    reader, runs = Reader(loss), []
    for experiment in plan:
        run = store.result(experiment.id)
        if run is None:
            run = _left(reader, experiment, store.run_dir(experiment.id))
            run = run and store.publish(run, durable=False)
        if run is not None:
            runs.append(run)
    if not plan:
        raise OutputError(f"folder: {path} has no plan; expected that of an export or of a sweep.")
    store.write_table(runs)
    return runs


def _left(reader: Reader, experiment: Experiment, folder: Path) -> Run | None:
    """The run that a folder tells of; ``None`` where it has not ended."""
    work, code = folder / WORK, folder / EXIT_CODE
    known = code.read_text().strip() if code.exists() else ""
    if not known and not work.exists():
        return None
    printed = folder / OUTPUT
    output = printed.read_text(errors="replace") if printed.exists() else ""
    values = {**planned_values(experiment), "run_dir": str(work)}
    run = reader.run(experiment, int(known or 0), work, output if known else "", values)
    return run if known or run.state != "failed" else None

"""What a sweep records on disk.

::

    output_dir/
      sweep.json           marks the folder as a sweep's, and lists the runs of the last plan
      runs/<id>/
        run.json           a result: completed, diverged or hopeless; published once, never overwritten
        attempt.json       how the last attempt without a result ended
        lease.json         which process makes the run, while one does
        metrics.jsonl, checkpoint/   its training curve, and the state from which it continues
        output.txt         what its worker or its command printed
        work/, exit_code   the files of a command, and how one ended that was exported
      trunks/<trunk>/      snapshots of a trunk from which missing runs continue
      trunks/<trunk>.lease which process makes a run of that trunk
      tuning/              a folder like this one, of the runs that tuned hyper-parameters
      runs.csv, fit.json, plots/, report.html   derived; rebuilt at every call

A run is found by its id alone, so a changed plan keeps every run that it still contains.
Files that are torn or foreign are renamed and reported, never deleted and never fitted.
"""

from flops_fit.store.doctor import (
    Examination,
    Finding,
    collect,
    examine,
    planned,
    recorded_runs,
    repair,
)
from flops_fit.store.read import (
    TrainingCurve,
    forecast_ends,
    recorded_findings,
    recorded_flops,
    training_curves,
    write_runs,
)
from flops_fit.store.store import Recorded, Store

__all__ = [
    "Examination", "Finding", "Recorded", "Store", "TrainingCurve", "collect", "examine", "forecast_ends",
    "planned", "recorded_findings", "recorded_flops", "recorded_runs", "repair", "training_curves",
    "write_runs",
]  # fmt: skip

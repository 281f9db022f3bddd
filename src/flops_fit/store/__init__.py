"""What happened, on disk.

::

    output_dir/
      sweep.json           says that this folder is ours, and which runs the last plan asked for
      runs/<id>/
        run.json           a result, complete or diverged; published once, never overwritten
        attempt.json       how the last attempt ended that gave no result
        lease.json         who makes the run, while somebody does
        metrics.jsonl, checkpoint/   its training curve, and what it would go on from
        output.txt         what its worker printed
      trunks/<trunk>/      where branches left a trunk that a missing run would go on from
      trunks/<trunk>.lease who makes a run of that trunk
      tuning/              a folder like this one, of the runs that hyper-parameters were tried on
      runs.csv, fit.json, plots/, report.html   derived; rebuilt at every call

A run is looked up by its id alone, so a changed plan keeps every run that it still asks for.
Files that are torn or do not belong are renamed and named, never deleted and never fitted.
"""

from flops_fit.store.doctor import Examination, Finding, examine, recorded_runs, repair
from flops_fit.store.lease import Holder, Lease, living_holder, take_lease
from flops_fit.store.recorded import Recorded, TrainingCurve, training_curves
from flops_fit.store.rows import write_runs
from flops_fit.store.store import Store

__all__ = [
    "Examination",
    "Finding",
    "Holder",
    "Lease",
    "Recorded",
    "Store",
    "TrainingCurve",
    "examine",
    "living_holder",
    "recorded_runs",
    "repair",
    "take_lease",
    "training_curves",
    "write_runs",
]

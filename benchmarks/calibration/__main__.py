"""Do the intervals hold on public sweeps, and does trust say how far they can be relied on?

    python -m benchmarks.calibration                       # the packaged sweeps
    python -m benchmarks.calibration --data DIR            # those of DIR's CSV files too
    python -m benchmarks.calibration --only priors         # settings of the misfit's prior

Every sweep loses its top one, two and three budgets and its top decade of compute; what is left
predicts them, and the parabola through the runs of each is held against the answer. A CSV file has
columns params, tokens and loss, better flops and budget too; text columns split it. Files whose names
begin with the same word are one family. Ends with the goals that were missed, and exits with 1 where
there are any.
"""

from __future__ import annotations

import sys

from benchmarks.common.threads import one_thread

if __name__ == "__main__":  # read when NumPy is first imported
    one_thread()

from benchmarks.calibration.intervals import intervals
from benchmarks.calibration.priors import priors
from benchmarks.calibration.trust import trust
from benchmarks.common.command import run, with_folder


def main() -> int:
    """Run the parts on the folder of sweeps."""
    options = with_folder()
    folder = options.parse_known_args()[0].data
    parts = {"intervals": intervals, "trust": trust, "priors": priors}
    bound = {
        name: lambda quick, part=part: part(folder if folder.is_dir() else None, quick)
        for name, part in parts.items()
    }
    return run(bound, __doc__ or "", "calibration", options=options)


if __name__ == "__main__":
    sys.exit(main())

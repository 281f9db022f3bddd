"""Is the fit right, is it fast, and does it stand large tables? Tables, JSON, and a verdict.

    python -m benchmarks.fit                  # everything, about 5 minutes with the other packages
    python -m benchmarks.fit --only accuracy
    python -m benchmarks.fit --quick          # fewer repeats and starts, without the slow package

Reads the packaged runs only. Ends with the goals that were missed and by how much, and exits with 1
where there are any. `make bench-fit` also installs the packages it is compared with.
"""

from __future__ import annotations

import sys

from benchmarks.common.threads import one_thread

if __name__ == "__main__":  # read when NumPy is first imported
    one_thread()

from benchmarks.common.command import run
from benchmarks.common.report import Part
from benchmarks.fit.accuracy import accuracy
from benchmarks.fit.backtests import backtests
from benchmarks.fit.size import size
from benchmarks.fit.speed import speed

PARTS: dict[str, Part] = {
    "accuracy": accuracy,
    "backtest": backtests,
    "speed": speed,
    "size": size,
}


if __name__ == "__main__":
    sys.exit(run(PARTS, __doc__, "fit"))

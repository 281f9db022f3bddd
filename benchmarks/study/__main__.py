"""What a sweep says of a budget above it, written down, and then that budget trained.

    python -m benchmarks.study text       # a GPT on the State of the Union text: about an hour on two cores
    python -m benchmarks.study images --data-dir .images/usr/share/datasets/fashion-mnist   # half an hour
    python -m benchmarks.study text --workers 1

Both sweeps tune themselves. What is said of the largest budget stands in FOLDER/prediction.json before any
of its runs is trained, and is never written again. Each call goes on where the last one ended. Prints
tables, and writes outputs/bench/study-text.json or study-images.json.
Exits with 1 where what was measured lies outside its interval.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.common.threads import one_thread

if __name__ == "__main__":  # read when NumPy is first imported
    one_thread()

from benchmarks.common.command import run
from benchmarks.common.report import Result
from benchmarks.study.study import IMAGES, TEXT, carry_out, quick_one


def main() -> int:
    """Train, predict, train the largest budget, and compare."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("subject", choices=("text", "images"))
    options.add_argument("--data-dir", type=Path, help="where the images lie")
    options.add_argument("--folder", type=Path, default=Path("outputs/study"))
    options.add_argument("--workers", type=int, default=2)
    given = options.parse_known_args()[0]
    study = TEXT if given.subject == "text" else IMAGES(given.data_dir)
    folder = given.folder / given.subject

    def part(quick: bool) -> Result:
        where = folder.with_name(f"{folder.name}-quick") if quick else folder
        return carry_out(quick_one(study) if quick else study, where, given.workers)

    parts = {given.subject: part}
    return run(parts, __doc__ or "", f"study-{given.subject}", options=options)


if __name__ == "__main__":
    sys.exit(main())

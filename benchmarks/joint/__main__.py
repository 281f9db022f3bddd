"""Is a sweep with drawn rates and batches, fitted as one surface, as good as a tuned one?

    python -m benchmarks.joint                    # everything, about six hours on two cores
    python -m benchmarks.joint --data DIR         # with StepLaw's own runs, from its CSV files in DIR
    python -m benchmarks.joint --only simulated --sweeps 40   # fewer than 200
    python -m benchmarks.joint --only ways --sweeps 40        # every way to tune: an hour
    python -m benchmarks.joint --only ways --ways adaptive    # those alone that choose their sizes too
    python -m benchmarks.joint --only real        # the demo's text, trained: an hour or two
    python -m benchmarks.joint --only images      # vision transformers: half an hour
    python -m benchmarks.joint --only recipes --data DIR   # what recipes cost there, and on that text
    python -m benchmarks.joint --only real --ways joint none@default --workers 1

DIR has steplaw2025_lr_batch.csv (lr, batch_sequences, tokens, non_embedding, loss) and
steplaw2025_moe.csv (active_params for non_embedding). Images are Fashion-MNIST, the files of Debian's package
dataset-fashion-mnist in --images. What was trained is kept in --folder.
Exits with 1 where a goal is missed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.common.threads import one_thread

if __name__ == "__main__":  # read when NumPy is first imported
    one_thread()

from benchmarks.common.command import run, with_folder
from benchmarks.joint.real import TEXT, images, real
from benchmarks.joint.recipes import recipes
from benchmarks.joint.replay import replay
from benchmarks.joint.simulated import simulated
from benchmarks.joint.ways import ways

IMAGES = Path(".images/usr/share/datasets/fashion-mnist")


def main() -> int:
    """Run the parts."""
    options = with_folder()
    options.add_argument("--sweeps", type=int, help="simulated sweeps of each case")
    options.add_argument("--folder", type=Path, default=Path("outputs/bench/joint"))
    options.add_argument("--ways", nargs="*", default=(), help="such as joint, or none@default")
    options.add_argument("--images", type=Path, default=IMAGES)
    options.add_argument("--workers", type=int, default=2)
    given = options.parse_known_args()[0]
    folder = given.data if given.data.is_dir() else None
    parts = {
        "simulated": lambda quick: simulated(quick, given.sweeps),
        "ways": lambda quick: ways(quick, given.sweeps, given.ways),
        "replay": lambda quick: replay(folder, quick),
        "real": lambda quick: real(TEXT, given.folder, given.ways, quick, given.workers),
        "images": lambda quick: real(
            images(given.images), given.folder / "images", given.ways, quick, given.workers
        ),
        "recipes": lambda _quick: recipes(folder, given.folder),
    }
    return run(parts, __doc__ or "", "joint", options=options)


if __name__ == "__main__":
    sys.exit(main())

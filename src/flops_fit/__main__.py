"""``python -m flops_fit`` is the command ``flops-fit``."""

from flops_fit.cli.program import main

if __name__ == "__main__":
    main()

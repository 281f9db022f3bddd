"""The command ``flops-fit``: one file a command.

Commands return an :class:`Answer`; ``_main`` prints it, as text or as JSON. They reach the library
by ``import flops_fit``, whose names are imported when they are first used: that keeps ``--help`` and
completion quick.
"""

from flops_fit.cli.main import app, main

__all__ = ["app", "main"]

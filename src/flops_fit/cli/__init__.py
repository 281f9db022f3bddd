"""The command ``flops-fit``.

Commands return an :class:`~flops_fit.cli.answer.Answer`, which ``program`` prints as text or as JSON.
They reach the library by ``import flops_fit``, whose names are imported when they are first used: that
keeps ``--help`` and completion quick.
"""

from flops_fit.cli.program import app, main

__all__ = ["app", "main"]

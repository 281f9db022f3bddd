"""The command ``flops-fit``.

==================  ==========================================================
``program``         the commands in one program: printing, errors, exit codes
``answer``          options that commands share, and the answer they return
``sweep_commands``  ``init``, ``plan``, ``run``
``demo``            ``demo``
``fit``             ``fit``, ``report``, ``compare``, ``next``
``predict``         ``predict``, ``reference``
``folder``          ``doctor``, ``export``
==================  ==========================================================

Commands return an :class:`~flops_fit.cli.answer.Answer`, which ``program`` prints as text or as JSON.
They reach the library by ``import flops_fit``, whose names are imported when they are first used: that
keeps ``--help`` and completion quick.
"""

from flops_fit.cli.program import app, main

__all__ = ["app", "main"]

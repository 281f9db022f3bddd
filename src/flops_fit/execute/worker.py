"""What happens inside a worker process."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from flops_fit.execute.attempt import Setting, print_in_order
from flops_fit.execute.multirank import together
from flops_fit.records import Experiment, Run


def carry_out(task_path: str, experiment: Experiment, pipe: Connection, setting: Setting) -> None:
    """Carry out one experiment and send its Run back; end at once if nobody listens any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    if hasattr(signal, "SIGCHLD"):  # Ray's workers ignore it, and ranks could not be waited for
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(setting.environment)
    print_in_order()

    def send(message: Any) -> None:
        try:
            pipe.send(message)
        except OSError:
            os._exit(1)

    def give_up(run: Run) -> NoReturn:
        send(run)
        os._exit(1)

    send(together(task_path, experiment, send, setting, give_up))
    pipe.close()

"""A rank that helps another process to train a run."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading

from flops_fit.execute.attempt import attempt, pin_threads, print_in_order, read_task
from flops_fit.records import Run


def main() -> None:
    """Read from the first rank what to do, do it, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print_in_order()
    task_path, experiment, threads = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    task = read_task(task_path, experiment)
    pin_threads(threads)
    if isinstance(task, Run):
        sys.exit(1)
    attempt(getattr(task, "follower", task), experiment, None)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)

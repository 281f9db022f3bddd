"""What drivers of sweeps in processes of their own run: cheap tasks that leave traces."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flops_fit.execute import InProcessExecutor, PoolExecutor
from flops_fit.hparams import HParams
from flops_fit.records import Experiment, ParamCount, Run
from flops_fit.store import Store
from flops_fit.sweep import run_experiments
from flops_fit.view import SilentView

ROOT = Path(__file__).resolve().parent.parent


def experiments(n: int) -> list[Experiment]:
    """Plain ones that differ in their seeds, made without PyTorch."""
    params = ParamCount(160, 160, 160, 160)
    plain = Experiment(
        "MLP", {}, 8, params, budget=704.0 * 400, tokens=400, steps=50, batch_size=8,
        units_per_sample=1.0, unit="samples", flops_per_unit=704.0, flops_per_unit_6nd=960.0,
        hparams=HParams(lr=0.01, batch_units=8), seed=0, repeat=0, fingerprint="",
    )  # fmt: skip
    return [replace(plain, seed=i) for i in range(n)]


@dataclass(frozen=True)
class Traced:
    """Takes a moment, leaves a file for each time that a run is begun, and answers by the seed.

    While there is a file ``hold`` beside the folder of traces, no run ends.
    """

    folder: Path
    seconds: float = 0.02

    def __call__(self, experiment: Experiment, report: Any = None) -> Run:
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{experiment.id}.{os.getpid()}.{time.time_ns()}").touch()
        time.sleep(self.seconds)
        while self.hold.exists():
            time.sleep(0.01)
        return Run(experiment, "completed", loss=2.0 + experiment.seed / 100)

    @property
    def hold(self) -> Path:
        return self.folder.with_name("hold")

    def begun(self) -> list[str]:
        return [p.name.split(".")[0] for p in self.folder.glob("*")]


@dataclass
class Detached:
    """Workers that outlive the driver, as those of a cluster do."""

    capacity: int = 2
    running: dict[str, tuple[Experiment, Any, Path]] = field(default_factory=dict)

    def start(self, task: Any, report: Any) -> None:
        self.task = task

    def submit(self, experiment: Experiment) -> None:
        answer = self.task.folder / f".answer-{experiment.id}-{os.getpid()}"
        code = "from tests._drivers import worker; worker()"
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # that of the driver ends with it
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            start_new_session=True,
        )
        assert child.stdin is not None
        child.stdin.write(pickle.dumps((self.task, experiment, answer)))
        child.stdin.close()
        self.running[experiment.id] = (experiment, child, answer)

    def poll(self) -> list[Run]:
        while self.running:
            for key, (experiment, child, answer) in list(self.running.items()):
                if child.poll() is not None:
                    del self.running[key]
                    if answer.exists():
                        return [pickle.loads(answer.read_bytes())]
                    return [Run(experiment, "preempted", reason=f"exited with {child.returncode}")]
            time.sleep(0.02)
        return []

    def close(self) -> None:
        for _, child, _ in self.running.values():
            child.kill()
            child.wait()
        self.running.clear()


def worker() -> None:
    task, experiment, answer = pickle.load(sys.stdin.buffer)
    content = pickle.dumps(task(experiment, None))
    answer.with_suffix(".new").write_bytes(content)
    answer.with_suffix(".new").rename(answer)


EXECUTORS: dict[str, Any] = {
    "inprocess": InProcessExecutor,
    "pool": lambda: PoolExecutor(2, 1),
    "detached": Detached,
}


class Printing(SilentView):
    """Says what a user would read."""

    def note(self, message: str) -> None:
        print(message, flush=True)


def driver(executor: str, n: int, out: str, traces: str, seconds: float) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    task = Traced(Path(traces), seconds)
    runs = run_experiments(
        experiments(n), task, EXECUTORS[executor](), Store.open(out), Printing(), pauses=(0.01,) * 3
    )
    print("losses", *(run.loss for run in runs), flush=True)


def start(*arguments: Any) -> subprocess.Popen[str]:
    """A driver in a process of its own."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.Popen(
        [sys.executable, "-m", "tests._drivers", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


if __name__ == "__main__":
    from tests._drivers import driver  # so that what it pickles is found by its workers

    driver(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5]))

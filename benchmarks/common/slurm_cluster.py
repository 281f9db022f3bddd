"""A real Slurm on this machine: munged, slurmctld and a slurmd for each node, from Debian's packages.

Everything listens on loopback, runs as the present user and lives in a folder that is removed at the end.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.processes import Process

PACKAGES = Path(__file__).resolve().parents[2] / ".slurm"
_LIBRARIES = next(iter(sorted(PACKAGES.glob("usr/lib/*/slurm-wlm"))), PACKAGES)
_START_SECONDS = 60.0
CONFIGURATION = """
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MinJobAge=300
NodeName={names} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports} CPUs={cpus} RealMemory=1000
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Job:
    """As Slurm lists it."""

    id: str
    state: str
    node: str


class SlurmCluster:
    """``nodes`` of ``cpus`` cores each, whatever this machine has; a context manager.

    Within it the commands of Slurm are on the path of ``environment``.
    """

    def __init__(self, nodes: int = 3, cpus: int = 2) -> None:
        if not (PACKAGES / "usr/bin/sbatch").exists():
            raise FileNotFoundError(
                f"expected Debian's packages of Slurm in {PACKAGES}: run `make slurm-ready`."
            )
        self.names = [f"n{i + 1}" for i in range(nodes)]
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._settled: set[str] = set()
        ports = _free_ports(nodes + 1)
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                controller=ports[0], user=getpass.getuser(), folder=self.folder, plugins=_LIBRARIES,
                names=",".join(self.names), ports=",".join(map(str, ports[1:])), cpus=cpus,
            )
        )  # fmt: skip
        libraries = [str(_LIBRARIES.parent), str(_LIBRARIES), os.environ.get("LD_LIBRARY_PATH", "")]
        self.environment = {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{PACKAGES}/usr/bin{os.pathsep}{os.environ['PATH']}",
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        }

    def __enter__(self) -> SlurmCluster:
        try:
            self._start_munge()
            (self.folder / "state").mkdir()
            self.settle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """End every process that has this cluster in its environment: daemons, steps and jobs."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            until = time.monotonic() + 5.0
            while (left := self._processes()) and time.monotonic() < until:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(0.2)
        for daemon in self._daemons.values():
            daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_munge(self) -> None:
        (self.folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (self.folder / "munge.key").chmod(0o600)
        files = [
            f"--{what}={self.folder}/munge.{end}"
            for what, end in (
                ("socket", "socket"), ("key-file", "key"), ("pid-file", "pid"), ("log-file", "log"),
                ("seed-file", "seed"),
            )
        ]  # fmt: skip
        self._spawn("munged", "munged", "--foreground", "--force", *files)
        wait_for((self.folder / "munge.socket").exists, "munged", _START_SECONDS)

    def start(self, name: str) -> None:
        """Start the controller, ``slurmctld``, or a node by its name."""
        if name == "slurmctld":
            self._spawn(name, "slurmctld-wlm", "-D")
        else:
            (self.folder / name).mkdir(exist_ok=True)
            self._spawn(
                name, "slurmd-wlm", "-D", "-N", name, "-d", f"{PACKAGES}/usr/sbin/slurmstepd-wlm"
            )

    def kill(self, name: str, steps: bool = True) -> None:
        """Kill −9 a daemon; of a node all that runs there too, as where its machine dies."""
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()
        if steps and name in self.names:
            for pid in self._processes(f"SLURMD_NODENAME={name}"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def ask(self, *words: str) -> str:
        """What a command of Slurm's prints."""
        done = subprocess.run(
            words,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def states(self) -> set[str]:
        """The states of the nodes."""
        with contextlib.suppress(subprocess.CalledProcessError):
            return set(self.ask("sinfo", "--noheader", "--Node", "--format=%T").split())
        return set()

    def jobs(self, state: str = "") -> list[Job]:
        """Those since the nodes were last settled, in a state or in any."""
        form = "--format=%i|%T|%N"
        text = self.ask("squeue", "--noheader", "--array", "--states=all", "--sort=i", form)
        found = [Job(*line.strip().split("|")) for line in text.splitlines()]
        return [j for j in found if state in j.state and j.id not in self._settled]

    def settle(self) -> None:
        """Cancel what is left, bring back what was killed, and wait until all nodes are idle."""
        for name in ("slurmctld", *self.names):
            if name not in self._daemons:
                self.start(name)
        wait_for(self.states, "the controller to answer", _START_SECONDS)
        self.ask("scancel", "--user", getpass.getuser())
        wait_for(lambda: self.states() == {"idle"}, "all nodes to be idle", _START_SECONDS)
        self._settled |= {job.id for job in self.jobs()}

    @contextlib.contextmanager
    def hurrying(self) -> Iterator[None]:
        """Let jobs that were queued again start at once: Slurm lets them wait for two minutes.

        Daemons that died by themselves are started again, and nodes that were drained are resumed.
        """
        ended = threading.Event()

        def hurry() -> None:
            while not ended.wait(1.0):
                for name, daemon in list(self._daemons.items()):
                    if name != "munged" and daemon.poll() is not None:
                        self.start(name)
                with contextlib.suppress(subprocess.CalledProcessError):
                    self._resume()
                    for line in self.ask(
                        "squeue", "--noheader", "--array", "--format=%i|%r"
                    ).splitlines():
                        job, _, reason = line.partition("|")
                        if reason == "BeginTime":
                            self.ask("scontrol", "update", f"JobId={job.strip()}", "StartTime=now")

        thread = threading.Thread(target=hurry)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _resume(self) -> None:
        for name in self.names:
            if "DRAIN" in self.ask("scontrol", "show", "node", name):
                self.ask("scontrol", "update", f"NodeName={name}", "State=RESUME")

    def _spawn(self, name: str, program: str, *options: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [f"{PACKAGES}/usr/sbin/{program}", *options], env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def victims(self) -> list[Process]:
        """What a storm may kill: daemons, and the runs of jobs."""
        found = [
            Process(daemon.pid, "slurmd" if name in self.names else name)
            for name, daemon in list(self._daemons.items())
            if daemon.poll() is None
        ]
        return found + [Process(pid, "job") for pid in self._processes("\0SLURM_PROCID=")]

    def _processes(self, also: str = "") -> list[int]:
        """Processes of this cluster."""
        return processes_with(f"SLURM_CONF={self.folder}/slurm.conf", also)


def processes_with(*words: str) -> list[int]:
    """Processes that have all these words in their environment, but for the present one."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (path / "environ").read_bytes()
            if (
                all(word.encode() in environment for word in words)
                and int(path.name) != os.getpid()
            ):
                found.append(int(path.name))
    return found


def wait_for(true: Callable[[], Any], what: str, seconds: float) -> Any:
    """What is true at last; TimeoutError where it is not."""
    until = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > until:
            raise TimeoutError(f"waited for {what} for {seconds:.0f} s")
        time.sleep(0.1)
    return found


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]

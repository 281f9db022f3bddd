"""A Ray cluster of several nodes on this machine, each in a network namespace with an address of its own.

A bridge joins them, which has no way out. Needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.chaos.processes import Process

_NETWORK, PORT = "10.231.7", 6379  # a bridge of its own: nobody else is in it
_START_SECONDS = 90.0


class RayCluster:
    """A head and two workers; a context manager. A driver runs on the head by ``command``."""

    names = ("head", "first", "second")

    def __init__(self, cpus: int = 2) -> None:
        self.cpus = cpus
        self.folder = Path(tempfile.mkdtemp(prefix="ffray-"))
        self._bridge = f"ray{secrets.token_hex(3)}"
        self.addresses = {name: f"{_NETWORK}.{i + 2}" for i, name in enumerate(self.names)}
        self.environment = {
            "RAY_ADDRESS": f"{self.addresses['head']}:{PORT}", "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "FLOPS_FIT_TEST_CLUSTER": str(self.folder),
            # A node that does not answer is lost after seconds, not after half a minute.
            "RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5",
        }  # fmt: skip

    def __enter__(self) -> RayCluster:
        try:
            self._ip("link", "add", self._bridge, "type", "bridge")
            self._ip("link", "set", self._bridge, "up")
            for name in self.names:
                self._plug(name)
                self.start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for name in self.names:
            self.kill(name)
            cable = self._cable(name)
            for words in (("link", "delete", cable), ("netns", "delete", cable)):
                with contextlib.suppress(subprocess.CalledProcessError):
                    self._ip(*words)
        with contextlib.suppress(subprocess.CalledProcessError):
            self._ip("link", "delete", self._bridge)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _plug(self, name: str) -> None:
        """A namespace with loopback, and a cable to the bridge."""
        cable = self._cable(name)
        self._ip("netns", "add", cable)
        self._ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", cable)
        self._ip("link", "set", cable, "master", self._bridge, "up")
        for words in (
            ("addr", "add", f"{self.addresses[name]}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"), ("link", "set", "lo", "up"),
        ):  # fmt: skip
            self._ip("-n", cable, *words)

    def start(self, name: str) -> None:
        """Start a node's Ray, bound to its address."""
        if name == "head":
            words = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        else:
            words = [f"--address={self.environment['RAY_ADDRESS']}"]
        words += [f"--node-ip-address={self.addresses[name]}", f"--num-cpus={self.cpus}"]
        words += ["--object-store-memory=100000000", "--disable-usage-stats"]
        words += [f"--temp-dir={self.folder}"] if name == "head" else []
        started = self.command(name, sys.executable, "-m", "ray.scripts.scripts", "start", *words)
        said, _ = started.communicate(timeout=_START_SECONDS)
        if started.returncode:
            raise RuntimeError(f"Ray's node {name} did not start: {said}")

    def command(self, name: str, *words: str) -> subprocess.Popen[str]:
        """A process on a node, with the addresses of the cluster."""
        return subprocess.Popen(
            [*self.on(name), *words], env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def on(self, name: str) -> list[str]:
        """Words before those of a command that is to be on a node."""
        return ["ip", "netns", "exec", self._cable(name)]

    def kill(self, name: str) -> None:
        """Kill −9 all that runs on a node, as where its machine dies."""
        until = time.monotonic() + 20
        while (left := self.processes(name)) and time.monotonic() < until:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def cut(self, name: str) -> None:
        """Take a node off the network, while all on it goes on."""
        self._ip("link", "set", self._cable(name), "down")

    def alive(self) -> set[str]:
        """The nodes that the head counts on."""
        code = (
            "import ray; ray.init(logging_level='ERROR', log_to_driver=False)\n"
            "print(*(n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']))"
        )
        said, _ = self.command("head", sys.executable, "-c", code).communicate(timeout=60)
        lines = said.splitlines() or [""]
        return {name for name, address in self.addresses.items() if address in lines[-1].split()}

    def processes(self, name: str) -> list[int]:
        """What runs on a node."""
        with contextlib.suppress(subprocess.CalledProcessError):
            return [int(pid) for pid in self._ip("netns", "pids", self._cable(name)).split()]
        return []

    def victims(self) -> list[Process]:
        """What a storm may kill: a node, by its raylet, which is started again here, and runs."""
        found = []
        for name in self.names[1:]:
            there = []
            for pid in self.processes(name):
                with contextlib.suppress(OSError):
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                    if command.split(b"\0")[0].endswith(b"/raylet"):
                        there.append(Process(pid, "node"))
                    elif command.startswith(b"ray::C="):
                        there.append(Process(pid, "ray worker"))
            if not any(process.kind == "node" for process in there):
                self.kill(name)
                self.start(name)
            found += there
        return found

    def _cable(self, name: str) -> str:
        """Of a node to the bridge; its namespace has the same name."""
        return f"{self._bridge}-{self.names.index(name)}"

    def _ip(self, *words: str) -> str:
        return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout

"""No tracker reaches out of this machine in a test."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

# Workers have the environment of the server that forks them, which starts with the first pool.
_KEPT = tempfile.TemporaryDirectory()
os.environ |= {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "WANDB_ERROR_REPORTING": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NETRC": str(Path(_KEPT.name) / "netrc"),
    "TRACKIO_DIR": str(Path(_KEPT.name) / "trackio"),
}
for _name in ("WANDB_API_KEY", "WANDB_MODE", "TRACKIO_SPACE_ID", "MLFLOW_TRACKING_URI"):
    os.environ.pop(_name, None)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Refuses every connection but to a process here by a Unix socket; what was tried."""
    tried: list[Any] = []
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            tried.append(address)
            raise ConnectionRefusedError(f"no network in tests: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    return tried

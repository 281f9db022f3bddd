"""Folders and tables that commands are asked about."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flops_fit
from flops_fit import reference


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published runs as a CSV file."""
    path = tmp_path_factory.mktemp("table") / "runs.csv"
    rows = reference.runs("llama3_2024").to_dicts()
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep, simulated."""
    pytest.importorskip("torch")
    from tests.conftest import MLP

    path = tmp_path_factory.mktemp("sweep") / "outputs"
    flops_fit.find_optimal(
        MLP,
        "width",
        compute_budgets=[1e9, 3e9, 1e10, 3e10],
        mode="mock",
        output_dir=path,
        progress=False,
    )
    return path


@pytest.fixture
def fresh_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules and paths that a command imports are forgotten after the test."""
    before, paths = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("flops_fit", "torch", "scipy", "matplotlib", "numpy", "contourpy")):
            del sys.modules[name]
    sys.path[:] = paths

"""A Slurm of three nodes on this machine, for all tests here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from benchmarks.common.slurm_cluster import SlurmCluster

from flops_fit.execute import slurm_jobs
from tests._scripts import ROOT


@pytest.fixture(scope="session")
def started() -> Iterator[SlurmCluster]:
    with SlurmCluster() as cluster:
        yield cluster


@pytest.fixture
def slurm(started: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """Its commands are on the path, its nodes idle before and after."""
    for name, value in started.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT}")
    monkeypatch.setattr(slurm_jobs, "_QUERY_SECONDS", 0.5)
    monkeypatch.setattr(slurm_jobs, "_LAG_SECONDS", 2.0)
    started.settle()
    with started.hurrying():
        yield started

"""RayExecutor on three nodes in network namespaces, of which one dies, and one is cut off."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from benchmarks.common.ray_cluster import RayCluster
from benchmarks.common.slurm_cluster import wait_for

from flops_fit.records import Run
from flops_fit.store import Store
from tests._scripts import ROOT
from tests.cluster._sweep import PAUSE, digits, plan, sweep

SIZES = (4, 6, 8, 10)
SECONDS = 240.0  # that a run may take to be under way, and a node to be missed


@pytest.fixture(scope="module")
def ray() -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT}")
        patch.setenv(PAUSE, "0.15")
        with RayCluster(cpus=1) as cluster:
            yield cluster


def under_way(ray: RayCluster, node: str, folder: Path) -> bool:
    """Whether a run is being made on a node, and has a checkpoint."""
    there = ray.processes(node)
    for lease in folder.glob("sweep/runs/*/lease.json"):
        with suppress(OSError, ValueError):
            kept = any((lease.parent / "checkpoint").glob("step-*"))  # none that is being written
            if kept and json.loads(lease.read_text())["pid"] in there:
                return True
    return False


def recorded(folder: Path) -> list[Run]:
    store = Store.open(folder / "sweep")
    return [run for e in plan(*SIZES).experiments if (run := store.result(e.id))]


def outlives(ray: RayCluster, node: str, lose: Callable[[str], None], folder: Path) -> list[Run]:
    """The runs of a sweep that loses a node in the middle of a run there; digits are one process's."""
    assert ray.alive() == set(ray.names)
    words = map(str, ("-m", "tests.cluster._sweep", "ray", folder, *SIZES))
    driver = ray.command("head", sys.executable, *words)
    wait_for(lambda: under_way(ray, node, folder), "a run there", SECONDS)
    lose(node)
    wait_for(lambda: ray.alive() == set(ray.names) - {node}, "the node to be missed", SECONDS)
    said, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    there = recorded(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(PAUSE)
        assert digits(there) == digits(sweep(plan(*SIZES), "inprocess", folder / "alone"))
    return there


def test_a_sweep_outlives_a_node(ray: RayCluster, tmp_path: Path) -> None:
    """Its run is made elsewhere from its checkpoint."""
    there = outlives(ray, "second", ray.kill, tmp_path)
    assert max(run.resumed for run in there) == 1
    ray.start("second")


def test_a_sweep_outlives_a_cut_cable(ray: RayCluster, tmp_path: Path) -> None:
    """Of which the driver hears nothing: it asks Ray which nodes are there."""
    there = outlives(ray, "first", ray.cut, tmp_path)
    assert [run.state for run in there] == ["completed"] * len(SIZES)

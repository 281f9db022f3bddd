"""Is anything lost when what makes up a real Slurm, or Ray on several nodes, is killed at random?

    python -m benchmarks.chaos.clusters             # about 10 minutes on two cores
    python -m benchmarks.chaos.clusters --only slurm

As ``benchmarks.chaos``; what is killed is started again, as a site would. Ray's nodes need root.
"""

from __future__ import annotations

import os
import sys
from unittest import mock

from benchmarks.chaos import cheap_sweeps
from benchmarks.chaos.__main__ import SECONDS, stormed
from benchmarks.chaos.storm import Weather, environment
from benchmarks.common.command import run
from benchmarks.common.ray_cluster import RayCluster
from benchmarks.common.report import Part, Result
from benchmarks.common.slurm_cluster import SlurmCluster

KILLS, QUICK, RUNS = 16, 4, 10
SLURM_VICTIMS = {"driver": 2.0, "job": 3.0, "slurmd": 2.0, "slurmctld": 1.0}
RAY_VICTIMS = {"driver": 1.0, "ray worker": 2.0, "node": 2.0}


def slurm(quick: bool) -> Result:
    """Cheap runs as jobs of three nodes; the driver, jobs, nodes and the controller are killed."""
    weather = Weather(QUICK if quick else KILLS, SLURM_VICTIMS, calm=3.0, patience=240.0)
    with SlurmCluster() as cluster, cluster.hurrying():
        home = {"HOME": str(cluster.folder)}  # where submitit's files are
        with mock.patch.dict(os.environ, cluster.environment | home):
            told = RUNS, 2 * SECONDS
            return stormed("runs on Slurm", cheap_sweeps, "slurm", weather, told, cluster.victims)


def ray(quick: bool) -> Result:
    """Cheap runs on a head and two nodes in network namespaces."""
    weather = Weather(QUICK if quick else KILLS, RAY_VICTIMS, calm=3.0, patience=240.0)
    with mock.patch.dict(os.environ, environment()), RayCluster() as cluster:
        told = RUNS, 2 * SECONDS
        return stormed(
            "runs on nodes of Ray", cheap_sweeps, "cluster", weather, told, cluster.victims,
            cluster.on("head"),
        )  # fmt: skip


PARTS: dict[str, Part] = {"slurm": slurm, "ray": ray}


if __name__ == "__main__":
    sys.exit(run(PARTS, __doc__, "chaos-clusters"))

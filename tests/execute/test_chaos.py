"""Nothing that is on record is lost, whoever is killed and wherever the disk is full."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.chaos.every_call import How, strike_everywhere
from benchmarks.chaos.ledger import Ledger
from benchmarks.chaos.storm import ROOT, Storm, Weather, environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def test_a_pools_sweep_under_kill_9_ends_with_the_fit_of_the_undisturbed_one(
    tmp_path: Path,
) -> None:
    """Drivers and workers are killed; every result stays as it was first recorded."""
    told = ["15", "0.1"]
    module = "benchmarks.chaos.cheap_sweeps"
    subprocess.run(
        [sys.executable, "-m", module, "inprocess", str(tmp_path / "calm"), *told],
        check=True,
        cwd=ROOT,
        env=environment(),
    )
    weather = Weather(8, {"driver": 2.0, "worker": 5.0, "fork server": 1.0}, calm=0.2)
    storm = Storm(weather, random.Random(3))
    fit = (tmp_path / "calm" / "fit.json").read_bytes()
    while not storm.spent and not storm.broken:
        folder = tmp_path / f"sweep{storm.sweeps}"
        storm.sweep([module, "pool", str(folder), *told], folder, fit)
    assert storm.broken == []
    assert storm.published == 15 * storm.sweeps


@pytest.mark.parametrize("how", ["killed", "disk full"])
def test_a_sweep_struck_at_calls_that_change_the_disk_goes_on(how: How, tmp_path: Path) -> None:
    """Every fifteenth call here; `make chaos` takes each of them."""
    struck = strike_everywhere(tmp_path, how, every=15)
    assert struck.times > 3
    assert struck.broken == []


def test_what_is_lost_or_changed_is_seen(tmp_path: Path) -> None:
    """The ledger would find a result that is gone, changed, torn, or was never on record."""
    path = tmp_path / "runs" / "a" / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"device": "1"}')
    ledger = Ledger(tmp_path)
    ledger.look()
    assert ledger.broken == []
    path.write_text('{"device": "2"}')
    ledger.look()
    path.unlink()
    ledger.look()
    ledger.hear([("a", "1"), ("a", "3")])
    other = tmp_path / "runs" / "b" / "run.json"
    other.parent.mkdir()
    other.write_text('{"dev')
    ledger.look()
    assert [line.split(": ")[1] for line in ledger.broken] == [
        "the result of a finished run has changed",
        "the result of a finished run is gone",
        "a driver was handed a result that was never on record",
        "a result was published that is not whole",
    ]

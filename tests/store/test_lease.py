"""One process at a time has a lease, and of those who would take a stale one over, one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flops_fit.store import lease as lease_module
from flops_fit.store.lease import Holder, Lease, LeaseHeldError, living_holder, take_lease


def written_by(path: Path, **changes: Any) -> None:
    """A lease file as another process, or another machine, left it."""
    content = {**vars(Holder.current()), **changes}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def aged(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "lease.json"


def test_a_lease_is_had_by_one_and_free_after_it(path: Path) -> None:
    with take_lease(path) as lease:
        with pytest.raises(LeaseHeldError, match=f"process {os.getpid()} on") as refused:
            take_lease(path)
        assert refused.value.holder == lease.holder
    assert not list(path.parent.iterdir())
    take_lease(path).release()


def test_of_many_at_once_one_takes_it(path: Path) -> None:
    gate = threading.Barrier(8)

    def take() -> Lease | None:
        gate.wait()
        try:
            return take_lease(path)
        except LeaseHeldError:
            return None

    with ThreadPoolExecutor(8) as pool:
        taken = [f.result() for f in [pool.submit(take) for _ in range(8)]]
    assert sum(isinstance(t, Lease) for t in taken) == 1


@pytest.mark.parametrize("attempt", range(5))
def test_of_many_who_find_it_stale_one_takes_it_over(path: Path, attempt: int) -> None:
    written_by(path, machine="elsewhere", token="a0")
    aged(path, 61)
    gate = threading.Barrier(8)

    def take() -> Lease | None:
        gate.wait()
        try:
            return take_lease(path)
        except LeaseHeldError:
            return None

    with ThreadPoolExecutor(8) as pool:
        taken = [f.result() for f in [pool.submit(take) for _ in range(8)]]
    leases = [t for t in taken if isinstance(t, Lease)]
    assert len(leases) == 1
    assert leases[0].held()
    assert [p.name for p in path.parent.iterdir()] == ["lease.json"]
    leases[0].release()


def test_the_lease_of_a_process_that_is_gone_is_stale_at_once(path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    written_by(path, pid=gone.pid, start="1")
    assert living_holder(path) is None
    lease = take_lease(path)
    lease.release()


def test_a_process_that_ended_and_was_not_waited_for_is_gone(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = lease_module._process_start(child.pid)
    assert start is not None
    child.kill()
    for _ in range(1000):
        if lease_module._process_start(child.pid) is None:
            break
        time.sleep(0.01)
    written_by(path, pid=child.pid, start=start)
    assert living_holder(path) is None
    child.communicate()


def test_a_number_that_another_process_got_is_no_sign_of_life(path: Path) -> None:
    written_by(path, start="1")  # this very process number, of an earlier process
    assert living_holder(path) is None


def test_a_holder_on_another_machine_lives_while_it_touches_its_lease(path: Path) -> None:
    written_by(path, machine="elsewhere", host="far", pid=1)
    holder = living_holder(path)
    assert str(holder) == "process 1 on far"
    aged(path, 55)
    assert living_holder(path) is not None
    aged(path, 65)
    assert living_holder(path) is None


def test_the_clocks_of_two_machines_are_never_compared(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour's difference between this machine and the file system changes nothing."""
    written_by(path, machine="elsewhere")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    assert living_holder(path) is not None


def test_a_torn_lease_is_nobodys_and_stale_by_its_age(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"token": "a')
    with pytest.raises(LeaseHeldError, match="an unknown process"):
        take_lease(path)
    aged(path, 61)
    lease = take_lease(path)
    lease.release()


def test_a_taker_that_died_in_the_middle_is_taken_over_in_turn(path: Path) -> None:
    written_by(path, machine="elsewhere", token="a0")
    right = path.with_name(".lease.json.a0")
    written_by(right, machine="elsewhere", token="b0")
    aged(path, 61)
    with pytest.raises(LeaseHeldError):  # the taker may still live
        take_lease(path)
    aged(right, 61)
    lease = take_lease(path)
    lease.release()
    assert not list(path.parent.iterdir())


def test_a_lease_is_touched_until_it_is_released(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.02)
    lease = take_lease(path)
    aged(path, 1000)
    for _ in range(500):
        if time.time() - path.stat().st_mtime < 500:
            break
        time.sleep(0.01)
    assert time.time() - path.stat().st_mtime < 500
    lease.release()
    time.sleep(0.06)
    assert not path.exists()


def test_who_lost_a_lease_knows_and_leaves_the_other_alone(path: Path) -> None:
    lease = take_lease(path)
    written_by(path, token="c0")
    assert not lease.held()
    assert lease.lost
    lease.release()
    assert path.exists()


def test_a_lease_that_was_tidied_away_is_made_again(path: Path) -> None:
    lease = take_lease(path)
    path.unlink()
    assert lease.held()
    assert path.exists()
    lease.release()


def test_file_systems_without_hard_links_have_leases_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with take_lease(path), pytest.raises(LeaseHeldError):
        take_lease(path)
    assert not path.exists()

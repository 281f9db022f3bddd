"""Whatever stops a run, what it goes on from is complete, its own, and loaded safely."""

from __future__ import annotations

import doctest
import errno
import hashlib
import json
import os
import pickle
import random
import shutil
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flops_fit.errors import InputTypeError, OutputError
from flops_fit.rng import capture, restore
from flops_fit.train import checkpoint
from flops_fit.train.checkpoint import Checkpoints
from tests._scripts import Scripts
from tests.conftest import MLP

KILLS = Path(__file__).with_name("_kills.py")


def at(folder: Path, **options: Any) -> Checkpoints:
    return Checkpoints(folder, **{"key": "k", **options})


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def equal(a: Any, b: Any) -> bool:
    """Same types, same structure, same bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


# What is saved comes back.


def test_plain_values_and_tensors_come_back_exactly(tmp_path: Path) -> None:
    state = {
        "leaves": [None, True, 3, -(1 << 1999), 0.1, float("inf"), 1j, "é\n", b"\x00\xff", ()],
        "nested": {1: [{"a": ((1, 2), [])}], -2: {}},
        "ordered": OrderedDict(b=1, a=2),
        "tensors": [
            torch.arange(6.0).reshape(2, 3).T,
            torch.tensor(7),
            torch.empty(0, 3),
            torch.tensor([True, False]),
            torch.tensor([1.5], dtype=torch.bfloat16),
            torch.tensor([1 + 2j]),
            torch.tensor([255], dtype=torch.uint8),
        ],
    }
    at(tmp_path).save(1, state)
    found = at(tmp_path).newest()
    assert found is not None
    assert found[0] == 1
    assert equal(found[1], state)


def test_training_goes_on_bitwise_from_what_was_saved(tmp_path: Path) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.randn(4, 16)).square().mean().backward()
        optimizer.step()

    torch.manual_seed(0)
    model = MLP()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    step(model, optimizer)
    saved = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": capture(),
    }
    at(tmp_path).save(1, saved)
    step(model, optimizer)

    again = MLP()
    other = torch.optim.AdamW(again.parameters(), lr=0.5)
    found = at(tmp_path).newest()
    assert found is not None
    again.load_state_dict(found[1]["model"])
    other.load_state_dict(found[1]["optimizer"])
    restore(found[1]["rng"])
    step(again, other)
    assert equal(again.state_dict(), model.state_dict())
    assert equal(other.state_dict(), optimizer.state_dict())


def test_versions_that_modules_note_beside_their_state_are_kept(tmp_path: Path) -> None:
    at(tmp_path).save(1, {"model": nn.BatchNorm1d(2).state_dict()})
    found = at(tmp_path).newest()
    assert found is not None
    assert found[1]["model"]._metadata == {"": {"version": 2}}


def test_a_parameter_is_saved_as_its_values_and_stays_trainable(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.ones(2))
    at(tmp_path).save(1, {"p": parameter})
    found = at(tmp_path).newest()
    assert found is not None
    assert not found[1]["p"].requires_grad
    assert parameter.requires_grad


def test_a_view_does_not_drag_its_storage_into_the_file(tmp_path: Path) -> None:
    at(tmp_path).save(1, {"view": torch.zeros(1_000_000)[:3]})
    assert (tmp_path / "step-00000001" / "state.pt").stat().st_size < 10_000


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    weight = torch.zeros(100_000)
    at(tmp_path).save(1, {"a": weight, "b": weight.view(100, 1000)})
    assert (tmp_path / "step-00000001" / "state.pt").stat().st_size < 410_000


def test_the_manifest_says_what_the_directory_holds(tmp_path: Path) -> None:
    at(tmp_path).save(12, {"a": 1})
    content = (tmp_path / "step-00000012" / "state.pt").read_bytes()
    manifest = json.loads((tmp_path / "step-00000012" / "manifest.json").read_text())
    assert names(tmp_path / "step-00000012") == ["manifest.json", "state.pt"]
    assert manifest.pop("time").endswith("Z")
    assert manifest == {
        "format": "flops-fit checkpoint",
        "schema": 3,
        "key": "k",
        "step": 12,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "torch": torch.__version__,
    }


# What cannot be loaded is refused.

LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.float64(1.0), "numpy.float64"),
        (np.zeros(2), "numpy.ndarray"),
        ({1, 2}, "got set"),
        (defaultdict(int), "collections.defaultdict"),
        (len, "builtin_function_or_method"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        ({(1, 2): 3}, r"text or integers as keys, got \(1, 2\)"),
        (1 << 2001, "at most 2000 bits"),
        (torch.zeros(2, device="meta"), "without values"),
        (torch.eye(2).to_sparse(), "dense tensor"),
        (LOOP, "contains itself"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_its_place(
    tmp_path: Path, value: Any, says: str
) -> None:
    checkpoints = at(tmp_path)
    checkpoints.save(1, {"a": 1})
    with pytest.raises(InputTypeError, match=says) as caught:
        checkpoints.save(2, {"outer": [0, value]})
    assert value is LOOP or "state['outer'][1]" in str(caught.value)
    assert names(tmp_path) == ["step-00000001"]


# When it is time to save.


def test_due_by_seconds_since_the_last_save_ended(tmp_path: Path) -> None:
    now = [100.0]
    checkpoints = at(tmp_path, every_seconds=60.0, clock=lambda: now[0])
    assert not checkpoints.due(1)
    now[0] = 160.0
    assert checkpoints.due(1)
    checkpoints.save(1, {})
    assert not checkpoints.due(2)
    now[0] = 219.0
    assert not checkpoints.due(3)
    now[0] = 220.0
    assert checkpoints.due(4)
    assert not checkpoints.due(1), "this step is saved"


def test_due_at_multiples_of_steps_also_after_a_resume(tmp_path: Path) -> None:
    checkpoints = at(tmp_path, every_seconds=None, every_steps=10)
    assert [s for s in range(1, 35) if checkpoints.due(s)][:1] == [10]
    checkpoints.save(13, {})
    assert [s for s in range(14, 25) if checkpoints.due(s)][:1] == [20]
    resumed = at(tmp_path, every_seconds=None, every_steps=10)
    resumed.newest()
    assert [s for s in range(14, 25) if resumed.due(s)][:1] == [20]


def test_never_due_where_both_are_off(tmp_path: Path) -> None:
    assert not at(tmp_path, every_seconds=None).due(10**9)


# How many stay, and what is not ours.


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = at(tmp_path, keep=2)
    for step in (1, 2, 30, 4):
        checkpoints.save(step, {"step": step})
    assert names(tmp_path) == ["step-00000004", "step-00000030"]
    checkpoints.save(3, {"step": 3})
    assert "step-00000003" in names(tmp_path), "what was just written is never removed"


def test_steps_beyond_eight_digits_stay_in_order(tmp_path: Path) -> None:
    checkpoints = at(tmp_path)
    checkpoints.save(99_999_999, {})
    checkpoints.save(100_000_000, {})
    found = checkpoints.newest()
    assert found == (100_000_000, {})


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoints = at(tmp_path)
    checkpoints.save(1, {"a": 1})
    checkpoints.save(1, {"a": 2})
    assert checkpoints.newest() == (1, {"a": 2})
    assert names(tmp_path) == ["step-00000001"]
    assert checkpoints.findings == []


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-0000000001").mkdir()
    (tmp_path / ".saving-step-x").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "step-00000099").symlink_to(tmp_path / "elsewhere")
    before = names(tmp_path)
    checkpoints = at(tmp_path, keep=1)
    checkpoints.save(1, {})
    checkpoints.save(2, {})
    assert checkpoints.newest() == (2, {})
    checkpoints.prune(())
    assert names(tmp_path) == before
    assert checkpoints.findings == []


def test_checkpoints_of_another_key_are_never_deleted(tmp_path: Path) -> None:
    at(tmp_path, key="other").save(1, {"whose": "other"})
    at(tmp_path, key="other").save(5, {"whose": "other"})
    mine = at(tmp_path, keep=1)
    mine.save(5, {"whose": "mine"})
    mine.save(6, {"whose": "mine"})
    mine.prune(())
    kept = [p for p in tmp_path.iterdir() if (p / "state.pt").exists()]
    assert len(kept) == 2
    assert "step-00000005" in mine.findings[0].message


def test_clearing_removes_the_folder_unless_something_was_set_aside(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    checkpoints = at(folder)
    checkpoints.prune(())
    checkpoints.save(1, {})
    checkpoints.prune(())
    assert not folder.exists()
    checkpoints.save(1, {})
    checkpoints.save(2, {})
    (folder / "step-00000002" / "state.pt").unlink()
    checkpoints.newest()
    checkpoints.prune(())
    assert [n.split(".")[1] for n in names(folder)] == ["set-aside-" + names(folder)[0][-19:]]


# What does not verify is set aside, and the one before it is used.


def edit_manifest(directory: Path, **changes: Any) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replace_state(directory: Path, content: bytes) -> None:
    """Put other content in place, with a manifest that vouches for it."""
    (directory / "state.pt").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_manifest(directory, size=len(content), sha256=digest)


def flip_a_bit(directory: Path) -> None:
    path = directory / "state.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(directory: Path) -> None:
    path = directory / "state.pt"
    path.write_bytes(path.read_bytes()[:-7])


def of_directory(directory: Path) -> None:
    (directory / "state.pt").unlink()
    (directory / "state.pt").mkdir()


DAMAGE = {
    "wrong key": (lambda d: edit_manifest(d, key="other"), "its key is 'other', not 'k'"),
    "newer schema": (lambda d: edit_manifest(d, schema=4), "its schema is 4, not 3"),
    "wrong step": (lambda d: edit_manifest(d, step=3), "its step is 3, not 2"),
    "no manifest": (lambda d: (d / "manifest.json").unlink(), "manifest.json cannot be read"),
    "empty manifest": (lambda d: (d / "manifest.json").write_text(""), "manifest.json is torn"),
    "binary manifest": (lambda d: (d / "manifest.json").write_bytes(b"\xff\xfe"), "is torn"),
    "list manifest": (lambda d: (d / "manifest.json").write_text("[]"), "manifest.json is torn"),
    "no state": (lambda d: (d / "state.pt").unlink(), "state.pt cannot be read"),
    "state is a directory": (of_directory, "state.pt cannot be read"),
    "truncated": (truncate, "bytes, not"),
    "flipped bit": (flip_a_bit, "not what was written"),
    "no archive": (lambda d: replace_state(d, b"x" * 99), "state.pt cannot be loaded"),
    "empty": (lambda d: replace_state(d, b""), "state.pt cannot be loaded"),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_damage_is_set_aside_and_the_older_one_used(tmp_path: Path, damage: str) -> None:
    hurt, says = DAMAGE[damage]
    checkpoints = at(tmp_path)
    checkpoints.save(1, {"a": 1})
    checkpoints.save(2, {"a": torch.ones(500)})
    hurt(tmp_path / "step-00000002")
    before = names(tmp_path / "step-00000002")
    again = at(tmp_path)
    assert again.newest() == (1, {"a": 1})
    aside = next(p for p in tmp_path.iterdir() if "set-aside" in p.name)
    assert names(aside) == before, "nothing is deleted"
    assert len(again.findings) == 1
    assert says in again.findings[0].message
    assert aside.name in again.findings[0].message
    assert at(tmp_path).newest() == (1, {"a": 1})


def test_nothing_usable_is_none(tmp_path: Path) -> None:
    assert at(tmp_path / "missing").newest() is None
    assert not (tmp_path / "missing").exists()
    at(tmp_path).save(1, {})
    flip_a_bit(tmp_path / "step-00000001")
    assert at(tmp_path).newest() is None


class Touch:
    """Unpickling one makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("archive", [True, False])
def test_a_file_that_would_run_code_is_not_run(tmp_path: Path, archive: bool) -> None:
    at(tmp_path / "c").save(1, {})
    evil = tmp_path / "evil.pt"
    if archive:
        torch.save({"a": Touch(tmp_path / "touched")}, evil)
    else:
        evil.write_bytes(pickle.dumps({"a": Touch(tmp_path / "touched")}, protocol=2))
    replace_state(tmp_path / "c" / "step-00000001", evil.read_bytes())
    checkpoints = at(tmp_path / "c")
    assert checkpoints.newest() is None
    assert "cannot be loaded: UnpicklingError" in checkpoints.findings[0].message
    assert not (tmp_path / "touched").exists()


def test_a_sound_checkpoint_stays_where_memory_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(tmp_path).save(1, {"a": 1})

    def full(*args: Any, **options: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", full)
        with pytest.raises(RuntimeError, match="allocate"):
            at(tmp_path).newest()
    assert at(tmp_path).newest() == (1, {"a": 1})


# What the disk refuses leaves the earlier checkpoint as it is.


def assert_refused(checkpoints: Checkpoints, says: str) -> None:
    with pytest.raises(OutputError, match=says) as caught:
        checkpoints.save(2, {"a": torch.ones(100_000)})
    assert "Earlier checkpoints are intact" in str(caught.value)
    assert names(checkpoints.folder) == ["step-00000001"]
    fresh = at(checkpoints.folder)
    assert fresh.newest() == (1, {"a": 1})
    assert fresh.findings == []


@pytest.mark.parametrize("call", ["replace", "fsync", "mkdir"])
def test_a_full_disk_at_any_call_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    checkpoints = at(tmp_path)
    checkpoints.save(1, {"a": 1})

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        assert_refused(checkpoints, "No space left on device")
    checkpoints.save(2, {"a": 2})
    assert at(tmp_path).newest() == (2, {"a": 2})


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_full_disk_while_a_step_is_replaced_brings_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    checkpoints = at(tmp_path)
    checkpoints.save(1, {"a": 1})
    replace, calls = os.replace, []

    def full(*args: Any) -> None:
        calls.append(args)
        if len(calls) == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OutputError, match="No space"):
            checkpoints.save(1, {"a": 2})
    assert names(tmp_path) == ["step-00000001"]
    assert at(tmp_path).newest() == (1, {"a": 1})


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 70_000, 401_000])
def test_a_write_that_the_system_cuts_short_is_an_error_in_words(tmp_path: Path, size: int) -> None:
    checkpoints = at(tmp_path)
    checkpoints.save(1, {"a": 1})
    with largest_file(size):
        assert_refused(checkpoints, "File too large")


def test_a_folder_that_cannot_be_made_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="make the folder writable"):
        at(tmp_path / "file" / "c").save(1, {})
    with pytest.raises(OutputError, match="choose another output_dir"):
        at(tmp_path / "file" / "c").newest()


def test_a_read_only_folder_is_read_and_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the refusal is the system's answer to anyone else."""
    checkpoints = at(tmp_path)
    checkpoints.save(1, {"a": 1})

    def refused(*args: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refused)
        assert_refused(checkpoints, "Permission denied")


def test_an_interrupt_while_saving_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = at(tmp_path)
    checkpoints.save(1, {"a": 1})

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(2, {"a": 2})
    assert names(tmp_path) == ["step-00000001"]


def test_leftovers_of_a_crash_are_removed_at_the_next_open(tmp_path: Path) -> None:
    at(tmp_path).save(1, {"a": 1})
    at(tmp_path).save(2, {"a": 2})
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".saving-step-00000003")
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".removing-step-00000000")
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".replaced-step-00000001")
    (tmp_path / "step-00000002").rename(tmp_path / ".replaced-step-00000002")
    checkpoints = at(tmp_path)
    assert checkpoints.newest() == (2, {"a": 2})
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert checkpoints.findings == []


# A process that is killed, or a machine that stops.


def test_all_content_is_on_the_disk_before_the_rename_and_the_rename_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, fsync, replace = [], os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        events.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def renamed(*args: Any) -> None:
        events.append("rename")
        replace(*args)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    folder = tmp_path / "c"
    at(folder).save(1, {"a": 1})
    final = folder / "step-00000001"
    paths = [tmp_path, final / "state.pt", final / "manifest.json", final, None, folder]
    if os.name != "nt":
        assert events == [p.stat().st_ino if p else "rename" for p in paths]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ["random", "every_call"])
def test_a_kill_at_any_instant_loses_nothing_that_was_saved(
    tmp_path: Path, how: str, scripts: Scripts
) -> None:
    """Killed at random times, or at each call that changes the disk, a run finds a
    complete state of at least the last step that it was told is saved."""
    done = scripts.run(KILLS, how, tmp_path / "c")
    assert done.returncode == 0, done.stderr
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rounds) >= 20
    for r in rounds:
        assert r["findings"] == []
        assert r["whole"], r
        assert r["found"] >= r["reported"], r
        assert all(name.startswith("step-") for name in r["names"]), r
    assert max(r["found"] for r in rounds) > 2
    assert any(r["left"] for r in rounds), "some kill came in the middle of a save"


# Random generators.


def draws() -> list[Any]:
    return [
        torch.rand(3).tolist(),
        torch.randn(3).tolist(),
        [random.random(), random.gauss(0, 1), random.randrange(10**30)],
        np.random.rand(3).tolist(),  # noqa: NPY002
        float(np.random.standard_normal()),  # noqa: NPY002
        np.random.permutation(9).tolist(),  # noqa: NPY002
    ]


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    draws()  # an odd number of normals leaves one waiting in each generator
    state = capture()
    at(tmp_path).save(1, {"rng": state})
    expected = [draws(), draws()]
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)  # noqa: NPY002
    found = at(tmp_path).newest()
    assert found is not None
    assert equal(found[1]["rng"], state)
    restore(found[1]["rng"])
    assert [draws(), draws()] == expected
    restore(state)
    assert equal(capture(), state)


def test_the_examples_in_docstrings_are_true() -> None:
    assert doctest.testmod(checkpoint).failed == 0


def test_slow_saves_come_less_often(tmp_path: Path) -> None:
    """A save of three seconds is made every five minutes, however short the interval asked for."""
    now = [0.0]

    def clock() -> float:
        return now[0]

    checkpoints = Checkpoints(tmp_path, "key", every_seconds=10.0, clock=clock)
    now[0] = 11.0
    assert checkpoints.due(1)
    with pytest.MonkeyPatch.context() as patch:
        import flops_fit.train.checkpoint as module

        write = module.write_snapshot

        def slow(*args: Any) -> None:
            write(*args)
            now[0] += 3.0

        patch.setattr(module, "write_snapshot", slow)
        checkpoints.save(1, {})
    now[0] += 299.0
    assert not checkpoints.due(2)
    now[0] += 1.5
    assert checkpoints.due(2)


def test_the_newest_within_bounds_is_found_and_the_rest_can_go(tmp_path: Path) -> None:
    """More steps than ``after``, no more than ``at_most``; pruning keeps where others begin."""
    checkpoints = Checkpoints(tmp_path / "trunk", "key", keep=10)
    for step in (10, 20, 40, 80):
        checkpoints.save(step, {"step": step})
    assert checkpoints.newest(at_most=79) == (40, {"step": 40})
    assert checkpoints.newest(at_most=40, after=39) == (40, {"step": 40})
    assert checkpoints.newest(at_most=79, after=40) is None
    Checkpoints(tmp_path / "trunk", "other").prune(())
    checkpoints.prune([25, 39, 5, 85])
    assert sorted(p.name for p in (tmp_path / "trunk").iterdir()) == [
        "step-00000020",
        "step-00000080",
    ]
    checkpoints.prune([])
    assert not (tmp_path / "trunk").exists()

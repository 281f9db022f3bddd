"""What is random in a sample follows from the seed, the epoch and the position in it alone."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from flops_fit.data import DataSpec, split_data
from flops_fit.rng import capture
from tests._scripts import Scripts
from tests.conftest import Blobs


class Augmented(Blobs):
    """Draws from all three generators."""

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, _ = super().__getitem__(i)
        noise = np.random.randn() + random.gauss(0, 1)  # noqa: NPY002
        return x + torch.randn(16) + noise, torch.tensor(i)


class Batched(Augmented):
    """Is asked for many samples at once, as data sets of HuggingFace are."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[i] for i in indices]


class RarelyRandom(Blobs):
    """One sample in a hundred is random."""

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, _ = super().__getitem__(i)
        return (x + torch.randn(16) if i % 100 == 7 else x), torch.tensor(i)


class AugmentedStream(IterableDataset):
    """In an order of its own, each sample with noise."""

    def __init__(self, n: int = 700) -> None:
        self.n = n

    def __iter__(self):
        for i in np.random.permutation(self.n):  # noqa: NPY002
            yield torch.randn(3) + random.random(), torch.tensor(int(i))


def drawn(
    dataset: Any, batch: int, steps: int, seed: int = 0, start: int = 0, **how: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    spec = split_data(dataset, Blobs(4))[0]
    seen = list(spec.batches(batch, steps, seed, start, **how))
    return torch.cat([x for x, _ in seen]), torch.cat([y for _, y in seen])


def same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def unmoved(before: Any) -> bool:
    after = capture()
    others = [[state[part] for part in ("python", "numpy")] for state in (before, after)]
    return torch.equal(before["torch"], after["torch"]) and others[0] == others[1]


@pytest.mark.parametrize("kind", [Augmented, Batched, RarelyRandom])
def test_samples_do_not_depend_on_batches_or_on_where_a_run_begins(kind: type) -> None:
    dataset = kind(60)
    whole = drawn(dataset, 4, 30)
    assert same(whole, drawn(dataset, 12, 10))
    assert same(whole, drawn(dataset, 1, 120))
    later = drawn(dataset, 6, 10, start=10)
    assert same(later, (whole[0][60:], whole[1][60:]))


def test_samples_differ_between_seeds_and_epochs() -> None:
    x, index = drawn(Augmented(40), 8, 10)
    first, second = index[:40].argsort(), index[40:].argsort()
    assert not torch.isclose(x[:40][first], x[40:][second]).any(dim=1).any()
    other, other_index = drawn(Augmented(40), 8, 5, seed=1)
    assert not torch.isclose(x[:40][first], other[other_index.argsort()]).all(dim=1).any()


def test_the_noise_of_many_samples_is_independent_and_normal() -> None:
    class Noise(Blobs):
        def __getitem__(self, i: int):
            return torch.stack([torch.rand(()), torch.tensor(np.random.rand())]), i  # noqa: NPY002

    values = drawn(Noise(5000), 50, 100)[0].double()
    assert values.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    joined = torch.cat([values[:-1], values[1:]], dim=1)
    correlation = torch.corrcoef(joined.T) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.06


@pytest.mark.parametrize("kind", [Augmented, RarelyRandom, Blobs])
def test_reading_leaves_the_generators_alone(kind: type) -> None:
    np.random.randn()  # noqa: NPY002 - the other variate of the pair is held back
    random.gauss(0, 1)
    before = capture()
    drawn(kind(60), 4, 30)
    assert unmoved(before)


def test_what_is_drawn_between_steps_does_not_matter() -> None:
    spec = split_data(Augmented(60), Blobs(4))[0]
    plain = [x for x, _ in spec.batches(6, 10, 0)]
    for x, expected in zip((x for x, _ in spec.batches(6, 10, 0)), plain, strict=True):
        torch.rand(3), np.random.randn(), random.random()  # noqa: NPY002
        assert torch.equal(x, expected)


def test_a_failing_sample_is_raised_and_leaves_the_generators_alone() -> None:
    class Fails(Augmented):
        def __getitem__(self, i: int):
            made = super().__getitem__(i)
            if i == 30:
                raise KeyError("unreadable")
            return made

    before = capture()
    with pytest.raises(KeyError, match="unreadable"):
        drawn(Fails(60), 4, 15)
    assert unmoved(before)


def test_a_random_collation_is_repeated_too() -> None:
    def masked(samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.stack([s[0] for s in samples])
        return x * (torch.rand(x.shape) > 0.2), torch.stack([s[1] for s in samples])

    loader = torch.utils.data.DataLoader(Blobs(60), collate_fn=masked)
    whole = drawn(loader, 4, 20)
    assert same(whole, drawn(loader, 4, 20))
    assert same(drawn(loader, 4, 5, start=15), (whole[0][60:], whole[1][60:]))


def test_a_random_stream_does_not_depend_on_batches_or_where_a_run_begins() -> None:
    before = capture()
    whole = drawn(AugmentedStream(90), 4, 45)
    assert same(whole, drawn(AugmentedStream(90), 20, 9))
    later = drawn(AugmentedStream(90), 10, 8, start=10)
    assert same(later, (whole[0][100:], whole[1][100:]))
    assert sorted(whole[1][:90].tolist()) == list(range(90))
    assert whole[1][:90].tolist() != whole[1][90:].tolist()
    assert not same(whole, drawn(AugmentedStream(90), 4, 45, seed=1))
    assert unmoved(before)


def test_held_out_samples_are_the_same_at_every_reading() -> None:
    for dataset in (Augmented(200), AugmentedStream()):
        held_out = split_data(dataset)[1]
        one, other = (torch.cat([x for x, _ in held_out.in_order(n)]) for n in (7, 64))
        assert torch.equal(one, other)


@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.parametrize("kind", [Blobs, Augmented, Batched, RarelyRandom, AugmentedStream])
def test_workers_change_nothing(kind: type, workers: int) -> None:
    dataset = kind(60)
    assert same(drawn(dataset, 4, 25, start=3), drawn(dataset, 4, 25, start=3, workers=workers))


def test_workers_leave_the_generators_alone_and_end_with_the_run() -> None:
    before = capture()
    drawn(Augmented(60), 4, 5, workers=2, pin=True)
    assert unmoved(before)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("kind", [Augmented, AugmentedStream])
def test_closing_early_leaves_no_process(kind: type) -> None:
    batches = split_data(kind(60), Blobs(4))[0].batches(4, 1000, 0, workers=2)
    next(batches)
    children = [child.pid for child in multiprocessing.active_children()]
    assert children
    batches.close()
    del batches
    gc.collect()
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not multiprocessing.active_children()
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


INTERRUPTED = """
import multiprocessing, os, signal, sys, threading
sys.path.insert(0, {root!r})
from flops_fit.data import split_data
from tests.conftest import Blobs

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts with &
    try:
        for step, _ in enumerate(split_data(Blobs(60))[0].batches(4, 10**7, 0, workers=2)):
            if step == 20:
                pids = [child.pid for child in multiprocessing.active_children()]
                threading.Timer(0.1, os.killpg, (os.getpgid(0), signal.SIGINT)).start()
    except KeyboardInterrupt:
        print("interrupted", *pids)
"""


def test_ctrl_c_reaches_the_run_and_ends_the_workers(tmp_path: Path, scripts: Scripts) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED.format(root=str(Path(__file__).resolve().parents[2])))
    done = scripts.run(script)
    said, *pids = done.stdout.split()
    assert (done.returncode, said, len(pids)) == (0, "interrupted", 2)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


class OddError(Exception):
    """Cannot be pickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ValueError("sample 30 is torn"), ValueError, "is torn"),
        (OddError(1, 2), RuntimeError, "OddError: 1"),
    ],
)
def test_what_a_worker_raises_is_raised_here_with_its_traceback(
    error: Exception, kind: type[Exception], words: str
) -> None:
    class Fails(Blobs):
        def __getitem__(self, i: int):
            if i == 30:
                raise error
            return super().__getitem__(i)

    with pytest.raises(kind, match=words) as raised:
        drawn(Fails(60), 4, 15, workers=2)
    assert "In a process that reads the data" in raised.value.__notes__[0]
    assert "__getitem__" in raised.value.__notes__[0]
    del raised
    gc.collect()
    assert not multiprocessing.active_children()


def _in_a_daemon(pipe: Any) -> None:
    pipe.send([x.tolist() for x in drawn(Augmented(60), 4, 3, workers=2)])


def test_a_process_that_may_have_no_children_reads_by_itself() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_in_a_daemon, args=(theirs,), daemon=True)
    process.start()
    assert ours.recv() == [x.tolist() for x in drawn(Augmented(60), 4, 3)]
    process.join()


def test_a_data_set_with_a_generator_of_its_own_is_found_out() -> None:
    class Own(Blobs):
        def __getitem__(self, i: int):
            return super().__getitem__(i)[0] + float(np.random.default_rng().random()), 0

    one, other = (DataSpec(d, list, np.arange(9)) for d in (Own(9), Own(9)))
    assert not one.repeatable()
    assert one.fingerprint() == other.fingerprint()
    assert DataSpec(Augmented(9), list, np.arange(9)).repeatable()

"""Samples are drawn by a pure function of seed and position, and none is both trained and judged on."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from flops_fit.data import EVAL_SAMPLES, DataSpec, check_dataset_type, split_data
from flops_fit.data.order import AllBut, permuted
from flops_fit.errors import DataError, InputTypeError
from tests.conftest import Blobs


class Stream(IterableDataset):
    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self):
        return ((torch.tensor([float(i)]), torch.tensor(i % 4)) for i in range(self.n))


def numbers(n: int) -> TensorDataset:
    return TensorDataset(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n))


def drawn(spec: DataSpec, batch: int, steps: int, seed: int, start: int = 0) -> list[int]:
    return [int(v) for b in spec.batches(batch, steps, seed, start) for v in b[1]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**40))
def test_a_shuffle_is_a_permutation(n: int, key: int) -> None:
    places = permuted(np.arange(n, dtype=np.int64), n, key)
    assert sorted(places) == list(range(n))


def test_a_shuffle_is_random() -> None:
    n = 10_000
    places = permuted(np.arange(n, dtype=np.int64), n, 5)
    assert abs(np.corrcoef(np.arange(n), places)[0, 1]) < 0.04
    other = permuted(np.arange(n, dtype=np.int64), n, 6)
    assert abs(np.corrcoef(places, other)[0, 1]) < 0.04
    steps = np.abs(np.diff(places)) / n
    assert steps.mean() == pytest.approx(1 / 3, abs=0.02)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 13), st.integers(1, 20), st.integers(0, 10), st.integers(0, 99))
def test_starting_later_draws_the_same_samples(
    batch: int, steps: int, start: int, seed: int
) -> None:
    spec = split_data(numbers(50), numbers(5))[0]
    whole = drawn(spec, batch, start + steps, seed)
    assert drawn(spec, batch, steps, seed, start) == whole[start * batch :]


def test_every_epoch_holds_every_sample_once_in_another_order() -> None:
    spec = split_data(numbers(40), numbers(5))[0]
    seen = drawn(spec, 8, 10, seed=3)
    assert sorted(seen[:40]) == sorted(seen[40:]) == list(range(40))
    assert seen[:40] != seen[40:]


def test_seeds_differ() -> None:
    spec = split_data(numbers(40), numbers(5))[0]
    assert drawn(spec, 8, 5, seed=1) != drawn(spec, 8, 5, seed=2)


def test_the_held_out_part_is_five_percent_and_never_trained_on() -> None:
    train, held_out = split_data(numbers(1000))
    trained = set(drawn(train, 50, 19, seed=0))
    judged = {int(v) for b in held_out.in_order(7) for v in b[1]}
    assert len(judged) == 50
    assert not trained & judged
    assert len(trained | judged) == 1000
    assert "drawn at random" in train.notes[0]


def test_the_split_is_the_same_every_time() -> None:
    first, second = split_data(numbers(1000))[1], split_data(numbers(1000))[1]
    np.testing.assert_array_equal(first.indices, second.indices)


@given(st.sets(st.integers(0, 199), max_size=150))
def test_all_but_some_is_the_rest(without: set[int]) -> None:
    rest = AllBut(200, np.array(sorted(without), dtype=np.int64))
    np.testing.assert_array_equal(
        rest[np.arange(len(rest))], [i for i in range(200) if i not in without]
    )


def test_a_data_set_of_a_billion_samples_costs_no_memory() -> None:
    class Huge(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 10**9

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return torch.zeros(1), i

    tracemalloc.start()
    train, held_out = split_data(Huge())
    seen = drawn(train, 8, 2, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(seen) == len(set(seen)) == 16
    assert held_out.size == EVAL_SAMPLES
    assert peak < 5e6


def test_whole_groups_are_held_out() -> None:
    dataset = numbers(400)
    dataset.groups = np.repeat(np.arange(40), 10)
    train, held_out = split_data(dataset)
    assert held_out.size == 20
    assert not set(train.groups()) & set(held_out.groups())


def test_a_large_eval_set_is_thinned_evenly_and_told() -> None:
    train, held_out = split_data(numbers(10), numbers(10 * EVAL_SAMPLES))
    assert "judged on 2,048 of the 20,480 held-out samples" in train.notes[0]
    assert "TrainingConfig(eval_samples=20480)" in train.notes[0]
    train, all_of_it = split_data(numbers(10), numbers(10 * EVAL_SAMPLES), 10 * EVAL_SAMPLES)
    assert (train.notes, all_of_it.size) == ((), 10 * EVAL_SAMPLES)
    assert held_out.size == EVAL_SAMPLES
    assert held_out.indices[0] == 0
    assert held_out.indices[-1] == 10 * EVAL_SAMPLES - 1


def test_a_stream_recycles_and_keeps_its_first_samples_back() -> None:
    train, held_out = split_data(Stream(600))
    judged = {int(v) for b in held_out.in_order(100) for v in b[0][:, 0]}
    trained = [int(v) for b in train.batches(88, 2, 0) for v in b[0][:, 0]]
    assert judged == set(range(512))
    assert trained == [*range(512, 600), *range(512, 600)]
    assert train.size is None


def test_a_stream_within_its_held_out_part_is_told() -> None:
    with pytest.raises(DataError, match="the stream ended"):
        list(split_data(Stream(100))[0].batches(4, 1, 0))


def test_a_loader_gives_its_data_and_collation() -> None:
    def collate(samples):
        return torch.stack([s[0] for s in samples]) + 100, torch.stack([s[1] for s in samples])

    train, _ = split_data(DataLoader(numbers(100), batch_size=4, shuffle=True, collate_fn=collate))
    assert float(train.first_batch(3)[0].min()) >= 100
    assert "batch size and order are the run's own" in train.notes[0]


def test_a_loader_with_its_own_sampler_is_refused() -> None:
    sampler = WeightedRandomSampler([1.0] * 100, 100)
    with pytest.raises(DataError, match="sampler of its own"):
        split_data(DataLoader(numbers(100), sampler=sampler))


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"text": "hello"}, "text in sample\\['text'\\]"),
        ({"input_ids": [1, 2, 3]}, "a list of 3 in sample\\['input_ids'\\]"),
        (("a", 1), "text in sample\\[0\\]"),
        ((torch.zeros(1), None), "None in sample\\[1\\]"),
    ],
)
def test_unformatted_samples_are_told_with_the_column(sample: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        split_data([sample] * 40)[0].first_batch(2)


def test_a_collation_of_ones_own_may_take_any_samples() -> None:
    """Lists of numbers and text, as tokenised data sets of Hugging Face hold."""

    def collate(rows):
        return torch.tensor([row["input_ids"] for row in rows])

    rows = [{"input_ids": [i, i], "text": "word"} for i in range(20)]
    train, _ = split_data(DataLoader(rows, collate_fn=collate))
    assert train.first_batch(3).shape == (3, 2)


def test_a_loader_of_whole_batches_is_refused() -> None:
    with pytest.raises(
        DataError, match="batch_size=None, so that its data set makes whole batches"
    ):
        split_data(DataLoader(numbers(100), batch_size=None))


def test_an_unformatted_huggingface_data_set_is_told_how_to_format() -> None:
    class HuggingFaceLike(list):
        def with_format(self, *args: object) -> None: ...

    with pytest.raises(DataError, match="with_format"):
        split_data(HuggingFaceLike([{"text": "x"}] * 40))[0].first_batch(2)


def test_samples_of_unequal_shape_are_told() -> None:
    ragged = [(torch.zeros(n), n) for n in range(1, 41)]
    with pytest.raises(DataError, match="do not make a batch"):
        split_data(ragged)[0].first_batch(4)


def test_parts_by_name_are_no_data_set() -> None:
    """As load_dataset of Hugging Face returns them."""

    class Part(list):
        def map(self): ...

    with pytest.raises(InputTypeError, match=r"got dict. Give one part of it: dataset\['train'\]"):
        split_data({"train": Part(range(9)), "test": Part(range(3))})


@pytest.mark.parametrize("dataset", [[], [1]])
def test_too_small_a_data_set_is_told(dataset: list[int]) -> None:
    with pytest.raises(DataError, match="expected at least"):
        split_data(dataset)


@pytest.mark.parametrize("dataset", [3, "text", {"a": 1}, 2.5])
def test_what_is_no_data_set_is_a_type_error(dataset: object) -> None:
    with pytest.raises(InputTypeError, match="dataset: expected a torch Dataset"):
        check_dataset_type(dataset)


def test_the_fingerprint_follows_the_content() -> None:
    one, same, other = (split_data(Blobs(200, seed=s))[0] for s in (0, 0, 1))
    assert one.fingerprint() == same.fingerprint()
    assert one.fingerprint() != other.fingerprint()
    assert one.fingerprint() != split_data(Blobs(201))[0].fingerprint()


def test_random_augmentation_has_a_stable_fingerprint_and_keeps_the_generators() -> None:
    class Noisy(Blobs):
        def __getitem__(self, i: int):
            x, y = super().__getitem__(i)
            noise = float(np.random.rand()) + random.random()  # noqa: NPY002
            return x + torch.randn(16) + noise, y

    before = torch.random.get_rng_state(), random.getstate(), np.random.rand()  # noqa: NPY002
    spec = split_data(Noisy(100))[0]
    assert spec.fingerprint() == spec.fingerprint()
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == random.getstate()
    assert before[2] != np.random.rand()  # noqa: NPY002


def test_a_data_set_that_raises_leaves_the_generators_alone() -> None:
    class Raises(Blobs):
        def __getitem__(self, i: int):
            raise RuntimeError("unreadable")

    before = random.getstate()
    with pytest.raises(RuntimeError, match="unreadable"):
        split_data(Raises(100))[0].fingerprint()
    assert before == random.getstate()


def test_a_data_set_that_is_shorter_than_its_length_is_told() -> None:
    class Lies(Blobs):
        def __len__(self) -> int:
            return 2 * super().__len__()

        def __getitem__(self, i: int) -> Any:
            if i >= super().__len__():
                raise IndexError(i)
            return super().__getitem__(i)

    with pytest.raises(DataError, match=r"expected 800 samples, as its length says; .* IndexError"):
        split_data(Lies(400))[0].spread(64)

